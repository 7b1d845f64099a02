"""Generated captions as text, JSON and images."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from torch import Tensor

from seedfast.console import shown
from seedfast.families.caption.request import ImageBatch
from seedfast.families.generator import Samples
from seedfast.files import to_json

TILE = 112
"""Height and width of an image in an attention map."""


@dataclass(frozen=True)
class AttentionMaps:
    """Cross-attention of each token of a caption to the patches. tokens: as text. weights_LHW: [L, H, W], sums of 1."""

    tokens: tuple[str, ...]
    weights_LHW: Tensor


@dataclass(frozen=True)
class GeneratedCaption:
    """A caption. log_probability: in nats, of all its tokens and its end."""

    text: str
    log_probability: float
    attention: AttentionMaps | None = None


@dataclass(frozen=True, repr=False)
class CaptionSamples(Samples):
    """Images and their generated captions: `captions[i]` belong to image i, best first."""

    images: ImageBatch
    captions: tuple[tuple[GeneratedCaption, ...], ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        return f"<captions of {len(self.captions)} images>"

    def _repr_html_(self) -> str:
        """The images and their captions in a notebook."""
        rows = zip(self.images.pixels_BCSS, self.captions, strict=True)
        return "".join(
            f'<p><img src="data:image/png;base64,{b64encode(_png(picture(pixels_CSS))).decode()}"> '
            f"{'<br>'.join(escape(caption.text) for caption in captions)}</p>"
            for pixels_CSS, captions in rows
        )

    def show(self, console: Console) -> None:
        """Print each image's name and captions."""
        for line in self._lines():
            console.print(shown(line, console), markup=False, highlight=False, soft_wrap=True)

    def _lines(self) -> list[str]:
        lines = []
        for index, (name, captions) in enumerate(zip(self.images.names, self.captions, strict=True)):
            lines += [f"{name}: {caption.text}" for caption in captions]
            if self.images.references:
                lines += [f"    people say: {reference}" for reference in self.images.references[index]]
        return lines

    def files(self) -> dict[str, bytes]:
        """captions.txt and captions.json; images.png where references are known; attention-N.png if requested."""
        texts = {"captions.txt": "\n".join(self._lines()) + "\n", "captions.json": to_json(self._records())}
        pictures = {}
        if self.images.references:
            pictures["images.png"] = _grid([(picture(p), "") for p in self.images.pixels_BCSS], columns=8)
        for index, captions in enumerate(self.captions):
            if captions and (maps := captions[0].attention):
                pictures[f"attention-{index:04}.png"] = attention_picture(self.images.pixels_BCSS[index], maps)
        return {name: text.encode() for name, text in texts.items()} | {
            name: _png(image) for name, image in pictures.items()
        }

    def _records(self) -> list[dict[str, object]]:
        return [
            {
                "image": name,
                "captions": [{"text": each.text, "log_probability": each.log_probability} for each in captions],
                **({"references": list(self.images.references[index])} if self.images.references else {}),
            }
            for index, (name, captions) in enumerate(zip(self.images.names, self.captions, strict=True))
        ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def picture(pixels_CSS: Tensor, size: int = TILE) -> Image.Image:
    """uint8 pixels as an image of this height and width."""
    values = pixels_CSS.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def picture_of(images: ImageBatch, place: int, size: int = 448) -> bytes:
    """An image as the network receives it, cropped and resized, as a PNG file of this height and width."""
    return _png(picture(images.pixels_BCSS[place], size))


def attention_picture(pixels_CSS: Tensor, maps: AttentionMaps) -> Image.Image:
    """The image, and beside it one copy for each token, bright where the attention to the patches is largest."""
    plain = picture(pixels_CSS)
    tiles = [(plain, "")]
    for token, weights_HW in zip(maps.tokens, maps.weights_LHW, strict=True):
        brightness = (255 * weights_HW / weights_HW.max().clamp(min=1e-12)).round().to(torch.uint8).numpy()
        mask = Image.fromarray(brightness).resize(plain.size, Image.Resampling.BICUBIC)
        dimmed = Image.fromarray((np.asarray(plain) * 0.35).astype(np.uint8))
        tinted = Image.blend(plain, Image.new("RGB", plain.size, (255, 176, 0)), 0.45)
        tiles.append((Image.composite(tinted, dimmed, mask), token))
    return _grid(tiles, columns=8)


def _grid(tiles: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Images in rows, each above its label."""
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
