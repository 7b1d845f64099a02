"""The peak of a GPU: the most floating-point operations a second of its dense matrix products, by its name.

Sources: NVIDIA's data sheets of the H100, H200, GH200, B200, A100, A40, A30, A10, V100, T4, L4, L40 and L40S and the
RTX A6000 and RTX 6000 Ada, AWS's of the A10G, NVIDIA's white papers on GA102, AD102 and GB202 (GeForce), AMD's data
sheet of the MI300X. Figures with structured sparsity are halved. The GeForce cards multiply half precision with sums in
float32, as PyTorch does, at half of the rate that they have with sums in float16.
"""

import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from seedfast.loop.distributed import DistributedContext


class Peak(NamedTuple):
    """TFLOP/s by arithmetic; None for one that the GPU does not have. half: bfloat16, and float16 in any case."""

    half: float
    tf32: float | None
    fp32: float
    has_bf16: bool = True


PEAKS = {
    "B200": Peak(2250, 1125, 75),
    "GH200": Peak(989.4, 494.7, 66.9),
    "H200": Peak(989.4, 494.7, 66.9),
    "H200 NVL": Peak(835.5, 417.5, 60),
    "H100": Peak(989.4, 494.7, 66.9),
    "H100 NVL": Peak(835.5, 417.5, 60),
    "H100 PCIE": Peak(756, 378, 51),
    "A100": Peak(312, 156, 19.5),
    "A100 PCIE": Peak(312, 156, 19.5),
    "A40": Peak(149.7, 74.8, 37.4),
    "A30": Peak(165, 82, 10.3),
    "A10": Peak(125, 62.5, 31.2),
    "A10G": Peak(70, 35, 35),
    "V100": Peak(125, None, 15.7, has_bf16=False),
    "V100 PCIE": Peak(112, None, 14, has_bf16=False),
    "T4": Peak(65, None, 8.1, has_bf16=False),
    "L4": Peak(121, 60, 30.3),
    "L40": Peak(181, 90.5, 90.5),
    "L40S": Peak(362, 183, 91.6),
    "RTX A6000": Peak(154.8, 77.4, 38.7),
    "RTX 6000 ADA GENERATION": Peak(364.2, 182.1, 91.1),
    "RTX 3090": Peak(71, 35.6, 35.6),
    "RTX 4090": Peak(165.2, 82.6, 82.6),
    "RTX 5090": Peak(209.5, 104.8, 104.8),
    "MI300X": Peak(1307.4, 653.7, 163.4),
}
"""By the name of the GPU in capitals, without the words that do not tell GPUs of one peak from those of another."""
_SAME_PEAK = re.compile(r"NVIDIA|AMD|TESLA|GEFORCE|INSTINCT|SXM\d?|HBM\d?E?|\d+GB?|")


def known_peak(name: str) -> Peak | None:
    """The peak of the GPU that PyTorch calls `name`; None for one that is not in the table, such as a part of a GPU."""
    words = [word for word in re.split(r"[ -]", name.upper()) if not _SAME_PEAK.fullmatch(word)]
    return PEAKS.get(" ".join(words))


def peak_flops(place: DistributedContext, network: nn.Module) -> float | None:
    """The peak of the run's device in the arithmetic that the network is trained in, FLOP/s; None where unknown.

    In fp32 that is TF32 where PyTorch may use it, which by default it may in convolutions and not in other products.
    """
    if place.device.type != "cuda" or (peak := known_peak(torch.cuda.get_device_name(place.device))) is None:
        return None
    if place.precision != "fp32":
        return None if place.precision == "bf16" and not peak.has_bf16 else peak.half * 1e12
    convolves = any(isinstance(module, _ConvNd) for module in network.modules())
    may_use_tf32 = torch.get_float32_matmul_precision() != "highest" or (convolves and torch.backends.cudnn.allow_tf32)
    return (peak.tf32 if may_use_tf32 and peak.tf32 else peak.fp32) * 1e12
