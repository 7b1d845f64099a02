"""The half of a family that sampling walks: a request in, samples out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from rich.console import Console
from torch import Tensor, nn

from seedfast.data.dataset import Dataset
from seedfast.families import sample_files
from seedfast.families.film import Film
from seedfast.keys import Draws

State = dict[str, Tensor]
"""The adaptive state of a family: whatever besides the network changes during training. Part of every checkpoint."""


class Request(Protocol):
    """The options of sampling: a frozen dataclass whose fields are the flags of `seedfast sample`."""

    @property
    def count(self) -> int:
        """Number of samples; `generate` receives one random stream for each."""
        ...


class Samples(ABC):
    """Generated samples in a form for people."""

    printable: ClassVar[bool] = True
    """Whether `show` prints the samples themselves; other samples are always saved as files."""

    @property
    def films(self) -> Sequence[Film]:
        """The frames of their generation, where these were requested; empty for most samples."""
        return ()

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print the samples, or a line about them."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The samples as files: the content of each by its name, the most important first."""

    def save(self, folder: str | Path, *, replace: bool = False, more: Mapping[str, bytes] | None = None) -> list[Path]:
        """Write `files` into a folder; returns them. Files of earlier samples are removed first.

        replace: whether files of other origin that have these names are replaced. Raises UserError otherwise.
        more: further files by their names.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return sample_files.write(folder, {**self.files(), **(more or {})}, replace=replace)


RequestT = TypeVar("RequestT", bound=Request)


class Generator(ABC, Generic[RequestT]):
    """Generates samples with a trained network."""

    Request: type[RequestT]
    """The class of the requests."""

    @abstractmethod
    def demo(self, validation: Dataset) -> RequestT:
        """A request that shows what a model of this family can do, made from held-out data."""

    def decoding(self, request: RequestT) -> str:
        """How a request is decoded, in words: its options and the defaults of the others, with the number of network
        evaluations. "" for a family with one way of decoding."""
        return ""

    def evaluations(self, request: RequestT) -> int | None:
        """Network evaluations for one sample, of its whole length where it may end earlier; None if not known."""
        return None

    @abstractmethod
    def generate(self, network: nn.Module, request: RequestT, draws: Draws, state: State) -> Samples:
        """Generate samples. `draws` has one position for each of `request.count` samples.

        Raises UserError where the request does not fit the model.
        """
