"""What is asked of a captioner, and what it gives: requests, and captions as text, JSON and pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from rich.console import Console
from torch import Tensor

from seedfast.data.pictures import BROKEN, opened
from seedfast.data.vision import Processor
from seedfast.errors import UserError
from seedfast.families.categorical import check_shaping
from seedfast.families.family import Samples
from seedfast.families.request import at_least_one
from seedfast.files import commit, to_json

TILE = 112
"""Height and width of a picture in an attention map."""


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
                with opened(file) as image:
                    pixels.append(torch.from_numpy(processor(image).copy()))
            except BROKEN as error:
                reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
                raise UserError(f"{file} cannot be read as a picture: {reason}.") from None
        return Seen(torch.stack(pixels), tuple(map(str, self.files)))


@dataclass(frozen=True)
class Written:
    """A caption. log_probability: in nats, of all its tokens and its end. looks_LHW: where each token looked."""

    text: str
    log_probability: float
    pieces: tuple[str, ...] = ()
    looks_LHW: Tensor | None = None


@dataclass(frozen=True)
class CaptionSamples(Samples):
    """Captions of images: `written[i]` are those of image i, best first."""

    seen: Seen
    written: tuple[tuple[Written, ...], ...]

    def show(self, console: Console) -> None:
        """Print each image's name and captions."""
        for line in self._lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _lines(self) -> list[str]:
        lines = []
        for index, (name, captions) in enumerate(zip(self.seen.names, self.written, strict=True)):
            lines += [f"{name}: {caption.text}" for caption in captions]
            if self.seen.references:
                lines += [f"    people say: {reference}" for reference in self.seen.references[index]]
        return lines

    def save(self, folder: Path) -> list[Path]:
        """captions.txt and captions.json; images.png where references are known; attention-N.png if asked for."""
        commit(folder / "captions.txt", "\n".join(self._lines()) + "\n")
        records = [
            {
                "image": name,
                "captions": [{"text": each.text, "log_probability": each.log_probability} for each in captions],
                **({"references": list(self.seen.references[index])} if self.seen.references else {}),
            }
            for index, (name, captions) in enumerate(zip(self.seen.names, self.written, strict=True))
        ]
        commit(folder / "captions.json", to_json(records))
        files = [folder / "captions.txt", folder / "captions.json"]
        pictures = {}
        if self.seen.references:
            pictures["images.png"] = _row([(picture(p), "") for p in self.seen.pixels_BCSS], columns=8)
        for index, captions in enumerate(self.written):
            if captions and captions[0].looks_LHW is not None:
                pictures[f"attention-{index:04}.png"] = attention_map(self.seen.pixels_BCSS[index], captions[0])
        for name, image in pictures.items():
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            commit(folder / name, buffer.getvalue())
            files.append(folder / name)
        return files


def picture(pixels_CSS: Tensor, size: int = TILE) -> Image.Image:
    """uint8 pixels as a picture of at least this size."""
    values = pixels_CSS.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def attention_map(pixels_CSS: Tensor, written: Written) -> Image.Image:
    """The image, and for each token of its caption where the decoder looked: bright where it looked most."""
    assert written.looks_LHW is not None
    plain = picture(pixels_CSS)
    tiles = [(plain, "")]
    for piece, look_HW in zip(written.pieces, written.looks_LHW, strict=True):
        heat = (255 * look_HW / look_HW.max().clamp(min=1e-12)).round().to(torch.uint8).numpy()
        mask = Image.fromarray(heat).resize(plain.size, Image.Resampling.BICUBIC)
        dimmed = Image.fromarray((np.asarray(plain) * 0.35).astype(np.uint8))
        glow = Image.blend(plain, Image.new("RGB", plain.size, (255, 176, 0)), 0.45)
        tiles.append((Image.composite(glow, dimmed, mask), piece))
    return _row(tiles, columns=8)


def _row(tiles: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Pictures beside each other, each above its label, in rows."""
    size, line = tiles[0][0].width, 16 if any(label for _, label in tiles) else 0
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (size + 4) + 4, rows * (size + line + 4) + 4), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (tile, label) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = 4 + column * (size + 4), 4 + row * (size + line + 4)
        sheet.paste(tile, (left, top))
        if label:
            pen.text((left + 2, top + size + 2), label.encode("latin-1", "replace").decode("latin-1"), fill="black")
    return sheet
