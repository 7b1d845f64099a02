"""Validation: the training loss on fixed examples with fixed keys, as a sum over a sum, with its standard error."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.console import track
from seedfast.data.dataset import Corpus, Dataset, Integers
from seedfast.data.sample_order import Order
from seedfast.errors import UserError
from seedfast.families.family import Objective, TaskT
from seedfast.families.generator import State
from seedfast.families.measure import Measure
from seedfast.files import finite
from seedfast.keys import Draws
from seedfast.loop.diagnostics import Totals
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.session import Session
from seedfast.loop.standard_error import Ratio, document_numbers, ratio_of_sums
from seedfast.run_folder.records import BestRecord


@dataclass(frozen=True, kw_only=True)
class SourceScore:
    """The validation loss of one source of a mixture, its standard error, and its divisor and examples."""

    loss: float
    standard_error: float
    weight: float
    examples: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """A validation loss.

    loss: the total over the total weight (for text: nats per token).
    standard_error: of `loss`, from the spread between examples, and of text between blocks of windows (see
        `standard_error.py`); NaN for a single example; for a random estimate it includes that randomness.
    weight: the divisor of the total (for text: scored tokens).
    examples, draws: number of examples, and of tasks drawn for each.
    blocks: the number of blocks of the standard error; None where examples are independent.
    sources: the score of each source of a mixture, by name.
    """

    loss: float
    standard_error: float
    weight: float
    examples: int
    draws: int
    blocks: int | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    sources: dict[str, SourceScore] = field(default_factory=dict)

    def measured(self, name: str, measure: Measure) -> float:
        """The loss, its perplexity, or a diagnostic by its name.

        Raises UserError if no example of this validation has it.
        """
        if name in ("loss", "perplexity"):
            return self.loss if name == "loss" else measure.perplexity(self.loss)
        if name not in self.diagnostics:
            raise UserError(f"No validated example has the metric {name}; raise eval_examples or choose another.")
        return self.diagnostics[name]

    def record(self, measure: Measure) -> dict[str, Any]:
        """As JSON values, with the loss in other units too; a number that is not finite becomes None."""
        units = {unit: self.loss * factor for unit, factor in measure.conversions.items()}
        perplexity = {"perplexity": measure.perplexity(self.loss)} if measure.has_perplexity else {}
        values: dict[str, Any] = finite({**asdict(self), **units, **perplexity})
        for name in ("blocks", "sources"):
            if not values[name]:
                del values[name]
        return values


def chosen_examples(corpus: Corpus, limit: int | None, seed: int) -> Sequence[int]:
    """Which validation examples are scored: all of them, or a fixed keyed choice of `limit`.

    Of a mixture, each source has the part of them that it has of the stream in the end, and one at least.
    """
    size = len(corpus.validation)
    if limit is None or limit >= size:
        return range(size)
    if corpus.mixed is None:
        return _chosen(size, limit, seed)
    shares = corpus.mixed.shares.at(corpus.mixed.shares.steps[-1])
    names = [source.name for source in corpus.mixed.sources]
    chosen: list[int] = []
    for name, share in zip(names, shares, strict=True):
        if ids := corpus.validation_sources.get(name, ()):
            wanted = max(1, round(limit * share))
            chosen += [ids[number] for number in _chosen(len(ids), wanted, seed)]
    return chosen


@lru_cache(maxsize=256)  # the order evaluates thousands of positions together, and each validation asks again
def _chosen(size: int, limit: int, seed: int) -> Sequence[int]:
    if limit >= size:
        return range(size)
    return sorted(Order(size=size, seed=seed, stream="eval/examples").ids(0, limit))


@dataclass(frozen=True, kw_only=True)
class ExampleScores:
    """The loss of each of E examples, as sums over its `draws` tasks.

    totals_E, weights_E: float64; the loss of any set of examples is the sum of their totals over that of their weights.
    documents_E: the document of each; None where examples are independent.
    """

    examples: Sequence[int]
    totals_E: Tensor
    weights_E: Tensor
    draws: int
    diagnostics: dict[str, float]
    documents_E: Integers | None = None

    def score(self, sources: Mapping[str, range] | None = None) -> Score:
        """The score of all of them. sources: the ids of the examples of each source of a mixture, scored apart too."""
        loss = self._ratio(torch.arange(len(self.totals_E)))
        return Score(
            loss=loss.value,
            standard_error=loss.standard_error,
            weight=float(self.weights_E.sum()) / self.draws,
            examples=len(self.totals_E),
            draws=self.draws,
            blocks=loss.blocks,
            diagnostics=self.diagnostics,
            sources=self._by_source(sources or {}),
        )

    def _ratio(self, rows: Tensor) -> Ratio:
        """The loss of some of the examples."""
        documents_R = None if self.documents_E is None else self.documents_E[rows.numpy()]
        return ratio_of_sums(self.totals_E[rows], self.weights_E[rows], documents_R)

    def _by_source(self, sources: Mapping[str, range]) -> dict[str, SourceScore]:
        """The score of each source that has examples among these."""
        scores = {}
        for name, ids in sources.items():
            rows = torch.tensor([row for row, example in enumerate(self.examples) if example in ids], dtype=torch.int64)
            if len(rows):
                loss, error, _ = self._ratio(rows)
                weight = float(self.weights_E[rows].sum()) / self.draws
                scores[name] = SourceScore(loss=loss, standard_error=error, weight=weight, examples=len(rows))
        return scores


@torch.no_grad()
def score_examples(
    objective: Objective[TaskT],
    network: nn.Module,
    state: State,
    dataset: Dataset,
    examples: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    draws: int,
    distributed: DistributedContext,
    fixed_batches: bool = False,
) -> ExampleScores:
    """Score `network` on these examples, each once for every one of its `draws` tasks.

    fixed_batches: whether the batches are the same, and their sums the same bits, for every number of processes. These
        then take whole batches in turn, and single examples otherwise, which shares few of them out more evenly.

    Example i's tasks have the positions i·draws … i·draws+draws-1 of the stream "eval", so they do not depend on the
    step, the batch size or the number of processes. Each process scores a part, and all return the same scores.
    """
    was_training = network.training
    network.eval()
    totals_E, weights_E = (
        torch.zeros(len(examples), dtype=torch.float64),
        torch.zeros(len(examples), dtype=torch.float64),
    )
    totals = Totals(distributed, slots=-(-len(examples) * draws // batch_size) if fixed_batches else 1)
    together = batch_size if fixed_batches else 1
    mine = [row for row in range(len(examples)) if row // together % distributed.world_size == distributed.rank]
    for number, rows, task in _tasks(objective, dataset, examples, mine, seed=seed, batch_size=batch_size, draws=draws):
        with distributed.autocast():
            there = task.to(distributed.device)
            terms = objective.loss(network, there, state)
            measured = {**terms.diagnostics, **objective.metrics(network, there, state)}
        totals_E.index_add_(0, rows, terms.total_B.double().cpu())
        weights_E.index_add_(0, rows, task.weight_B.double())
        totals.add(number, {name: pair.double().cpu() for name, pair in measured.items()})
    network.train(was_training)
    distributed.all_reduce_(totals_E)
    distributed.all_reduce_(weights_E)
    return ExampleScores(
        examples=examples,
        totals_E=totals_E,
        weights_E=weights_E,
        draws=draws,
        diagnostics=totals.reduced().averages(),
        documents_E=document_numbers(dataset, examples),
    )


def validate(*scored: Any, sources: Mapping[str, range] | None = None, **options: Any) -> Score:
    """The score of some examples. scored, options: of `score_examples`. sources: of `ExampleScores.score`."""
    return score_examples(*scored, **options).score(sources)


def _tasks(
    objective: Objective[TaskT],
    dataset: Dataset,
    examples: Sequence[int],
    mine: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    draws: int,
) -> Iterator[tuple[int, Tensor, TaskT]]:
    """The validation tasks in batches, with the number of each batch and the rows of `examples` that it belongs to."""
    pairs = [(row, draw) for row in mine for draw in range(draws)]
    starts = range(0, len(pairs), batch_size)
    for start in track("Validation", starts, len(starts)):
        chunk = pairs[start : start + batch_size]
        ids = [examples[row] for row, _ in chunk]
        positions = torch.tensor([example * draws + draw for example, (_, draw) in zip(ids, chunk, strict=True)])
        keyed = Draws(seed=seed, scope="eval", positions_B=positions, group=draws)
        first_row, first_draw = chunk[0]
        number = (first_row * draws + first_draw) // batch_size
        yield number, torch.tensor([row for row, _ in chunk]), objective.task(dataset.batch(ids), keyed)


def validate_session(
    session: Session, network: nn.Module, examples: Sequence[int] | None = None, *, batch_size: int | None = None
) -> Score:
    """Score a network as the training of a session validates it.

    examples: some of those of a validation (default: all of them, and the sources of a mixture apart).
    batch_size: tasks in a forward pass (default: four times those of training, as no activations are kept).
    """
    run, objective, corpus = session.run, session.family.objective, session.corpus
    return validate(
        objective,
        network,
        session.state.family,
        corpus.validation,
        chosen_examples(corpus, run.eval_examples, run.seed) if examples is None else examples,
        seed=run.seed,
        batch_size=batch_size or 4 * run.forward_examples,
        draws=objective.measure.draws or 1,
        distributed=session.placement.validating,
        sources=corpus.validation_sources if examples is None else None,
        fixed_batches=run.exact_sums,
    )


def better(session: Session, weights: str, score: Score) -> BestRecord | None:
    """The record of a score of these weights if it is better than their best so far by the run's metric."""
    run, state, measure = session.run, session.state, session.family.objective.measure
    value, sign = score.measured(run.best_metric, measure), measure.metrics.get(run.best_metric, -1)
    if not math.isfinite(score.loss) or not math.isfinite(value):
        return None
    known = state.best.get(weights)
    if known is not None and known.metric == run.best_metric and sign * value <= sign * known.value:
        return None
    error, epoch = finite(score.standard_error), session.plan.epoch(state.step)
    return BestRecord(state.step, score.loss, error, score.examples, score.draws, run.best_metric, value, epoch)
