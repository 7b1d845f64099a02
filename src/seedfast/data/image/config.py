"""The configuration of image data: from images of any source to squares of pixels with a class and a caption."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch

from seedfast.console import Bar, abbreviate, say
from seedfast.data.cache import file_digests
from seedfast.data.dataset import DataConfig, Fingerprint
from seedfast.data.file_kinds import refuse_other_kinds
from seedfast.data.image.balance import BETA, Balance, check_manual_weights, class_weights
from seedfast.data.image.dataset import ImageAssets, ImageCorpus, ImageDataset
from seedfast.data.image.decode import ImageError
from seedfast.data.image.folders import folder_source
from seedfast.data.image.glyphs import BLANK, GlyphClass, SplitBy, glyph_source
from seedfast.data.image.sources import (
    LIST_READERS,
    ImageEntry,
    ImageSource,
    function_source,
    hub_source,
)
from seedfast.data.image.split import assign_splits
from seedfast.data.prepare import SPLITS, Prepared, json_digest, prepare
from seedfast.data.split import no_validation
from seedfast.errors import UserError
from seedfast.files import to_json
from seedfast.options import Between, Example, Formerly, MayChange, MoreThan, NotEmpty, OnlyWith, check, refuse_unused

_FORMAT = 3  # of the prepared data: raise it when the same input is prepared differently


@dataclass(frozen=True, kw_only=True)
class ImageData(DataConfig):
    """Images, their classes, and their split into training and validation."""

    path: Annotated[str, NotEmpty(), MayChange()] = "glyphs"
    """The source: glyphs (the characters of the fonts that come with matplotlib), a folder with a sub-folder for each
    class (train/CLASS and val/CLASS are a given split), a JSON file that lists images with their split, a Hugging Face
    data set (hf:NAME, hf:FOLDER), or path/to/file.py:function, your own, which yields pairs of an image (PIL or uint8
    array) and its class (or None)."""

    size: Annotated[int, Between(4, 4096)] = 32
    """Height and width in pixels, to which the centre square is resized."""

    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour (default: grey for glyphs, otherwise colour)."""

    glyph_class: Annotated[GlyphClass | None, OnlyWith(path="glyphs"), Formerly("label"), Example("face")] = None
    """For glyphs: the classes, script or face (the font); default script."""

    split_by: Annotated[SplitBy | None, OnlyWith(path="glyphs"), Formerly("unseen"), Example("character")] = None
    """For glyphs: validation holds out single images (the default), whole characters, or whole faces."""

    image_field: Annotated[str | None, Example("picture")] = None
    """For Hugging Face data sets: the column of the images (default image)."""

    label_field: Annotated[str | None, Example("kind")] = None
    """For Hugging Face data sets: the column of the classes (default: all images are of one class)."""

    validation: Annotated[float, Between(0, 1, open_high=True)] = 0.05
    """The part of the images that validates, chosen by the keyed hash of their names; 0 trains on all. Copies of an
    image stay together, and each class keeps an image that trains. A JSON file, and a folder with train/ and val/, have
    their own split."""

    balance: Annotated[Balance | None, Example(None)] = None
    """Class-balanced sampling: how often the images of each class are drawn, by inverse frequency, effective number or
    manual weights."""

    balance_beta: Annotated[
        float, Between(0, 1, open_high=True), OnlyWith(balance="effective-number"), Formerly("beta")
    ] = BETA
    """β of the effective number (Cui et al. 2019)."""

    class_weights: Annotated[
        tuple[float, ...],
        MoreThan(0),
        OnlyWith(balance="manual"),
        Example((1.0, 9.0), balance="manual", class_weights=(1.0, 2.0)),
    ] = ()
    """Manual class weights, in the order of the classes' names."""

    def __post_init__(self) -> None:
        check(self, "data.")
        check_manual_weights("data.class_weights", self.class_weights, "data.balance", self.balance)
        if not self._is_hub:
            for key in ("image_field", "label_field"):
                refuse_unused(self, key, f"data.path {self.path} has no columns", "data.")

    @property
    def _is_hub(self) -> bool:
        return self.path.startswith("hf:")

    @property
    def _is_function(self) -> bool:
        return not self._is_hub and self.path.rpartition(":")[0].endswith(".py")

    def load(self) -> ImageCorpus:
        """Prepare the images, or take them from the cache. Raises UserError on unusable data."""
        source = self._source()
        if source.has_split:
            refuse_unused(self, "validation", f"{self.path} has its own split", "data.")
        channels = self.channels or source.channels
        prepared = prepare(
            source,
            self._identity(source, channels),
            lambda folder: self._fill(source, folder, channels),
            kind="images",
            unreported=BLANK,  # every font has characters without ink, such as spaces
        )
        prepared.report()
        return self._corpus(source, prepared, channels)

    def located(self) -> Self:
        """The same data with an absolute path; `glyphs` and `hf:…` are no paths."""
        file, colon, function = self.path.rpartition(":") if self._is_function else (self.path, "", "")
        if self.path == "glyphs" or self._is_hub or not Path(file).exists():
            return self
        return replace(self, path=f"{Path(file).absolute()}{colon}{function}")

    def restore(self, folder: Path) -> ImageAssets:
        """The assets that `ImageAssets.save` wrote into `folder`."""
        return ImageAssets.load(folder)

    def _source(self) -> ImageSource:
        path = Path(self.path).expanduser().absolute()
        if self.path == "glyphs":
            return glyph_source(self.glyph_class or "script", self.split_by or "image")
        if self._is_hub:
            return hub_source(self.path.removeprefix("hf:"), self.image_field or "image", self.label_field)
        if self._is_function:
            return function_source(self.path)
        if path.is_dir():
            return folder_source(path)
        if path.suffix.lower() in LIST_READERS and path.is_file():
            return LIST_READERS[path.suffix.lower()](path)
        if path.is_file():
            refuse_other_kinds(path)
        raise UserError(
            f'data.path="{self.path}" is neither a folder of images nor a JSON file that lists them: name one, '
            "hf:NAME, path/to/file.py:function, or glyphs."
        )

    def _identity(self, source: ImageSource, channels: int) -> dict[str, Any]:
        """Everything besides the files that determines the prepared data."""
        return {
            "format": _FORMAT,
            "listed": source.identity(),
            "size": self.size,
            "channels": channels,
            "glyphs": [self.glyph_class or "script", self.split_by or "image"] if self.path == "glyphs" else None,
            "fields": [self.image_field or "image", self.label_field],
            "validation": self.validation,
        }

    def _fill(self, source: ImageSource, folder: Path, channels: int) -> dict[str, Any]:
        """Write the pixels of all images and their index into `folder`; returns a summary of what was left out."""
        entries: list[ImageEntry] = []
        skipped = list(source.skipped)
        with (folder / "pixels.bin").open("xb") as file, Bar("Reading images", len(source.names)) as bar:
            for entry in source.images():
                try:
                    pixels = entry.read(self.size, channels).tobytes()
                except ImageError as error:
                    skipped.append(f"{entry.name} ({error})")
                    continue
                file.write(pixels)
                entries.append(entry)
                bar.advance(1)
        left_out = f" (left out: {abbreviate(skipped)})" if skipped else ""
        if not entries:
            raise UserError(f"{source.title} holds no usable images{left_out}: add more.")
        splits, notes = assign_splits(
            [e.split_key for e in entries],
            [e.split for e in entries],
            self.validation,
            title=f"{source.title}{left_out}",
            labels=[e.label for e in entries],
        )
        index = {"roles": splits, "labels": [e.label for e in entries], "captions": [e.caption for e in entries]}
        (folder / "index.json").write_text(to_json(index), "utf-8")
        return {"skipped": skipped, "notes": notes}

    def _corpus(self, source: ImageSource, prepared: Prepared, channels: int) -> ImageCorpus:
        index = json.loads((prepared.folder / "index.json").read_text("utf-8"))
        shape = (len(index["roles"]), channels, self.size, self.size)
        pixels = np.memmap(prepared.folder / "pixels.bin", np.uint8, mode="r", shape=shape)
        classes = sorted(set(index["labels"]))
        splits: dict[str, ImageDataset] = {}
        for name in SPLITS:
            rows = [row for row, split in enumerate(index["roles"]) if split == name]
            labels = [classes.index(index["labels"][row]) for row in rows]
            splits[name] = ImageDataset(pixels, rows, labels, [index["captions"][row] for row in rows])
        counts = torch.bincount(splits["train"].labels_N, minlength=len(classes)).tolist()
        if 0 in counts:
            raise UserError(f'{source.title} has no training image of the class "{classes[counts.index(0)]}".')
        if not len(splits["validation"]):
            why = "none of its images can validate" if self.validation else "data.validation is 0"
            say(no_validation(source.title, why))
        return ImageCorpus(
            train=splits["train"],
            validation=splits["validation"],
            assets=ImageAssets(self.size, channels, tuple(classes), tuple(counts)),
            fingerprint=Fingerprint(json_digest({"prepared": file_digests(prepared.folder)}), source.contents),
            sampling_weights=self._sampling_weights(splits["train"].labels_N.tolist(), counts),
            skipped=tuple(prepared.summary["skipped"]),
        )

    def _sampling_weights(self, labels: Sequence[int], counts: Sequence[int]) -> torch.Tensor | None:
        if self.balance is None:
            return None
        weights = class_weights(counts, self.balance, beta=self.balance_beta, manual=self.class_weights)
        return torch.tensor([weights[label] for label in labels], dtype=torch.float64)
