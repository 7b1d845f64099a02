"""Written captions as text, JSON and pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from torch import Tensor

from seedfast.families.caption.request import Seen
from seedfast.families.family import Samples
from seedfast.files import commit, to_json

TILE = 112
"""Height and width of a picture in an attention map."""


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
