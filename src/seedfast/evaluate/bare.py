"""Models in their own folders, as save_pretrained writes them, without a run: only to sample from."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.data.text.config import TextAssets, TextData
from seedfast.data.text.hub import pretrained_tokenizer
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.request import CaptionRequest
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.loop.config import Run, from_mapping
from seedfast.loop.distributed import DistributedContext
from seedfast.models.captioner import Captioner
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.config import ModelConfig
from seedfast.run_folder.train_state import load_network

CAPTIONER = "seedfast-captioner"
"""The model type of an exported captioner."""
_CONTEXT = 2048  # of a bare model: some have room for a million tokens


def is_bare(folder: Path) -> bool:
    """Whether a folder is a model's own, as save_pretrained writes it, and not a run's."""
    return (folder / "config.json").is_file() and not (folder / "run.yaml").exists()


def bare_request(folder: Path) -> type[Any]:
    """The class of a bare model's requests."""
    return CaptionRequest if _is_captioner(folder) else AutoregressiveRequest


def bare(folder: Path, *, device: str = "auto") -> Trained:
    """An exported captioner, or a causal language model of transformers as it is.

    Raises UserError if it cannot be read.
    """
    return _captioner(folder, device) if _is_captioner(folder) else _language_model(folder, device)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return content


def _is_captioner(folder: Path) -> bool:
    return read_json(folder / "config.json").get("model_type") == CAPTIONER


def _captioner(folder: Path, device: str) -> Trained:
    config = read_json(folder / "config.json")
    model = from_mapping(Captioner(), config["captioner"], where=str(folder / "config.json"))
    run = Run(recipe="", objective=Captioning(), data=CaptionData(), model=model)
    assets = CaptionAssets.load(folder)
    family, distributed = run.objective.build(assets), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.objective.network(model)
    try:
        load_network(network, load_file(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole captioner: {error}.") from error
    return Trained(run, family, assets, network.to(distributed.device).eval(), {}, "base", None, distributed)


def _language_model(folder: Path, device: str) -> Trained:
    model = PretrainedLM(path=str(folder)).located()
    longest = json.loads(model.architecture).get("max_position_embeddings") or _CONTEXT
    tokenizer = pretrained_tokenizer(str(folder))
    assets = TextAssets(tokenizer, min(longest, _CONTEXT), validation_tokens=1, validation_bytes=1)
    config: ModelConfig = model
    run = Run(recipe="", objective=Autoregressive(), data=TextData(), model=model)
    family, distributed = run.objective.build(assets), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.objective.network(model)
        config.initialise(network)
    return Trained(run, family, assets, network.to(distributed.device).eval(), {}, "base", None, distributed)
