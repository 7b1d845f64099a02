"""Does going back over a text help? Proofreading against filling, at equal numbers of network evaluations.

Every text is judged by an autoregressive run of the same data (nats per token, lower is likelier), with its variety
beside it, for likelier text may just be duller (distinct-2 compares equal amounts of text). A row is a way of writing:

    fill        gaps only, as many at random in each evaluation
    cool        the same at temperature 0.7: what duller text alone would gain
    remdm       filling with remasking (Wang et al. 2025), which doubts words blindly
    proofread   a quarter of the evaluations for a draft, the others each hide the most doubted words and fill

and a column a number of evaluations. Of several runs (seeds), mean ± standard deviation over the runs is printed. What
has been measured is kept in the results file, so that an interrupted measurement goes on.

    python bench/proofreading.py --judge runs/ar --proofreading runs/p1 runs/p2 runs/p3 [--masked runs/m1 …]
        [--evaluations 4 8 16 32 64] [--samples 64] [--results results.json] [--plot quality.png]
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedfast import recipes
from seedfast.evaluate import judge, trained
from seedfast.evaluate.trained import Trained
from seedfast.families.text.proofreading.sampling import ProofreadingRequest
from seedfast.families.text.unmask_sampler import MaskedRequest

Way = Callable[[type[MaskedRequest], int, int], MaskedRequest]


def fill(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Gaps only."""
    return kind(num=samples, steps=evaluations)


def cool(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Gaps only, with likelier words."""
    return kind(num=samples, steps=evaluations, temperature=0.7)


def remdm(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """Filling with remasking."""
    return kind(num=samples, steps=evaluations, order="ancestral", remdm=0.2)


def proofread(kind: type[MaskedRequest], evaluations: int, samples: int) -> MaskedRequest:
    """A draft, and passes over it."""
    draft = max(1, evaluations // 4)
    return ProofreadingRequest(num=samples, steps=draft, passes=evaluations - draft)


WAYS: dict[str, dict[str, Way]] = {
    "proofreading": {"fill": fill, "cool": cool, "remdm": remdm, "proofread": proofread},
    "masked": {"fill": fill, "cool": cool, "remdm": remdm},
}
STYLES = {"fill": ("#0072b2", "o"), "cool": ("#56b4e9", "v"), "remdm": ("#e69f00", "s"), "proofread": ("#009e73", "D")}


def load(folder: Path) -> Trained:
    """A run's newest checkpoint."""
    checkpoint = trained.find(folder)
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


def measure(model: Trained, by: Trained, way: Way, evaluations: int, samples: int) -> dict[str, Any]:
    """What the judge says of a run's texts."""
    written: Any = model.sample(way(model.family.request, evaluations, samples), seed=2)
    return judge.judge([text for text in written.texts if len(text) > 1], by).record()


def shown(values: list[float]) -> str:
    """Mean and spread."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def tell(results: dict[str, Any], real: dict[str, Any], evaluations: list[int]) -> None:
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
                    print(f"{group + ', ' + way:<26}" + "".join(f"{shown(cell):>14}" for cell in cells))


def plot(results: dict[str, Any], real: dict[str, Any], evaluations: list[int], place: Path) -> None:
    """Quality against evaluations: the mean over the runs, and their range."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = page.add_subplot()
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
    page.savefig(place)
    print(f"\n{place}")


def main() -> None:
    """Measure what is missing and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--judge", type=Path, required=True)
    arguments.add_argument("--proofreading", type=Path, nargs="*", default=[])
    arguments.add_argument("--masked", type=Path, nargs="*", default=[])
    arguments.add_argument("--evaluations", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    arguments.add_argument("--samples", type=int, default=64)
    arguments.add_argument("--results", type=Path, default=Path("results.json"))
    arguments.add_argument("--plot", type=Path)
    asked = arguments.parse_args()
    by = load(asked.judge)
    corpus = by.run.data.load()
    real = judge.judge(
        judge.real_texts(corpus.assets, corpus.validation, asked.samples, by.run.data.context), by
    ).record()
    results: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for group, ways in WAYS.items():
        for folder in getattr(asked, group):
            model = load(folder)
            for way, request in ways.items():
                for count in asked.evaluations:
                    key = f"{folder.name}|{group}|{way}|{count}"
                    if key not in results:
                        results[key] = measure(model, by, request, count, asked.samples)
                        asked.results.write_text(json.dumps(results, indent=1))
                        print(key, f"{results[key]['nats_per_token']:.3f}", flush=True)
    tell(results, real, asked.evaluations)
    if asked.plot:
        plot(results, real, asked.evaluations, asked.plot)


if __name__ == "__main__":
    main()
