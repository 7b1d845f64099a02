"""Keyed randomness: every random number is a pure function of its purpose, its example and its index.

The arguments are `(seed, stream, position, index)`: the run's seed, a named purpose ("mask", "time", ...), the
example's position in the infinite stream of examples, and a counter within the example. No number depends on an earlier
one: no generator state is saved, skipped or replayed, and the numbers of an example do not depend on the micro-batch,
the rank or the device.

The generator is counter based: SplitMix64's finaliser (Steele, Lea & Flood 2014, with Stafford's "mix 13" constants) on
64-bit words, in int64 tensor arithmetic that wraps around on the CPU and on CUDA alike.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from seedfast.derivation import derive as derive

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, the Weyl increment of SplitMix64, as int64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_FEISTEL_ROUNDS = 10


def seed_torch(seed: int, *path: str | int) -> None:
    """Reseed torch's own generators from a key, for modules that use them (initialisation, dropout).

    These numbers depend on the order of the calls that follow, and so on the topology; all others do not.
    """
    key = derive(seed, *path)
    torch.default_generator.manual_seed(key)  # torch.manual_seed queries every kind of device: 0.1 ms
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(key)


def _shift(words: Tensor, places: int) -> Tensor:
    """Logical right shift of int64 words (torch's `>>` keeps the sign)."""
    return (words >> places) & ((1 << (64 - places)) - 1)


def _mix(words: Tensor) -> Tensor:
    """A bijection of 64-bit words in which every input bit flips every output bit with probability one half."""
    words = (words ^ _shift(words, 30)) * _MIX_1
    words = (words ^ _shift(words, 27)) * _MIX_2
    return words ^ _shift(words, 31)


@lru_cache(maxsize=64)
def _counters(count: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN)


def bits(key: int | Tensor, positions_B: Tensor, *shape: int) -> Tensor:
    """Uniform 64-bit words, int64 of shape [B, *shape], on the device of `positions_B`. key: one, or one for each."""
    key_B1 = _mix(_mix(positions_B * _GOLDEN + key) ^ key).unsqueeze(1)
    # Hashed counters, not consecutive ones: no two examples have shifted copies of the same numbers.
    words = _mix(key_B1 ^ _counters(math.prod(shape), positions_B.device))
    return words.reshape(len(positions_B), *shape)


def uniform(key: int | Tensor, positions_B: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in [0, 1) of shape [B, *shape]: 24 random bits in float32, 53 in float64."""
    words = bits(key, positions_B, *shape)
    if dtype == torch.float64:
        return _shift(words, 11).to(dtype) * 2.0**-53
    return _shift(words, 40).to(torch.float32) * 2.0**-24


def normal(key: int, positions_B: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers, float32 [B, *shape], by the Box-Muller transform in float64.

    The uniform numbers are equal on every device; logarithm and cosine may differ in the last bit.
    """
    u = uniform(key, positions_B, 2, *shape, dtype=torch.float64)
    radius = torch.sqrt(-2 * torch.log1p(-u[:, 0]))
    return (radius * torch.cos(2 * math.pi * u[:, 1])).to(torch.float32)


def randint(key: int, positions_B: Tensor, *shape: int, high: int) -> Tensor:
    """Integers uniform in 0 … high-1 (bias below high/2^53), int64 [B, *shape]."""
    return (uniform(key, positions_B, *shape, dtype=torch.float64) * high).to(torch.int64)


def permutation(key: int, positions_B: Tensor, n: int) -> Tensor:
    """One uniform permutation of 0 … n-1 for each example, int64 [B, n]."""
    return bits(key, positions_B, n).argsort(dim=1, stable=True)


def shuffle(key: int | Tensor, index: Tensor, size: int) -> Tensor:
    """The images of `index` under a keyed permutation of 0 … size-1, evaluated pointwise in O(1) memory.

    A balanced Feistel network on the smallest 4^h ≥ size, repeated until the result is below `size` (cycle walking,
    Black & Rogaway 2002, "Ciphers with arbitrary finite domains"). key: one, or one for each index.
    Raises ValueError for a size outside 1 … 2^62 - 1.
    """
    if not 0 < size < 1 << 62:
        raise ValueError(f"a permutation needs a size between 1 and 2^62, not {size}")
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    low = (1 << half) - 1

    def encipher(x: Tensor) -> Tensor:
        left, right = x >> half, x & low
        for round_ in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(_mix(right * _GOLDEN + round_) ^ key) & low)
        return left << half | right

    image = encipher(index)
    while bool((outside := image >= size).any()):
        image = torch.where(outside, encipher(image), image)
    return image


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of a batch: one keyed generator for each example.

    seed: the run's seed.
    scope: the purpose ("train", "eval", "sample"): evaluation and sampling cannot affect training.
    positions_B: each example's position in the infinite stream of its scope, int64.
    group: the number of consecutive positions that form a global batch, over which `stratified` spreads its numbers.
    """

    seed: int
    scope: str
    positions_B: Tensor
    group: int = 1

    def at(self, stage: int) -> "Draws":
        """The same examples in another stage of an iterative procedure (a step of a sampler)."""
        return replace(self, scope=f"{self.scope}/{stage}")

    def _key(self, stream: str) -> int:
        return derive(self.seed, self.scope, stream)

    def uniform(self, stream: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in [0, 1), shape [B, *shape]."""
        return uniform(self._key(stream), self.positions_B, *shape, dtype=dtype)

    def uniform_of_stages(self, stages: range, stream: str) -> Tensor:
        """`at(stage).uniform(stream, 1)` of each of S stages, drawn together: float64 in [0, 1), shape [S, B]."""
        keys_S = torch.tensor([derive(self.seed, self.at(stage).scope, stream) for stage in stages], dtype=torch.int64)
        size = len(self.positions_B)
        keys_N = keys_S.to(self.positions_B.device).repeat_interleave(size)
        u_N1 = uniform(keys_N, self.positions_B.repeat(len(stages)), 1, dtype=torch.float64)
        return u_N1.view(len(stages), size)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal, float32 [B, *shape]."""
        return normal(self._key(stream), self.positions_B, *shape)

    def randint(self, stream: str, *shape: int, high: int) -> Tensor:
        """Uniform integers below `high`, int64 [B, *shape]."""
        return randint(self._key(stream), self.positions_B, *shape, high=high)

    def permutation(self, stream: str, n: int) -> Tensor:
        """A permutation of 0 … n-1 for each example, int64 [B, n]."""
        return permutation(self._key(stream), self.positions_B, n)

    def stratified(self, stream: str) -> Tensor:
        """One number in [0, 1) for each example, float64 [B]; every group has one in each stratum.

        Each number is uniform, so an estimator that is unbiased with independent times stays unbiased. Together they
        are spread evenly over the global batch (the low-discrepancy sampler of Kingma et al. 2021, "Variational
        Diffusion Models", appendix I.1), independently of micro-batches and ranks.
        """
        batch_B = torch.div(self.positions_B, self.group, rounding_mode="floor")
        batches_U, which_B = torch.unique(batch_B, return_inverse=True)
        strata_UG = permutation(self._key(f"{stream}/strata"), batches_U, self.group)
        stratum_B = strata_UG[which_B, self.positions_B - batch_B * self.group]
        jitter_B = self.uniform(f"{stream}/jitter", 1, dtype=torch.float64)[:, 0]
        # stratum + jitter can round up to the next integer; in the last stratum it would leave [0, 1).
        return ((stratum_B + jitter_B) / self.group).clamp(max=1 - 2.0**-53)
