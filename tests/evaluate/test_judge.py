"""The judge: its score is the autoregressive loss of the texts, whatever stands beside them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.cli import seedfast
from tests.helpers.runs import small_run, train_in

from seedfast import recipes
from seedfast.data.text import tokenizers
from seedfast.errors import UserError
from seedfast.evaluate import judge, passages, trained
from seedfast.evaluate.trained import Trained
from seedfast.run_folder.choice import find

TEXTS = ["the cat sees.", "a dog", "the bird hears th", "1 2 3"]


def load(folder: Path) -> Trained:
    checkpoint = find(folder, at="newest")
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


@pytest.fixture(scope="module")
def runs(story: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A judge and a writer."""
    folder = tmp_path_factory.mktemp("judged")
    for name in ("autoregressive", "proofreading"):
        train_in(folder / name, small_run(f"text-{name}", story, steps=10, eval_every=0))
    return {name: folder / name for name in ("autoregressive", "proofreading")}


def by_hand(text: str, by: Trained) -> tuple[float, int]:
    ids = torch.tensor([by.tokenizer.encode(text)])
    with torch.no_grad():
        log_q = by.network(ids[:, :-1]).double().log_softmax(dim=-1)
    return -float(log_q.gather(2, ids[:, 1:, None]).sum()), ids.shape[1] - 1


def test_the_score_is_the_likelihood_of_each_token_after_the_first(runs: dict[str, Path]) -> None:
    by = load(runs["autoregressive"])
    nats, tokens = (sum(column) for column in zip(*(by_hand(text, by) for text in TEXTS), strict=True))
    found = judge.judge(TEXTS, by)
    assert found.tokens == tokens == sum(len(text) - 1 for text in TEXTS)
    assert found.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / tokens, rel=1e-6), "one character, one byte"
    assert found.texts == 4
    assert 0 < found.standard_error < found.loss
    assert math.isnan(judge.judge(TEXTS[:1], by).standard_error)


def test_a_uniform_judge_gives_log_v(runs: dict[str, Path]) -> None:
    by = load(runs["autoregressive"])
    with torch.no_grad():
        by.network.head.weight.zero_()  # type: ignore[union-attr, operator]
    found = judge.judge(TEXTS, by)
    assert found.loss == pytest.approx(math.log(by.tokenizer.size), rel=1e-6)
    assert found.standard_error == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_judged_is_refused(runs: dict[str, Path]) -> None:
    by = load(runs["autoregressive"])
    with pytest.raises(UserError, match="must be an autoregressive"):
        judge.judge(TEXTS, load(runs["proofreading"]))
    with pytest.raises(UserError, match="at least two tokens"):
        judge.judge(["the cat", "a"], by)
    with pytest.raises(UserError, match="trained on 16 at most"):
        judge.judge(["a" * 18], by)
    with pytest.raises(UserError):
        judge.judge(["ü" * 5], by)


def test_real_texts_are_held_out_text_of_the_length(runs: dict[str, Path], story: Path) -> None:
    by = load(runs["autoregressive"])
    held_out = story.read_text()[int(len(story.read_text()) * 0.9) :]
    texts = passages.real_texts(by.assets, by.corpus.validation, 5, 10)
    assert len(texts) == 5
    assert all(text in held_out and 2 <= len(text) <= 10 for text in texts)


@pytest.fixture(scope="module")
def japanese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge by bytes of text whose characters are three bytes each."""
    folder = tmp_path_factory.mktemp("japanese")
    sentences = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。" * 40
    (folder / "text.txt").write_text(sentences)
    by_bytes = replace(
        small_run("text-autoregressive", folder / "text.txt", steps=2, eval_every=0).data, tokenizer="bytes"
    )
    run = small_run("text-autoregressive", folder / "text.txt", steps=2, eval_every=0, data=by_bytes)
    train_in(folder / "run", run)
    return folder / "run"


@pytest.mark.parametrize("tokens", [2, 5, 15])
def test_every_byte_that_was_written_counts_once_also_inside_a_character(tokens: int, japanese: Path) -> None:
    by = load(japanese)
    request = by.generator.Request(num=6, tokens=tokens)
    found = judge.Judge(by=by, request=request)(by)
    for each in (found.samples, found.real_text):
        assert each.bits_per_byte == pytest.approx(each.loss / math.log(2), rel=1e-9), "a token is a byte"
    assert found.real_text.tokens == found.real_text.texts * (tokens - 1)


def test_the_same_tokenizer_judges_the_very_tokens_that_were_written(japanese: Path) -> None:
    by = load(japanese)
    request = by.generator.Request(num=6, tokens=5)
    written = by.sample(request, seed=1).tokens  # type: ignore[attr-defined]
    with torch.no_grad():
        log_q = [by.network(torch.tensor([ids[:-1]])).double().log_softmax(-1)[0] for ids in written if len(ids) > 1]
    targets = [torch.tensor(ids[1:]) for ids in written if len(ids) > 1]
    nats = [-each.gather(1, ids[:, None]).sum() for each, ids in zip(log_q, targets, strict=True)]
    found = judge.Judge(by=by, request=request)(by).samples
    assert found.loss == pytest.approx(float(sum(nats)) / sum(map(len, targets)), rel=1e-6)


def test_another_tokenizer_judges_whole_characters() -> None:
    convert = passages.Conversion(tokenizers.Bytes(), tokenizers.Characters("猫無"))
    ids = list("無猫".encode())
    cut = [*ids[1:], *ids[:2]]
    assert convert(cut, [False] * len(cut)).ids == [0], "the whole character of those that are cut at both ends"
    prompted = convert(ids, [True] * 3 + [False] * 3)
    assert (prompted.ids, prompted.given) == ([1, 0], [True, False])
    same = passages.Conversion(tokenizers.Bytes(), tokenizers.Bytes())
    assert same(cut, [False] * len(cut)).ids == cut


def test_a_prompt_is_given_and_not_scored(runs: dict[str, Path]) -> None:
    by = load(runs["autoregressive"])
    ids = by.tokenizer.encode("the cat sees")
    whole = judge.score([passages.Passage(ids, [False] * 12)], by)
    rest = judge.score([passages.Passage(ids, [True] * 8 + [False] * 4)], by)
    assert (whole.tokens, rest.tokens) == (11, 4)
    with torch.no_grad():
        log_q = by.network(torch.tensor([ids[:-1]])).double().log_softmax(-1)[0]
    nats = -log_q.gather(1, torch.tensor(ids[1:])[:, None])[-4:].mean()
    assert rest.loss == pytest.approx(float(nats), rel=1e-6)


def test_samples_of_one_token_are_counted_or_refused_in_a_sentence(runs: dict[str, Path]) -> None:
    by = load(runs["autoregressive"])
    with pytest.raises(UserError, match="None of the 3 samples has a token that the judge could score"):
        judge.Judge(by=by, request=by.generator.Request(num=3, tokens=1))(by)
    found = judge.Judge(by=by, request=by.generator.Request(num=3, tokens=1, prompt=("the cat",)))(by)
    assert found.samples.tokens == found.samples.texts, "one token after a prompt has something to follow"


def test_the_command_judges_samples_beside_real_text(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(runs["proofreading"]), "--samples", "6", "--judge", str(runs["autoregressive"]), "--json"]
    assert seedfast(*words, "--sampling.steps", "2", "--sampling.passes", "3") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["samples"]["texts"] + record["too_short"] == 6
    assert record["real_text"]["texts"] == 6
    assert record["judge_of_same_data"] is True
    assert record["decoding"].startswith("a draft in 2 steps (random order) and 3 proofreading passes")
    assert {"nats_per_token", "standard_error", "bits_per_byte", "distinct_2", "entropy"} <= record["samples"].keys()
    assert not any("self" in name for name in record["samples"]), "a model's own score is no measure"
    assert seedfast(*words) == 0
    assert json.loads(capsys.readouterr().out)["samples"] != record["samples"], "the sampler's flags act"


def test_help_shows_no_flag_that_has_no_effect_on_scores(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", str(runs["proofreading"]), "--samples", "1", "--judge", str(runs["autoregressive"]), "--help")
    assert seedfast(*words) == 0
    shown = capsys.readouterr().out
    assert "--sampling.passes" in shown
    assert not {"--only", "--draws", "--sampling.num", "--sampling.trace"} & set(shown.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "WRITER"], "must be an autoregressive"),
        (["--judge", "nowhere"], "nowhere"),
        (["--judge", "JUDGE", "--draws", "3"], "--draws has no effect with --judge (it belongs to the loss"),
        (["--judge", "JUDGE", "--only", "loss"], "--only has no effect with --judge"),
        (["--judge", "JUDGE", "--sampling.num=3"], "--samples is the number of samples"),
        (["--judge", "JUDGE", "--sampling.trace"], "only scores are printed"),
        (["--judge", "JUDGE", "--sampling.passes", "0", "--sampling.remask", "linear"], "remask"),
    ],
)
def test_mistakes_are_one_sentence(
    runs: dict[str, Path], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"WRITER": str(runs["proofreading"]), "JUDGE": str(runs["autoregressive"])}
    words = [places.get(word, word) for word in flags]
    assert seedfast("evaluate", str(runs["proofreading"]), "--samples", "2", *words) == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).replace("│", "").split())
    assert "Traceback" not in shown.err


def test_the_likelihood_of_a_proofreader_is_a_bound_and_its_objective_is_called_none(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert seedfast("evaluate", str(runs["proofreading"]), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["is_bound"] is True
    assert record["bits_per_byte"] == pytest.approx(record["nats_per_token"] / math.log(2))
    objective = record["objective"]
    assert objective["is_bound"] is False
    assert "bits_per_byte" not in objective
    assert "nats_per_token" not in objective
    assert objective["weighted_nats_per_token"] > 0
    assert objective["diagnostics"]["nelbo"] == pytest.approx(record["nats_per_token"], rel=1e-6)
    model = load(runs["proofreading"])
    assert model.family.likelihood is not None
