"""The loss over the whole validation split: a likelihood, or a bound that says that it is one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seedfast.data.dataset import Corpus
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained, corpus_of
from seedfast.families.family import Family
from seedfast.loop.validate import validate


@dataclass(frozen=True)
class Likelihood:
    """What `seedfast evaluate` reports. `loss` is in the family's `quantity`, mostly nats; `units` has it in others.

    standard_error: of `loss`, over examples (windows of text) and, for a bound, over the masks that were drawn;
        NaN if there is but one example.
    is_bound: the loss is an upper bound of the negative log-likelihood, so no perplexity can be made of it.
    diagnostics: the family's, over the same examples.
    objective: what the network was trained on, where that is no likelihood.
    """

    loss: float
    standard_error: float
    is_bound: bool
    counts: str
    quantity: str
    weight: int
    units: dict[str, float]
    examples: int
    draws: int
    weights: str
    step: int
    bytes: int | None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    objective: "Likelihood | None" = None

    def _perplexity(self) -> dict[str, float]:
        """exp of the loss, where the loss is the likelihood of tokens itself: of a bound it would be no perplexity."""
        if self.is_bound or self.quantity != "nats" or self.counts != "tokens":
            return {}
        return {"perplexity": math.exp(self.loss) if self.loss < 700 else math.inf}

    def record(self) -> dict[str, Any]:
        """The names of the command's contract: nats per token, bits per byte, their error, and what was counted."""
        of = self.counts.removesuffix("s")
        record = {
            f"{self.quantity}_per_{of}": self.loss,
            "standard_error": self.standard_error,
            **{name: self.loss * factor for name, factor in self.units.items()},
            **self._perplexity(),
            **{f"{name}_standard_error": self.standard_error * factor for name, factor in self.units.items()},
            "is_bound": self.is_bound,
            self.counts: self.weight,
            **({"bytes": self.bytes} if self.bytes is not None else {}),
            "examples": self.examples,
            "draws": self.draws,
            "weights": self.weights,
            "step": self.step,
            **({"diagnostics": dict(self.diagnostics)} if self.diagnostics else {}),
            **({"objective": self.objective.record()} if self.objective else {}),
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def likelihood(model: Trained, *, draws: int | None = None, batch_size: int | None = None) -> Likelihood:
    """Score a model on every validation example, each scored token once for every draw.

    draws: tasks for each example where the loss is a random estimate; fixed by the run if left out.
    Raises UserError if the data is not what the model was trained on, for then the split is another one.
    """
    corpus = corpus_of(model)
    if draws is not None and draws < 1:
        raise UserError(f"draws must be at least 1, not {draws}.")
    family = model.family.likelihood
    if draws is not None and draws != 1 and family.evaluation_draws is None:
        raise UserError("This family's loss is exact, so more than one draw for each example would change nothing.")
    trained_on = None if family is model.family else _measure(model, model.family, corpus, draws, batch_size)
    return _measure(model, family, corpus, draws, batch_size, objective=trained_on)


def _measure(
    model: Trained,
    family: Family,
    corpus: Corpus,
    draws: int | None,
    batch_size: int | None,
    objective: Likelihood | None = None,
) -> Likelihood:
    """The loss of one family on a trained network."""
    score = validate(
        family,
        model.network,
        model.state,
        corpus.validation,
        range(len(corpus.validation)),
        seed=model.run.seed,
        batch_size=batch_size or max(32, 4 * (model.run.micro_batch or model.run.batch_size)),
        draws=draws or family.evaluation_draws or 1,
        distributed=model.distributed,
    )
    return Likelihood(
        loss=score.loss,
        standard_error=score.standard_error,
        is_bound=family.is_bound,
        counts=family.counts,
        quantity=family.quantity,
        weight=round(score.weight),
        units=dict(family.units),
        examples=score.examples,
        draws=score.draws,
        weights=model.weights,
        step=0 if model.weights == "base" else model.committed.step,
        bytes=getattr(corpus.assets, "validation_bytes", None),
        diagnostics=score.diagnostics,
        objective=objective,
    )
