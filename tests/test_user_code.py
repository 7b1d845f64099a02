"""A user's own function is found by file and name, and every way in which that fails is one sentence."""

import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from seedfast.errors import UserError
from seedfast.user_code import names_function, own_function


def test_a_function_is_found_and_its_location_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("def three():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    found = own_function("own.py:three")
    assert found.call() == 3
    assert found.location == f"{tmp_path}/own.py:three"
    assert own_function(found.location).call() == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own.py:three", True),
        ("a/b/own.py:three", True),
        ("own.py", False),
        ("own.py:", False),
        ("own.py:3", False),
        ("hf:name", False),
        ("hf:name:configuration", False),
        ("notes.txt:three", False),
    ],
)
def test_which_names_are_functions(name: str, expected: bool) -> None:
    assert names_function(name) == expected


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("own", None, r"own names no function: write it as path/to/file\.py:function"),
        ("own.py:f", None, r"own\.py:f names the file .*own\.py, which does not exist"),
        ("own.py:f", "g = 1\n", r"own\.py has no function called f"),
        ("own.py:g", "g = 1\n", r"own\.py has no function called g"),
        ("own.txt:f", "g = 1\n", r"own\.txt:f names no function: write it as"),
        (
            "own.py:f",
            "a = 1\nb = a / 0\n",
            r"own\.py raises ZeroDivisionError at line 2 \(division by zero\) when it is",
        ),
        ("own.py:f", "def f(:\n", r"own\.py raises SyntaxError at line 1 \(.*\) when it is imported"),
        ("own.py:f", "import nowhere_at_all\n", r"raises ModuleNotFoundError at line 1 \(No module named"),
    ],
)
def test_what_is_not_found_is_named(
    name: str, source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / name.partition(":")[0]).write_text(source)
    with pytest.raises(UserError, match=message) as caught:
        own_function(name)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_file_itself_for_the_user_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from seedfast.errors import UserError\nraise UserError('as it is')\n")
    with pytest.raises(UserError, match=r"^as it is$"):
        own_function(f"{tmp_path}/own.py:f")


def test_a_failure_names_the_innermost_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def inner():\n    int('x')\n\n\ndef outer():\n    inner()\n")
    function = own_function(f"{tmp_path}/own.py:outer")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        function.call()
    assert "own.py:outer raises ValueError at line 2 (invalid literal" in str(function.failure(caught.value))


def test_a_file_may_define_dataclasses_with_postponed_annotations(tmp_path: Path) -> None:
    """Their types are looked up in the module, by its name; it takes no other module's."""
    import json
    from dataclasses import fields
    from typing import get_type_hints

    (tmp_path / "json.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "class Part:\n    pass\n\n\n@dataclass\nclass Whole:\n    part: Part | None = None\n"
    )
    whole = own_function(f"{tmp_path}/json.py:Whole").call
    assert [field.name for field in fields(whole)] == ["part"]  # type: ignore[arg-type]
    assert set(get_type_hints(whole)) == {"part"}
    assert json.loads("1") == 1
    import sys

    assert sys.modules["json"] is json


def test_bytecode_beside_the_file_is_neither_run_nor_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, other = tmp_path / "own.py", tmp_path / "other.py"
    file.write_text("def f():\n    return 'read'\n")
    other.write_text("def f():\n    return 'never read'\n")
    assert own_function(f"{file}:f").call() == "read"
    stored = Path(cache_from_source(str(file)))
    assert not stored.exists()
    py_compile.compile(str(other), str(stored), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert own_function(f"{file}:f").call() == "read"  # an import would run what is stored
