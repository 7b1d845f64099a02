"""The loss over the whole validation split: a likelihood, or a bound that is labelled as one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.trained import Trained
from seedfast.families.family import Objective
from seedfast.families.measure import Measure
from seedfast.files import finite
from seedfast.loop.validate import SourceScore, score_examples
from seedfast.options import AtLeast, check

_TOKENS = 1 << 13  # in one forward pass of a bare model: as many as in one of the recipe finetune


@dataclass(frozen=True)
class Likelihood:
    """The loss of a trained model on its validation split, in the units of `measure`.

    standard_error: of `loss`, over examples (blocks of windows of text, see `loop/standard_error.py`) and, for a bound,
        over the masks that were drawn; NaN for a single example.
    blocks: the number of these blocks; None where examples are independent.
    diagnostics: the objective's, over the same examples.
    step: None for a bare model.
    sources: the score of each source of a mixture, by name.
    trained_on: the training loss, where that is no likelihood.
    totals: the loss of each example, in the order of the split: its nats, for a likelihood. Not in the record.
    """

    loss: float
    standard_error: float
    measure: Measure
    weight: int
    examples: int
    draws: int
    weights: str
    step: int | None
    bytes: int | None
    blocks: int | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, SourceScore] = field(default_factory=dict)
    trained_on: "Likelihood | None" = None
    totals: tuple[float, ...] = field(default=(), repr=False)

    def record(self) -> dict[str, Any]:
        """The names of the command's contract: nats per token, bits per byte, their error, and what was counted."""
        measure = self.measure
        record = {
            measure.per_weight: self.loss,
            "standard_error": self.standard_error,
            **{name: self.loss * factor for name, factor in measure.conversions.items()},
            **({"perplexity": measure.perplexity(self.loss)} if measure.has_perplexity else {}),
            **{f"{name}_standard_error": self.standard_error * factor for name, factor in measure.conversions.items()},
            "is_bound": measure.is_bound,
            measure.weight_unit: self.weight,
            **({"bytes": self.bytes} if self.bytes is not None else {}),
            "examples": self.examples,
            "draws": self.draws,
            **({"blocks": self.blocks} if self.blocks is not None else {}),
            "weights": self.weights,
            **({"step": self.step} if self.step is not None else {}),
            **({"diagnostics": dict(self.diagnostics)} if self.diagnostics else {}),
            **({"sources": {name: asdict(score) for name, score in self.sources.items()}} if self.sources else {}),
            **({"objective": self.trained_on.record()} if self.trained_on else {}),
        }
        return {name: finite(value) for name, value in record.items()}

    def table(self) -> list[str]:
        """As lines for a terminal."""
        return rows(self.record())


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The exact loss over the whole validation split: every scored token once for every draw of a bound."""

    name: ClassVar[str] = "loss"

    draws: Annotated[int | None, AtLeast(1)] = None
    """Random tasks for each example where the loss is an estimated bound (default: the run's)."""
    batch_size: Annotated[int | None, AtLeast(1)] = None
    """Examples in one forward pass (default: by the run's)."""

    def __post_init__(self) -> None:
        check(self)

    def fits(self, model: Trained) -> str | None:
        """Every run with held-out data has a loss."""
        return no_validation(model)

    def __call__(self, model: Trained) -> Likelihood:
        """Score the model on every validation example.

        Raises UserError if the data is not what the model was trained on, since the split would be another one.
        """
        if reason := self.fits(model):
            raise UserError(reason)
        family = model.family
        if self.draws not in (None, 1) and family.evaluated.measure.draws is None:
            raise UserError(f"draws={self.draws} has no effect: this family's loss is exact, so leave it out.")
        trained_on = None if family.likelihood is None else self._measure(model, family.objective)
        return self._measure(model, family.evaluated, trained_on)

    def _measure(self, model: Trained, objective: Objective[Any], trained_on: Likelihood | None = None) -> Likelihood:
        validation = model.corpus.validation
        scored = score_examples(
            objective,
            model.network,
            model.state,
            validation,
            range(len(validation)),
            seed=model.run.seed,
            batch_size=self.batch_size or _batch_size(model),
            draws=self.draws or objective.measure.draws or 1,
            distributed=model.distributed,
        )
        score, assets = scored.score(model.corpus.validation_sources), model.corpus.assets
        return Likelihood(
            loss=score.loss,
            standard_error=score.standard_error,
            measure=objective.measure,
            weight=round(score.weight),
            examples=score.examples,
            draws=score.draws,
            blocks=score.blocks,
            weights=model.weights,
            step=model.step,
            bytes=assets.validation_bytes if isinstance(assets, TextAssets) else None,
            diagnostics=score.diagnostics,
            sources=score.sources,
            trained_on=trained_on,
            totals=tuple((scored.totals_E / scored.draws).tolist()),
        )


def _batch_size(model: Trained) -> int:
    """Examples in one forward pass: by those of the run; a bare model has none, so windows by their length."""
    if model.checkpoint is None and isinstance(model.assets, TextAssets):
        return max(1, _TOKENS // model.assets.context)
    return max(32, 4 * model.run.forward_examples)
