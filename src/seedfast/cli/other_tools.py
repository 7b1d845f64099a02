"""Flags of other tools, answered with ours by every command: nanoGPT, Trainer, diffusers' scripts, MDLM and others."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from seedfast.errors import UserError

_TRAIN = {
    "--optimizer.lr": "lr learning-rate max-lr base-lr peak-lr train-lr",
    "--schedule.min-lr-factor, a fraction of --optimizer.lr": "min-lr eta-min",
    "--schedule.shape": "decay-lr use-lr-scheduler lr-scheduler lr-scheduler-type lr-schedule scheduler",
    "--schedule.warmup, in steps": "warmup warmup-iters warmup-steps warmup-ratio lr-warmup-steps num-warmup-steps",
    "--steps: the schedule ends with the run": "lr-decay-iters",
    "--optimizer.kind": "optim optimizer",
    "--optimizer.weight-decay": "weight-decay wd adam-weight-decay",
    "--optimizer.betas": "beta1 beta2 betas adam-beta1 adam-beta2 adam-betas",
    "--optimizer.eps": "adam-epsilon eps",
    "--clip": "grad-clip max-grad-norm clip-grad-norm gradient-clip-norm gradient-clip-val grad-clip-value",
    "--micro-batch, the examples of one forward pass; --batch-size counts those of a whole step": (
        "gradient-accumulation-steps grad-accum grad-accum-steps accumulate-grad-batches accum-iter "
        "gradient-accumulate-every "
        "per-device-eval-batch-size eval-batch-size micro-batch-size"
    ),
    "--batch-size, over all processes": "per-device-train-batch-size train-batch-size global-batch-size",
    "--steps": (
        "max-iters max-steps max-train-steps num-train-steps train-num-steps train-steps iterations num-iterations "
        "iters"
    ),
    "--epochs": "num-epochs num-train-epochs n-epochs max-epochs",
    "--minutes": "max-time time-limit",
    "--eval-every, in steps or epochs (0.5epoch)": (
        "eval-interval eval-steps eval-strategy evaluation-strategy eval-frequency val-interval validation-interval "
        "validation-steps val-every val-check-interval"
    ),
    "--eval-examples": "eval-iters max-eval-samples limit-val-batches",
    "--save-every, in steps or epochs (1epoch)": (
        "save-steps save-interval save-strategy save-frequency checkpointing-steps checkpoint-every ckpt-every "
        "always-save-checkpoint save-epochs save-model-epochs"
    ),
    "--keep": "save-total-limit checkpoints-total-limit max-checkpoints",
    "--sample-every, in steps or epochs": "sample-interval sample-steps save-images-epochs validation-epochs",
    "--sampling.num": "num-validation-images num-samples",
    "--sampling.prompt, or --sampling.label of images": "validation-prompt validation-prompts sample-prompt",
    "--log-every": "log-interval logging-steps log-freq",
    "--patience": "early-stopping-patience early-stopping",
    "--best-metric": "metric-for-best-model",
    "--out": (
        "output-dir out-dir save-dir ckpt-dir checkpoint-dir run-dir run-name log-dir logging-dir results-dir "
        "results-folder"
    ),
    "the same command: it continues the run in --out, and --at STEP begins at an earlier checkpoint": (
        "resume resume-from resume-from-checkpoint resume-checkpoint resume-checkpoint-path auto-resume continue "
        "init-from"
    ),
    "--model, of the recipes finetune, finetune-masked and image-caption": (
        "model-name model-name-or-path pretrained-model-name-or-path base-model encoder-model-name pretrained"
    ),
    "a recipe, the word after train (seedfast recipes lists them)": "model-type arch architecture experiment",
    "--model.adapter.kind lora": "lora use-lora peft use-peft",
    "--model.adapter.rank": "lora-r lora-rank rank",
    "--model.adapter.alpha": "lora-alpha",
    "--model.adapter.dropout": "lora-dropout",
    "--model.adapter.targets": "lora-target-modules target-modules",
    "--model.adapter.base-precision nf4 (or bf16), with --model.adapter.kind lora": (
        "load-in-4bit load-in-8bit use-4bit qlora quantization bnb-4bit-quant-type"
    ),
    "--model.gradient-checkpointing": "activation-checkpointing use-gradient-checkpointing",
    "--placement fsdp, under torchrun": "deepspeed fsdp zero-stage",
    "a matter of torchrun, with -m seedfast in place of seedfast (docs/scale.md)": (
        "nproc-per-node num-processes num-gpus ddp distributed"
    ),
    "--at best, the default of every command that uses a run": "load-best-model-at-end save-best-only",
    "--objective.min-snr": "snr-gamma",
    "--ema.half-life, in steps": "ema use-ema ema-decay ema-rate ema-max-decay",
    "--precision bf16 or fp16": "amp use-amp fp16 bf16 mixed-precision dtype use-fp16 autocast",
    "a command: seedfast train, then seedfast sample": "phase mode generate do-train",
    "a command: seedfast evaluate RUN": "eval-only do-eval evaluate",
    "--data.context": (
        "block-size seq-len seq-length sequence-length max-length max-seq-length max-seq-len context-length"
    ),
    "--model.layers": "n-layer n-layers n-blocks num-layers num-hidden-layers depth",
    "--model.heads": "n-head n-heads num-heads num-attention-heads",
    "--model.width": "n-embd hidden-size d-model dim embed-dim model-channels",
    "--model.multipliers": "dim-mults channel-multipliers",
    "--model.hidden": "dim-feedforward intermediate-size ffn-dim",
    "--model.dropout": "dropout",
    "--data": (
        "dataset dataset-name data-dir data-path train-data train-data-path train-data-dir train-file input-path "
        "dataset-dir split-file"
    ),
    "--data.validation, the part of the data that validates": (
        "val-split validation-split validation-split-percentage val-ratio train-split-ratio test-size val-data-path "
        "validation-file"
    ),
    "--data.tokenizer": "tokenizer tokenizer-name tokenizer-file tokenizer-path vocab-path vocab-file",
    "--data.vocabulary": "vocab-size tokenizer-vocab-size",
    "--data.size": "image-size resolution img-size",
    "--objective.augment.flip True": "random-flip horizontal-flip augment-horizontal-flip",
    "--objective.process.timesteps": "num-timesteps timesteps diffusion-steps ddpm-num-steps num-train-timesteps",
    "--objective.process.schedule": "beta-schedule noise-schedule ddpm-beta-schedule",
    "--objective.process.prediction": "prediction-type",
    "--objective.class-dropout-prob": "class-dropout-prob cond-drop-prob uncond-prob p-uncond",
    "--wandb PROJECT": "wandb-log wandb-project use-wandb report-to logger",
    "--hub USER/MODEL": "push-to-hub hub-model-id hf-repo-id",
    "--workers": "num-workers dataloader-num-workers n-workers",
    "--device": "use-cuda no-cuda gpu gpus",
}
_SAMPLE = {
    "the first word: seedfast sample RUN": (
        "checkpoint checkpoint-path ckpt ckpt-path model model-path model-name model-name-or-path "
        "finetuned-model-path out-dir"
    ),
    "--tokens": "max-new-tokens max-tokens max-length max-gen-len sequence-length",
    "--num": "num-samples n-samples num-images num-return-sequences num-images-per-prompt",
    "--prompt": "start text prompts",
    "--steps": (
        "ddim-steps num-inference-steps inference-steps sampling-steps sample-steps num-sampling-steps max-iterations "
        "sampling-timesteps"
    ),
    "--eta": "ddim-eta ddim-sampling-eta",
    "--guidance": "guidance-scale cfg cfg-scale cond-scale",
    "--label": "class-label class-labels class-cond class-selection classes",
    "--image": "image-path input-image",
    "--beams": "beam-size num-beams",
    "--temperature (0 is greedy, 1 the model's own)": "do-sample greedy",
    "--weights ema or raw": "use-ema",
    "--out": "output output-dir save-dir output-path",
    "--batch": "batch-size",
}
ANSWERS = {
    command: {flag: answer for answer, flags in table.items() for flag in flags.split()}
    for command, table in {"train": _TRAIN, "sample": _SAMPLE}.items()
}
"""By command: ours in words for each flag of other tools, without its dashes."""

_TEXTS = ("--prompt", "--infill")  # the word after them may begin with dashes
_RUN = "the first word: seedfast"
"""How the answer for a flag begins that names a model, which every command but train takes as its first word."""


def refuse_foreign_keys(path: Path, values: Mapping[str, Any]) -> None:
    """Raise UserError for a key of another tool in a configuration file, naming ours."""
    from seedfast.loop.config import Run

    own = {f.name for f in fields(Run)}
    for key, value in values.items():
        inner = [f"{key}.{name}" for name in value] if isinstance(value, Mapping) else [key]
        for name in inner if key not in own else ():
            if answer := _answer("train", str(name)):
                raise UserError(f"{path} has the key {name} of other tools, which is {answer} here; dots are nesting.")


def refuse_foreign_flags(command: str, words: Sequence[str], own: Collection[str]) -> None:
    """Raise UserError for a flag of another tool, naming ours. own: the flags of the command, without their dashes."""
    for before, word in pairwise(["", *words]):
        match = re.match(r"--([A-Za-z][A-Za-z0-9_.-]*)(=|$)", word)
        if not match or before in _TEXTS or _normal(match[1]) in own:
            continue
        theirs = f"--{match[1]} of other tools"
        if answer := _answer(command, match[1]):
            raise UserError(f"{theirs} is {answer} here.")
        answers = {other: answer for other in ANSWERS if (answer := _answer(other, match[1]))}
        for answer in answers.values():
            if answer.startswith(_RUN) and command != "train":
                raise UserError(f"{theirs} is {_RUN} {command} RUN here.")
            ours = {*re.findall(r"--([a-z0-9.-]+)", answer)}
            if ours and ours <= {*own}:
                raise UserError(f"{theirs} is {answer} here.")
        for other, answer in answers.items():
            raise UserError(
                f"{theirs} belongs to seedfast {other}, where it is {answer}; seedfast {command} has no such flag."
            )


def _answer(command: str, flag: str) -> str | None:
    """Ours in words for a flag of other tools, which may have dots: lora.rank, trainer.max_steps."""
    known, name = ANSWERS.get(command, {}), _normal(flag)
    return known.get(name.replace(".", "-")) or known.get(name.rpartition(".")[2])


def _normal(flag: str) -> str:
    return flag.lower().replace("_", "-")
