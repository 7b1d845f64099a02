"""What an embedding diffusion model writes with few steps and with many, and what guidance and self-conditioning do.

An autoregressive run of the same data judges the samples (nats per token, lower is likelier text); variety stands
beside it, for the likeliest text repeats itself. Each row is the mean over seeds ± the standard deviation between
them; evaluations are the network's forward passes for one batch of samples, counted, not computed.

    python bench/embedding_samplers.py RUN JUDGE [--samples 32] [--seeds 3] [--tables samplers guidance conditioning]
"""

import argparse
import json
import statistics as stats
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from seedfast import recipes
from seedfast.evaluate import loss, trained
from seedfast.evaluate.judge import judge, real_texts
from seedfast.evaluate.text_statistics import statistics
from seedfast.evaluate.trained import Trained
from seedfast.families.text.embedding import EmbeddingDiffusion, EmbeddingNetwork, EmbeddingRequest
from seedfast.families.text.request import TextSamples

SAMPLERS = {
    "DDPM, 1000 steps": EmbeddingRequest(sampler="ddpm", steps=1000),
    "DDIM, 50 steps": EmbeddingRequest(sampler="ddim", steps=50),
    "DDIM, 50 steps, η = 0": EmbeddingRequest(sampler="ddim", steps=50, eta=0.0),
    "DPM-Solver++(2M), 25 steps": EmbeddingRequest(sampler="dpm++2m", steps=25),
    "Heun, 25 steps": EmbeddingRequest(sampler="heun", steps=25),
    "DDIM, 10 steps": EmbeddingRequest(sampler="ddim", steps=10),
    "DDIM, 50 steps, clamped": EmbeddingRequest(sampler="ddim", steps=50, clamp=True),
    "DDIM, 50 steps, temperature 0.8": EmbeddingRequest(sampler="ddim", steps=50, temperature=0.8),
}
COLUMNS = ("judge", "distinct_1", "distinct_2", "distinct_3", "repetition_4", "entropy")


def load(folder: Path) -> Trained:
    """A run's newest checkpoint, averaged weights."""
    checkpoint = trained.find(folder)
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


def score(prompts: Sequence[str], texts: Sequence[str], by: Trained) -> dict[str, float]:
    """The judge's nats per written token (what it finds of the prompts taken off), and the variety of what is written.

    Texts that ended before their second token are left out.
    """
    kept = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if len(text) > len(prompt) + 1]
    whole = judge([text for _, text in kept], by)
    nats, tokens = whole.loss * whole.tokens, whole.tokens
    if begun := [prompt for prompt, _ in kept if len(prompt) > 1]:
        given = judge(begun, by)
        nats, tokens = nats - given.loss * given.tokens, tokens - given.tokens
    encode = by.family.assets.tokenizer.encode  # type: ignore[attr-defined]
    return {"judge": nats / tokens} | statistics([encode(text[len(prompt) :]) for prompt, text in kept])


def measured(model: Trained, by: Trained, request: EmbeddingRequest, seeds: int) -> tuple[int, list[dict[str, float]]]:
    """The network's evaluations for a batch of samples, and the scores of each seed."""
    evaluations = 0

    def count(*_: object) -> None:
        nonlocal evaluations
        evaluations += 1

    assert isinstance(model.network, EmbeddingNetwork)
    handle = model.network.transformer.register_forward_hook(count)
    scores = []
    for seed in range(1, seeds + 1):
        samples = model.sample(request, seed=seed)
        assert isinstance(samples, TextSamples)
        prompts = [prompt for prompt in request.prompt or ("",) for _ in range(request.num)]
        scores.append(score(prompts, samples.texts, by))
    handle.remove()
    return evaluations // seeds, scores


def show(name: str, evaluations: int | str, scores: list[dict[str, float]]) -> None:
    """One row."""
    cells = []
    for column in COLUMNS:
        values = [each[column] for each in scores if column in each]
        spread = f" ± {stats.stdev(values):.3f}" if len(values) > 1 else " " * 8
        cells.append(f"{stats.mean(values):.3f}{spread}" if values else " " * 13)
    print(f"{name:<32} {evaluations:>6}  {'  '.join(cells)}", flush=True)


def header(title: str) -> None:
    """A table's first row."""
    print(f"\n{title:<32} {'evals':>6}  {'  '.join(f'{column:<13}' for column in COLUMNS)}", flush=True)


def main() -> None:
    """Print the tables that were asked for."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("judge", type=Path)
    arguments.add_argument("--samples", type=int, default=32)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--draws", type=int, default=1)
    tables = ["samplers", "guidance", "conditioning"]
    arguments.add_argument("--tables", nargs="+", choices=tables, default=tables)
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    model, by = load(asked.run), load(asked.judge)
    family = model.family
    assert isinstance(family, EmbeddingDiffusion)
    held_out = model.run.data.load().validation
    length = family.assets.context
    if "samplers" in asked.tables:
        header("from nothing")
        for name, request in SAMPLERS.items():
            show(name, *measured(model, by, replace(request, num=asked.samples), asked.seeds))
        texts = real_texts(family.assets, held_out, asked.samples * asked.seeds, length)
        show("held-out text", "", [score([""] * len(texts), texts, by)])
    prompts = [text[: length // 2] for text in real_texts(family.assets, held_out, asked.samples, length // 2)]
    if "guidance" in asked.tables:
        header("continuing held-out text")
        for scale in (0.0, 1.0, 1.5, 2.0, 3.0):
            request = EmbeddingRequest(prompt=tuple(prompts), tokens=length // 2, guidance=scale, eta=0.0)
            show(f"DDIM, η = 0, guidance {scale}", *measured(model, by, request, asked.seeds))
    if "conditioning" in asked.tables and family.options.self_conditioning:
        header("self-conditioning")
        request = EmbeddingRequest(num=asked.samples, eta=0.0)
        show("DDIM, η = 0, on itself", *measured(model, by, request, asked.seeds))
        once = EmbeddingDiffusion(replace(family.options, self_conditioning=0.0), family.assets)
        for name, each in {"answered twice": family, "answered once": once}.items():
            found = loss.likelihood(replace(model, family=each), draws=asked.draws).record()
            print(f"bound, {name}:", json.dumps({k: found[k] for k in ("nats_per_token", "standard_error")}))
        model.network.recall = None
        show("DDIM, η = 0, without", *measured(model, by, request, asked.seeds))


if __name__ == "__main__":
    main()
