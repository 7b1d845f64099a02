"""Examples small enough for enumeration: tables as networks, known distributions, chosen random numbers.

Shapes: B rows, N texts, L length, V vocabulary, M possible inputs.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedfast import keys
from seedfast.data.dataset import Batch, Integers
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.data.text.windows import Windows
from seedfast.families.family import Objective
from seedfast.keys import Draws
from seedfast.models.token_network import SequenceInputs, TokenNetwork
from seedfast.models.transformer_block import select_positions


class IndependentWindows(Windows):
    """Windows that are independent, so that the closed form of their standard error holds."""

    def documents(self, ids: Integers) -> None:
        return None


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def assets(vocabulary: int, context: int) -> TextAssets:
    """Assets of a text with `vocabulary` symbols, of which the last is end-of-text."""
    return TextAssets(Characters(LETTERS[: vocabulary - 1]), context, validation_tokens=1, validation_bytes=1)


def numbers(name: str, *shape: int) -> Tensor:
    """Arbitrary but fixed standard normal numbers, float64."""
    count, *rest = shape or (1,)
    return keys.normal(keys.derive(0, "identities", name), torch.arange(count), *rest).double().view(shape)


def all_texts(symbols: int, length: int) -> Tensor:
    """Every text, int64 [symbols^length, length], in the order of their codes."""
    return torch.tensor(list(itertools.product(range(symbols), repeat=length)))


def all_subsets(length: int) -> Tensor:
    """Every set of positions, bool [2^length, length]."""
    return all_texts(2, length).bool()


def codes(texts_NL: Tensor, symbols: int) -> Tensor:
    """The row of each text in `all_texts`."""
    powers_L = symbols ** torch.arange(texts_NL.shape[1] - 1, -1, -1)
    return (texts_NL * powers_L).sum(dim=1)


def windows_of(texts_NL: Tensor, end_of_text: int, scored_L: Tensor | None = None) -> Batch:
    """Texts as a batch of windows; all tokens are scored, unless `scored_L` is given."""
    start_N1 = torch.full((len(texts_NL), 1), end_of_text)
    scored_NL = torch.ones_like(texts_NL, dtype=torch.bool) if scored_L is None else scored_L.expand_as(texts_NL)
    return {"tokens": torch.cat([start_N1, texts_NL], dim=1), "scored": scored_NL}


class Memory:
    """The cache of a toy network: its past inputs."""

    def __init__(self, batch: int) -> None:
        self.tokens_BL = torch.zeros(batch, 0, dtype=torch.int64)

    def select(self, rows: Tensor) -> None:
        """Select these rows."""
        self.tokens_BL = self.tokens_BL[rows]


class _Identity(nn.Identity):
    """An output layer that changes nothing."""

    out_features = 1


class Toy(TokenNetwork[Memory]):
    """A network with the interface of all text networks, made of a function from tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Identity()

    def answer(self, tokens_BL: Tensor) -> Tensor:
        """Logits [B, L, V] of whole sequences."""
        raise NotImplementedError

    def cache(self, batch: int, length: int | None = None) -> Memory:
        """An empty cache, for causal functions."""
        return Memory(batch)

    def hidden_states(self, inputs: SequenceInputs[Memory]) -> Tensor:
        """The logits of the new tokens, [B, L, V], or of some of them, [N, V]: the output layer is the identity."""
        tokens_BL, cache = inputs.tokens_BL, inputs.cache
        assert tokens_BL is not None
        new = tokens_BL.shape[1]
        if cache is not None:
            tokens_BL = cache.tokens_BL = torch.cat([cache.tokens_BL, tokens_BL], dim=1)
        return select_positions(self.answer(tokens_BL)[:, -new:], inputs.where_N)


class ToyTable(Toy):
    """A bidirectional network that is a table: logits [M, L, V] for each of the M = symbols^L inputs."""

    def __init__(self, logits_MLV: Tensor, symbols: int) -> None:
        super().__init__()
        self.logits_MLV = nn.Parameter(logits_MLV)
        self.symbols = symbols

    def answer(self, tokens_BL: Tensor) -> Tensor:
        """Logits [B, L, V]."""
        return self.logits_MLV[codes(tokens_BL, self.symbols)]


def arbitrary_table(vocabulary: int, length: int) -> ToyTable:
    """An inconsistent network: its predictions for different inputs are the conditionals of no distribution."""
    symbols = vocabulary + 1
    return ToyTable(2 * numbers("table", symbols**length, length, vocabulary), symbols)


class ToyHistory(Toy):
    """A causal network that is a table: logits for each history, [1 + S + S² + …, V] with S symbols."""

    def __init__(self, logits_MV: Tensor, symbols: int) -> None:
        super().__init__()
        self.logits_MV = nn.Parameter(logits_MV)
        self.symbols = symbols

    def answer(self, tokens_BL: Tensor) -> Tensor:
        """Logits [B, L, V]."""
        code_B = torch.zeros(len(tokens_BL), dtype=torch.int64)
        columns = []
        for column_B in tokens_BL.unbind(dim=1):
            code_B = code_B * self.symbols + column_B + 1  # bijective numeration: no two histories share a code
            columns.append(self.logits_MV[code_B])
        return torch.stack(columns, dim=1)


def arbitrary_history(vocabulary: int, length: int) -> ToyHistory:
    """A causal network with unrelated predictions for all histories of up to `length` tokens."""
    size = sum(vocabulary**n for n in range(length + 1))
    return ToyHistory(2 * numbers("history", size, vocabulary), vocabulary)


def seeded_network(objective: Objective[Any], model: Any) -> nn.Module:
    """The objective's network with arbitrary, large weights, the same for every objective that it fits."""
    with torch.random.fork_rng():
        keys.seed_torch(0, "identity 8")
        network = objective.network(model).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(15)
    return network


@dataclass(frozen=True)
class Law:
    """A known distribution over all texts of `length` letters, with all its exact conditionals.

    The letters are the vocabulary without end-of-text, which has probability zero if `ends` is false.
    """

    vocabulary: int
    length: int
    ends: bool = True

    @property
    def letters(self) -> int:
        """The number of symbols of positive probability."""
        return self.vocabulary if self.ends else self.vocabulary - 1

    @property
    def texts(self) -> Tensor:
        """The possible texts, [N, L]."""
        return all_texts(self.letters, self.length)

    @property
    def probabilities(self) -> Tensor:
        """The probability of each text, float64 [N]."""
        return (1.5 * numbers("law", self.letters**self.length)).softmax(dim=0)

    def conditionals(self, inputs_ML: Tensor, known_ML: Tensor) -> Tensor:
        """p(x_i | the known symbols), [M, L, V]; uniform where the known symbols have probability zero."""
        fits_MN = ((inputs_ML[:, None] == self.texts) | ~known_ML[:, None]).all(dim=2)
        joint_MN = fits_MN * self.probabilities
        onehot_NLV = nn.functional.one_hot(self.texts, self.vocabulary).double()
        share_MLV = torch.einsum("mn,nlv->mlv", joint_MN, onehot_NLV)
        total_M11 = joint_MN.sum(dim=1)[:, None, None]
        return torch.where(total_M11 > 0, share_MLV / total_M11, 1 / self.vocabulary)

    def network(self) -> ToyTable:
        """The masked network with the exact conditionals."""
        inputs_ML = all_texts(self.vocabulary + 1, self.length)
        return ToyTable(self.conditionals(inputs_ML, inputs_ML < self.vocabulary).log(), self.vocabulary + 1)

    def causal_network(self) -> ToyHistory:
        """The causal network with the exact conditionals, after the end-of-text with which every text begins."""
        size = sum(self.vocabulary**n for n in range(self.length + 2))
        table = ToyHistory(torch.zeros(size, self.vocabulary, dtype=torch.float64), self.vocabulary)
        with torch.no_grad():
            for n in range(self.length):
                starts_PL = torch.zeros(self.letters**n, self.length, dtype=torch.int64)
                starts_PL[:, :n] = all_texts(self.letters, n) if n else 0
                known_PL = torch.arange(self.length).expand_as(starts_PL) < n
                read = torch.cat([torch.full((len(starts_PL), 1), self.vocabulary - 1), starts_PL[:, :n]], dim=1)
                code_P = torch.zeros(len(read), dtype=torch.int64)
                for column_P in read.unbind(dim=1):
                    code_P = code_P * self.vocabulary + column_P + 1
                table.logits_MV[code_P] = self.conditionals(starts_PL, known_PL)[:, n].log()
        return table


@dataclass(frozen=True, kw_only=True)
class Chosen(Draws):
    """Draws that return given numbers, so that all the randomness of a task can be enumerated.

    times_B: the result of `stratified`. masks_BL: the result of `uniform`.
    """

    times_B: Tensor
    masks_BL: Tensor

    def stratified(self, stream: str) -> Tensor:
        """The given times."""
        return self.times_B

    def uniform(self, stream: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The given numbers."""
        assert shape == self.masks_BL.shape[1:], "one number for each position was expected"
        return self.masks_BL.to(dtype)


def chosen(times_B: Tensor, masks_BL: Tensor) -> Chosen:
    """Draws with these numbers, one row for each time."""
    return Chosen(seed=0, scope="chosen", positions_B=torch.arange(len(times_B)), times_B=times_B, masks_BL=masks_BL)
