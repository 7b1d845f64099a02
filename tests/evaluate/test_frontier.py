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

V, LENGTH = 16, 64
GUESS = math.log(V)
P = np.array([2.0 ** -min(each, 7) for each in range(1, V + 1)])
P /= P.sum()


def judged(texts: np.ndarray) -> TextSums:
    """Texts under the judge that knows the distribution of the data, P."""
    nats = -np.log(P)[texts].sum(axis=1)
    sizes = np.full(len(texts), texts.shape[1], np.float64)
    return TextSums.of(texts.tolist(), nats, sizes, sizes)


def drawn(p: np.ndarray, seed: int, count: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).choice(V, size=(count, LENGTH), p=p)


def heated(temperature: float) -> np.ndarray:
    p = P ** (1 / temperature)
    return p / p.sum()


HELD_OUT = judged(drawn(P, 0, 128))


def point(variety: float, nats: float) -> Ratios:
    return Ratios(np.array([nats]), np.array([0.0]), np.array([variety]), np.array([0.0]))


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
    perfect, error = area_of([judged(drawn(heated(t), 1)) for t in (0.7, 1.0, 1.3)], HELD_OUT, GUESS, seed=1)
    assert perfect < 0.05
    assert perfect < 5 * error
    repeated = judged(np.full((64, LENGTH), int(P.argmax())))
    noise = judged(drawn(np.full(V, 1 / V), 2))
    assert area_of([repeated], HELD_OUT, GUESS, seed=1) == (1.0, 0.0)
    assert area_of([noise], HELD_OUT, GUESS, seed=1)[0] == pytest.approx(1, abs=0.01)
    assert area_of([repeated, noise], HELD_OUT, GUESS, seed=1)[0] == pytest.approx(1, abs=0.01)
    # The broken twin: by the judge's nats alone the worst sampler is the best, by the entropy alone noise is.
    ones = np.ones((1, 64))
    nats = [float(each.ratios(ones).nats[0]) for each in (repeated, judged(drawn(P, 1)), noise)]
    assert nats == sorted(nats)
    entropies = [float(each.ratios(ones).entropy[0]) for each in (repeated, judged(drawn(P, 1)), noise)]
    assert entropies == sorted(entropies)


def test_a_loop_over_a_likely_phrase_is_not_taken_for_text() -> None:
    phrase = drawn(P, 3)[:, :12]
    loop = judged(np.tile(phrase, LENGTH // 12 + 1)[:, :LENGTH])
    value, _ = area_of([loop], HELD_OUT, GUESS, seed=1)
    assert value > 0.5
    without = Ratios(*(np.array([each]) for each in (0.0, 0.0, 0.0, 0.0)))
    entropy_alone = float(loop.ratios(np.ones((1, 64))).entropy[0] / HELD_OUT.ratios(np.ones((1, 128))).entropy[0])
    assert entropy_alone > 0.75, "its unigram entropy alone would hide the loop"
    assert without.variety == 0


def test_a_model_that_is_worse_has_a_larger_area() -> None:
    def of(mixed: float) -> float:
        model = (1 - mixed) * P + mixed / V
        points = [judged(drawn(model ** (1 / t) / (model ** (1 / t)).sum(), 4)) for t in (0.7, 1.0, 1.3)]
        return area_of(points, HELD_OUT, GUESS, seed=1)[0]

    areas = [of(mixed) for mixed in (0.0, 0.3, 0.7)]
    assert areas == sorted(areas)
    assert areas[2] > areas[0] + 0.1


def test_the_error_is_the_scatter_of_other_samples() -> None:
    model = 0.6 * P + 0.4 / V
    found = [
        area_of([judged(drawn(model, 10 + seed))], judged(drawn(P, 500 + seed, 128)), GUESS, seed=1)
        for seed in range(60)
    ]
    scatter = float(np.std([value for value, _ in found], ddof=1))
    claimed = float(np.mean([error for _, error in found]))
    assert 0.7 * scatter < claimed < 1.4 * scatter
    again = area_of([judged(drawn(model, 10))], judged(drawn(P, 500, 128)), GUESS, seed=1)
    assert again == found[0], "keyed"


def test_the_ratios_are_the_statistics_of_the_texts() -> None:
    texts = [[0, 1, 2, 3, 0, 1, 2, 3, 4], [5, 5, 5], []]
    zeros = np.zeros(3)
    ratios = TextSums.of(texts, np.array([3.0, 1.0, 0.0]), np.array([8.0, 2.0, 0.0]), zeros).ratios(np.ones((1, 3)))
    assert float(ratios.nats[0]) == pytest.approx(0.4)
    assert float(ratios.entropy[0]) == pytest.approx(entropy(texts))
    assert float(ratios.repetition[0]) == pytest.approx(repetition(texts, 4))


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
