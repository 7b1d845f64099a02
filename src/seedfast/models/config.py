"""The protocol of a network's configuration."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from torch import nn

from seedfast.errors import UserError
from seedfast.models.token_network import TokenNetwork

Size = Literal["tiny", "small", "base", "medium", "large", "xl"]


class ModelConfig(ABC):  # noqa: B024  # its methods have defaults; each wing of families declares `build`
    """The configuration of a network: a frozen dataclass, the `--model.*` flags.

    Each wing of families defines what it asks `build` for: a family passes sizes that the data fix (vocabulary,
    context, image size) and gets a network.
    """

    path: str | None = None
    """The pretrained model that training starts from, a folder or a name on the hub; None for new weights."""

    def with_path(self, path: str) -> Self:
        """The same configuration with another pretrained model."""
        return replace(self, path=path)  # type: ignore[type-var]  # configurations are dataclasses

    def sizes(self) -> Mapping[Size, Self]:
        """The same configuration in each of its named sizes; none for a pretrained model."""
        return {}

    def sized(self, size: Size) -> Self:
        """The same configuration in a named size. Raises UserError if it has no such size."""
        sizes = self.sizes()
        if size not in sizes:
            known = f"there are {', '.join(sizes)}" if sizes else "its size is that of the pretrained model (--model)"
            raise UserError(f"This network has no size {size}: {known}.")
        return sizes[size]

    def located(self) -> Self:
        """The same configuration, complete in itself: absolute paths, and the architecture that a name stands for."""
        return self

    def pretrained_parts(self) -> Mapping[str, str]:
        """Paths of the pretrained parts that data may take from this model, by the data option's name."""
        return {"tokenizer": self.path} if self.path else {}

    def initialise(self, network: Any) -> None:  # noqa: B027  # most networks begin with new weights
        """Give a new run's network its pretrained weights, after the keyed initialisation."""


class TokenModel(ModelConfig):
    """The configuration of a network over tokens: every text family can train one."""

    @property
    @abstractmethod
    def tied(self) -> bool:
        """Whether the output layer has one row for every input token, mask and other special tokens included."""

    @abstractmethod
    def build(
        self, *, vocabulary: int, context: int, causal: bool, block: int | None = None, outputs: int | None = None
    ) -> TokenNetwork[Any]:
        """A new network.

        vocabulary: number of input tokens. outputs: number of logits (default: the vocabulary).
        context: length of the longest sequence. causal: whether a position attends only to itself and earlier ones.
        block: block size of block diffusion; None: no blocks.
        Raises UserError if the configuration cannot be built with these sizes.
        """


class ImageModel(ModelConfig):
    """The configuration of an image network: (x [B, C, S, S], time [B] in [0, 1], label [B] or None) → [B, C, S, S].

    The label `classes` is the null label, and None means the null label for every image.
    """

    @abstractmethod
    def build(self, *, size: int, channels: int, classes: int) -> nn.Module:
        """A freshly initialised network. Raises UserError for an image size that does not fit it."""
