"""A study for people: lines of 80 columns, Markdown, and the parts of its page."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from seedfast.families.text.masked import Masked
from seedfast.report.format import measured
from seedfast.report.study import PlottedFamily, PlottedRun, draw
from seedfast.report.theme import DARK, LIGHT
from seedfast.scaling.draws import COUNT, LEVEL, TIMES, band
from seedfast.scaling.law import Form
from seedfast.scaling.outcome import Family, Study
from seedfast.scaling.request import BATCH, LEARNING_RATE, WEIGHT_DECAY, shape_flags, warmup

Table = tuple[str, list[str], list[list[str]]]
"""A caption, the header, and rows, whose first cell is a name."""
_POINTS = 40  # of the line of a law
_SAFE = 0.01  # relative error of a prediction, and spread of a run, up to which there is no warning
_FORMS: dict[Form, str] = {
    "own": "L = E + A / N^α + B / D^β",
    "prior": "this sum, α and β with a prior",
    "shared": "this sum, α and β the same for all families",
    "coupled": "L = E + ((A / N^α)^1/β + (B / D^β)^1/β)^β",
}


def tables(found: Study) -> list[Table]:
    """All numbers but those of single runs."""
    percent = f"{LEVEL:.0%} band"
    made: list[Table] = [
        (
            f"at {found.flops:.3g} FLOPs of training",
            ["family", "predicted bits per byte", percent, "best in", "layers", "steps"],
            [
                [
                    each.name,
                    f"{'≤ ' * each.is_bound}{each.best.value:.4f}",
                    f"{each.best.low:.4f} … {each.best.high:.4f}",
                    f"{each.probability:.0%}",
                    str(each.size),
                    f"{each.steps:,}",
                ]
                for each in found.families
            ],
        ),
        (
            f"the law, {_FORMS[found.choice.form]}",
            ["family", "E", "A", "α", "B", "β", "spread of a run"],
            [[each.name, *_law(each)] for each in found.families],
        ),
        (
            f"forms of the law, and by how much they missed runs of up to {TIMES} times the FLOPs",
            ["form", "root mean square error"],
            [[_FORMS[form], f"{miss.size:.1%}"] for form, miss in found.choice.misses.items()],
        ),
        (
            f"the largest run, predicted from those with at most 1/{TIMES} of its FLOPs",
            ["run", "predicted", percent, "measured", "off by"],
            [
                [
                    each.check.name,
                    f"{each.check.value:.4f}",
                    f"{each.check.low:.4f} … {each.check.high:.4f}",
                    "≤ " * each.is_bound + measured(each.check.measured or np.nan, each.check.standard_error),
                    f"{each.check.error:+.1%}",
                ]
                for each in found.families
            ],
        ),
    ]
    if any(each.exact for each in found.families):
        made.append(
            (
                "the largest run of the fit: the bound, and the exact likelihood of its sampler",
                ["run", "bound", "deployed"],
                [
                    [
                        each.largest.name,
                        f"≤ {measured(each.largest.value, each.largest.standard_error)}",
                        "" if each.exact is None else measured(*each.exact),
                    ]
                    for each in found.families
                    if each.is_bound
                ],
            )
        )
    return made


def _law(each: Family) -> list[str]:
    law = each.law.law
    numbers = [float(value[0]) for value in (law.e, law.a, law.alpha, law.b, law.beta)]
    return [*(f"{number:.3g}" for number in numbers), f"{each.law.spread:.2%}"]


def runs(found: Study) -> Table:
    """Every run."""
    rows = [
        [
            each.name,
            f"{each.n:.3g}",
            f"{each.tokens:.3g}",
            f"{each.epochs:.2g}",
            f"{each.flops:.4g}",
            "≤ " * each.is_bound + measured(each.value, each.standard_error),
        ]
        for each in found.runs
    ]
    return "the runs", ["run", "N", "D, tokens", "epochs", "FLOPs", "bits per byte"], rows


def text(found: Study) -> list[str]:
    """Lines of at most 80 columns."""
    lines = []
    for caption, header, rows in tables(found):
        lines += [f"{caption}:", *_aligned(header, rows), ""]
    for paragraph in (verdict(found), *notes(found)):
        lines += textwrap.wrap(paragraph, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [*lines, "", command(found)]


def _aligned(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    sizes = [max(len(row[number]) for row in (header, *rows)) for number in range(len(header))]
    for row in (header, *rows):
        yield "  ".join(
            f"{cell:<{size}}" if number == 0 else f"{cell:>{size}}"
            for number, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()


def markdown(found: Study) -> list[str]:
    """Tables of Markdown, with notes."""
    lines = [verdict(found), "", f"    {command(found)}"]
    for caption, header, rows in (*tables(found), runs(found)):
        lines += ["", f"{caption[:1].upper()}{caption[1:]}:", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    return [*lines, "", *(f"- {note}" for note in notes(found))]


def verdict(found: Study) -> str:
    """The recommendation in words."""
    best = found.recommended
    others = [each for each in found.families if each is not best]
    sentence = (
        f"Recommended for {found.flops:.3g} FLOPs: {best.name}, with {'at most ' * best.is_bound}{best.best.value:.3f} "
        f"predicted bits per byte, and the best in {best.probability:.0%} of {COUNT} draws."
    )
    often = max(others, key=lambda each: each.probability, default=best)
    if often.probability > best.probability:
        name, share = often.name.capitalize(), f"{often.probability:.0%}"
        sentence += f" {name} is the best in more of them ({share}), since its law is less sure."
    bounds = [each.name for each in others if each.is_bound]
    if bounds and not best.is_bound:
        sentence += (
            f" The numbers of {_named(bounds)} are bounds from above: such a model may be better than its number, so "
            f"the probability of {best.name} holds for these bounds and is too high for the models themselves."
        )
    elif bounds or best.is_bound:
        sentence += " Numbers with ≤ are bounds from above, and the probabilities compare them as they are."
    return sentence


def command(found: Study) -> str:
    """The command that trains the recommended run."""
    best, request = found.recommended, found.plan.request
    data = " ".join(request.data)
    objective = request.run(best.name, best.size, best.steps, found.plan.validation).objective
    estimator = f"--objective.estimator {objective.estimator} " if isinstance(objective, Masked) else ""
    return (
        f"seedfast train text-{best.name} --data {data} --data.validation {found.plan.validation:g} "
        f"--data.tokenizer {request.tokenizer} --data.context {request.context} {shape_flags(best.size)} "
        f"--batch-size {BATCH} --optimizer.lr {LEARNING_RATE} --optimizer.weight-decay {WEIGHT_DECAY:g} "
        f"{estimator}--schedule.warmup {warmup(best.steps)} "
        f"--ema.half-life 0 --steps {best.steps} --seed {request.seed}"
    )


def notes(found: Study) -> Iterator[str]:
    """What the numbers mean, and where they are of no use."""
    yield (
        "best in: the share of draws (other seeds of the runs, and other held-out text) in which the family has the "
        "fewest predicted bits per byte. ≤: a bound from above. N: FLOPs for each token / 6. FLOPs: of the matrix "
        "products of forward and backward pass, 2mkn each; in each cell of the plan those of all families are equal to "
        "half a step."
    )
    if not found.pairs_texts:
        yield "The windows of the families cannot be paired, so the bands hold the luck of the seeds alone."
    yield _accuracy(found)
    if spread := [f"{each.name} ({each.law.spread:.1%})" for each in found.families if each.law.spread > _SAFE]:
        yield (
            f"Warning: runs lie more than {_SAFE:.0%} about the law of {_named(spread)}, so the law does not hold well "
            "over these sizes and lengths. With more --minutes runs are longer, and follow it better."
        )
    best = found.recommended
    own = [each for each in found.runs if each.family == best.name]
    if (epochs := max(each.epochs / each.tokens for each in own) * best.best.tokens) > 1:
        yield (
            f"The recommended run reads its training text {epochs:.1f} times, and the runs of the study at most "
            f"{max(each.epochs for each in own):.1f} times. The law takes repeated text for new, so its prediction is "
            "too good where a model begins to know the text by heart: a little up to about four times (Muennighoff et "
            "al. 2023), and far more beyond, where autoregressive models overfit first."
        )
    if best.size == max(each.size for each in own):
        yield (
            f"{best.size} layers are the most that were trained, and sizes beyond are not recommended: a larger model "
            "may be better. A study with more --minutes trains larger ones."
        )


def _accuracy(found: Study) -> str:
    """How far off the predictions are expected to be."""
    checks = ", ".join(f"{each.name} {each.check.error:+.1%}" for each in found.families)
    sentence = (
        f"Expected error: {found.miss.size:.1%} for {TIMES} times the FLOPs of the largest run, which the bands "
        f"contain. By so much the law missed runs when it was fitted to those with at most 1/{TIMES} of the FLOPs "
        f"(largest run: {checks})."
    )
    if found.miss.size > _SAFE:
        sentence = f"Warning: these predictions are not accurate to {_SAFE:.0%}. {sentence}"
    if not found.plan.request.check:
        sentence += (
            " The form of the law was chosen by the same runs, so the error may be larger; with --check a study trains "
            f"one more run of each family, with {TIMES} times the FLOPs of any other, which has no part in the choice."
        )
    return sentence


def pictures(found: Study) -> list[tuple[str, bytes, bytes]]:
    """The picture of all runs and laws: a caption, and PNG files for light and dark pages."""
    curves = [_plotted(found, each) for each in found.families]
    caption = (
        f"Runs (points, with the size in layers) and the lowest bits per byte at each budget by the law of the family, "
        f"with its {LEVEL:.0%} band; dotted: the budget of the recommendation."
    )
    return [(caption, draw(curves, found.flops, LIGHT), draw(curves, found.flops, DARK))]


def _plotted(found: Study, family: Family) -> PlottedFamily:
    own = [each for each in found.runs if each.family == family.name]
    budgets = np.geomspace(min(each.flops for each in own), found.flops, _POINTS)
    sizes = sorted({each.n for each in own} | {family.best.n})
    line, low, high = [], [], []
    for budget in budgets:
        n = min(sizes, key=lambda size: float(family.law.law.loss(size, budget / 6 / size)[0]))
        line.append(float(family.law.law.loss(n, budget / 6 / n)[0]))
        edges = band(family.law.draws.loss(n, budget / 6 / n))
        low.append(edges[0])
        high.append(edges[1])
    points: Sequence[PlottedRun] = [PlottedRun(each.flops, each.value, str(each.size)) for each in own]
    name = f"{family.name}{' (bound)' * family.is_bound}"
    return PlottedFamily(name, points, budgets.tolist(), line, low, high)


def _named(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
