"""Tensors of which each process holds some rows: what an optimizer computes on, and whole matrices out of them.

Such a tensor is a `DTensor` (`torch.distributed.tensor`) that FSDP has cut along its first dimension. Its class is not
imported here: that takes a second, and a run in one process has none.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

Stacked = Callable[[Tensor], Tensor]
"""From a stack of matrices [N, H, W] to one of the same shape, each matrix computed from its own alone."""


def is_sharded(tensor: Tensor | None) -> TypeGuard[Any]:
    """Whether processes share the rows of a tensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds, in its own memory: all of them if it is not shared."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows, which processes that share a tensor must ask for together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def heights(rows: int, processes: int) -> list[int]:
    """The rows of a tensor that each process holds, as DTensor cuts it: rounded up, and fewer or none at the end."""
    each = -(-rows // processes)
    return [max(0, min(each, rows - each * rank)) for rank in range(processes)]


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all elements of all tensors, [] on the device; processes that share tensors compute it together."""
    sharded = [tensor for tensor in tensors if is_sharded(tensor)]
    if not sharded:
        return torch.nn.utils.get_total_norm(tensors)
    norm = whole(torch.nn.utils.get_total_norm(sharded))
    rest = [tensor for tensor in tensors if not is_sharded(tensor)]
    return torch.hypot(norm, torch.nn.utils.get_total_norm(rest)) if rest else norm


def on_whole_matrices(compute: Stacked, stack_NRW: Tensor, like: Tensor) -> Tensor:
    """`compute` on N matrices, of which this process has R rows; returns its rows of the results.

    like: a parameter that such a matrix belongs to. If its rows are shared, process i receives the whole matrices i,
    i + n, … in one all-to-all exchange, computes on these, and returns the rows of each to their processes in another:
    each matrix is computed once and whole, so its bits do not depend on the number of processes.
    """
    if not is_sharded(like):
        return compute(stack_NRW)
    import torch.distributed as dist

    assert like.placements[-1].is_shard(0), "rows are shared along the last dimension of the mesh"
    group = like.device_mesh.get_group(like.device_mesh.ndim - 1)
    rank, count = dist.get_rank(group), dist.get_world_size(group)
    number, rows, width = stack_NRW.shape
    rows_of = heights(like.shape[0], count)
    numbers = [len(range(owner, number, count)) for owner in range(count)]  # of the matrices that each computes
    ours = [each * rows * width for each in numbers]
    theirs = [numbers[rank] * height * width for height in rows_of]

    def exchange(parts: list[Tensor], sizes: list[int], received: list[int]) -> list[Tensor]:
        buffer = stack_NRW.new_empty(sum(received))
        sent = torch.cat([part.reshape(-1) for part in parts])
        dist.all_to_all_single(buffer, sent, received, sizes, group=group)
        return list(torch.split(buffer, received))

    parts = exchange([stack_NRW[owner::count] for owner in range(count)], ours, theirs)
    whole_MHW = torch.cat(
        [part.view(numbers[rank], height, width) for part, height in zip(parts, rows_of, strict=True)], dim=1
    )
    results_MHW = compute(whole_MHW) if numbers[rank] else whole_MHW
    back = exchange(list(torch.split(results_MHW, rows_of, dim=1)), theirs, ours)
    found_NRW = torch.empty_like(stack_NRW)
    for owner, part in enumerate(back):
        found_NRW[owner::count] = part.view(numbers[owner], rows, width)
    return found_NRW
