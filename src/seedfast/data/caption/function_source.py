"""Images with captions from a function of the user's, `path/to/file.py:function`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seedfast.data.caption.annotations import caption_list
from seedfast.data.caption.sources import CaptionedImage, CaptionSource
from seedfast.data.image.decode import ImageError, decoding, open_image
from seedfast.errors import UserError
from seedfast.user_code import OwnFunction, own_function


class _Example(NamedTuple):
    """What is remembered of a pair. file: of a path; digest: of an image in memory. One of them is empty."""

    captions: tuple[str, ...]
    file: str
    digest: str


@dataclass(frozen=True)
class CaptionFunctionSource(CaptionSource):
    """The pairs that a function yields. The cache key contains the digests of its file and of all images.

    The function runs whenever the data is loaded, and again when the images are read; it has to yield the same pairs
    each time.
    """

    function: OwnFunction = field(kw_only=True)
    examples: tuple[_Example, ...] = field(kw_only=True)

    def identity(self) -> Any:
        return ["function", [list(each) for each in self.examples]]

    def images(self) -> Iterator[CaptionedImage]:
        pairs = zip_longest(self.examples, _pairs(self.function))
        for number, (example, pair) in enumerate(pairs):
            if example is None or pair is None or _example(pair, f"{self.title}: pair {number}") != example:
                raise UserError(
                    f"{self.title} yields other pairs when it is called again, from number {number} on: it has to "
                    "yield the same pairs each time."
                )

            def load(_: int, image: Any = pair[0], file: str = example.file) -> Image.Image:
                return open_image(self.root / file) if file else _in_memory(image, self.title)

            split_key = self.contents[example.file] if example.file else example.digest
            yield CaptionedImage(example.file or f"image {number}", split_key, example.captions, None, load)


def function_captions(name: str) -> CaptionSource:
    """The pairs that the function `path/to/file.py:function` yields: (image, captions).

    An image is a PIL image, a uint8 array [H, W] or [H, W, 3], or a path relative to the function's file; captions
    are a text or a list of texts. Raises UserError if there is no such function, or it yields something else.
    """
    function = own_function(name)
    examples = tuple(_example(pair, f"{name}: pair {number}") for number, pair in enumerate(_pairs(function)))
    if not examples:
        raise UserError(f"{name} yields no images with captions.")
    files = dict.fromkeys(each.file for each in examples if each.file)
    return CaptionFunctionSource(
        name, function.file.parent, (function.file.name, *files), function=function, examples=examples
    )


def _pairs(function: OwnFunction) -> Iterator[Any]:
    """What the function yields. Raises UserError naming its line if it fails."""
    try:
        yield from function.call()
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise function.failure(error) from error


def _example(pair: Any, where: str) -> _Example:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UserError(f"{where} is {pair!r:.60}, and must be a pair of an image and its captions.")
    image, captions = pair
    try:
        texts = caption_list(captions)
    except TypeError as error:
        raise UserError(f"{where}: {error}.") from None
    if isinstance(image, str | Path):
        return _Example(texts, str(image), "")
    return _Example(texts, "", _digest(_in_memory(image, where)))


def _in_memory(image: Any, where: str) -> Image.Image:
    """An image in memory. Raises UserError for another type."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        return Image.fromarray(image)
    raise UserError(f"{where} is a {type(image).__name__}, and must be a PIL image, a uint8 array or a path.")


def _digest(image: Image.Image) -> str:
    try:
        with decoding():
            content = image.tobytes()
    except ImageError as error:  # it is named and left out where it is read
        content = str(error).encode()
    return hashlib.sha256(f"{image.mode} {image.size}\n".encode() + content).hexdigest()
