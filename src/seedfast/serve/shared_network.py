"""The network as the sampler of one row sees it: it calls it as any network, and others take part in the evaluations.

Whether an evaluation is shared, and in which shape, depends on the arguments of the call alone, never on the load.
"""

from collections.abc import Callable
from functools import partial
from inspect import ismethod
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.loop.distributed import DistributedContext
from seedfast.models.token_network import SequenceInputs, TokenNetwork
from seedfast.models.transformer_block import select_positions
from seedfast.serve.engine import Row
from seedfast.serve.slots import Next, SlotBatches, SlotRow
from seedfast.serve.windows import WindowBatches


class Batches:
    """A network and the evaluations of it that rows may share."""

    def __init__(self, network: nn.Module, *, context: int, slots: int, distributed: DistributedContext) -> None:
        self.network, self._distributed = network, distributed
        self.slots: SlotBatches | None = None
        self.windows: WindowBatches | None = None
        if SlotBatches.fits(network):
            self.slots = SlotBatches(network, context=context, slots=slots)  # type: ignore[arg-type]
        elif isinstance(network, TokenNetwork) and not getattr(network, "causal", True):
            self.windows = WindowBatches(network, context=context, slots=slots)
        self._reader: Callable[[Tensor, Any], Tensor] | None = None

    def of(self, row: Row) -> nn.Module:
        """The network for the sampler of a row."""
        return SharedNetwork(self, row) if isinstance(self.network, TokenNetwork) else ComputedNetwork(self, row)

    @torch.no_grad()
    def evaluate(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the network returns, in the precision of the run."""
        with self._distributed.autocast():
            return compute(*arguments)

    def read(self, tokens_BL: Tensor, cache: Any) -> Tensor:
        """The logits after the next tokens of each row, [B, V]; the merged weights are made once."""
        assert isinstance(self.network, TokenNetwork)
        self._reader = self._reader or self.network.reader()
        return self._reader(tokens_BL, cache)


class SharedNetwork(TokenNetwork[Any]):
    """A network over tokens of which evaluations of one text are shared.

    logits_BV: those of the latest evaluation, of which an autoregressive sampler draws the next token.
    """

    def __init__(self, batches: Batches, row: Row) -> None:
        super().__init__()
        self._batches, self._row = batches, row
        self._hidden: list[Any] = [batches.network]  # in a list, the network is no part of this module
        self.logits_BV: Tensor | None = None
        self.eval()

    @property
    def _network(self) -> TokenNetwork[Any]:
        network: TokenNetwork[Any] = self._hidden[0]
        return network

    @property
    def has_cache(self) -> bool:
        """Whether it can keep the state of earlier positions."""
        return self._network.has_cache

    def _alone(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        return self._row.compute(partial(self._batches.evaluate, compute, *arguments))

    def _together(self, key: Any, compute: Callable[[list[Any]], list[Any]], value: Any) -> Any:
        return self._row.share(key, partial(self._batches.evaluate, compute), value)

    @property
    def head(self) -> "_Head":  # type: ignore[override]
        """The output layer, for positions of this row."""
        return _Head(self._network.head, self._alone)

    def cache(self, batch: int, length: int | None = None) -> Any:
        """An empty cache: the row's own slot for one text, one of its own for several."""
        if batch == 1 and self._batches.slots:
            return self._batches.slots.new_row(self._row.slot)
        return self._network.cache(batch, length)

    def forward(self, tokens_BL: Tensor | None = None, **inputs: Any) -> Any:
        """As of every `TokenNetwork`; the logits are remembered."""
        self.logits_BV = super().forward(tokens_BL, **inputs)  # type: ignore[assignment]
        return self.logits_BV

    def hidden_states(self, inputs: SequenceInputs[Any]) -> Tensor:
        """The input of the output layer, [B, L, W]; with `where_N` only at those positions, [N, W]."""
        tokens_BL, cache, slots, windows = inputs.tokens_BL, inputs.cache, self._batches.slots, self._batches.windows
        hidden: Tensor
        if isinstance(cache, SlotRow):
            assert slots is not None
            assert tokens_BL is not None
            if tokens_BL.shape[1] == slots.step:
                hidden = self._together("tokens", slots.hidden, Next(tokens_BL[0], cache))
            else:
                hidden = self._alone(slots.begin, cache, tokens_BL)
            return select_positions(hidden, inputs.where_N)
        if windows and tokens_BL is not None and len(tokens_BL) == 1 and cache is inputs.documents_BL is None:
            hidden = self._together(("window", windows.padded(tokens_BL.shape[1])), windows.hidden, tokens_BL[0])
            return select_positions(hidden, inputs.where_N)
        hidden = self._alone(self._network.hidden_states, inputs)
        return hidden

    def reader(self) -> Callable[[Tensor, Any], Tensor]:
        """(the next tokens of each text [B, L], the cache of those before) → the logits after the last, [B, V]."""
        compute = super().reader()

        def read(tokens_BL: Tensor, cache: Any) -> Tensor:
            logits_BV: Tensor
            if not isinstance(cache, SlotRow):
                logits_BV = self._alone(self._batches.read, tokens_BL, cache)
            elif cache.length:
                assert self._batches.slots is not None
                assert tokens_BL.shape[1] == 1, "several tokens are read into an empty slot"
                logits_BV = self._together("next", self._batches.slots.logits, Next(tokens_BL[:, 0], cache))
            else:
                logits_BV = compute(tokens_BL, cache)
            self.logits_BV = logits_BV
            return logits_BV

        return read


class _Head(nn.Module):
    """An output layer that is evaluated where all of the network is."""

    def __init__(self, layer: Any, alone: Callable[..., Any]) -> None:
        super().__init__()
        self._layer, self._alone, self.out_features = [layer], alone, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., V]."""
        logits: Tensor = self._alone(self._layer[0], x)
        return logits


class ComputedNetwork(nn.Module):
    """Another network, such as that of embedding diffusion: its methods are evaluated for one row at a time."""

    def __init__(self, batches: Batches, row: Row) -> None:
        super().__init__()
        self._batches, self._row = batches, row
        self.eval()

    def __getattr__(self, name: str) -> Any:
        batches, row = self.__dict__["_batches"], self.__dict__["_row"]
        found = getattr(batches.network, name)
        if not ismethod(found):
            return found

        def method(*given: Any, **named: Any) -> Any:
            return row.compute(partial(batches.evaluate, partial(found, *given, **named)))

        return method
