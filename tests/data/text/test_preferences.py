"""Preferences: every form of a row gives one prompt and two answers, and a pair stays together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import preferences

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.preferences import PreferenceDataset, answered
from seedfast.errors import UserError
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.dpo import DPO
from seedfast.families.text.masked import Masked

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "y"), ("assistant", "n"))
)
SYSTEM = {"role": "system", "content": "s"}
AS_MESSAGES = ([USER], [YES], [NO])


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "q", "chosen": "y", "rejected": "n"}, "q", "y", "n"),
        ({"question": "q", "chosen": "y", "rejected": "n"}, "q", "y", "n"),
        ({"instruction": "a", "input": "b", "chosen": "y", "rejected": "n"}, "a\nb", "y", "n"),
        ({"system": "s", "question": "q", "chosen": "y", "rejected": "n"}, [SYSTEM, USER], [YES], [NO]),
        ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, *AS_MESSAGES),
        ({"prompt": [USER], "chosen": YES, "rejected": NO}, *AS_MESSAGES),
        ({"prompt": [USER], "chosen": "y", "rejected": "n"}, *AS_MESSAGES),
        ({"conversations": [USER], "chosen": YES, "rejected": NO}, *AS_MESSAGES),
        ({"chosen": [USER, YES], "rejected": [USER, NO]}, *AS_MESSAGES),
        ({"prompt": "q", "chosen": [USER, YES], "rejected": [USER, NO], "prompt_id": 3}, *AS_MESSAGES),
        ({"prompt": "q", "chosen": [YES], "rejected": [NO]}, *AS_MESSAGES),
        ({"chosen": "H: q A: I am", "rejected": "H: q A: I'm"}, "H: q A:", " I am", " I'm"),
        ({"chosen": [USER, YES], "rejected": [USER, YES]}, [USER], [YES], [YES]),
        ({"prompt": '[{"role": "user", "content": "q"}]', "chosen": "y", "rejected": "n"}, *AS_MESSAGES),
    ],
)  # fmt: skip
def test_a_row_is_one_prompt_and_two_answers(row: dict[str, Any], prompt: Any, chosen: Any, rejected: Any) -> None:
    expected = ({"prompt": prompt, "completion": answer} for answer in (chosen, rejected))
    assert answered(row, "row 1") == tuple(expected)


def loaded(path: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> Any:
    data = TextData(path=str(preferences.write(path / "pairs.jsonl", rows)), tokenizer="characters", context=64)
    return replace(data, **options).load()


def texts(corpus: Any, dataset: PreferenceDataset) -> list[tuple[str, ...]]:
    """Each pair as the prompt, the chosen and the rejected answer."""
    found = []
    decode = corpus.assets.tokenizer.decode
    for pair in range(len(dataset)):
        batch = dataset.batch([pair])
        tokens, scored = batch["tokens"][0], batch["scored"][0]
        prompts = [tokens[i, : int(scored[i].long().argmax()) + 1] for i in range(2)]
        assert prompts[0].equal(prompts[1])
        found.append(tuple(decode(ids.numpy()) for ids in (prompts[0], *(tokens[i, 1:][scored[i]] for i in range(2)))))
    return found


def test_every_pair_comes_once_with_its_answers_in_order(tmp_path: Path) -> None:
    """Also where many pairs share a prompt: a prompt is in one split."""
    rows = preferences.pairs() + [{"prompt": "the cat 7 ", "chosen": "x", "rejected": f"y {i}"} for i in range(4)]
    corpus = loaded(tmp_path, rows)
    train, held_out = texts(corpus, corpus.train), texts(corpus, corpus.validation)
    end = corpus.assets.tokenizer.decode([corpus.assets.tokenizer.end_of_text])
    expected = {(row["prompt"], row["chosen"] + end, row["rejected"] + end) for row in rows}
    assert len(train) + len(held_out) == len(rows)
    assert {*train, *held_out} == expected
    assert not {prompt for prompt, *_ in train} & {prompt for prompt, *_ in held_out}
    assert corpus.assets.preferences
    assert corpus.assets.validation_tokens == sum(len(chosen) - len(end) + 1 for _, chosen, _ in held_out)
    assert corpus.assets.validation_bytes == sum(len(chosen) - len(end) for _, chosen, _ in held_out)


def test_a_pair_that_teaches_nothing_or_does_not_fit_is_left_out_aloud(tmp_path: Path, capsys: Any) -> None:
    rows = preferences.pairs(40)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["rejected"] *= 9
    corpus = loaded(tmp_path, rows)
    assert len(corpus.train) + len(corpus.validation) == 38
    said = capsys.readouterr().err
    assert "1 pairs of equal answers" in said
    assert "1 examples that are longer than data.context=64" in said


def test_assets_of_other_data_are_stored_as_before(tmp_path: Path) -> None:
    corpus = loaded(tmp_path)
    corpus.assets.save(tmp_path)
    assert TextAssets.load(tmp_path).preferences
    replace(corpus.assets, preferences=False).save(tmp_path)
    assert "preferences" not in (tmp_path / "text.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": None}, r'Line 2 of .*pairs\.jsonl lacks "rejected"'),
        ({"prompt": "", "chosen": "", "rejected": ""}, r"Line 2 of .* has no text"),
        ({"chosen": []}, r"Line 2 of .* has an answer without messages"),
        ({"prompt": 3}, "Line 2 of "),
        ({"question": 3, "prompt": None}, "Line 2 of "),
    ],
)
def test_a_bad_row_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = preferences.pairs(20)
    rows[1] |= change
    with pytest.raises(UserError, match=message):
        loaded(tmp_path, rows)


def test_preferences_and_their_family_belong_together(tmp_path: Path, story: Path) -> None:
    pairs = loaded(tmp_path).assets
    for family in (Autoregressive(), Masked()):
        with pytest.raises(UserError, match="only the recipe dpo learns"):
            family.build(pairs)
    with pytest.raises(UserError, match="The recipe dpo learns from pairs of answers"):
        DPO().build(TextData(path=str(story), tokenizer="characters", context=16).load().assets)


def test_pairs_that_are_all_equal_are_named_as_that(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": f"the same {n}", "rejected": f"the same {n}"} for n in range(8)]
    with pytest.raises(UserError, match=r"every pair of .* are equal, so they prefer neither"):
        loaded(tmp_path, rows)


def test_a_single_pair_trains_without_a_validation_split(tmp_path: Path, capsys: Any) -> None:
    corpus = loaded(tmp_path, preferences.pairs(1))
    assert (len(corpus.train), len(corpus.validation)) == (1, 0)
    assert "has no validation split" in capsys.readouterr().err
