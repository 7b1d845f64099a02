"""A trained model taken out of its run folder, to be measured or sampled from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from seedfast import keys
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.data.dataset import Corpus, Fingerprint, describe_difference
from seedfast.data.text.config import TextAssets
from seedfast.data.text.hub import pretrained
from seedfast.errors import UserError
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.request import CaptionRequest
from seedfast.families.family import Family, Request, Samples, State
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveRequest
from seedfast.loop.config import Run, from_mapping
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.sample import generate
from seedfast.loop.session import data_of
from seedfast.models.captioner import Captioner
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder.checkpoint import Checkpoint, Checkpoints
from seedfast.run_folder.train_state import load_network, read_tensors

CAPTIONER = "seedfast-captioner"
"""The model type of an exported captioner."""
_CONTEXT = 2048  # of a bare model: some have room for a million tokens

Weights = Literal["ema", "raw", "base"]
"""Averaged over the steps, as they are, or the pretrained ones that a run began with."""


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, with the family that understands it."""

    run: Run
    family: Family
    network: nn.Module
    state: State
    weights: Weights
    checkpoint: Checkpoint | None  # of a bare model there is none
    distributed: DistributedContext

    @property
    def committed(self) -> Checkpoint:
        """The checkpoint. Raises UserError for a bare model, which has none."""
        if self.checkpoint is None:
            raise UserError("A bare model folder has no run, hence neither data nor numbers; name a run folder.")
        return self.checkpoint

    def sample(self, request: Request, *, seed: int) -> Samples:
        """Fulfil a request. Raises UserError where it does not fit the model."""
        return generate(self.family, self.network, self.state, request, seed=seed, distributed=self.distributed)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return content


def is_bare(folder: Path) -> bool:
    """Whether this is a model's own folder, as save_pretrained writes it, and no run's."""
    return (folder / "config.json").is_file() and not (folder / "run.yaml").exists()


def _is_captioner(folder: Path) -> bool:
    config = read_json(folder / "config.json")
    return config.get("model_type") == CAPTIONER


def bare_request(folder: Path) -> type[Any]:
    """What a bare model can be asked."""
    return CaptionRequest if _is_captioner(folder) else AutoregressiveRequest


def _captioner(folder: Path, *, device: str) -> Trained:
    """An exported captioner."""
    config = read_json(folder / "config.json")
    model = from_mapping(Captioner(), config["captioner"], where=str(folder / "config.json"))
    run = Run(recipe="", objective=Captioning(), data=None, model=model)
    family, distributed = run.objective.build(CaptionAssets.load(folder)), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.network(model)
    try:
        load_network(network, load_file(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole captioner: {error}.") from error
    return Trained(run, family, network.to(distributed.device).eval(), {}, "base", None, distributed)


def bare(folder: Path, *, device: str = "auto") -> Trained:
    """An exported captioner, or a causal language model of transformers as it is, to be sampled from.

    Raises UserError if it cannot be read.
    """
    if _is_captioner(folder):
        return _captioner(folder, device=device)
    model = PretrainedLM(path=str(folder)).located()
    longest = json.loads(model.architecture).get("max_position_embeddings") or _CONTEXT
    context = min(longest, _CONTEXT)
    assets = TextAssets(pretrained(str(folder)), context, validation_tokens=1, validation_bytes=1)
    run = Run(recipe="", objective=Autoregressive(), data=None, model=model)
    family, distributed = run.objective.build(assets), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.network(model)
        model.initialise(network)
    return Trained(run, family, network.to(distributed.device).eval(), {}, "base", None, distributed)


def find(folder: Path, *, at: int | None = None) -> Checkpoint:
    """The newest intact checkpoint of a run folder, or the one at step `at`. Raises UserError if there is none."""
    checkpoint = Checkpoints(folder).newest(at=at)
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint; train a run there first.")
    return checkpoint


def family_of(run: Run, checkpoint: Checkpoint) -> Family:
    """The family of a run, with the assets of its checkpoint."""
    family: Family = run.objective.build(run.data.restore(checkpoint.folder / "assets"))
    return family


def best_step(folder: Path, *, weights: Weights | None = None) -> int:
    """The step of the best committed validation of a run, by the weights that `load` would take."""
    path = folder / "best.json"
    records: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    kind = weights or ("ema" if "ema" in records else "raw")
    if kind not in records:
        raise UserError(f"{folder} has no best checkpoint of {kind} weights yet; name a checkpoint with --at.")
    return int(records[kind]["step"])


def load(run: Run, checkpoint: Checkpoint, *, weights: Weights | None = None, device: str = "auto") -> Trained:
    """Load the averaged weights of a checkpoint where there are some, else the raw ones, or those it all began with.

    Raises UserError for averaged weights of a run that keeps none, or pretrained ones of a run that had none.
    """
    groups = read_tensors(checkpoint.folder)
    if weights == "ema" and "ema" not in groups:
        raise UserError("This run keeps no averaged weights (its ema.half_life is 0); leave --weights out or say raw.")
    kind: Weights = weights or ("ema" if "ema" in groups else "raw")
    distributed = DistributedContext.single(device, run.precision)
    family = family_of(run, checkpoint)
    with torch.random.fork_rng():
        keys.seed_torch(run.seed, "init")
        network = family.network(run.model)
        if kind == "base":
            if not getattr(run.model, "path", None):
                raise UserError("This run began with new weights, so it has no pretrained base to look at.")
            run.model.initialise(network)
    try:
        if kind != "base":
            load_network(network, groups["ema" if kind == "ema" else "model"] | groups.get("frozen", {}))
    except ValueError as error:
        raise UserError(f"{checkpoint.folder} does not fit its own run.yaml: {error}.") from error
    state = {name: tensor.to(distributed.device) for name, tensor in groups.get("family", {}).items()}
    return Trained(run, family, network.to(distributed.device).eval(), state, kind, checkpoint, distributed)


def corpus_of(model: Trained) -> Corpus:
    """The data that a model was trained on, with its split. Raises UserError if it is no longer the same data."""
    corpus: Corpus = data_of(model.run, model.committed).load()
    before = Fingerprint(**json.loads((model.committed.folder / "data.json").read_text()))
    if before.digest != corpus.fingerprint.digest:
        raise UserError(
            f"The data is not what this run was trained on ({describe_difference(before, corpus.fingerprint)}), so its "
            "validation split is not either; restore the data to evaluate on it."
        )
    return corpus
