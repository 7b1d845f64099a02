"""The protocol of a network's configuration."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self


class ModelConfig(ABC):  # noqa: B024  # its methods have defaults; how a network is built is between it and its family
    """The configuration of a network: a frozen dataclass, the `--model.*` flags.

    Each wing of families defines what it asks `build` for: a family passes sizes that the data fix (vocabulary,
    context, image size) and gets a network.
    """

    path: str | None = None
    """The pretrained model that training starts from, a folder or a name on the hub; None for new weights."""

    def with_path(self, path: str) -> Self:
        """The same configuration with another pretrained model."""
        return replace(self, path=path)  # type: ignore[type-var]  # configurations are dataclasses

    def located(self) -> Self:
        """The same configuration, complete in itself: absolute paths, and the architecture that a name stands for."""
        return self

    def pretrained_parts(self) -> Mapping[str, str]:
        """Paths of the pretrained parts that data may take from this model, by the data option's name."""
        return {"tokenizer": self.path} if self.path else {}

    def initialise(self, network: Any) -> None:  # noqa: B027  # most networks begin with new weights
        """Give a new run's network its pretrained weights, after the keyed initialisation."""
