"""Likelihoods of given texts: exact for every family that has one, token by token, and the same in every command."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.cli import Run
from tests.helpers.runs import small_run, train_in

from seedfast import keys, recipes
from seedfast.cli.sample import _spans
from seedfast.errors import UserError
from seedfast.evaluate import score as scoring
from seedfast.evaluate import trained
from seedfast.evaluate.bracket import Bracket, Bracketed
from seedfast.evaluate.deployed import Deployed
from seedfast.evaluate.trained import Trained
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.masked import Masked
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.written import Choice, Key
from seedfast.report import surprise
from seedfast.run_folder.choice import find

UNMASKING = ("masked", "block", "proofreading")
TEXT = "the cat sees the bird. the dog hears"
"""Longer than two windows."""
FAMILIES: dict[str, dict[str, Any]] = {
    "autoregressive": {},
    "masked": {"objective": Masked()},
    "block": {"objective": Block(block=4)},
    "proofreading": {"objective": Proofreading()},
    "embedding": {},
}


@pytest.fixture(scope="module")
def folders(story: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of a few steps of each family."""
    home = tmp_path_factory.mktemp("scored")
    for name, changes in FAMILIES.items():
        train_in(home / name, small_run(f"text-{name}", story, steps=3, eval_every=0, save_every=3, **changes))
    return {name: home / name for name in FAMILIES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Trained]:
    return {name: load(folder) for name, folder in folders.items()}


def load(folder: Path) -> Trained:
    checkpoint = find(folder, at="newest")
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


def test_an_autoregressive_score_is_log_prob(models: dict[str, Trained]) -> None:
    model = models["autoregressive"]
    for text in (TEXT, "a"):
        found = model.score(text)
        assert isinstance(found, scoring.ScoredText)
        assert found.log_prob == pytest.approx(model.log_prob(text), rel=1e-6)
        assert found.bits_per_byte == pytest.approx(-found.log_prob / math.log(2) / len(text))
        assert "".join(token.text for token in found.tokens) == text
    assert model.score(TEXT, temperature=0.5).log_prob != found.log_prob  # type: ignore[union-attr]


@pytest.mark.parametrize("name", UNMASKING)
@pytest.mark.parametrize("options", [{}, {"steps": 3, "temperature": 0.8}], ids=str)
def test_a_text_has_the_probability_with_which_it_was_written(
    name: str, options: dict[str, Any], models: dict[str, Trained]
) -> None:
    model = models[name]
    passes = {"passes": 0} if name == "proofreading" else {}
    samples: Any = model.sample(num=4, order="confidence", explain=True, **passes, **options)
    whole = [row for row, choices in enumerate(samples.choices) if all(choice.kept for choice in choices)]
    assert whole
    for row in whole:
        found: Any = model.score(samples.texts[row], **options)
        assert samples.log_probs[row] == pytest.approx(found.log_prob, rel=1e-6)
        written = {choice.place: choice for choice in samples.choices[row]}
        for place, token in enumerate(found.tokens):
            assert written[place].log_prob == pytest.approx(token.log_prob, rel=1e-4, abs=1e-5)
            assert abs(written[place].rank - token.rank) <= 3, "equal up to rounding: the network is nearly uniform"
            assert written[place].entropy == pytest.approx(token.entropy, rel=1e-4)


def test_an_explained_autoregressive_sample_sums_to_log_prob(models: dict[str, Trained]) -> None:
    model = models["autoregressive"]
    samples: Any = model.sample(num=4, explain=True, tokens=12)
    whole = [row for row, choices in enumerate(samples.choices) if all(choice.kept for choice in choices)]
    assert whole
    for row in whole:
        assert samples.log_probs[row] == pytest.approx(model.log_prob(samples.texts[row]), rel=1e-6)


@pytest.mark.parametrize("name", ["autoregressive", *UNMASKING])
def test_an_explanation_names_the_number_that_drew_each_token(name: str, models: dict[str, Trained]) -> None:
    model = models[name]
    options = {"passes": 0} if name == "proofreading" else {}
    plain: Any = model.sample(num=2, tokens=40, **options)
    samples: Any = model.sample(num=2, tokens=40, explain=True, **options)
    assert samples.tokens == plain.tokens, "explaining changes nothing"
    for row, choices in enumerate(samples.choices):
        assert [c.token for c in sorted(choices, key=lambda c: c.place) if c.kept] == samples.tokens[row]
        for choice in choices:
            key = choice.key
            positions = torch.tensor([key.sample])
            numbers = keys.uniform(
                keys.derive(key.seed, key.scope, key.stream), positions, key.index + 1, dtype=torch.float64
            )
            assert float(numbers[0, key.index]) == choice.draw
    assert 0 <= samples.choices[0][0].entropy <= math.log(model.tokenizer.size)


@pytest.mark.parametrize("name", ["masked", "proofreading"])
def test_an_explained_gap_has_its_tokens_alone(name: str, models: dict[str, Trained]) -> None:
    options = {"passes": 0} if name == "proofreading" else {}
    samples: Any = models[name].sample(infill="the <gap:3> sees", explain=True, **options)
    assert [choice.place for choice in sorted(samples.choices[0], key=lambda c: c.place)] == [4, 5, 6]


def test_what_has_no_exact_likelihood_is_refused(models: dict[str, Trained]) -> None:
    with pytest.raises(UserError, match="no exact probability"):
        models["embedding"].score(TEXT)
    with pytest.raises(UserError, match="leave --explain out"):
        models["embedding"].sample(explain=True)
    with pytest.raises(UserError, match="set --passes to 0"):
        models["proofreading"].sample(explain=True)
    with pytest.raises(UserError, match="set --passes to 0"):
        models["proofreading"].score(TEXT, passes=3)
    with pytest.raises(UserError, match="Remasking"):
        models["masked"].score(TEXT, order="ancestral", steps=4, remdm=0.5)
    with pytest.raises(UserError, match="leave --infill out"):
        models["autoregressive"].sample(infill="the <gap:3> sees", explain=True)
    with pytest.raises(UserError, match="There is no option steps") as unknown:
        models["autoregressive"].score(TEXT, steps=3)
    assert "temperature" in str(unknown.value)
    assert "on_token" not in str(unknown.value)
    with pytest.raises(UserError, match="has no effect on the score"):
        models["masked"].score(TEXT, num=3)
    with pytest.raises(UserError, match="Text 2 is empty"):
        models["masked"].score([TEXT, ""])


@pytest.mark.parametrize("name", UNMASKING)
def test_deployed_is_the_score_of_the_held_out_windows(name: str, models: dict[str, Trained]) -> None:
    model = models[name]
    found = Deployed(windows=10_000)(model)
    assert found.windows == len(model.corpus.validation)
    assert found.impossible == 0
    batch = model.corpus.validation.batch(list(range(found.windows)))
    assert not bool((batch["tokens"][:, 1:] == model.tokenizer.end_of_text)[:-1].any()), "one text"
    texts = [model.tokenizer.decode(row) for row in batch["tokens"][:-1, 1:].tolist()]
    scores: Any = model.score(texts)
    few = Deployed(windows=found.windows)(model)
    assert few.deployed == found.deployed, "the choice of windows is fixed"
    bits = -sum(each.log_prob for each in scores) / math.log(2) / (16 * len(texts))
    assert found.deployed == pytest.approx(bits, rel=2e-2), "without the last window, which is shorter"
    never = Deployed(windows=4, top_k=1)(model)
    assert never.impossible == 4
    assert never.record()["deployed"] is None
    assert "never writes" in never.table()[0]


@pytest.mark.parametrize("name", UNMASKING)
def test_the_lower_bound_lies_below_the_upper_one(name: str, models: dict[str, Trained]) -> None:
    found = Bracket(windows=8, orders=4)(models[name])
    assert found.lower is not None
    assert found.lower <= found.upper
    record = found.record()
    for key in ("lower", "upper"):
        assert record[f"{key}_standard_error"] > 0
    assert f"{found.lower:.5f} ±" in found.table()[0]
    assert "≤ bits per byte ≤" in found.table()[0]
    loss = models[name].evaluate("loss")
    assert found.upper == pytest.approx(loss["bits_per_byte"])


def test_a_wide_spread_is_warned_of() -> None:
    narrow = Bracketed(upper=1.0, upper_standard_error=0.1, lower=0.9, lower_standard_error=0.1, spread=0.5)
    assert narrow.warning is None
    alone = replace(narrow, lower_standard_error=math.nan)
    assert alone.table()[0] == "0.90000 ± unknown ≤ bits per byte ≤ 1.00000 ± 0.10000"
    assert alone.record()["lower_standard_error"] is None
    assert replace(narrow, spread=5.0).table()[-1].startswith("The orders differ by 5.0 nats")


def test_the_command_prints_the_bracket_and_the_deployed_likelihood(folders: dict[str, Path], seedfast: Run) -> None:
    flags = ("--json", "--windows", "4", "--orders", "4", "--steps", "8")
    record = json.loads(seedfast("evaluate", folders["masked"], *flags)[1])
    assert record["lower"] <= record["upper"] == record["bits_per_byte"]
    assert {f"{name}_standard_error" for name in ("lower", "upper", "deployed")} <= record.keys()
    assert record["deployed_decoding"] == "confidence order, 8 network evaluations, temperature 1"
    assert record["deployed_windows"] == record["lower_windows"] == 4
    bound = json.loads(seedfast("evaluate", folders["embedding"], "--json")[1])
    assert bound["upper"] == bound["bits_per_byte"]
    assert bound["lower"] is None
    assert "deployed" not in bound
    status, _, stderr = seedfast("evaluate", folders["autoregressive"], "--orders", "4")
    assert status == 2
    assert "orders (4) has no effect" in stderr


def test_the_command_scores_the_documents_of_a_file(folders: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    file, html = tmp_path / "rows.jsonl", tmp_path / "score.html"
    file.write_text('{"text": "the cat"}\n{"text": "the dog sees a bird"}\n')
    found = json.loads(seedfast("score", folders["masked"], file, "--json", "--html", html)[1])
    by_hand: Any = load(folders["masked"]).score(["the cat", "the dog sees a bird"])
    assert [each["log_prob"] for each in found["documents"]] == pytest.approx([each.log_prob for each in by_hand])
    assert found["log_prob"] == pytest.approx(sum(each.log_prob for each in by_hand))
    assert [token["text"] for token in found["documents"][0]["tokens"]] == list("the cat")
    assert html.read_text().count("<section>") == 2
    printed = seedfast("score", folders["autoregressive"], file, "--tokens")[1]
    assert printed.count("nats  rank") == 7 + 19
    assert printed.splitlines()[-1].startswith("all")


def test_the_command_refuses_mistakes_in_one_sentence(folders: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    empty, whole = tmp_path / "empty.txt", tmp_path / "whole.txt"
    empty.write_text("")
    whole.write_text("the cat")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"the cat \x9e")
    for words, message in (
        ((folders["masked"], tmp_path / "none.txt"), "is no file"),
        ((folders["masked"], empty), "empty"),
        ((folders["masked"], binary), "is not UTF-8"),
        ((folders["masked"], whole, "--html", tmp_path), "is a folder"),
        ((folders["masked"], whole, "--html", tmp_path / "no" / "page.html"), "there is no folder"),
        ((folders["masked"], whole, "--top-p", "2"), "top-p must be in (0, 1]"),
        ((folders["autoregressive"], whole, "--steps", "3"), "There is no option steps"),
    ):
        status, _, stderr = seedfast("score", *words)
        assert status == 2
        assert message in stderr
        assert len(stderr.strip().splitlines()) == 1


def test_the_samples_command_writes_explanations(folders: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    out = tmp_path / "explained"
    flags = ("--order", "confidence", "--explain", "--tokens", "6", "--out", out)
    assert "log-probability of the 6 written tokens" in seedfast("sample", folders["masked"], *flags)[1]
    record = json.loads((out / "explanation.json").read_text())["samples"][0]
    assert record["log_prob"] == pytest.approx(sum(token["log_prob"] for token in record["tokens"]))
    assert record["tokens"][0].keys() >= {"log_prob", "rank", "entropy", "draw", "key", "step", "place", "kept"}
    assert (out / "explanation.html").read_text().count('title="step') == len(record["text"])


def test_pages_escape_their_texts_and_colour_by_surprise() -> None:
    spans = [surprise.Span("<b>", 0.2), surprise.Span("x", 9.0, "9 bits"), surprise.Span("y", math.inf)]
    page = surprise.page("title", ["facts"], [surprise.Passage("one", "numbers", spans)])
    assert "&lt;b&gt;" in page
    assert '<span class="s5" title="9 bits">x</span>' in page
    assert 'class="s7 never"' in page
    assert [surprise.level(bits) for bits in (0, 1, 3.9, 100)] == [0, 1, 2, 7]


def test_pieces_are_whole_characters() -> None:
    from seedfast.data.text.tokenizers import Bytes

    tokenizer = Bytes()
    ids = tokenizer.encode("aé吾")
    tokens = tuple(scoring.ScoredToken(id_, tokenizer.decode([id_]), -math.log(2), 1, 0.0) for id_ in ids)
    text = scoring.ScoredText("one", tokens, 6)
    pieces = scoring.Scores([text], "", tokenizer).pieces(text)
    assert [(piece.text, round(piece.surprise)) for piece in pieces] == [("a", 1), ("é", 2), ("吾", 3)]
    assert text.bits_per_byte == pytest.approx(1)


def test_scoring_continues_after_ctrl_c(
    folders: dict[str, Path], story: Path, tmp_path: Path, seedfast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "long.txt"
    file.write_text(story.read_text() * (40_000 // len(story.read_text()) + 1))
    words = ("score", str(folders["autoregressive"]), str(file), "--json")
    source = str(Path(scoring.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", f"from seedfast.cli import main; main({list(words)!r})"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source},
    ) as child:
        while not any(kept.stat().st_size > 20_000 for kept in (tmp_path / "cache/scoring").glob("*")):
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert "the same command continues" in child.stderr.read()
    assert child.returncode == 130
    assert list((tmp_path / "cache/scoring").iterdir())
    status, continued, said = seedfast(*words)
    assert status == 0
    assert "parts were scored before" in said
    assert not list((tmp_path / "cache/scoring").iterdir()), "nothing is kept of what is done"
    file.write_text(file.read_text()[:3000])
    alone = json.loads(seedfast(*words)[1])["documents"][0]["tokens"]
    assert json.loads(continued)["documents"][0]["tokens"][: len(alone) - 16] == alone[:-16]


def test_tokens_that_share_a_character_are_one_span_of_the_explanation() -> None:
    tokens = list("aé€".encode())
    key = Key(1, "sample", "token", 0, 0)
    choices = [
        Choice(place, place, tokens[place], "", -math.log(2), 1, 0.0, 0.5, key, kept=True) for place in (2, 3, 4)
    ]
    spans = list(_spans(tokens, choices, lambda ids: bytes(ids).decode(errors="replace")))
    assert [(span.text, span.bits) for span in spans] == [("a", None), ("é", 1.0), ("€", 2.0)]
    assert spans[2].hint.count("drawn with") == 2
