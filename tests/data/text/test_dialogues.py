"""Dialogues: only completions are scored, whole examples share windows, and no prompt is in both splits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import tiny_models

from seedfast.data.text.config import TextData
from seedfast.data.text.dialogues import ChatExample, ChatSource, as_chats
from seedfast.data.text.dialogues import example as encoded
from seedfast.data.text.hub import pretrained_tokenizer
from seedfast.data.text.packing import PackedDataset, pack
from seedfast.data.text.row_forms import dialogue
from seedfast.data.text.sources import file_source
from seedfast.data.text.tokenizers import Bytes, Subwords, Tokenizer
from seedfast.errors import UserError
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.keys import Draws
from seedfast.models.causal_lm import PretrainedLM

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes, naïvely."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model."""
    return tiny_models.folder(tmp_path_factory.mktemp("model") / "gpt2")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Subwords:
    return pretrained_tokenizer(str(folder))


def example(row: dict[str, Any], tokenizer: Tokenizer, name: str) -> ChatExample:
    return encoded(dialogue(row, name), tokenizer, name)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_completion_is_scored_to_its_end_and_its_prompt_is_not() -> None:
    one = example({"prompt": "ab", "completion": "cdé"}, Bytes(), "row")
    assert one.ids == [*b"abcd\xc3\xa9", Bytes.end_of_text]
    assert one.scored == [False] * 2 + [True] * 5
    assert one.bytes == 4
    assert example({"prompt": "", "completion": "x"}, Bytes(), "row").ids == [256, ord("x"), 256], "as when sampling"


def test_a_chat_is_rendered_by_the_template_and_only_the_assistant_is_scored(tokenizer: Subwords, folder: Path) -> None:
    theirs = tiny_models.transformers.AutoTokenizer.from_pretrained(folder)
    one = example({"messages": CHAT}, tokenizer, "row")
    rendered = theirs.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.decode(one.ids) == rendered
    assert one.ids == theirs.apply_chat_template(CHAT, return_dict=False)
    completions = tokenizer.decode([token for token, scored in zip(one.ids, one.scored, strict=True) if scored])
    assert completions == "It is 4.<|im_end|>\nYes, naïvely.<|im_end|>\n"
    assert one.bytes == len("It is 4.Yes, naïvely.".encode())
    short = example({"messages": CHAT[:3]}, tokenizer, "row")
    prompt = [token for token, scored in zip(short.ids, short.scored, strict=True) if not scored]
    assert prompt == tokenizer.encode_chat(tokenizer.chat_template.render(CHAT[:2], add_generation_prompt=True)), (
        "trained as it is prompted"
    )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "no message of the assistant"),
        ({"messages": "hi"}, "that are no list"),
        ({"messages": [{"role": "assistant", "content": 3}]}, "which is no text"),
        ({"messages": [{"role": "assistant", "content": "a<|im_end|>b"}]}, r"contains '<\|im_end\|>'"),
        ({"completion": "x"}, 'lacks "prompt"'),
        ({"prompt": "x", "completion": None}, "which is no text"),
    ],
    ids=str,
)
def test_bad_rows_are_refused_by_name(row: Any, sentence: str, tokenizer: Subwords) -> None:
    with pytest.raises(UserError, match=f"Line 3 of a.jsonl .*{sentence}"):
        example(row, tokenizer, "Line 3 of a.jsonl")


def test_templates_that_cannot_be_trained_on_are_refused(tokenizer: Subwords) -> None:
    with pytest.raises(UserError, match="this tokenizer has none"):
        example({"messages": CHAT}, Bytes(), "row")

    def made(template: str) -> Subwords:
        files = tokenizer.files()
        about = {"tokenizer_config.json": files["tokenizer_config.json"], "chat_template.jinja": template}
        core = tiny_models.tokenizers.Tokenizer.from_str(files["tokenizer.json"])
        return Subwords(core, "<|im_end|>", about)

    with pytest.raises(UserError, match="changes earlier messages"):
        example({"messages": CHAT}, made("{{ messages[-1]['content'] }}"), "row")
    with pytest.raises(UserError, match="refuses row: no"):
        example({"messages": CHAT}, made("{{ raise_exception('no') }}"), "row")
    endless = example({"messages": CHAT[:3]}, made("{% for m in messages %}{{ m['content'] }} {% endfor %}"), "row")
    assert endless.ids[-1] == tokenizer.end_of_text, "a completion that no template ends is ended"
    assert endless.scored[-1]


def test_chats_are_recognised_by_the_fields_of_the_first_row(tmp_path: Path) -> None:
    for name, row, is_dialogue in (
        ("a", {"prompt": "x", "completion": "y"}, True),
        ("b", {"messages": CHAT}, True),
        ("c", {"text": "x", "prompt": "x", "completion": "y"}, True),
        ("d", {"text": "x", "messages": None}, False),
    ):
        source = as_chats(file_source(write(tmp_path / f"{name}.jsonl", [row]), "text"), None)
        assert isinstance(source, ChatSource) == is_dialogue
    with pytest.raises(UserError, match=r"fields are body\): set data\.field .* or, for dialogues, give rows"):
        as_chats(file_source(write(tmp_path / "d.jsonl", [{"body": "x"}]), "text"), "text")


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(8, 12))
def test_packed_windows_hold_each_example_once_and_waste_little(lengths: list[int], size: int) -> None:
    array = np.array(lengths, np.int64)
    chosen = np.flatnonzero(array <= size)
    packs = pack(array, chosen, size)
    assert sorted(one for each in packs for one in each) == chosen.tolist()
    filled = [int(array[each].sum()) for each in packs]
    assert all(total <= size for total in filled)
    assert sum(total <= size // 2 for total in filled) <= 1, "two halves would have shared a window"


def corpus(rows: list[Any], tmp_path: Path, folder: Path, context: int = 24, validation: float = 0.2) -> Any:
    path = write(tmp_path / "rows.jsonl", rows)
    return TextData(path=str(path), tokenizer=str(folder), context=context, validation=validation).load()


ROWS = [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a in range(8) for b in range(7)]


def every(packed: PackedDataset) -> list[tuple[str, str]]:
    """Each example as (prompt, completion), read back from the windows."""
    found = []
    batch = packed.batch(list(range(len(packed))))
    scored = torch.nn.functional.pad(batch["scored"], (1, 0))
    for row, marks, documents in zip(batch["tokens"], scored, batch["documents"], strict=True):
        for document in range(int(documents.max()) + 1):
            here = documents == document
            if bool(marks[here].any()):
                found.append((tuple(row[here & ~marks].tolist()), tuple(row[here & marks].tolist())))
            else:
                assert document == documents.max(), "only padding is not scored"
    return found


def test_windows_hold_every_example_and_score_every_completion(
    tmp_path: Path, folder: Path, tokenizer: Subwords
) -> None:
    loaded = corpus(ROWS, tmp_path, folder)
    found = [
        (tokenizer.decode(prompt), tokenizer.decode(completion))
        for packed in (loaded.train, loaded.validation)
        for prompt, completion in every(packed)
    ]
    assert sorted(found) == sorted((row["prompt"], row["completion"] + "<|im_end|>") for row in ROWS)
    held_out = every(loaded.validation)
    assert loaded.assets.validation_tokens == sum(len(completion) for _, completion in held_out)
    assert loaded.assets.validation_bytes == sum(
        len(tokenizer.decode(completion[:-1]).encode()) for _, completion in held_out
    )
    assert len(loaded.train) < len(ROWS) / 2, "windows are shared"


def test_data_sets_of_the_hub_may_hold_prompts_and_completions(tmp_path: Path, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    data = TextData(path=f"hf:{tmp_path / 'saved'}", tokenizer=str(folder), context=24, validation=0.2)
    assert data.load().fingerprint.digest == corpus(ROWS, tmp_path, folder).fingerprint.digest


def test_no_validation_prompt_is_trained_on(tmp_path: Path, folder: Path) -> None:
    """Prompts that occur several times, with other completions, are in one split."""
    rows = [{"prompt": f"q{i % 9}", "completion": f"a{i}"} for i in range(90)]
    loaded = corpus(rows, tmp_path, folder)
    train, validation = ({prompt for prompt, _ in every(packed)} for packed in (loaded.train, loaded.validation))
    assert train
    assert validation
    assert not train & validation


def test_examples_that_are_too_long_are_left_out_and_reported(tmp_path: Path, folder: Path, capsys: Any) -> None:
    rows = [*ROWS, {"prompt": "x" * 99, "completion": "y"}]
    loaded = corpus(rows, tmp_path, folder)
    assert "1 examples that are longer than data.context=24" in capsys.readouterr().err
    assert sum(len(every(packs)) for packs in (loaded.train, loaded.validation)) == len(ROWS)
    with pytest.raises(UserError, match=r"No example of the .* split"):
        corpus(ROWS, tmp_path, folder, context=2)


def test_packed_examples_have_the_loss_that_they_have_alone(tmp_path: Path, folder: Path) -> None:
    loaded = corpus(ROWS, tmp_path, folder)
    config = PretrainedLM(path=str(folder)).located()
    network = config.build(vocabulary=loaded.assets.tokenizer.size, context=24, causal=True)
    config.initialise(network)
    network.eval()

    def loss(batch: Any, document_mask: bool) -> float:
        objective = Autoregressive(document_mask=document_mask).build(loaded.assets).objective
        draws = Draws(seed=0, scope="eval", positions_B=torch.arange(len(batch["tokens"])))
        return float(objective.loss(network, objective.task(batch, draws), {}).total_B.sum().detach())

    batch = loaded.train.batch(list(range(len(loaded.train))))
    alone = 0.0
    for prompt, completion in every(loaded.train):
        ids = torch.tensor([[*prompt, *completion]])
        scored = torch.arange(1, ids.shape[1])[None] >= len(prompt)
        alone += loss({"tokens": ids, "scored": scored}, document_mask=False)
    assert loss(batch, document_mask=True) == pytest.approx(alone, rel=1e-5)
    assert loss(batch, document_mask=False) != pytest.approx(alone, rel=1e-4), "the twin without a document mask leaks"


def test_a_demo_is_a_validation_prompt(tmp_path: Path, folder: Path) -> None:
    loaded = corpus(ROWS, tmp_path, folder)
    generator = Autoregressive().build(loaded.assets).generator
    assert generator is not None
    canvas = generator.demo(loaded.validation).canvas
    prompt = loaded.assets.tokenizer.decode(canvas.tokens_L[canvas.fixed_L])
    assert prompt in [row["prompt"] for row in ROWS]
