"""Pretrained models read a text after what their tokenizer puts in front of it: nothing (GPT-2, Qwen), <bos> (Llama …).

Tuning, evaluation, judging and sampling follow this convention, which transformers' `tokenizer(text)` shows.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tokenizers import pre_tokenizers, processors

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.dialogues import example
from seedfast.data.text.hub import pretrained_tokenizer
from seedfast.data.text.row_forms import dialogue
from seedfast.data.text.tokenizers import Bytes, Characters, Subwords, begin, load, save
from seedfast.evaluate.bare import bare
from seedfast.evaluate.judge import judge
from seedfast.evaluate.log_prob import log_prob
from seedfast.evaluate.trained import Trained
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveObjective
from seedfast.keys import Draws

TEXTS = ("the cat sees the dog.", "a dog sees", "sees the cat sees the cat")
BOS, EOS = "<|im_start|>", "<|im_end|>"
KINDS = {"gpt2": False, "qwen": False, "llama": True, "gemma": True}


def tokenizer(kind: str) -> Any:
    """A tokenizer of transformers, built in the way of a family of models."""
    made = tiny_models.tokenizer("".join(TEXTS))
    core = made.backend_tokenizer
    special = [(BOS, core.token_to_id(BOS))]
    template = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=special)
    match kind:
        case "gpt2":  # a beginning-of-text that is never written
            core.post_processor, made.bos_token = processors.ByteLevel(trim_offsets=False), EOS
        case "llama":
            core.post_processor, made.bos_token = template, BOS
        case "gemma":  # as Llama 3 has it too
            core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
            made.bos_token = BOS
        case "qwen":
            core.pre_tokenizer, made.bos_token = pre_tokenizers.ByteLevel(add_prefix_space=False), None
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model with each tokenizer."""
    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp(kind)
        words = tokenizer(kind)
        tiny_models.model("llama", len(words)).save_pretrained(found[kind])
        words.save_pretrained(found[kind])
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def theirs(kind: str, folders: dict[str, Path]) -> Any:
    """The tokenizer in transformers."""
    return tiny_models.transformers.AutoTokenizer.from_pretrained(folders[kind])


@pytest.fixture
def ours(kind: str, folders: dict[str, Path]) -> Subwords:
    found = pretrained_tokenizer(str(folders[kind]))
    assert isinstance(found, Subwords)
    return found


@pytest.fixture
def model(kind: str, folders: dict[str, Path]) -> Trained:
    return bare(folders[kind], device="cpu")


@torch.no_grad()
def nats(model: Trained, ids: list[int], first: int = 1) -> float:
    """-log p of the tokens from number `first` on, by transformers alone."""
    network: Any = model.network
    log_q_LV = network.plain(torch.tensor([ids])).logits[0, :-1].double().log_softmax(dim=-1)
    return -float(log_q_LV.gather(1, torch.tensor(ids[1:]).unsqueeze(1))[first - 1 :].sum())


def test_a_text_begins_as_transformers_encodes_it(kind: str, theirs: Any, ours: Subwords, tmp_path: Path) -> None:
    for text in TEXTS:
        assert begin(ours, ours.encode(text)) == theirs(text)["input_ids"]
    assert (ours.beginning_of_text is not None) == KINDS[kind]
    assert begin(ours, []) == [ours.beginning_of_text if KINDS[kind] else ours.end_of_text]
    save(ours, tmp_path)
    assert load(tmp_path).beginning_of_text == ours.beginning_of_text


def test_tokenizers_made_here_have_no_beginning_of_text() -> None:
    for plain in (Bytes(), Characters("ab")):
        assert plain.beginning_of_text is None
        assert begin(plain, [1]) == [1]
        assert begin(plain, []) == [plain.end_of_text]


def test_prompts_and_chats_are_encoded_as_transformers_encodes_them(theirs: Any, ours: Subwords) -> None:
    pair = example(dialogue({"prompt": "the cat", "completion": " sees"}, "row"), ours, "row")
    assert pair.ids == [*theirs("the cat")["input_ids"], *ours.encode(" sees"), ours.end_of_text]
    chat = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]
    assert example(dialogue({"messages": chat}, "row"), ours, "row").ids == theirs.apply_chat_template(
        chat, return_dict=False
    )


def test_a_template_that_writes_the_beginning_gets_no_second_one(tmp_path: Path) -> None:
    theirs = tokenizer("llama")
    theirs.chat_template = "{{ bos_token }}" + tiny_models.CHAT.replace("<|im_start|>", "")
    theirs.save_pretrained(tmp_path)
    ours = pretrained_tokenizer(str(tmp_path))
    chat = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]
    ids = example(dialogue({"messages": chat}, "row"), ours, "row").ids
    assert ids == theirs.apply_chat_template(chat, return_dict=False)
    assert ids.count(ours.beginning_of_text) == 1


def objective(tokenizer: Subwords, context: int) -> AutoregressiveObjective:
    built = Autoregressive(document_mask=True).build(TextAssets(tokenizer, context, 1, 1)).objective
    assert isinstance(built, AutoregressiveObjective)
    return built


@torch.no_grad()
def loss(measured: AutoregressiveObjective, model: Trained, batch: Any) -> float:
    """The total nats of a batch."""
    task = measured.task(batch, Draws(seed=0, scope="test", positions_B=torch.arange(len(batch["tokens"]))))
    return float(measured.loss(model.network, task, {}).total_B.double().sum())


def test_the_loss_of_documents_is_that_of_transformers(
    kind: str, model: Trained, ours: Subwords, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    data = TextData(path=str(path), tokenizer=str(folders[kind]), context=sum(len(ours.encode(t)) + 1 for t in TEXTS))
    corpus = data.load()  # too short to validate: all documents are in one window
    found = loss(objective(ours, data.context), model, corpus.train.batch([0]))
    start = ours.beginning_of_text if KINDS[kind] else ours.end_of_text
    documents = [[start, *ours.encode(text), ours.end_of_text] for text in TEXTS]
    assert found == pytest.approx(sum(nats(model, ids) for ids in documents), rel=1e-4)
    if KINDS[kind]:
        wrong = sum(nats(model, [ours.end_of_text, *ids[1:]]) for ids in documents)
        assert found != pytest.approx(wrong, rel=1e-3), "twin: end-of-text in the place of the beginning"


def test_each_window_within_a_text_begins_with_the_beginning_of_text(
    kind: str, ours: Subwords, folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(" ".join(TEXTS) * 20)
    corpus = TextData(path=str(tmp_path / "a.txt"), tokenizer=str(folders[kind]), context=8).load()
    batch = corpus.train.batch([0, 1])
    task = objective(ours, 8).task(batch, Draws(seed=0, scope="test", positions_B=torch.arange(2)))
    assert torch.equal(task.targets_BL, batch["tokens"][:, 1:])
    assert torch.equal(task.inputs_BL[:, 1:], batch["tokens"][:, 1:-1])
    first = [ours.beginning_of_text] * 2 if KINDS[kind] else batch["tokens"][:, 0].tolist()
    assert task.inputs_BL[:, 0].tolist() == first


def test_log_probabilities_and_judgements_are_those_of_transformers(kind: str, model: Trained, ours: Subwords) -> None:
    start = ours.beginning_of_text if KINDS[kind] else ours.end_of_text
    references = [nats(model, [start, *ours.encode(text)]) for text in TEXTS]
    assert log_prob(model, TEXTS) == pytest.approx([-each for each in references], rel=1e-4)
    by = copy.copy(model)
    judged = judge(TEXTS, by)
    convention = [nats(model, begin(ours, ours.encode(text))) for text in TEXTS]
    assert judged.tokens == sum(len(begin(ours, ours.encode(text))) - 1 for text in TEXTS)
    assert judged.loss * judged.tokens == pytest.approx(sum(convention), rel=1e-4)


def test_greedy_continuations_are_those_of_transformers(model: Trained, theirs: Any, ours: Subwords) -> None:
    prompts = (*TEXTS[:2], "")
    samples = model.sample(prompt=prompts, tokens=6, temperature=0)
    network: Any = model.network
    for prompt, written in zip(prompts, samples.written, strict=True):
        ids = theirs(prompt)["input_ids"] or [ours.end_of_text]
        with torch.no_grad():
            for token in written:
                logits_V = network.plain(torch.tensor([ids])).logits[0, -1]
                logits_V[list(ours.never_generate)] = -torch.inf
                assert token == int(logits_V.argmax())
                ids.append(token)
    assert samples.texts[0].startswith(prompts[0]), "the beginning-of-text is not shown"


def test_infills_are_weighed_after_the_beginning_of_text(kind: str, model: Trained, ours: Subwords) -> None:
    read: list[list[int]] = []
    hook = model.network.register_forward_pre_hook(lambda _, given: read.extend(given[0].tolist()))
    model.sample(infill="the cat <gap:2> dog", candidates=2)
    hook.remove()
    start = begin(ours, ours.encode("the cat "))
    assert [row[: len(start)] for row in read if len(row) > len(start)]
    assert all(row[: len(start)] == start for row in read if len(row) > len(start))
