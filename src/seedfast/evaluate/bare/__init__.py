"""Models in their own folders, without a run: as other libraries write them, or as `seedfast export` does.

One file for each kind: causal language models of transformers and adapters of peft (`language_model`), seedfast's own
transformers (`own_transformer`), captioners, and pipelines of diffusers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.evaluate.origin import Origin
from seedfast.evaluate.trained import Trained
from seedfast.run_folder.train_state import load_network

CAPTIONER = "seedfast-captioner"
"""The model type of an exported captioner."""
OWN_TRANSFORMER = "seedfast-transformer"
"""The model type of an exported transformer that no class of transformers can hold."""

_MARKERS = ("config.json", "adapter_config.json", "model_index.json")


@dataclass(frozen=True)
class BareKind:
    """A kind of model folder.

    request: the class of its requests, given the folder. load: (folder, device, data or None) → the model; with data,
    the whole of it is what the model is evaluated on.
    """

    request: Callable[[Path], type[Any]]
    load: Callable[[Path, str, str | None], Trained]


def load_weights(network: nn.Module, folder: Path, kind: str) -> None:
    """Load the weights that `seedfast export` wrote. kind: what the folder holds, for messages.

    Raises UserError if they are not those of this network.
    """
    try:
        load_network(network, load_file(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole {kind}: {error}.") from error


def is_bare(folder: Path) -> bool:
    """Whether a folder is a model's own, as save_pretrained writes it, and not a run's."""
    return any((folder / name).is_file() for name in _MARKERS) and not (folder / "run.yaml").exists()


def bare_request(folder: Path) -> type[Any]:
    """The class of a bare model's requests."""
    return _kind(folder).request(folder)


def bare(folder: Path, *, device: str = "auto", data: str | None = None) -> Trained:
    """The model in a folder, to sample from; with data, to be evaluated on all of it.

    Raises UserError if it cannot be read, or does not fit the data.
    """
    model, exported = _kind(folder).load(folder, device, data), Origin.read(folder)
    return replace(model, exported=exported, weights=exported.weights) if exported else model


def _kind(folder: Path) -> BareKind:
    if (folder / "model_index.json").is_file():
        from seedfast.evaluate.bare.pipeline import PIPELINE

        return PIPELINE
    config = folder / "config.json"
    model_type = huggingface.read_json(config).get("model_type") if config.is_file() else None
    if model_type == CAPTIONER:
        from seedfast.evaluate.bare.captioner import BARE_CAPTIONER

        return BARE_CAPTIONER
    if model_type == OWN_TRANSFORMER:
        from seedfast.evaluate.bare.own_transformer import BARE_TRANSFORMER

        return BARE_TRANSFORMER
    if (folder / "adapter_config.json").is_file():
        from seedfast.evaluate.bare.language_model import ADAPTER

        return ADAPTER
    if model_type is None:
        raise UserError(f"{config} has no model_type, so it is not the configuration of a model that can be used here.")
    from seedfast.evaluate.bare.language_model import LANGUAGE_MODEL

    return LANGUAGE_MODEL
