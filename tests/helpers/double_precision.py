"""seedfast with more digits: every float32 of the program is a float64.

Where two trainings differ only because additions round, they then differ by 10⁻⁹ of what they did; where they differ
for another reason, by as much as before.

    python -m tests.helpers.double_precision train …
"""

import os
import runpy
import sys
from typing import Any

import torch
from torch import Tensor

_FLOAT = torch.float32
_fused_adamw = torch._fused_adamw_


def _counting_in_float32(*tensors: Any, found_inf: Tensor, **options: Any) -> None:
    """The kernel of AdamW, which takes its counts of steps (whole numbers) in float32."""
    *others, steps = tensors
    _fused_adamw(*others, [each.to(_FLOAT) for each in steps], found_inf=found_inf.to(_FLOAT), **options)


if __name__ == "__main__":
    if "seedfast" in sys.modules:  # a fork of a process that has imported it already, with types in its defaults
        os.execv(sys.executable, [sys.executable, "-m", "tests.helpers.double_precision", *sys.argv[1:]])
    torch.float32 = torch.float = torch.float64  # type: ignore[misc]
    torch.complex64 = torch.complex128  # type: ignore[misc]
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    torch._fused_adamw_ = _counting_in_float32
    torch.set_default_dtype(torch.float64)
    runpy.run_module("seedfast", run_name="__main__", alter_sys=True)
