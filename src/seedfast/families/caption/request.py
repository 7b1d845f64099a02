"""What is asked of a captioner."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from seedfast.data.image.decode import DECODE_ERRORS, open_image
from seedfast.data.image.processor import Processor
from seedfast.errors import UserError
from seedfast.families.text.categorical import check_shaping
from seedfast.families.text.request import at_least_one


@dataclass(frozen=True)
class Seen:
    """Images to caption: uint8 [B, C, S, S], their names, and what people said about them, where that is known."""

    pixels_BCSS: Tensor
    names: tuple[str, ...]
    references: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """What is wanted of a captioner."""

    image: tuple[tuple[Path, ...], ...] = ()
    """The pictures; several may be named at once."""
    seen: Annotated[Seen | None, tyro.conf.Suppress] = None
    """Images that are read already, instead of files."""
    num: int = 1
    """Captions of each image: the best of the beam, or as many draws."""
    decoding: Literal["beam", "greedy", "nucleus"] = "beam"
    """beam: the likeliest caption that a search finds; greedy: the likeliest token each time; nucleus: drawn."""
    beams: int | None = None
    """For beam: how many prefixes are kept (default 4, or num if that is more)."""
    length_penalty: float | None = None
    """For beam: α of ((5 + length) / 6)^α, by which log-probabilities are divided (default 0.6; 0: none)."""
    temperature: float | None = None
    """For nucleus: below 1 likelier, above 1 more varied (default 1)."""
    top_k: int | None = None
    """For nucleus: draw from the k likeliest tokens only."""
    top_p: float | None = None
    """For nucleus: draw from the likeliest tokens whose probability reaches p (default 0.9)."""
    attention: bool = False
    """Draw where the first caption of each image looked at every token."""
    batch: int = 32
    """Images that are captioned together: bounds the memory."""

    def __post_init__(self) -> None:
        at_least_one(num=self.num, beams=self.beams, batch=self.batch)
        for key, kind in (
            ("beams", "beam"),
            ("length_penalty", "beam"),
            ("temperature", "nucleus"),
            ("top_k", "nucleus"),
            ("top_p", "nucleus"),
        ):
            if getattr(self, key) is not None and self.decoding != kind:
                raise UserError(f"{key} has no effect without --decoding {kind}: leave it out.")
        if self.decoding == "greedy" and self.num > 1:
            raise UserError("Greedy decoding has one caption for each image; say --decoding nucleus for several.")
        if self.beams is not None and self.beams < self.num:
            raise UserError(f"A beam of {self.beams} has no {self.num} captions; raise --beams.")
        if self.length_penalty is not None and not 0 <= self.length_penalty <= 10:
            raise UserError(f"length_penalty must lie in 0 … 10, not {self.length_penalty}.")
        check_shaping(self.heat, self.top_k, self.top_p)

    @property
    def files(self) -> list[Path]:
        """The pictures' files."""
        return [file for several in self.image for file in several]

    @property
    def count(self) -> int:
        """How many captions are asked for."""
        return (len(self.seen.names) if self.seen else len(self.files)) * self.num

    @property
    def width(self) -> int:
        """How many prefixes a search keeps."""
        return 1 if self.decoding == "greedy" else self.beams or max(4, self.num)

    @property
    def alpha(self) -> float:
        """α of the length penalty."""
        return 0.0 if self.decoding == "greedy" else 0.6 if self.length_penalty is None else self.length_penalty

    @property
    def heat(self) -> float:
        """The temperature."""
        return 1.0 if self.temperature is None else self.temperature

    def read(self, processor: Processor) -> Seen:
        """The images. Raises UserError if there are none or one cannot be read."""
        if self.seen is not None:
            return self.seen
        if not self.files:
            raise UserError("Name the pictures to caption: --image FILE …")
        pixels = []
        for file in self.files:
            try:
                with open_image(file) as image:
                    pixels.append(torch.from_numpy(processor(image).copy()))
            except DECODE_ERRORS as error:
                reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
                raise UserError(f"{file} cannot be read as a picture: {reason}.") from None
        return Seen(torch.stack(pixels), tuple(map(str, self.files)))
