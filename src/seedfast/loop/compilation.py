"""What is compiled of a training step, and with which settings.

Compiled kernels round differently from the ones they replace, so the choice is part of a run. They are the same after
a restart: nothing is chosen by timing that could change a bit (torch's deterministic mode), and they are kept in the
cache of seedfast.
"""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from seedfast.console import warn
from seedfast.data.cache import cache_folder
from seedfast.errors import UserError
from seedfast.families.family import Objective
from seedfast.loop.placement.placement import Placement
from seedfast.models.network import Network

Compiled = Literal["off", "blocks", "step"]
Compile = Literal["auto", "off", "blocks", "step"]

_MOST_VARIANTS = 128
"""Shapes and kinds of inputs for which one piece of code may be compiled."""


def compiled(asked: Compile, network: nn.Module, objective: Objective[Any], placement: Placement) -> Compiled:
    """What is compiled of this training; `auto` compiles what can be on a GPU, and nothing on a CPU.

    Raises UserError for a choice that this training cannot have.
    """
    place = placement.distributed
    is_compiled = bool(compiled_parts(network)) and objective.has_fixed_shapes
    if asked == "auto":
        if place.device.type == "cpu" or not is_compiled:
            return "off"
        if missing := _missing(place.device):
            warn(f"training is not compiled, because {missing}; compiled it is faster, and has other bits")
            return "off"
        return "blocks"
    if asked == "step" and (reason := _not_captured(network, objective, placement)):
        raise UserError(f"compile is step, but {reason}: pass --compile blocks or off.")
    if asked != "off" and not is_compiled:
        raise UserError(
            f"compile is {asked}, but the network of this recipe is not compiled: its code belongs to another library, "
            "or its inputs have many shapes; pass --compile off."
        )
    if asked != "off" and (missing := _missing(place.device)):
        raise UserError(f"compile is {asked}, but {missing}: install it, or pass --compile off.")
    return asked


def compiled_parts(network: nn.Module, *, by_block: bool = False) -> Sequence[nn.Module]:
    """The modules of a network that training compiles.

    by_block: those inside of which no block's weights are gathered: the blocks in the place of a module that has some.
    """
    if not isinstance(network, Network):
        return ()
    if not by_block:
        return network.compiled_parts
    parts = list[nn.Module]()
    for part in network.compiled_parts:
        inside = set(part.modules()) - {part}
        parts += [block for block in network.blocks_in_order if block in inside] or [part]
    return parts


def compile_parts(network: nn.Module, *, by_block: bool = False, backend: str = "inductor") -> None:
    """Compile the parts of a network, in place: each when it is first trained, and no name of a tensor changes.

    by_block: as in `compiled_parts`. backend: a backend of torch.compile.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "kernels" / f"torch-{torch.__version__}"))
    import torch._dynamo.config as tracing  # seconds: only where something is compiled
    import torch._inductor.config as generating

    torch.compiler.reset()  # what an earlier training of this process has compiled counts towards the limit
    tracing.recompile_limit = _MOST_VARIANTS
    tracing.optimize_ddp = False  # splits graphs that are larger than a bucket; the blocks are small enough
    generating.deterministic = True
    for part in compiled_parts(network, by_block=by_block):
        part.compile(fullgraph=True, dynamic=False, backend=backend)


def _not_captured(network: nn.Module, objective: Objective[Any], placement: Placement) -> str | None:
    """Why the step of this training cannot be a CUDA graph, as a clause; None if it can."""
    place = placement.distributed
    if placement.is_sharded:
        return f"placement {placement.name} gathers the weights of each block in each step"
    if place.device.type != "cuda":
        return f"only a GPU captures steps, and the device is {place.device.type}"
    if place.world_size > 1:
        return f"{place.world_size} processes exchange gradients and objects in each step"
    if place.precision == "fp16":
        return "the scale of fp16 is adapted between steps (precision bf16 has none)"
    if objective.varies:
        return f"steps of this family differ: {objective.varies}"
    if any(getattr(module, "dropout", 0.0) for module in network.modules()):
        return "the network has dropout, whose masks a captured step would repeat"
    return None


def _missing(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine, as a clause; None if it lacks nothing."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "torch.compile needs triton for a GPU, which is not installed"
    names = [os.environ.get("CXX", ""), "g++", "clang++"] if device.type == "cpu" else []
    names = names or [os.environ.get("CC", ""), "gcc", "clang", "cc"]
    if not any(shutil.which(name) for name in names if name):
        return f"torch.compile needs a compiler ({' or '.join(names[1:3])}), and there is none"
    return None
