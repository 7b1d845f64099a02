"""A text depends on its own request alone: requests at random times give the bits that each gives alone."""

import random
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.runs import TEXTS, UNLIKE_TEXTS

import seedfast
from seedfast.evaluate.trained import Trained
from seedfast.families.text.block_diffusion import BlockGenerator
from seedfast.serve.agreement import agreeing_sizes
from seedfast.serve.engine import Engine
from seedfast.serve.events import Delta, Ended
from seedfast.serve.text_model import TextJob, TextModel

Pieces = tuple[str, tuple[float | None, ...]]


def jobs(texts: TextModel, count: int) -> list[TextJob]:
    """Requests with prompts, lengths, seeds and options of all kinds."""
    chance = random.Random(1)
    found = []
    for number in range(count):
        options: dict[str, Any] = {"temperature": chance.choice([0.0, 0.7, 1.0])}
        known = {f.name for f in fields(texts.generator.Request)}
        if "steps" in known:
            options["steps"] = chance.randint(1, 6)
        if "passes" in known:
            options["passes"] = chance.randint(1, 4)
        can_infill = not isinstance(texts.generator, BlockGenerator) and chance.random() < 0.2
        causal = "candidates" in known
        found.append(
            TextJob(
                prompts=[texts.encode(chance.choice(["", "the ", "the cat sees", "a"]))],
                count=chance.randint(1, 3 if can_infill else 24),
                suffix=texts.encode("a") if can_infill else (),
                seed=number,
                logprobs=1 if causal and not can_infill else None,
                options=options,
            )
        )
    return found


def written(engine: Engine, texts: TextModel, job: TextJob) -> tuple[list[Any], Pieces]:
    """A text, and the exact log-probabilities of its tokens."""
    events: list[Any] = []
    (row,) = engine.submit(texts.plan(job).works(events.append))
    row.done.result()
    pieces = [event.piece for event in events if isinstance(event, Delta)]
    assert sum(isinstance(event, Ended) for event in events) == 1
    numbers = tuple(token.log_prob for piece in pieces for token in piece.tokens)
    return events, ("".join(piece.text for piece in pieces), numbers)


def wrong_answers(model: Trained, count: int, spread: float) -> tuple[int, int]:
    """The texts that are other beside neighbours than alone, and the largest batch. spread: seconds of arrivals."""
    texts, batches = TextModel(model, slots=8), [0]
    engine = Engine(slots=8, queue=count, on_batch=batches.append)
    asked = jobs(texts, count)
    alone = [written(engine, texts, job)[1] for job in asked]
    assert max(batches) <= 1
    together: dict[int, Pieces] = {}
    chance = random.Random(2)

    def arrive(number: int, delay: float) -> None:
        time.sleep(delay)
        together[number] = written(engine, texts, asked[number])[1]

    threads = [threading.Thread(target=arrive, args=(n, chance.random() * spread)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    return sum(together[number] != alone[number] for number in range(count)), max(batches)


@pytest.mark.parametrize("recipe", UNLIKE_TEXTS)
def test_neighbours_change_no_bit(recipe: str, folders: dict[str, Path]) -> None:
    wrong, largest = wrong_answers(seedfast.load(folders[recipe], device="cpu"), 24, spread=0.2)
    assert wrong == 0
    assert largest >= 4 or recipe == "text-embedding", "rows were computed together"


def test_neighbours_change_no_bit_of_a_model_of_transformers(folders: dict[str, Path]) -> None:
    wrong, _ = wrong_answers(seedfast.load(folders["chat"], device="cpu"), 12, spread=0.1)
    assert wrong == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TEXTS)
def test_a_thousand_requests_at_random_times_give_the_bits_that_each_gives_alone(
    recipe: str, folders: dict[str, Path]
) -> None:
    wrong, largest = wrong_answers(seedfast.load(folders[recipe], device="cpu"), 1000, spread=10)
    assert wrong == 0
    assert largest == 8 or recipe == "text-embedding"


def test_sizes_agree_where_rows_have_the_same_bits() -> None:
    x = torch.sin(torch.arange(2 * 64)).view(2, 64)

    def fixed(order: list[int]) -> list[torch.Tensor]:
        return [x[which].sum() for which in order]

    def of_size(order: list[int]) -> list[torch.Tensor]:  # a single row is added in another order
        return [x[which].sum() + (1e-6 if len(order) == 1 else 0) for which in order]

    def of_place(order: list[int]) -> list[torch.Tensor]:  # in batches of 8, the last place is
        return [x[which].sum() + (1e-6 if place == 7 else 0) for place, which in enumerate(order)]

    def of_neighbour(order: list[int]) -> list[torch.Tensor]:
        return [x[which].sum() + 1e-6 * order[0] for which in order]

    assert agreeing_sizes(fixed, 8) == (1, 2, 4, 8)
    assert agreeing_sizes(fixed, 6) == (1, 2, 4, 6)
    assert agreeing_sizes(of_size, 8) == (2, 4, 8)
    assert agreeing_sizes(of_place, 8) == (1, 2, 4)
    assert agreeing_sizes(of_neighbour, 8) == (1,)


def test_a_batch_of_a_size_that_does_not_agree_is_seen(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: with batches of any size, a lone row has other bits than one with neighbours."""
    monkeypatch.setattr("seedfast.serve.slots.agreeing_sizes", lambda trial, most: (1, 2, 4, 8))
    wrong, largest = wrong_answers(seedfast.load(folders["text-autoregressive"], device="cpu"), 24, spread=0.1)
    assert largest >= 4
    if len(agreeing_of(folders)) < 4:  # on this machine the sizes do not all agree
        assert wrong > 0


def agreeing_of(folders: dict[str, Path]) -> tuple[int, ...]:
    texts = TextModel(seedfast.load(folders["text-autoregressive"], device="cpu"), slots=8)
    assert texts.batches.slots is not None
    return agreeing_sizes(texts.batches.slots._trial, 8)
