"""The tokens that a sampler writes: the distribution behind each, and the random number that chose it.

A sampler that decides where to write from the visible tokens alone follows the chain rule: the product of the
probabilities of its tokens is the exact probability of the text (docs/identities.md#deployed-likelihood).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seedfast.files import finite
from seedfast.keys import Draws

STREAM = "token"
"""The random stream of tokens in every sampler of text."""


def ranked(probabilities_NV: Tensor, tokens_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of tokens, the log-probability and the rank (1 for the likeliest); and the entropy of each distribution."""
    p_N1 = probabilities_NV.gather(1, tokens_N.unsqueeze(1))
    entropy_N = -torch.xlogy(probabilities_NV, probabilities_NV).sum(dim=1)
    return p_N1.squeeze(1).log(), (probabilities_NV > p_N1).sum(dim=1) + 1, entropy_N


@dataclass(frozen=True, kw_only=True)
class Written:
    """N tokens written by one evaluation of the network.

    rows_N, places_N: the text of each, and its position in it. log_p_N: log-probabilities in nats, after temperature,
    top-k and top-p. rank_N: 1 for the likeliest token. entropy_N: of the distribution, in nats. u_N: the quantile that
    was drawn. sample_N, index_N: its stream position, and its index there. step: the number of the evaluation, in its
    block or window. draws: seed and scope of the numbers.
    """

    rows_N: Tensor
    places_N: Tensor
    tokens_N: Tensor
    log_p_N: Tensor
    rank_N: Tensor
    entropy_N: Tensor
    u_N: Tensor
    sample_N: Tensor
    index_N: Tensor
    step: int
    draws: Draws

    @classmethod
    def of(
        cls,
        probabilities_NV: Tensor,
        *,
        tokens_N: Tensor,
        rows_N: Tensor,
        places_N: Tensor,
        u_N: Tensor,
        index_N: Tensor,
        step: int,
        draws: Draws,
    ) -> "Written":
        """The tokens with what their distributions say of them. probabilities_NV: float64."""
        log_p_N, rank_N, entropy_N = ranked(probabilities_NV, tokens_N)
        return cls(
            rows_N=rows_N,
            places_N=places_N,
            tokens_N=tokens_N,
            log_p_N=log_p_N,
            rank_N=rank_N,
            entropy_N=entropy_N,
            u_N=u_N,
            sample_N=draws.positions_B[rows_N],
            index_N=index_N,
            step=step,
            draws=draws,
        )

    def where(self, keep_N: Tensor) -> "Written":
        """Those of the tokens for which `keep_N` is true."""
        names = [name for name in vars(self) if name.endswith("_N")]
        return replace(self, **{name: getattr(self, name)[keep_N] for name in names})

    def moved(self, places_B: Tensor, rows_B: Tensor | None = None) -> "Written":
        """The tokens of pages as those of whole texts: row b is text `rows_B[b]`, and begins at `places_B[b]`."""
        rows_N = self.rows_N if rows_B is None else rows_B[self.rows_N]
        return replace(self, places_N=self.places_N + places_B[self.rows_N], rows_N=rows_N)


Record = Callable[[Written], None]
"""Called by a sampler with the tokens of each evaluation."""


def recorded_by(*records: Record | None) -> Record | None:
    """A record that passes the tokens on to each of several; None without any."""
    wanted = [record for record in records if record is not None]

    def record(written: Written) -> None:
        for each in wanted:
            each(written)

    return record if wanted else None


@dataclass(frozen=True)
class Key:
    """The key of a random number: `keys.uniform(derive(seed, scope, stream), [sample], index + 1)[0, index]`."""

    seed: int
    scope: str
    stream: str
    sample: int
    index: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.scope}:{self.stream}[{self.sample},{self.index}]"


@dataclass(frozen=True)
class Choice:
    """One written token: where, when, how likely, and by which random number.

    place: position in the text. step: evaluation of the network. log_prob: in nats, after temperature, top-k and top-p.
    entropy: of the distribution, in nats. draw: the quantile. kept: whether the token is part of the text; those after
    an end of text, or beyond the requested length, are not.
    """

    place: int
    step: int
    token: int
    text: str
    log_prob: float
    rank: int
    entropy: float
    draw: float
    key: Key
    kept: bool

    @property
    def bits(self) -> float:
        """The surprise: -log₂ of the probability."""
        return -self.log_prob / math.log(2)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = finite(asdict(self))
        return values


@dataclass
class Ledger:
    """All that a sampler writes, in the order of writing."""

    entries: list[Written] = field(default_factory=list)

    def __call__(self, written: Written) -> None:
        """Record the tokens of one evaluation."""
        self.entries.append(written)

    def page(self, name: str, rows: int, length: int) -> Tensor:
        """A field of `Written` at each position, float64 [rows, length]; 0 where nothing was written."""
        page_BL = torch.zeros(rows, length, dtype=torch.float64)
        for each in self.entries:
            page_BL[each.rows_N.cpu(), each.places_N.cpu()] = getattr(each, name).double().cpu()
        return page_BL

    def choices(self, row: int, kept: int, decode: Callable[[list[int]], str]) -> list[Choice]:
        """The tokens of one text in the order of writing. kept: the number of tokens of the text."""
        found = []
        for each in self.entries:
            mine = each.where(each.rows_N == row)
            values = (mine.log_p_N, mine.rank_N, mine.entropy_N, mine.u_N)
            keys = zip(mine.sample_N.tolist(), mine.index_N.tolist(), strict=True)
            written = zip(
                mine.places_N.tolist(), mine.tokens_N.tolist(), keys, *(v.tolist() for v in values), strict=True
            )
            for place, token, number, log_p, rank, entropy, u in written:
                key = Key(each.draws.seed, each.draws.scope, STREAM, *number)
                text = decode([token])
                found.append(Choice(place, each.step, token, text, log_p, rank, entropy, u, key, place < kept))
        return found
