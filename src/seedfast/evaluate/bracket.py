"""Bounds of a masked model's likelihood from both sides.

One token a step in a random order, the default of `seedfast sample`, draws from the mixture p(x) = E_π p(x|π), in which
p(x|π) is the chain rule along the order π. Its negative log-likelihood cannot be computed, but lies between

    upper   E_π[-log p(x|π)], the NELBO (Jensen's inequality)
    lower   E_π[1 - log c - p(x|π)/c], because log u ≤ u/c - 1 + log c for every c > 0

in which c may depend on everything but π: it comes from the other orders that were drawn. With u = p(x|π)/c the two
differ by E[u - 1 - log u], which is never negative in any single draw: so it is measured on a few windows with a few
orders, and subtracted from the bound over the whole split; the error of the difference is paired, since a window with
a large bound has a gap of its own. The blocks of block diffusion are mixtures of their own,
each given the blocks before it (docs/identities.md#bracket).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.held_out import batches_of
from seedfast.evaluate.loss import Likelihood, Loss
from seedfast.evaluate.trained import Trained
from seedfast.evaluate.unmasking import BUDGET, documents_of, log_probs, policy, row_cost, why_not, windows_of
from seedfast.families.text.base import likelihood_conversions
from seedfast.families.text.block_diffusion import BlockGenerator
from seedfast.files import finite
from seedfast.loop.standard_error import document_numbers, error_of_difference
from seedfast.loop.validate import chosen_examples
from seedfast.options import AtLeast, check

_FEWEST = 4
"""Windows below which the lower bound is left out unless `windows` is set: they are so long that it would take long."""
LARGEST_SPREAD = 2.0
"""Nats by which the orders of a window may differ for its lower bound to be reliable (see `Bracketed.warning`)."""


def reference(log_p_RP: Tensor) -> Tensor:
    """log c of each draw, from the others: float64 [R, P] of R draws for each of P parts.

    The logarithm of their mean, or the mean of a log-normal distribution with their moments, whichever is larger: too
    large a c costs its logarithm, too small a c its inverse.
    """
    draws = len(log_p_RP)
    others_RRP = torch.stack([log_p_RP[torch.arange(draws) != r] for r in range(draws)])
    mean_RP = others_RRP.mean(dim=1)
    spread_RP = others_RRP.var(dim=1) if draws > 2 else torch.zeros_like(mean_RP)
    return torch.maximum(others_RRP.logsumexp(dim=1) - math.log(draws - 1), mean_RP + spread_RP / 2)


def gaps(log_p_RP: Tensor, log_c_RP: Tensor) -> Tensor:
    """Upper minus lower bound of each part in nats, float64 [P]: the mean over draws of u - 1 - log u, u = p / c."""
    log_u_RP = log_p_RP - log_c_RP
    return (torch.expm1(log_u_RP) - log_u_RP).mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class Bracketed:
    """lower ≤ bits per byte ≤ upper, each with its standard error; without `lower` where that was not measured.

    windows, orders: how many windows were measured for `lower`, each in how many random orders. spread: the standard
    deviation over orders of the log-probability of a window (of a block, for block diffusion), in nats.
    lower_standard_error: NaN where all these windows lie in one block of neighbours.
    """

    upper: float
    upper_standard_error: float
    lower: float | None = None
    lower_standard_error: float | None = None
    windows: int = 0
    orders: int = 0
    spread: float = 0.0

    @property
    def warning(self) -> str | None:
        """Why the lower bound is not reliable; None where it is."""
        if self.spread <= LARGEST_SPREAD:
            return None
        return (
            f"The orders differ by {self.spread:.1f} nats: above {LARGEST_SPREAD:g} a few of them miss the likeliest "
            "ones, which the lower bound needs, so it may be too high by more than its error."
        )

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        both: dict[str, Any] = {
            "upper": self.upper,
            "upper_standard_error": self.upper_standard_error,
            "lower": self.lower,
            "lower_standard_error": self.lower_standard_error,
        }
        if self.lower is not None:
            both |= {"lower_windows": self.windows, "lower_orders": self.orders, "order_spread_nats": self.spread}
            both |= {"lower_warning": self.warning} if self.warning else {}
        values: dict[str, Any] = finite(both)
        return values

    def table(self) -> list[str]:
        """As lines for a terminal."""
        upper = f"bits per byte ≤ {self.upper:.5f} ± {self.upper_standard_error:.5f}"
        if self.lower is None or self.lower_standard_error is None:
            return [upper]
        error = "unknown" if math.isnan(self.lower_standard_error) else f"{self.lower_standard_error:.5f}"
        line = f"{self.lower:.5f} ± {error} ≤ {upper}"
        how = {"lower_windows": self.windows, "lower_orders": self.orders, "order_spread_nats": self.spread}
        return [line, *rows(how), *([self.warning] if self.warning else [])]


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Bounds of the likelihood from above and below."""

    name: ClassVar[str] = "bracket"
    builds_on: ClassVar[str] = "loss"

    windows: Annotated[int | None, AtLeast(2)] = None
    """Windows of the validation split that the lower bound is measured on, a fixed random choice (default: by their
    length; none of those for which it would take long, such as 256 tokens)."""
    orders: Annotated[int, AtLeast(2)] = 8
    """Random orders of each of these windows."""
    loss: Likelihood | None = None
    """The bound over the whole split, where it is known already."""

    def __post_init__(self) -> None:
        check(self)

    def fits(self, model: Trained) -> str | None:
        """Text models whose loss is a bound, with held-out data."""
        measure = model.family.evaluated.measure
        if not isinstance(model.assets, TextAssets) or measure.loss_unit != "nats" or not measure.is_bound:
            return f"The loss of a model of {model.run.recipe} is no bound of a likelihood of text."
        return no_validation(model)

    def __call__(self, model: Trained) -> Bracketed:
        """Measure. Raises UserError for a model without a bound, or changed data."""
        if reason := self.fits(model):
            raise UserError(reason)
        loss, assets = self.loss or Loss()(model), model.assets
        assert isinstance(assets, TextAssets)
        bits = likelihood_conversions(assets)["bits_per_byte"]
        upper: dict[str, Any] = {"upper": loss.loss * bits, "upper_standard_error": loss.standard_error * bits}
        count = 0 if why_not(model) else self.windows or BUDGET // (self.orders * row_cost(model))
        if count < (_FEWEST if self.windows is None else 1):
            return Bracketed(**upper)
        corpus = model.corpus
        examples = chosen_examples(corpus, count, model.run.seed)
        batch = corpus.validation.batch(list(examples))
        canvases, weights_E = windows_of(batch)
        log_p_REK = self._log_probs(model, batch)
        parts_RP = log_p_REK.flatten(1)
        gaps_E = gaps(parts_RP, reference(parts_RP)).view(len(canvases), -1).sum(dim=1)
        gap = float(gaps_E.sum() / weights_E.sum())
        scored = torch.cat([each["scored"].sum(dim=1).double() for each in batches_of(corpus)])
        error = error_of_difference(
            (torch.tensor(loss.totals, dtype=torch.float64), scored),
            (gaps_E, weights_E),
            torch.tensor(list(examples)),
            document_numbers(corpus.validation, range(len(scored))),
        )
        return Bracketed(
            **upper,
            lower=(loss.loss - gap) * bits,
            lower_standard_error=error * bits,
            windows=len(canvases),
            orders=self.orders,
            spread=float(parts_RP.var(dim=0).mean().sqrt()),
        )

    def _log_probs(self, model: Trained, batch: dict[str, Tensor]) -> Tensor:
        """log p(part | order), float64 [R, E, K]: R orders of E windows, each of K blocks (one, without blocks)."""
        canvases, _ = windows_of(batch)
        documents_BL = documents_of(model, batch)
        log_p_NL = log_probs(
            model,
            policy(model, order="random"),
            canvases * self.orders,
            scope="bracket",
            documents_BL=None if documents_BL is None else documents_BL.repeat(self.orders, 1),
            what="Lower bound",
        )
        length, generator = log_p_NL.shape[1], model.generator
        size = generator.block if isinstance(generator, BlockGenerator) else length
        padded_NL = F.pad(log_p_NL, (0, -length % size))
        return padded_NL.view(self.orders, len(canvases), -1, size).sum(dim=-1)
