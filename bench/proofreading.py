"""Proofreading passes against unmasking alone, at equal numbers of network evaluations.

An autoregressive run on the same data judges every text (nats per token, lower is likelier). The variety of the texts
is printed too, because likelier text may only be less varied (distinct-2 compares equal amounts of text). Each row is a
way of sampling:

    fill        unmasking only, with the same number of random positions in each evaluation
    cool        the same at temperature 0.7: the gain from less varied text alone
    remdm       unmasking with remasking (Wang et al. 2025) of random tokens
    proofread   a quarter of the evaluations for a draft; each further one masks the most doubtful tokens and fills them

and each column a number of evaluations. For several runs (seeds), mean ± standard deviation over the runs is printed.
Measured numbers are stored in the results file, so an interrupted measurement can be resumed.

    python bench/proofreading.py --judge runs/ar --proofreading runs/p1 runs/p2 runs/p3 [--masked runs/m1 …]
        [--evaluations 4 8 16 32 64] [--samples 64] [--results results.json] [--plot quality.png]
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seedfast
from common import parse, parser
from seedfast.evaluate import judge, passages
from seedfast.evaluate.trained import Trained
from seedfast.families.text.proofreading.sampling import ProofreadingRequest
from seedfast.families.text.unmask_policy import MaskedRequest

Way = Callable[[type[MaskedRequest], int, int], MaskedRequest]


def unproofread(kind: type[MaskedRequest], evaluations: int, samples: int, **options: Any) -> MaskedRequest:
    """A request without proofreading passes."""
    if issubclass(kind, ProofreadingRequest):
        options["passes"] = 0
    return kind(num=samples, steps=evaluations, **options)


def fill(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Unmasking only."""
    return unproofread(kind, evaluations, samples)


def cool(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Unmasking only, at a low temperature."""
    return unproofread(kind, evaluations, samples, temperature=0.7)


def remdm(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Unmasking with remasking."""
    return unproofread(kind, evaluations, samples, order="ancestral", remdm=0.2)


def proofread(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """A draft and proofreading passes."""
    draft = max(1, evaluations // 4)
    return ProofreadingRequest(num=samples, steps=draft, passes=evaluations - draft)


WAYS: dict[str, dict[str, Way]] = {
    "proofreading": {"fill": fill, "cool": cool, "remdm": remdm, "proofread": proofread},
    "masked": {"fill": fill, "cool": cool, "remdm": remdm},
}
STYLES = {"fill": ("#0072b2", "o"), "cool": ("#56b4e9", "v"), "remdm": ("#e69f00", "s"), "proofread": ("#009e73", "D")}


def measure(model: Trained, by: Trained, way: Way, evaluations: int, samples: int) -> dict[str, Any]:
    """The judge's scores of a run's texts."""
    written: Any = model.sample(way(model.generator.Request, evaluations, samples), seed=2)
    return judge.judge([text for text in written.texts if len(text) > 1], by).record()


def summary(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def print_tables(results: dict[str, Any], real: dict[str, Any], evaluations: list[int]) -> None:
    """Print the tables."""
    for name, what in (("nats_per_token", "judge's nats per token"), ("entropy", "unigram entropy"),
                       ("distinct_2", "distinct-2")):  # fmt: skip
        print(f"\n{what:<26}" + "".join(f"{n:>14}" for n in evaluations) + f"   real text {real[name]:.2f}")
        for group, ways in WAYS.items():
            for way in ways:
                cells = [
                    [found[name] for key, found in results.items() if key.split("|")[1:] == [group, way, str(n)]]
                    for n in evaluations
                ]
                if all(cells):
                    print(f"{group + ', ' + way:<26}" + "".join(f"{summary(cell):>14}" for cell in cells))


def plot(results: dict[str, Any], real: dict[str, Any], evaluations: list[int], file: Path) -> None:
    """Quality against evaluations: the mean and the range over the runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for group, ways in WAYS.items():
        for way in ways:
            columns = [
                [
                    found["nats_per_token"]
                    for key, found in results.items()
                    if key.split("|")[1:] == [group, way, str(n)]
                ]
                for n in evaluations
            ]
            if not all(columns):
                continue
            colour, marker = STYLES[way]
            line = "-" if group == "proofreading" else ":"
            means = [statistics.mean(column) for column in columns]
            axes.plot(evaluations, means, line, color=colour, marker=marker, markersize=4, label=f"{group}, {way}")
            axes.fill_between(
                evaluations, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, linewidth=0
            )
    axes.axhline(real["nats_per_token"], color="0.4", linewidth=1, dashes=(4, 3), label="held-out text")
    axes.set_xscale("log", base=2)
    axes.set_xticks(evaluations, [str(n) for n in evaluations])
    axes.set_xlabel("network evaluations for 64 characters")
    axes.set_ylabel("nats per character, by the judge")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    print(f"\n{file}")


def main() -> None:
    """Measure the missing numbers and print the tables."""
    made = parser(__doc__, threads=2)
    made.add_argument("--judge", type=Path, required=True)
    made.add_argument("--proofreading", type=Path, nargs="*", default=[])
    made.add_argument("--masked", type=Path, nargs="*", default=[])
    made.add_argument("--evaluations", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    made.add_argument("--samples", type=int, default=64)
    made.add_argument("--results", type=Path, default=Path("results.json"))
    made.add_argument("--plot", type=Path)
    options = parse(made)
    by = seedfast.load(options.judge)
    corpus = by.corpus
    real = judge.judge(
        passages.real_texts(corpus.assets, corpus.validation, options.samples, by.run.data.context), by
    ).record()
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    for group, ways in WAYS.items():
        for folder in getattr(options, group):
            model = seedfast.load(folder)
            for way, request in ways.items():
                for count in options.evaluations:
                    key = f"{folder.name}|{group}|{way}|{count}"
                    if key not in results:
                        results[key] = measure(model, by, request, count, options.samples)
                        options.results.write_text(json.dumps(results, indent=1))
                        print(key, f"{results[key]['nats_per_token']:.3f}", flush=True)
    print_tables(results, real, options.evaluations)
    if options.plot:
        plot(results, real, options.evaluations, options.plot)


if __name__ == "__main__":
    main()
