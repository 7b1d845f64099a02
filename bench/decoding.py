"""What the default decodings were chosen by: candidates of each family, at a stated number of network evaluations.

    python bench/decoding.py text RUN JUDGE [--samples 64] [--seeds 2]      a masked, block or proofreading run
    python bench/decoding.py digits [--steps 1200] [--images 1797]          images of scikit-learn's digits, by class

A text is scored by an autoregressive run on the same data (nats per token, lower is likelier), beside its variety:
likelier text than the real one is usually duller. Images are compared with the real ones by their Fréchet distance on
raw pixels in [0, 1], and a classifier that was trained on the real digits counts those that show their class.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import seedfast
from common import parse, parser
from seedfast.evaluate import judge, passages
from seedfast.families.text.proofreading.sampling import ProofreadingRequest

TEXT: dict[str, dict[str, Any]] = {
    "random": {},
    "confidence": {"order": "confidence"},
    "confidence, half the steps": {"order": "confidence", "steps": 32},
    "random, half the steps": {"order": "random", "steps": 32},
    "temperature 0.8": {"order": "random", "temperature": 0.8},
    "top-p 0.9": {"order": "random", "top_p": 0.9},
    "confidence, top-p 0.9": {"order": "confidence", "top_p": 0.9},
    "remdm 0.2": {"order": "ancestral", "remdm": 0.2, "steps": 64},
}
PROOFREADING: dict[str, dict[str, Any]] = {
    "64 + 0": {"steps": 64, "passes": 0},
    "8 + 24": {"steps": 8, "passes": 24},
    "8 + 56": {"steps": 8, "passes": 56},
    "16 + 48": {"steps": 16, "passes": 48},
    "32 + 32": {"steps": 32, "passes": 32},
    "16 + 48, linear": {"steps": 16, "passes": 48, "remask": "linear"},
    "16 + 48, rate 0.2": {"steps": 16, "passes": 48, "remask_rate": 0.2},
    "16 + 48, confidence": {"steps": 16, "passes": 48, "order": "confidence"},
}
IMAGES: dict[str, dict[str, Any]] = {
    "null label, DDIM 50": {"label": ("none",), "sampler": "ddim", "steps": 50},
    "null label, DPM-Solver++(2M) 25": {"label": ("none",), "sampler": "dpm++2m", "steps": 25},
    "classes, DDIM 50": {"all_classes": True, "guidance": 1.0, "sampler": "ddim", "steps": 50},
    **{
        f"classes, DPM-Solver++(2M) 25, guidance {scale:g}": {
            "all_classes": True,
            "guidance": scale,
            "sampler": "dpm++2m",
            "steps": 25,
        }
        for scale in (1.0, 1.5, 2.0, 3.0)
    },
}


def chosen(ways: dict[str, dict[str, Any]], only: list[str] | None) -> dict[str, dict[str, Any]]:
    """All ways, or those with these names. Raises SystemExit for an unknown name."""
    if unknown := set(only or ()) - set(ways):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ways)}")
    return {name: ways[name] for name in only or ways}


def text(options: argparse.Namespace) -> None:
    """One row for each way of decoding, the mean over seeds ± the deviation between them."""
    model, by = seedfast.load(options.run), seedfast.load(options.judge)
    corpus = by.corpus
    real = passages.real_texts(corpus.assets, corpus.validation, options.samples, by.run.data.context)
    kind = model.generator.Request
    ways = PROOFREADING if kind is ProofreadingRequest else TEXT
    columns = ("nats_per_token", "entropy", "distinct_2", "repetition_4")
    print(f"{'':<34}" + "".join(f"{column:>20}" for column in columns))
    for name, way in {"held-out text": None, **chosen(ways, options.only)}.items():
        if way is None:
            found = [judge.judge(real, by).record()]
        else:
            request = kind(num=options.samples, **way)
            drawn: list[Any] = [model.sample(request, seed=seed) for seed in range(1, options.seeds + 1)]
            found = [judge.judge([each for each in some.texts if len(each) > 1], by).record() for some in drawn]
        print(f"{name:<34}" + "".join(f"{_summary([each[column] for each in found]):>20}" for column in columns))


def _summary(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def digits(options: argparse.Namespace) -> None:
    """Train the image recipe on digits, and compare samplers and guidance."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from digits_fidelity import measure, the_run, trained_images, write_digits
    from seedfast.families.image.family import ImageDiffusion

    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        real = write_digits(out / "digits", options.images)
        run = replace(the_run(out / "digits", steps=options.steps, seed=1), objective=ImageDiffusion())
        model = seedfast.train(run, out / "run", progress=lambda entry: None)
        known = load_digits()
        classifier = LogisticRegression(max_iter=2000).fit(known.images.reshape(-1, 64) / 16, known.target)
        for name, way in chosen(IMAGES, options.only).items():
            began = time.perf_counter()
            samples = trained_images(model, len(real), **way)
            pixels = samples.images_NCSS.numpy().reshape(-1, 64) / 255
            named = [int(label) if label is not None else -1 for label in samples.names]
            shown = float(np.mean(classifier.predict(pixels) == named)) if named[0] >= 0 else float("nan")
            distance = measure(real, [samples.images_NCSS]).distance.mean
            print(
                f"{name:<46} Fréchet distance {distance:.4f}   shows its class {shown:.3f}   "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    """Run one of the two."""
    made = parser(__doc__, threads=1)
    kinds = made.add_subparsers(required=True)
    texts = kinds.add_parser("text")
    texts.add_argument("run", type=Path)
    texts.add_argument("judge", type=Path)
    texts.add_argument("--samples", type=int, default=64)
    texts.add_argument("--seeds", type=int, default=2)
    texts.add_argument("--only", nargs="+", help="the names of the ways to measure (default: all)")
    texts.set_defaults(measure=text)
    pictures = kinds.add_parser("digits")
    pictures.add_argument("--steps", type=int, default=1200)
    pictures.add_argument("--images", type=int)
    pictures.add_argument("--out", type=Path)
    pictures.add_argument("--only", nargs="+", help="the names of the ways to measure (default: all)")
    pictures.set_defaults(measure=digits)
    options = parse(made)
    options.measure(options)


if __name__ == "__main__":
    main()
