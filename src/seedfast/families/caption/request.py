"""The request of a captioner: which images, and how their captions are decoded."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from seedfast.console import abbreviate, say
from seedfast.data.image.decode import ImageError, open_image
from seedfast.data.image.folders import find_images
from seedfast.data.image.processor import Processor
from seedfast.errors import UserError
from seedfast.options import AtLeast, Between, OnlyWith, check

Decoding = Literal["beam", "greedy", "nucleus"]

BEAMS, LENGTH_PENALTY, TEMPERATURE, TOP_P = 4, 0.6, 1.0, 0.9
"""Defaults of the options that only one kind of decoding has. The default decoding is the beam, four decoder passes a
token: the usual search of captioners, with the length penalty of Wu et al. (2016, equation 14)."""


@dataclass(frozen=True)
class ImageBatch:
    """Images in memory: uint8 pixels [B, C, S, S], their names, and their reference captions where those are known."""

    pixels_BCSS: Tensor
    names: tuple[str, ...]
    references: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """Captions of images."""

    image: tuple[Path, ...] = ()
    """The image files, or folders of images."""
    image_batch: Annotated[ImageBatch | None, tyro.conf.Suppress] = None
    """Images in memory, instead of files."""
    num: Annotated[int, AtLeast(1)] = 1
    """Captions of each image: the best of the beam, or independent samples."""
    decoding: Decoding = "beam"
    """beam: the likeliest caption of a beam search; greedy: the likeliest token at each step; nucleus: sampled."""
    beams: Annotated[int | None, AtLeast(1), OnlyWith(decoding="beam")] = None
    """Prefixes that beam search keeps (default 4, or num if that is more)."""
    length_penalty: Annotated[float | None, Between(0, 10), OnlyWith(decoding="beam")] = None
    """Beam search divides log-probabilities by ((5 + length) / 6)^α; this is α (default 0.6; 0: no penalty)."""
    temperature: Annotated[float | None, Between(0, math.inf, open_high=True), OnlyWith(decoding="nucleus")] = None
    """Sampling temperature: below 1 likelier captions, above 1 more varied ones (default 1)."""
    top_k: Annotated[int | None, AtLeast(1), OnlyWith(decoding="nucleus")] = None
    """Sample from the k likeliest tokens only."""
    top_p: Annotated[float | None, Between(0, 1, open_low=True), OnlyWith(decoding="nucleus")] = None
    """Sample from the smallest set of likeliest tokens whose probability reaches p (default 0.9)."""
    attention: bool = False
    """Draw the cross-attention maps of the first caption of each image."""
    batch: Annotated[int, AtLeast(1)] = 32
    """Images that are captioned together; fewer need less memory."""

    def __post_init__(self) -> None:
        check(self)
        if self.decoding == "greedy" and self.num > 1:
            raise UserError(
                f"Greedy decoding has one caption for each image, not num={self.num}; pass --decoding nucleus for more."
            )
        if self.beams is not None and self.beams < self.num:
            raise UserError(f"A beam of {self.beams} has no {self.num} captions; raise --beams.")

    @property
    def named(self) -> list[Path]:
        """The files and folders of `image`."""
        return list(self.image)

    @cached_property
    def files(self) -> list[Path]:
        """The image files, with those of the folders at any depth. Raises UserError for a folder without images."""
        files: list[Path] = []
        for path in self.named:
            if not path.is_dir():
                files.append(path)
                continue
            found = find_images(path)
            if not found.names:
                raise UserError(f"There is no picture in {path}: name an image, or a folder of images.")
            files += [path / name for name in found.names]
        return files

    @property
    def count(self) -> int:
        """Number of captions."""
        return (len(self.image_batch.names) if self.image_batch else len(self.files)) * self.num

    @property
    def beam_width(self) -> int:
        """Prefixes that beam search keeps; greedy decoding is a beam of one."""
        return 1 if self.decoding == "greedy" else self.beams or max(BEAMS, self.num)

    @property
    def alpha(self) -> float:
        """α of the length penalty."""
        if self.decoding == "greedy":
            return 0.0
        return LENGTH_PENALTY if self.length_penalty is None else self.length_penalty

    @property
    def sampling_temperature(self) -> float:
        """The temperature of nucleus sampling."""
        return TEMPERATURE if self.temperature is None else self.temperature

    @property
    def nucleus(self) -> float:
        """p of nucleus sampling."""
        return TOP_P if self.top_p is None else self.top_p

    def in_words(self) -> str:
        """How captions are decoded, in words."""
        if self.decoding == "beam":
            return f"beam search with {self.beam_width} beams, length penalty {self.alpha:g}"
        if self.decoding == "greedy":
            return "greedy"
        top_k = [f"top-k {self.top_k}"] if self.top_k else []
        return ", ".join([f"temperature {self.sampling_temperature:g}", *top_k, f"top-p {self.nucleus:g}"])

    def read(self, processor: Processor) -> ImageBatch:
        """The images. Those of a folder that cannot be read are named on stderr and left out.

        Raises UserError if there are none, or one that was named itself cannot be read.
        """
        if self.image_batch is not None:
            return self.image_batch
        if not self.files:
            raise UserError("No images to caption; name them with --image FILE …")
        pixels: list[Tensor] = []
        names: list[str] = []
        skipped: list[str] = []
        for file in self.files:
            try:
                with open_image(file) as image:
                    pixels.append(torch.from_numpy(processor(image).copy()))
            except ImageError as error:
                if file in self.named:
                    reason = error if file.exists() else "there is no such file"
                    raise UserError(f"{file} cannot be read as an image: {reason}.") from None
                skipped.append(f"{file} ({error})")
                continue
            names.append(str(file))
        if skipped:
            say(f"Left out: {abbreviate(skipped)}.")
        if not pixels:
            raise UserError("None of these images can be read; name others with --image FILE …")
        return ImageBatch(torch.stack(pixels), tuple(names))
