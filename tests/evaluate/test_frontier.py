"""The frontier: its area is 0 for held-out text and 1 for what tops one number alone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.cli import Run
from tests.helpers.runs import small_run, train_in

from seedfast.evaluate.frontier_area import Ratios, TextSums, area, area_of
from seedfast.evaluate.text_statistics import entropy, repetition
from seedfast.evaluate.variety import own_nats

V, LENGTH, TEXTS = 16, 64, 32
GUESS = math.log(V)
STEP = np.array([0.5, 0.2, 0.1, 0.1, 0.1])
"""The data: the next token is the last one, or one to four more, of 16 in a circle. All are equally frequent."""
LOOP = (np.arange(TEXTS)[:, None] + np.arange(LENGTH) // 2) % V
"""0 0 1 1 2 2 …: likely text, and the same again and again."""


def drawn(step: np.ndarray, seed: int, count: int = TEXTS) -> np.ndarray:
    draw = np.random.default_rng(seed)
    moves = draw.choice(len(step), size=(count, LENGTH), p=step)
    return (draw.integers(V, size=(count, 1)) + moves.cumsum(axis=1)) % V


def noise(seed: int, count: int = TEXTS) -> np.ndarray:
    return np.random.default_rng(seed).integers(V, size=(count, LENGTH))


def heated(step: np.ndarray, temperature: float) -> np.ndarray:
    p = step ** (1 / temperature)
    return p / p.sum()


def judged(texts: np.ndarray, sets: int = 1) -> TextSums:
    """Texts under a judge that knows the data, and gives a thousandth to what never occurs there."""
    q = np.full(V, 0.001 / V)
    q[: len(STEP)] += 0.999 * STEP
    nats = -np.log(q)[np.diff(texts, axis=1) % V].sum(axis=1)
    sizes = np.full(len(texts), LENGTH - 1.0)
    return TextSums.of(texts.tolist(), nats, sizes, sizes, vocabulary=V, sets=sets)


HELD_OUT = judged(drawn(STEP, 0, 4 * TEXTS), sets=4)
REPEATED = judged(np.zeros((TEXTS, LENGTH), np.int64))
NOISE = judged(noise(2))


def numbers(texts: TextSums) -> Ratios:
    return texts.ratios(np.ones((1, len(texts.nats))))


def value(*points: TextSums) -> float:
    return area_of(points, HELD_OUT, GUESS, seed=1)[0]


def point(variety: float, nats: float) -> Ratios:
    return Ratios(*(np.array([each]) for each in (nats, 0.0, variety, 0.0, 0.0)))


def test_the_area_is_what_the_points_leave_of_the_rectangle() -> None:
    real = point(2.0, 1.0)

    def of(*points: tuple[float, float]) -> float:
        return float(area([point(*each) for each in points], real, 3.0)[0])

    assert of((2.0, 1.0)) == 0
    assert of((2.5, 0.5)) == 0, "better than held-out text is no better than 0"
    assert of((1.0, 1.0)) == pytest.approx(0.5)
    assert of((2.0, 2.0)) == pytest.approx(0.5)
    assert of((1.0, 2.0)) == pytest.approx(0.75)
    assert of((1.0, 1.0), (2.0, 2.0)) == pytest.approx(0.25), "the union of two rectangles"
    assert of((1.0, 1.0), (0.5, 1.5)) == pytest.approx(0.5), "a worse point changes nothing"
    assert of((0.0, 0.1)) == of((2.0, 3.5)) == 1
    assert of((0.0, 0.1), (2.0, 3.5)) == 1, "no line joins a dull and a noisy text"
    assert math.isnan(float(area([point(1.0, 1.0)], point(2.0, 3.1), 3.0)[0])), "a judge that knows nothing"


def test_samples_of_the_data_have_no_area_and_both_extremes_have_all() -> None:
    perfect, error = area_of([judged(drawn(heated(STEP, t), 1)) for t in (0.7, 1.0, 1.3)], HELD_OUT, GUESS, seed=1)
    assert perfect < 0.03
    assert 0 < error < 0.03
    assert value(REPEATED) > 0.98
    assert value(NOISE) == 1
    assert value(REPEATED, NOISE) > 0.98
    # The broken twins: by the judge's nats alone the worst sampler is the best, by its variety alone noise is.
    data = judged(drawn(STEP, 1))
    nats = [float(numbers(each).nats[0]) for each in (REPEATED, data, NOISE)]
    variety = [float(numbers(each).variety[0]) for each in (REPEATED, data, NOISE)]
    assert nats == sorted(nats)
    assert variety == sorted(variety)


@pytest.mark.parametrize(
    "texts",
    [drawn(heated(STEP, 0.5), 3), LOOP, np.tile(drawn(STEP, 3)[:1], (TEXTS, 1))],
    ids=["a low temperature", "a loop", "the same sample always"],
)
def test_likely_text_that_is_duller_than_the_data_has_an_area(texts: np.ndarray) -> None:
    dull = judged(texts)
    assert numbers(dull).nats < numbers(HELD_OUT).nats * 1.1
    assert value(dull) > 0.2


def test_the_unigram_entropy_would_not_notice_a_low_temperature() -> None:
    cold, real = numbers(judged(drawn(heated(STEP, 0.7), 3))), numbers(HELD_OUT)
    twin = Ratios(cold.nats, cold.bits_per_byte, cold.entropy, cold.entropy, cold.repetition)
    twin_real = Ratios(real.nats, real.bits_per_byte, real.entropy, real.entropy, real.repetition)
    assert float(area([twin], twin_real, GUESS)[0]) < 0.5 * float(area([cold], real, GUESS)[0])


def test_a_model_that_is_worse_has_a_larger_area() -> None:
    def of(mixed: float) -> float:
        step = np.full(V, mixed / V)
        step[: len(STEP)] += (1 - mixed) * STEP
        return value(*(judged(drawn(heated(step, t), 4)) for t in (0.7, 1.0, 1.3)))

    areas = [of(mixed) for mixed in (0.0, 0.1, 0.3, 0.7)]
    assert areas == sorted(areas)
    assert areas[1] > areas[0] + 0.02


def test_the_error_is_the_scatter_of_other_samples() -> None:
    step = np.full(V, 0.1 / V)
    step[: len(STEP)] += 0.9 * STEP

    def of(seed: int) -> tuple[float, float]:
        real = judged(drawn(STEP, 500 + seed))
        return area_of([judged(drawn(step, 10 + seed))], real, GUESS, seed=1)

    found = [of(seed) for seed in range(24)]
    scatter = float(np.std([found_value for found_value, _ in found], ddof=1))
    claimed = float(np.mean([error for _, error in found]))
    assert 0.6 * scatter < claimed < 1.6 * scatter
    assert of(0) == found[0], "keyed"


def test_the_ratios_are_the_statistics_of_the_texts() -> None:
    texts = [[0, 1, 2, 3, 0, 1, 2, 3, 4], [5, 5, 5], []]
    nats, scored = np.array([3.0, 1.0, 0.0]), np.array([8.0, 2.0, 0.0])
    ratios = numbers(TextSums.of(texts, nats, scored, scored, vocabulary=6))
    assert float(ratios.nats[0]) == pytest.approx(0.4)
    assert float(ratios.entropy[0]) == pytest.approx(entropy(texts))
    assert float(ratios.repetition[0]) == pytest.approx(repetition(texts, 4))
    assert float(ratios.variety[0]) == pytest.approx(sum(own_nats(texts, 6)) / 12)


def test_texts_predict_themselves_by_witten_and_bell() -> None:
    assert own_nats([[0]], 4) == pytest.approx([math.log(4)])
    assert own_nats([[0, 0]], 4) == pytest.approx([math.log(4) - math.log((1 + 1 / 4) / 2)])
    # After the text [1]: p(1) = (1 + 1/4) / 2, and a text is predicted without its own tokens.
    assert own_nats([[1], [1]], 4) == pytest.approx([-math.log(0.625)] * 2)
    assert own_nats([[1], [2]], 4) == pytest.approx([-math.log(0.125)] * 2)
    first = own_nats([[0, 1], [0, 2], [0, 1]], 3)
    p_first = (2 + 3 * 1 / 3) / (4 + 3)  # 0 is two of four tokens of three kinds
    p_alone = (1 + 3 * 1 / 3) / (5 + 3)  # 1, without its context
    p_second = (1 + 2 * p_alone) / (2 + 2)  # after 0, one of two tokens of two kinds
    assert first[0] == pytest.approx(-math.log(p_first) - math.log(p_second))


@pytest.fixture(scope="module")
def runs(story: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("frontier")
    for name in ("autoregressive", "masked"):
        train_in(folder / name, small_run(f"text-{name}", story, steps=10, eval_every=0))
    return {name: folder / name for name in ("autoregressive", "masked")}


def test_the_command_shows_a_frontier(runs: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    asked = ("evaluate", runs["masked"], "--judge", runs["autoregressive"], "--samples", "4")
    status, out, _ = seedfast(*asked, "--temperatures", "1", "0.5", "--plot", tmp_path / "frontier.png")
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines[2:])) <= 80
    assert sum(line.split()[:1] in (["2"], ["16"]) for line in lines) == 4, "two temperatures at two numbers of steps"
    assert sum(line.lstrip().startswith("held-out") for line in lines) == 1
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(seedfast(*asked, "--json", "--steps", "4", "--plot", tmp_path / "frontier.svg")[1])
    frontier = record["frontier"]
    assert [each["evaluations"] for each in frontier["curves"]] == [4]
    assert [each["temperature"] for each in frontier["curves"][0]["points"]] == [0.5, 0.7, 0.85, 1.0, 1.15]
    assert frontier["area"] == frontier["curves"][-1]["area"]
    assert 0 <= frontier["area"] <= 1
    assert frontier["guess_nats_per_token"] > frontier["held_out"]["nats_per_token"]
    assert {"samples", "real_text", "judge_of_same_data"} <= record.keys(), "the request itself"
    assert b"<svg" in (tmp_path / "frontier.svg").read_bytes()[:500]
    one = json.loads(seedfast(*asked, "--json", "--sampling.temperature", "0.5", "--sampling.steps", "4")[1])
    (point,) = one["frontier"]["curves"][0]["points"]
    assert point["nats_per_token"] == pytest.approx(one["samples"]["nats_per_token"])
    assert point["entropy"] == pytest.approx(one["samples"]["entropy"])
    assert point["nats_per_token"] == pytest.approx(frontier["curves"][0]["points"][0]["nats_per_token"])


def test_mistakes_are_refused_in_one_sentence(runs: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    masked, by = runs["masked"], runs["autoregressive"]
    for words, message in (
        ((masked, "--judge", masked), "must be an autoregressive"),
        ((by, "--judge", by, "--steps", "4"), "has no number of steps"),
        ((masked, "--judge", by, "--temperature", "0.5"), "--temperatures"),
        ((masked, "--judge", by, "--temperatures", "-1"), "temperatures must be at least 0"),
        ((masked, "--judge", by, "--samples", "0"), "samples must be at least 1"),
        ((masked, "--judge", by, "--plot", tmp_path / "plot.gif"), "must end in .png or .svg"),
        ((masked, "--judge", by, "--plot", tmp_path / "none" / "plot.png"), "there is no folder"),
        ((masked, "--judge", by, "--steps", "4", "--sampling.steps", "8"), "both set the steps"),
    ):
        status, _, error = seedfast("evaluate", *words)
        assert status == 2, words
        assert message in error
        assert len(error.strip().splitlines()) == 1
