"""The exact likelihood of held-out text under the policy by which a masked model writes.

Whoever samples in the order of confidence samples from this distribution, at any number of steps, temperature, top-k
and top-p, and its likelihood is no bound. A real text that the policy never writes (outside of top-k, say) has the
probability 0.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.trained import Trained
from seedfast.evaluate.unmasking import BUDGET, documents_of, log_probs, policy, row_cost, why_not, windows_of
from seedfast.families.text.base import likelihood_conversions
from seedfast.files import finite
from seedfast.loop.standard_error import document_numbers, ratio_of_sums
from seedfast.loop.validate import chosen_examples
from seedfast.options import AtLeast, Between, check

_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class DeployedLikelihood:
    """Bits per byte of held-out text under a policy, and their standard error over blocks of windows.

    windows: those that were scored. impossible: of these, the windows that the policy never writes: with one of them
    the number is infinite. decoding: the policy in words. examples, totals: of each window, its id in the split and its
    nats; not in the record.
    """

    deployed: float
    standard_error: float
    windows: int
    impossible: int
    decoding: str
    examples: tuple[int, ...] = field(default=(), repr=False)
    totals: tuple[float, ...] = field(default=(), repr=False)

    def record(self) -> dict[str, Any]:
        """As JSON values; infinite bits are None."""
        return {
            "deployed": finite(self.deployed),
            "deployed_standard_error": finite(self.standard_error),
            "deployed_windows": self.windows,
            "deployed_impossible": self.impossible,
            "deployed_decoding": self.decoding,
        }

    def table(self) -> list[str]:
        """As lines for a terminal."""
        line = f"{self.deployed:.5f} ± {self.standard_error:.5f} bits per byte, exact, over {self.windows:,} windows"
        if self.impossible:
            line = f"infinite: {self.impossible:,} of {self.windows:,} windows are texts that this policy never writes"
        return [line, *rows({"decoding": self.decoding})]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The exact likelihood of the policy of `seedfast sample --order confidence`."""

    name: ClassVar[str] = "deployed"

    windows: Annotated[int | None, AtLeast(2)] = None
    """Windows of the validation split that are scored, a fixed random choice (default: by their length, 2 at least)."""
    steps: Annotated[int | None, AtLeast(1)] = None
    """Unmasking steps of a window, or of a block (default: one for each token)."""
    temperature: Annotated[float | None, AtLeast(0)] = None
    """Of the distributions over tokens (default 1)."""
    top_k: Annotated[int | None, AtLeast(1)] = None
    """Only the k likeliest tokens have a probability."""
    top_p: Annotated[float | None, Between(0, 1, open_low=True)] = None
    """Only the likeliest tokens whose probability reaches p have one."""

    def __post_init__(self) -> None:
        check(self)

    def fits(self, model: Trained) -> str | None:
        """Masked, block and proofreading models with held-out data."""
        return why_not(model) or no_validation(model)

    def __call__(self, model: Trained) -> DeployedLikelihood:
        """Score windows. Raises UserError for a model that does not write so, or changed data."""
        if reason := self.fits(model):
            raise UserError(reason)
        options = {name: getattr(self, name) for name in ("steps", "temperature", "top_k", "top_p")}
        request = policy(model, **options)
        corpus, assets = model.corpus, model.assets
        assert isinstance(assets, TextAssets)
        count = self.windows or max(_FEWEST, BUDGET // row_cost(model, self.steps))
        examples = chosen_examples(corpus, count, model.run.seed)
        batch = corpus.validation.batch(list(examples))
        canvases, weights_E = windows_of(batch)
        log_p_EL = log_probs(
            model, request, canvases, scope="deployed", documents_BL=documents_of(model, batch), what="Deployed"
        )
        totals_E = -log_p_EL.sum(dim=1)
        nats, error, _ = ratio_of_sums(totals_E, weights_E, document_numbers(corpus.validation, examples))
        bits = likelihood_conversions(assets)["bits_per_byte"]
        return DeployedLikelihood(
            deployed=nats * bits,
            standard_error=error * bits if math.isfinite(nats) else math.nan,
            windows=len(canvases),
            impossible=int(log_p_EL.isinf().any(dim=1).sum()),
            decoding=model.generator.decoding(request),
            examples=tuple(examples),
            totals=tuple(totals_E.tolist()),
        )
