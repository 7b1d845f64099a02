"""Images as data: one configuration, from pictures of any kind to squares of pixels with a class and a caption."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from seedfast.console import Bar, abbreviate, say
from seedfast.data.cache import cached_folder, file_digests
from seedfast.data.dataset import Batch, Corpus, DataConfig, Fingerprint
from seedfast.data.fingerprint import hash_files
from seedfast.data.image.balance import BETA, Balance, check_balance, class_weights
from seedfast.data.image.glyphs import BLANK, Label, Unseen, glyph_source
from seedfast.data.image.sources import BROKEN, PictureSource, folder_source, hub_pictures, listed_source
from seedfast.data.image.split import SPLITS, sides
from seedfast.errors import UserError
from seedfast.files import to_json

_FORMAT = 2  # of the prepared data: raise it when the same input is prepared differently


@dataclass(frozen=True)
class ImageAssets:
    """What a model of images needs of its data for ever after.

    classes: their names, in the order of the labels. counts: the training images of each.
    """

    size: int
    channels: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]

    def save(self, folder: Path) -> None:
        """Write images.json into an existing folder."""
        (folder / "images.json").write_text(to_json(asdict(self)), "utf-8")

    @staticmethod
    def load(folder: Path) -> "ImageAssets":
        """What `save` wrote. Raises UserError if the folder holds none."""
        path = folder / "images.json"
        if not path.is_file():
            raise UserError(f"There are no image assets in {folder}: it should hold a file images.json.")
        values = json.loads(path.read_text("utf-8"))
        return ImageAssets(values["size"], values["channels"], tuple(values["classes"]), tuple(values["counts"]))


class Images:
    """One split: its rows of all pixels (uint8 [M, C, S, S], mapped from the disk), their labels [N] and captions."""

    def __init__(
        self, pixels_MCSS: npt.NDArray[np.uint8], rows: Sequence[int], labels: Sequence[int], captions: Sequence[str]
    ) -> None:
        self._pixels_MCSS, self._rows_N = pixels_MCSS, np.array(rows)
        self.labels_N = torch.tensor(labels, dtype=torch.int64)
        self.captions = captions

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels_N)

    def batch(self, ids: list[int]) -> Batch:
        """{"pixels": uint8 [B, C, S, S], "labels": int64 [B]}."""
        return {"pixels": torch.from_numpy(self._pixels_MCSS[self._rows_N[ids]]), "labels": self.labels_N[ids]}


@dataclass(frozen=True)
class ImageCorpus(Corpus):
    """A corpus of images, and what was left out, each with its reason."""

    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageData(DataConfig):
    """Images to train on, what their classes are, and which of them validate."""

    path: str = "glyphs"
    """Where the images are: glyphs (characters in the faces that come with matplotlib), a folder with one sub-folder
    for each class, a JSON file that lists them with their split, or a Hugging Face data set (hf:NAME, hf:FOLDER)."""

    size: int = 32
    """Height and width in pixels: the middle square, scaled."""

    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colours (default: grey for glyphs, else colours)."""

    label: Label | None = None
    """For glyphs: what the classes are, script or face (default script)."""

    unseen: Unseen | None = None
    """For glyphs: validation holds new images (the default), new characters or new faces."""

    image_field: str | None = None
    """For Hugging Face data sets: the column of the images (default image)."""

    label_field: str | None = None
    """For Hugging Face data sets: the column of the classes (default: all images are of one class)."""

    validation: float = 0.05
    """The part that validates, by the keyed hash of each image's name; a JSON file says so itself."""

    balance: Balance | None = None
    """How often images of small classes are drawn: by inverse frequency, effective number or manual weights."""

    beta: float = BETA
    """β of the effective number (Cui et al. 2019)."""

    class_weights: tuple[float, ...] = ()
    """Manual weights, in the order of the classes' names."""

    def load(self) -> ImageCorpus:
        """Prepare the images, or take them from the cache. Raises UserError on data that cannot be used."""
        self._check()
        source = self._source()
        contents = hash_files(source.root, seen := source.signatures())
        channels = self.channels or source.channels
        folder, facts = cached_folder(
            self._key(contents, source, channels), lambda attempt: self._prepare(source, attempt, channels, seen),
            kind="images",
        )  # fmt: skip
        # A face's space draws nothing that could be missed.
        if missed := [name for name in facts["skipped"] if not name.endswith(f"({BLANK})")]:
            say(f"Left out of {source.title}: {abbreviate(missed)}.")
        return self._corpus(source, folder, facts, contents)

    def located(self) -> Self:
        """The same data, to be found from any folder (`glyphs` is a name, whatever lies in the current folder)."""
        path = Path(self.path)
        return replace(self, path=str(path.absolute())) if self.path != "glyphs" and path.exists() else self

    def restore(self, folder: Path) -> ImageAssets:
        """The assets that `ImageAssets.save` wrote into `folder`."""
        return ImageAssets.load(folder)

    def _check(self) -> None:
        if not 0 < self.validation < 1:
            raise UserError(f"validation={self.validation} is no part of the data: choose one between 0 and 1.")
        if not 4 <= self.size <= 4096:
            raise UserError(f"size={self.size} is no size of an image: choose 4 to 4096 pixels.")
        check_balance("data.", "balance", self.balance, beta=self.beta, manual=self.class_weights)

    def _source(self) -> PictureSource:
        """Find the pictures, and refuse the options that have nothing to act on."""
        is_hub, path = self.path.startswith("hf:"), Path(self.path).expanduser().absolute()
        if self.path != "glyphs":
            self._refuse_idle("label", "only glyphs can be classed in two ways")
            self._refuse_idle("unseen", "only glyphs have characters and faces")
        if not is_hub:
            for name in ("image_field", "label_field"):
                self._refuse_idle(name, f'path="{self.path}" has no columns')
        if self.path == "glyphs":
            return glyph_source(self.label or "script", self.unseen or "image")
        if is_hub:
            return hub_pictures(self.path.removeprefix("hf:"), self.image_field or "image", self.label_field)
        if path.is_dir():
            return folder_source(path)
        if path.suffix == ".json" and path.is_file():
            self._refuse_idle("validation", "a JSON file says itself what validates")
            return listed_source(path)
        raise UserError(
            f'path="{self.path}" is neither a folder of images nor a JSON file that lists them: name one, '
            "hf:NAME, or glyphs."
        )

    def _refuse_idle(self, name: str, why: str) -> None:
        """An option that could change nothing is refused: whoever sets it expects something of it."""
        value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{name}={value!r} has no effect, for {why}: leave it at {default!r}.")

    def _key(self, contents: Mapping[str, str], source: PictureSource, channels: int) -> str:
        """The key of the prepared data: it depends on everything that shapes them."""
        shape: dict[str, Any] = {
            "format": _FORMAT,
            "contents": dict(contents),
            "skipped": source.skipped,
            "listed": getattr(source, "facts", ()),
            "size": self.size,
            "channels": channels,
            "glyphs": [self.label or "script", self.unseen or "image"] if self.path == "glyphs" else None,
            "fields": [self.image_field or "image", self.label_field],
            "validation": self.validation,
        }
        return hashlib.sha256(to_json(shape).encode()).hexdigest()[:32]

    def _prepare(self, source: PictureSource, folder: Path, channels: int, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Fill `folder` with the pixels of both splits and their index, and return what was left out."""
        found: list[tuple[str, str, str | None]] = []
        captions: list[str] = []
        skipped = list(source.skipped)
        with (folder / "pixels.bin").open("xb") as file, Bar("Reading images", len(source.names)) as bar:
            for picture in source.pictures():
                try:
                    pixels = picture.read(self.size, channels).tobytes()
                except BROKEN as error:
                    skipped.append(f"{picture.name} ({' '.join(str(error).split())[:80] or type(error).__name__})")
                    continue
                file.write(pixels)
                found.append((picture.key, picture.label, picture.role))
                captions.append(picture.caption)
                bar.advance(1)
        if source.signatures() != seen:
            raise UserError(f"The data in {source.title} changed while they were being read: start again.")
        without = f" (left out: {abbreviate(skipped)})" if skipped else ""
        if len(found) < 2:
            raise UserError(f"{source.title} holds {len(found) or 'no'} usable images{without}: bring more.")
        image_keys, labels, said = zip(*found, strict=True)
        roles = sides(image_keys, said, self.validation)
        for split in SPLITS:
            if split not in roles:
                raise UserError(f"{source.title} has no image in its {split} split{without}: bring more.")
        index = {"roles": roles, "labels": labels, "captions": captions}
        (folder / "index.json").write_text(to_json(index), "utf-8")
        return {"skipped": skipped}

    def _corpus(
        self, source: PictureSource, folder: Path, facts: Mapping[str, Any], contents: dict[str, str]
    ) -> ImageCorpus:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        shape = (len(index["roles"]), self.channels or source.channels, self.size, self.size)
        pixels = np.memmap(folder / "pixels.bin", np.uint8, mode="r", shape=shape)
        classes = sorted(set(index["labels"]))
        split: dict[str, Images] = {}
        for name in SPLITS:
            rows = [row for row, role in enumerate(index["roles"]) if role == name]
            labels = [classes.index(index["labels"][row]) for row in rows]
            split[name] = Images(pixels, rows, labels, [index["captions"][row] for row in rows])
        counts = torch.bincount(split["train"].labels_N, minlength=len(classes)).tolist()
        if 0 in counts:
            raise UserError(f'{source.title} has no training image of the class "{classes[counts.index(0)]}".')
        identity = to_json({"prepared": file_digests(folder)})
        return ImageCorpus(
            train=split["train"],
            validation=split["validation"],
            assets=ImageAssets(self.size, shape[1], tuple(classes), tuple(counts)),
            fingerprint=Fingerprint(hashlib.sha256(identity.encode()).hexdigest(), contents),
            sampling_weights=self._sampling_weights(split["train"].labels_N.tolist(), counts),
            skipped=tuple(facts["skipped"]),
        )

    def _sampling_weights(self, labels: Sequence[int], counts: Sequence[int]) -> torch.Tensor | None:
        if self.balance is None:
            return None
        weights = class_weights(counts, self.balance, beta=self.beta, manual=self.class_weights)
        return torch.tensor([weights[label] for label in labels], dtype=torch.float64)
