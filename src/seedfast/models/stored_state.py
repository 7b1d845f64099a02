"""State dicts of other programs: safetensors files, and what torch.save writes."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seedfast.errors import UserError
from seedfast.huggingface import first_line

DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)
"""What torch raises for a file that is damaged, or no file of torch.save."""


def torch_load(path: Path) -> Any:
    """What torch.save wrote, on the CPU; nothing in the file is executed. Raises one of `DAMAGED`."""
    return torch.load(path, map_location="cpu", weights_only=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name. Raises UserError if it cannot be read or holds something else."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch_load(path)
    except (*DAMAGED, SafetensorError) as error:
        raise UserError(f"{path} could not be read: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} does not hold the tensors of a model.")
    return state
