"""Which form of the law predicts best, found out by runs that are larger than those of the fit.

Each form is fitted to the runs with at most a quarter of the FLOPs of the largest one, and predicts the others. The
form with the least root mean square of relative errors, over all families, is chosen, and this error is stated: it is
how far off a prediction of four times the FLOPs has been on this very text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seedfast.errors import UserError
from seedfast.scaling.draws import TIMES, Miss, Sample
from seedfast.scaling.law import FORMS, PARAMETERS, Floats, Form, Runs, fit

_ROUNDING = 1.02  # of FLOPs: steps are whole
_LEAST = max(PARAMETERS.values()) + 1  # runs of a fit


@dataclass(frozen=True)
class Choice:
    """The form of the law that predicts best, and the root mean square error of each form that was tried."""

    form: Form
    misses: Mapping[Form, Miss]

    @property
    def miss(self) -> Miss:
        """That of the form that is chosen."""
        return self.misses[self.form]


def smaller(sample: Sample) -> list[int]:
    """The runs with at most a quarter of the FLOPs of the largest; more of them where a law needs more."""
    order = sample.flops.argsort(kind="stable")
    count = int((sample.flops <= sample.flops.max() / TIMES * _ROUNDING).sum())
    return sorted(order[: max(count, min(_LEAST, len(order) - 1))].tolist())


def choose(samples: Sequence[Sample]) -> Choice:
    """The form for these families. Raises UserError if they have too few runs for each form."""
    runs = min(len(smaller(sample)) for sample in samples)
    forms = [form for form in FORMS if runs > PARAMETERS[form] and (form != "shared" or len(samples) > 1)]
    if not forms:
        least = min(PARAMETERS.values()) + 2
        raise UserError(f"A law that predicts a larger run needs {least} runs of each family, and one has fewer.")
    misses = {form: Miss.of(_errors(samples, form)) for form in forms}
    return Choice(min(misses, key=lambda form: misses[form].size), misses)


def _errors(samples: Sequence[Sample], form: Form) -> Floats:
    """Relative errors of the predictions of all runs that are not in the fit, of all families."""
    inside = [smaller(sample) for sample in samples]
    parts = [sample.part(each) for sample, each in zip(samples, inside, strict=True)]
    laws = fit([Runs(each.losses_R[None], each.n_R, each.d_R) for each in parts], form)
    errors = [law.loss(sample.n_R, sample.d_R) / sample.losses_R - 1 for sample, law in zip(samples, laws, strict=True)]
    return np.concatenate([np.delete(each, chosen) for each, chosen in zip(errors, inside, strict=True)])
