"""Samples of embedding diffusion by sampler and number of steps, with guidance and with self-conditioning.

An autoregressive run on the same data judges the samples (nats per token, lower is likelier text). Their variety is
printed too, because the likeliest text repeats itself. Each row is the mean over seeds ± the standard deviation;
evaluations are the network's forward passes for one batch of samples, counted by a hook.

    python bench/embedding_samplers.py RUN JUDGE [--samples 32] [--seeds 3] [--tables samplers guidance conditioning]
"""

import json
import statistics as stats
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import seedfast
from common import parse, parser
from seedfast.evaluate import loss
from seedfast.evaluate.judge import judge
from seedfast.evaluate.passages import real_texts
from seedfast.evaluate.text_statistics import statistics
from seedfast.evaluate.trained import Trained
from seedfast.families.text.embedding import EmbeddingNetwork, EmbeddingObjective, EmbeddingRequest
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


def score(prompts: Sequence[str], texts: Sequence[str], by: Trained) -> dict[str, float]:
    """The judge's nats per generated token (without those of the prompts), and the variety of the generated text.

    Texts that end before their second token are left out.
    """
    kept = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if len(text) > len(prompt) + 1]
    whole = judge([text for _, text in kept], by)
    nats, tokens = whole.loss * whole.tokens, whole.tokens
    if long_enough := [prompt for prompt, _ in kept if len(prompt) > 1]:
        prompted = judge(long_enough, by)
        nats, tokens = nats - prompted.loss * prompted.tokens, tokens - prompted.tokens
    encode = by.tokenizer.encode
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
    """Print the chosen tables."""
    made = parser(__doc__, threads=1)
    made.add_argument("run", type=Path)
    made.add_argument("judge", type=Path)
    made.add_argument("--samples", type=int, default=32)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--draws", type=int, default=1)
    tables = ["samplers", "guidance", "conditioning"]
    made.add_argument("--tables", nargs="+", choices=tables, default=tables)
    options = parse(made)
    model, by = seedfast.load(options.run), seedfast.load(options.judge)
    objective = model.family.objective
    assert isinstance(objective, EmbeddingObjective)
    held_out, assets = model.corpus.validation, objective.assets
    length = assets.context
    if "samplers" in options.tables:
        header("from nothing")
        for name, request in SAMPLERS.items():
            show(name, *measured(model, by, replace(request, num=options.samples), options.seeds))
        texts = real_texts(assets, held_out, options.samples * options.seeds, length)
        show("held-out text", "", [score([""] * len(texts), texts, by)])
    prompts = [text[: length // 2] for text in real_texts(assets, held_out, options.samples, length // 2)]
    if "guidance" in options.tables:
        header("continuing held-out text")
        for scale in (0.0, 1.0, 1.5, 2.0, 3.0):
            request = EmbeddingRequest(prompt=tuple(prompts), tokens=length // 2, guidance=scale, eta=0.0)
            show(f"DDIM, η = 0, guidance {scale}", *measured(model, by, request, options.seeds))
    if "conditioning" in options.tables and objective.options.self_conditioning:
        header("self-conditioning")
        request = EmbeddingRequest(num=options.samples, eta=0.0)
        show("DDIM, η = 0, with", *measured(model, by, request, options.seeds))
        once = EmbeddingObjective(replace(objective.options, self_conditioning=0.0), assets)
        for name, each in {"two passes": objective, "one pass": once}.items():
            family = replace(model.family, objective=each)
            found = loss.Loss(draws=options.draws)(replace(model, family=family)).record()
            print(f"bound, {name}:", json.dumps({k: found[k] for k in ("nats_per_token", "standard_error")}))
        model.network.recall = None
        show("DDIM, η = 0, without", *measured(model, by, request, options.seeds))


if __name__ == "__main__":
    main()
