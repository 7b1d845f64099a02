"""The numbers of a step that the host computes, where the device reads them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seedfast.optim.update_rule import Number


class DeviceNumbers:
    """On a CPU the numbers themselves. On a GPU they are in memory that each step overwrites.

    There the kernels of a step read them by address, and so a captured step (`captured.py`) reads those of its own
    step. One copy from pinned memory moves all of them, and nobody waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stored: Tensor | None = None

    def __call__(self, *numbers: float) -> Sequence[Number]:
        """The numbers, on a GPU as float64 tensors []; they are as many in each call."""
        if self._device.type == "cpu":
            return numbers
        new = torch.tensor(numbers, dtype=torch.float64, pin_memory=True)
        if self._stored is None:
            self._stored = torch.empty(len(numbers), dtype=torch.float64, device=self._device)
        self._stored.copy_(new, non_blocking=True)
        return self._stored.unbind(0)
