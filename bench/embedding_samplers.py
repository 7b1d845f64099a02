<<<<<<< HEAD
"""Samplers of embedding diffusion at different numbers of steps, guidance, and self-conditioning.

An autoregressive run of the same data scores the samples (nats per token, lower is likelier text). Measures of variety
stand beside it, because the likeliest text repeats itself. Each row is the mean over seeds ± the standard deviation
between them; evaluations are forward passes of the network for one batch of samples, counted by a hook.
=======
"""Samples of embedding diffusion by sampler and number of steps, with guidance and with self-conditioning.

An autoregressive run on the same data judges the samples (nats per token, lower is likelier text). Their variety is
printed too, because the likeliest text repeats itself. Each row is the mean over seeds ± the standard deviation;
evaluations are the network's forward passes for one batch of samples, counted by a hook.
>>>>>>> models

    python bench/embedding_samplers.py RUN JUDGE [--samples 32] [--seeds 3] [--tables samplers guidance conditioning]
"""

import json
import statistics as stats
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

<<<<<<< HEAD
import torch

import seedfast
=======
import seedfast
from common import parse, parser
from seedfast.evaluate import loss
>>>>>>> models
from seedfast.evaluate.judge import judge, real_texts
from seedfast.evaluate.loss import Loss
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
<<<<<<< HEAD
    """The judge's nats per generated token, without those of the prompts, and the variety of the generated tokens.
=======
    """The judge's nats per generated token (without those of the prompts), and the variety of the generated text.
>>>>>>> models

    Texts that end before their second token are left out.
    """
    pairs = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if len(text) > len(prompt) + 1]
    whole = judge([text for _, text in pairs], by)
    nats, tokens = whole.loss * whole.tokens, whole.tokens
<<<<<<< HEAD
    if scored_prompts := [prompt for prompt, _ in pairs if len(prompt) > 1]:
        given = judge(scored_prompts, by)
        nats, tokens = nats - given.loss * given.tokens, tokens - given.tokens
    encode = by.tokenizer.encode
    return {"judge": nats / tokens} | statistics([encode(text[len(prompt) :]) for prompt, text in pairs])
=======
    if long_enough := [prompt for prompt, _ in kept if len(prompt) > 1]:
        prompted = judge(long_enough, by)
        nats, tokens = nats - prompted.loss * prompted.tokens, tokens - prompted.tokens
    encode = by.tokenizer.encode
    return {"judge": nats / tokens} | statistics([encode(text[len(prompt) :]) for prompt, text in kept])
>>>>>>> models


def measured(model: Trained, by: Trained, request: EmbeddingRequest, seeds: int) -> tuple[int, list[dict[str, float]]]:
    """The network's evaluations for a batch of samples, and the scores of each seed."""
    evaluations = 0

    def count(*_: object) -> None:
        nonlocal evaluations
        evaluations += 1

    handle = cast("EmbeddingNetwork", model.network).transformer.register_forward_hook(count)
    scores = []
    for seed in range(1, seeds + 1):
        samples = cast("TextSamples", model.sample(request, seed=seed))
        prompts = [prompt for prompt in request.prompt or ("",) for _ in range(request.num)]
        scores.append(score(prompts, samples.texts, by))
    handle.remove()
    return evaluations // seeds, scores


def show(name: str, evaluations: int | str, scores: list[dict[str, float]]) -> None:
    """Print one row."""
    cells = []
    for column in COLUMNS:
        values = [each[column] for each in scores if column in each]
        spread = f" ± {stats.stdev(values):.3f}" if len(values) > 1 else " " * 8
        cells.append(f"{stats.mean(values):.3f}{spread}" if values else " " * 13)
    print(f"{name:<32} {evaluations:>6}  {'  '.join(cells)}", flush=True)


def header(title: str) -> None:
    """Print the first row of a table."""
    print(f"\n{title:<32} {'evals':>6}  {'  '.join(f'{column:<13}' for column in COLUMNS)}", flush=True)


def sampler_table(model: Trained, by: Trained, asked: argparse.Namespace) -> None:
    """Samples without a prompt, by every sampler, and held-out text beside them."""
    header("without a prompt")
    for name, request in SAMPLERS.items():
        show(name, *measured(model, by, replace(request, num=asked.samples), asked.seeds))
    texts = held_out_texts(model, asked.samples * asked.seeds, context_of(model))
    show("held-out text", "", [score([""] * len(texts), texts, by)])


def guidance_table(model: Trained, by: Trained, asked: argparse.Namespace) -> None:
    """Continuations of held-out text at several guidance scales."""
    header("continuing held-out text")
    half = context_of(model) // 2
    prompts = tuple(text[:half] for text in held_out_texts(model, asked.samples, half))
    for scale in (0.0, 1.0, 1.5, 2.0, 3.0):
        request = EmbeddingRequest(prompt=prompts, tokens=half, guidance=scale, eta=0.0)
        show(f"DDIM, η = 0, guidance {scale}", *measured(model, by, request, asked.seeds))


def conditioning_table(model: Trained, by: Trained, asked: argparse.Namespace) -> None:
    """The bound and the samples with self-conditioning and without."""
    objective = cast("EmbeddingObjective", model.family.objective)
    if not objective.options.self_conditioning:
        return
    header("self-conditioning")
    request = EmbeddingRequest(num=asked.samples, eta=0.0)
    show("DDIM, η = 0, with", *measured(model, by, request, asked.seeds))
    without = EmbeddingObjective(replace(objective.options, self_conditioning=0.0), objective.assets)
    for name, each in {"with": objective, "without": without}.items():
        variant = replace(model, family=replace(model.family, objective=each))
        record = Loss(draws=asked.draws)(variant).record()
        print(f"bound, {name}:", json.dumps({key: record[key] for key in ("nats_per_token", "standard_error")}))
    cast("EmbeddingNetwork", model.network).recall = None
    show("DDIM, η = 0, without", *measured(model, by, request, asked.seeds))


def context_of(model: Trained) -> int:
    """Tokens in a window."""
    return cast("EmbeddingObjective", model.family.objective).assets.context


def held_out_texts(model: Trained, count: int, length: int) -> list[str]:
    """Texts of the validation split, of this many tokens."""
    return real_texts(model.corpus.assets, model.corpus.validation, count, length)


TABLES = {"samplers": sampler_table, "guidance": guidance_table, "conditioning": conditioning_table}


def main() -> None:
<<<<<<< HEAD
    """Print the requested tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("judge", type=Path)
    arguments.add_argument("--samples", type=int, default=32)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--draws", type=int, default=1)
    arguments.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    model, by = seedfast.load(asked.run), seedfast.load(asked.judge)
    for name, table in TABLES.items():
        if name in asked.tables:
            table(model, by, asked)
=======
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
>>>>>>> models


if __name__ == "__main__":
    main()
