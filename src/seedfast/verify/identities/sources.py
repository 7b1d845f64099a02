"""Languages of known entropy, each with exact networks (docs/identities.md#known-entropy).

Shapes: B rows, L length, V vocabulary. Entropies in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seedfast import keys
from seedfast.verify.identities.toys import Toy, numbers

Tokens = npt.NDArray[np.unsignedinteger]


class Answer(Toy):
    """A network made of a function from tokens to logits."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = answer

    def answer(self, tokens_BL: Tensor) -> Tensor:
        """Logits [B, L, V]."""
        logits_BLV: Tensor = self._function(tokens_BL)
        return logits_BLV


def blurred(network: nn.Module, share: float) -> Answer:
    """An inexact network: the given one's probabilities mixed with the uniform distribution."""

    def answer(tokens_BL: Tensor) -> Tensor:
        p_BLV: Tensor = network(tokens_BL).softmax(dim=-1)
        return ((1 - share) * p_BLV + share / p_BLV.shape[-1]).log()

    return Answer(answer)


def entropy(probabilities: Tensor) -> float:
    """-Σ p log p, in nats."""
    return float(-torch.special.xlogy(probabilities, probabilities).sum())


class CausalSource(Protocol):
    """A language with an exact next-token network."""

    @property
    def name(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    def tokens(self, count: int, length: int) -> Tokens: ...
    def causal_entropy(self, length: int) -> float: ...
    def causal(self) -> nn.Module: ...


class Source(CausalSource, Protocol):
    """A language that also has an exact network for masked tokens."""

    def window_entropy(self, length: int) -> float: ...
    def bidirectional(self) -> nn.Module: ...


def _uniforms(name: str, count: int) -> npt.NDArray[np.float64]:
    u = keys.uniform(keys.derive(0, "identities", name), torch.arange(count), 1, dtype=torch.float64)[:, 0]
    return u.numpy()


@dataclass(frozen=True)
class Zipf:
    """Independent symbols with p(v) ∝ 1/(v+1)."""

    vocabulary: int = 8
    name: str = "iid Zipf"

    @cached_property
    def probabilities(self) -> Tensor:
        """The probability of each symbol, [V]."""
        weights_V = 1 / torch.arange(1, self.vocabulary + 1, dtype=torch.float64)
        return weights_V / weights_V.sum()

    def tokens(self, count: int, length: int) -> Tokens:
        """A stream of count + 1 tokens."""
        cumulative = self.probabilities.cumsum(0).numpy()
        return np.searchsorted(cumulative[:-1], _uniforms("zipf", count + 1), side="right").astype(np.uint16)

    def causal_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length`, given the token before it."""
        return entropy(self.probabilities)

    def window_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length` without context."""
        return entropy(self.probabilities)

    def causal(self) -> nn.Module:
        """The exact next-token network."""
        logits_V = self.probabilities.log()
        return Answer(lambda tokens_BL: logits_V.expand(*tokens_BL.shape, -1))

    def bidirectional(self) -> nn.Module:
        """The exact network for masked tokens."""
        return self.causal()


@dataclass(frozen=True)
class Markov:
    """A stationary chain of order 1 with arbitrary transitions."""

    vocabulary: int = 5
    name: str = "order-1 Markov"

    @cached_property
    def transition(self) -> Tensor:
        """p(next | last), [V, V]: rows sum to 1."""
        return (1.5 * numbers("order 1", self.vocabulary, self.vocabulary)).softmax(dim=1)

    @cached_property
    def stationary(self) -> Tensor:
        """The distribution of a single symbol, [V], by repeated squaring: 2^30 steps are far beyond convergence."""
        powers_VV: Tensor = torch.linalg.matrix_power(self.transition, 1 << 30)
        return powers_VV[0]

    def tokens(self, count: int, length: int) -> Tokens:
        """A stream of count + 1 tokens."""
        cumulative, u = self.transition.cumsum(1).numpy(), _uniforms("markov", count + 1)
        stream = np.zeros(count + 1, np.uint16)
        stream[0] = np.searchsorted(self.stationary.cumsum(0).numpy()[:-1], u[0], side="right")
        for i in range(count):
            stream[i + 1] = np.searchsorted(cumulative[stream[i], :-1], u[i + 1], side="right")
        return stream

    @property
    def rate(self) -> float:
        """The entropy rate."""
        return sum(float(p) * entropy(row) for p, row in zip(self.stationary, self.transition, strict=True))

    def causal_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length`, given the token before it."""
        return self.rate

    def window_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length` without context: its first token has no past."""
        return (entropy(self.stationary) + (length - 1) * self.rate) / length

    def causal(self) -> nn.Module:
        """The exact next-token network."""
        logits_VV = self.transition.log()
        return Answer(lambda tokens_BL: logits_VV[tokens_BL])

    def bidirectional(self) -> nn.Module:
        """The exact network for masked tokens: p(x_i | l, r) ∝ P^(i-a)[l, x_i] · P^(b-i)[x_i, r].

        l and r are the nearest visible symbols on its left and right, at a and b.
        """
        return Answer(self._between)

    def _between(self, tokens_BL: Tensor) -> Tensor:
        length = tokens_BL.shape[1]
        powers = [torch.linalg.matrix_power(self.transition, d).log() for d in range(length + 1)]
        log_powers_DVV = torch.stack(powers)
        place_L = torch.arange(length)
        visible_BL = tokens_BL < self.vocabulary
        before_BL = place_L.where(visible_BL, -1).cummax(dim=1).values.roll(1, dims=1)
        before_BL[:, 0] = -1
        after_BL = place_L.where(visible_BL, length).flip(1).cummin(dim=1).values.flip(1).roll(-1, dims=1)
        after_BL[:, -1] = length
        left_BL = tokens_BL.gather(1, before_BL.clamp(min=0))
        right_BL = tokens_BL.gather(1, after_BL.clamp(max=length - 1))
        from_left_BLV = log_powers_DVV[place_L - before_BL.clamp(min=0), left_BL.clamp(max=self.vocabulary - 1)]
        # The columns of the powers as rows, because the right neighbour is the end of the path.
        to_right_DVV = log_powers_DVV.transpose(1, 2)
        to_right_BLV = to_right_DVV[after_BL.clamp(max=length - 1) - place_L, right_BL.clamp(max=self.vocabulary - 1)]
        start_BLV = torch.where(before_BL[..., None] >= 0, from_left_BLV, self.stationary.log())
        return start_BLV + torch.where(after_BL[..., None] < length, to_right_BLV, 0.0)


@dataclass(frozen=True)
class SecondOrder:
    """A stationary chain of order 2 with arbitrary transitions."""

    vocabulary: int = 3
    name: str = "order-2 Markov"

    @cached_property
    def transition(self) -> Tensor:
        """p(next | last but one, last), [V, V, V]."""
        return (2 * numbers("order 2", self.vocabulary, self.vocabulary, self.vocabulary)).softmax(dim=2)

    @cached_property
    def pairs(self) -> Tensor:
        """The stationary distribution of two neighbours, [V, V], by iteration of the chain of pairs."""
        pairs_VV = torch.full((self.vocabulary, self.vocabulary), self.vocabulary**-2.0, dtype=torch.float64)
        for _ in range(2000):
            pairs_VV = torch.einsum("ab,abc->bc", pairs_VV, self.transition)
        return pairs_VV

    @cached_property
    def next(self) -> Tensor:
        """p(next | last) given the last symbol alone, [V, V]."""
        return self.pairs / self.pairs.sum(dim=1, keepdim=True)

    def tokens(self, count: int, length: int) -> Tokens:
        """A stream of count + 1 tokens."""
        cumulative, u = self.transition.cumsum(2).numpy(), _uniforms("second order", count + 1)
        stream = np.zeros(count + 1, np.uint16)
        pair = int(np.searchsorted(self.pairs.flatten().cumsum(0).numpy()[:-1], u[0], side="right"))
        stream[:2] = divmod(pair, self.vocabulary)
        for i in range(1, count):
            stream[i + 1] = np.searchsorted(cumulative[stream[i - 1], stream[i], :-1], u[i + 1], side="right")
        return stream

    @property
    def rate(self) -> float:
        """The entropy rate."""
        joint = self.pairs[..., None] * self.transition
        return entropy(joint) - entropy(self.pairs)

    @property
    def short_rate(self) -> float:
        """The entropy of a symbol given only the last one before it."""
        return entropy(self.pairs) - entropy(self.pairs.sum(dim=1))

    def causal_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length`, given the token before it: all that the first token can use."""
        return (self.short_rate + (length - 1) * self.rate) / length

    def causal(self) -> nn.Module:
        """The exact next-token network within the window."""

        def answer(tokens_BL: Tensor) -> Tensor:
            first_B1V = self.next[tokens_BL[:, :1]]
            return torch.cat([first_B1V, self.transition[tokens_BL[:, :-1], tokens_BL[:, 1:]]], dim=1).log()

        return Answer(answer)


@dataclass(frozen=True)
class Copy:
    """Uniform words, each repeated once; a window is one such pair."""

    vocabulary: int = 6
    name: str = "copy language"

    def tokens(self, count: int, length: int) -> Tokens:
        """A stream of count + 1 tokens; the first belongs to no word."""
        words = np.floor(_uniforms("copy", count // 2) * self.vocabulary).astype(np.uint16)
        pairs = np.repeat(words.reshape(-1, 1, length // 2), 2, axis=1)
        return np.concatenate([np.zeros(1, np.uint16), pairs.reshape(-1)])

    def causal_entropy(self, length: int) -> float:
        """Entropy per token of a window of `length`: only its first half is random."""
        return float(np.log(self.vocabulary)) / 2

    def window_entropy(self, length: int) -> float:
        """The same: a window is independent of the text before it."""
        return self.causal_entropy(length)

    def causal(self) -> nn.Module:
        """The exact next-token network; its input begins with the token before the window."""

        def answer(tokens_BL: Tensor) -> Tensor:
            half = tokens_BL.shape[1] // 2
            source_BL = tokens_BL[:, 1 : half + 1]
            known_BLV = nn.functional.one_hot(source_BL, self.vocabulary).double()
            return torch.cat([torch.ones_like(known_BLV), known_BLV], dim=1).log()

        return Answer(answer)

    def bidirectional(self) -> nn.Module:
        """The exact network for masked tokens: a token whose copy is visible is certain, any other is uniform."""

        def answer(tokens_BL: Tensor) -> Tensor:
            twin_BL = tokens_BL.roll(tokens_BL.shape[1] // 2, dims=1)
            known_BLV = nn.functional.one_hot(twin_BL, self.vocabulary + 1)[..., :-1].double()
            return torch.where(twin_BL[..., None] < self.vocabulary, known_BLV, 1.0).log()

        return Answer(answer)
