"""`mixture.yaml`: what it may say, and one sentence for everything else."""

import os
from pathlib import Path

import pytest

from seedfast.data.mixture import is_mixture, read_mixture
from seedfast.errors import UserError

OPTIONS = {"field": str, "include": tuple, "by_shard": bool}


def read(tmp_path: Path, text: str) -> object:
    (tmp_path / "mixture.yaml").write_text(text)
    return read_mixture(str(tmp_path / "mixture.yaml"), OPTIONS)


def test_sources_have_names_paths_weights_and_options(tmp_path: Path) -> None:
    text = """
    sources:
      code: {path: python, weight: 3}
      books: {path: [books, /more, "hf:some/set"], weight: {0: 1, 200: 2.5}, field: content, include: ["*.txt"]}
    """
    code, books = read(tmp_path, text).sources  # type: ignore[attr-defined]
    assert (code.name, code.paths, code.weight, code.options) == ("code", ("python",), {0: 3.0}, {})
    assert books.paths == (str(tmp_path / "books"), "/more", "hf:some/set")
    assert books.weight == {0: 1.0, 200: 2.5}
    assert books.options == {"field": "content", "include": ("*.txt",)}


def test_sources_without_weights_count_by_their_size(tmp_path: Path) -> None:
    mixture = read(tmp_path, "sources: {a: {path: x}, b: {path: y}}")
    assert mixture.shares([30, 10]).at(0) == [0.75, 0.25]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("path", "known"), [("a.yaml", True), ("A.YML", True), ("a.jsonl", False), ("python", False)])
def test_a_mixture_is_known_by_its_ending(path: str, known: bool) -> None:
    assert is_mixture(path) == known


DEEP = "sources: " + "[" * 60 + "]" * 60
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no mixture: it must have one key"),
        ("just a text", "is no mixture"),
        ("source: {a: {path: x}}", "is no mixture"),
        ("sources: {}", "is no mixture"),
        ("sources: {a: {path: x}}\nmore: 1", "is no mixture"),
        ("sources: {a: {path: x}, a: {path: y}}", 'the key "a" occurs twice'),
        ("sources: {a: x}", "a must have a path"),
        ("sources: {a: {weight: 1}}", "a must have a path"),
        ("sources: {a: {path: 3}}", "the path of a must be a path or a list"),
        ("sources: {a: {path: []}}", "the path of a must be a path or a list"),
        ("sources: {a: {path: x, weigth: 1}}", "a has the unknown key 'weigth'; known are: path, weight, field"),
        ("sources: {a: {path: x, weight: 0}}", "weight of a must be a positive number.*not 0"),
        ("sources: {a: {path: x, weight: -1}}", "weight of a must be a positive number.*not -1"),
        ("sources: {a: {path: x, weight: .nan}}", "weight of a must be a positive number.*not nan"),
        ("sources: {a: {path: x, weight: .inf}}", "weight of a must be a positive number.*not inf"),
        ("sources: {a: {path: x, weight: true}}", "weight of a must be a positive number.*not True"),
        ("sources: {a: {path: x, weight: much}}", "weight of a must be a positive number.*not 'much'"),
        ("sources: {a: {path: x, weight: 1e400}}", "weight of a must be a positive number"),
        ("sources: {a: {path: x, weight: {-1: 1}}}", "-1 is no step"),
        ("sources: {a: {path: x, weight: {0.5: 1}}}", "0.5 is no step"),
        ("sources: {a: {path: x, weight: {0: -2}}}", "weight of a at step 0 must be 0 or a positive number, not -2"),
        ("sources: {a: {path: x, weight: {0: 0, 9: 0}}}", "weight of a is 0 at every step"),
        ("sources: {a: {path: x, weight: {}}}", "weight of a is 0 at every step"),
        ("sources: {a: {path: x, weight: {0: 0, 9: 1}}}", "at step 0 every weight is 0"),
        ("sources: {a: {path: x, weight: 1}, b: {path: y}}", "b has no weight, and a has one"),
        ("sources: {a: {path: other.yaml}}", "a is other.yaml, a mixture, and mixtures hold no others"),
        ("sources: {a: {path: mixture.yaml}}", "a is mixture.yaml, a mixture, and mixtures hold no others"),
        ("sources: {../../x: {path: x}}", "cannot be the name of a source"),
        ("sources: {'': {path: x}}", "cannot be the name of a source"),
        ("sources: {a/b: {path: x}}", "cannot be the name of a source"),
        ("sources: {1: {path: x}}", "1 cannot be the name of a source"),
        ('sources: {a: {path: "x\\0y"}}', "the path of a must be a path"),
        ("sources: {a: {path: x, field: 3}}", r"a\.field must be a text, not 3"),
        ("sources: {a: {path: x, include: x}}", r"a\.include must be a list of texts, not 'x'"),
        ("sources: {a: {path: x, by_shard: 1}}", r"a\.by_shard must be true or false, not 1"),
        ("sources: &s {a: *s}", "cannot be read as a mixture"),
        ("sources: !!python/object/apply:os.system ['true']", "cannot be read as a mixture"),
        ("sources: {a: {path: x", "cannot be read as a mixture"),
        (DEEP, "cannot be read as a mixture"),
        (BOMB + "sources: *g", "cannot be read as a mixture"),
        ("sources:\n" + "".join(f"  s{n}: {{path: x}}\n" for n in range(1001)), "1001 sources, and 1000 are the most"),
    ],
)
def test_everything_else_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "mixture.yaml"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a mixture"):
        read_mixture(str(tmp_path / "none.yaml"), OPTIONS)
    (tmp_path / "large.yaml").write_text("# " + "x" * (1 << 21))
    with pytest.raises(UserError, match="more than 1048576 bytes"):
        read_mixture(str(tmp_path / "large.yaml"), OPTIONS)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="is no regular file"):
        read_mixture(str(tmp_path / "pipe.yaml"), OPTIONS)
