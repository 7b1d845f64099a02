"""Captions as data: one configuration, from images with captions in any form to pixels and tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus
from seedfast.data.caption.function_source import function_captions
from seedfast.data.caption.prepare import PreparedImages
from seedfast.data.caption.sources import CaptionSource, glyph_captions, listed_captions, row_captions
from seedfast.data.dataset import DataConfig
from seedfast.data.file_kinds import refuse_other_kinds
from seedfast.data.image import processor as vision
from seedfast.data.image.glyphs import SplitBy
from seedfast.data.image.processor import CenterCropResize, Processor
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.options import AtLeast, Between, Example, Formerly, MayChange, NotEmpty, OnlyWith, check, refuse_unused
from seedfast.user_code import names_function

_VOCABULARY, _SIZE = 1024, 32
_NOT_PATHS = ("bpe", "bytes", "characters", "model")
"""Values of tokenizer and processor that are no paths."""

Kind = Literal["glyphs", "hub", "function", "list"]
_KINDS: dict[str, tuple[Kind, str]] = {
    "images": ("list", "files that list images"),
    "validation_split": ("list", "files that list images"),
    "image_field": ("hub", "Hugging Face data sets"),
    "caption_field": ("hub", "Hugging Face data sets"),
}
"""Options that only one kind of source has: the kind, and its name in messages."""


@dataclass(frozen=True, kw_only=True)
class CaptionData(DataConfig):
    """Images with captions, their preparation, and their split."""

    path: Annotated[str, NotEmpty(), MayChange()] = "glyphs"
    """The images and captions: glyphs (the characters of the faces that come with matplotlib, and their names), a JSON
    file ({file: [captions]}, [{image, caption}], a Karpathy split, COCO annotations), JSON lines, a table (Flickr's,
    CSV), a folder in the hub's layout (metadata.jsonl or .csv), a Hugging Face data set (hf:NAME, hf:FOLDER), or
    path/to/file.py:function, which yields (image, captions) pairs."""

    images: str | None = None
    """For JSON and tables: the folder of the images (default: images/ beside the file if it exists, or its folder)."""

    split_by: Annotated[SplitBy | None, OnlyWith(path="glyphs"), Formerly("unseen"), Example("character")] = None
    """For glyphs: validation holds new images (the default), new characters, or new faces (captions then do not name
    the face)."""

    validation_split: Annotated[Literal["val", "test"] | None, Formerly("held_out"), Example("test")] = None
    """For lists with a split (Karpathy's): the part that validates (default val); the other is not used."""

    image_field: Annotated[str | None, Example("picture")] = None
    """For Hugging Face data sets: the column of the images (default image)."""

    caption_field: Annotated[str | None, Example("title")] = None
    """For Hugging Face data sets: the column of the captions, texts or lists of texts (default caption)."""

    processor: str = "model"
    """The image processor: that of a pretrained model, by folder or hub name, or model (the pretrained encoder's; for
    an encoder trained from scratch, the centre square, scaled to `size`)."""

    size: Annotated[int | None, AtLeast(4), OnlyWith(processor="model")] = None
    """Height and width in pixels for an encoder trained from scratch (default 32)."""

    channels: Annotated[Literal[1, 3] | None, OnlyWith(processor="model")] = None
    """1 for grey, 3 for colour, for an encoder trained from scratch (default: grey for glyphs, else colour)."""

    tokenizer: str = "bpe"
    """bpe (learned from the training captions), bytes, a pretrained tokenizer's folder or hub name, or model (the
    tokenizer of model.language_model)."""

    vocabulary: Annotated[int | None, OnlyWith(tokenizer="bpe"), Example(270, vocabulary=265)] = None
    """Number of tokens that bpe learns, including end-of-text (default 1024)."""

    context: Annotated[int, AtLeast(2), Example(6)] = 48
    """The longest caption in tokens, including its end; longer captions are cut."""

    validation: Annotated[float, Between(0, 1, open_high=True)] = 0.05
    """The fraction of the images that validates, chosen by the keyed hash of each image's content; 0 trains on all (a
    Karpathy split has its own)."""

    def __post_init__(self) -> None:
        check(self, "data.")

    def load(self) -> CaptionCorpus:
        """Prepare the data, or read it from the cache. Raises UserError on unusable data."""
        if self.tokenizer == "model":
            raise UserError(
                'data.tokenizer "model" is the tokenizer of a language model: name its folder in model.language_model.'
            )
        source = self._source()
        images = PreparedImages.of(source, self._processor(source))
        return images.with_captions(
            tokenizer=self._tokenizer(),
            vocabulary=self.vocabulary or _VOCABULARY,
            validation=self.validation,
            context=self.context,
        )

    def located(self) -> Self:
        """The same data with absolute paths (`glyphs` is a name, even if a file of that name exists)."""
        if self._kind == "function":
            file, _, function = self.path.rpartition(":")
            return replace(self, path=f"{Path(file).expanduser().absolute()}:{function}")
        named = {"path": self.path} if self._kind == "list" else {}
        named |= {"images": self.images} if self.images else {}
        named |= {key: name for key in ("tokenizer", "processor") if (name := getattr(self, key)) not in _NOT_PATHS}
        found = {key: Path(name).expanduser().absolute() for key, name in named.items()}
        existing: dict[str, Any] = {key: str(path) for key, path in found.items() if path.exists()}
        return replace(self, **existing)

    def from_checkpoint(self, folder: Path, *, before: Self) -> Self:
        """The same data with the pretrained parts that `CaptionAssets.save` wrote into `folder` for `before`."""
        same = [key for key in ("tokenizer", "processor") if getattr(self, key) == getattr(before, key)]
        found: dict[str, Any] = {key: str(folder) for key in same if getattr(self, key) not in _NOT_PATHS}
        return replace(self, **found)

    def restore(self, folder: Path) -> CaptionAssets:
        """The assets that `CaptionAssets.save` wrote into `folder`."""
        return CaptionAssets.load(folder)

    def _processor(self, source: CaptionSource) -> Processor:
        if self.processor == "model":
            return CenterCropResize(self.size or _SIZE, self.channels or source.channels)
        folder = Path(self.processor).expanduser()
        return vision.load(folder) if _is_assets(folder) else vision.pretrained(self.processor)

    def _tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None if it is learned."""
        if self.tokenizer in ("bpe", "bytes"):
            return tokenizers.Bytes() if self.tokenizer == "bytes" else None
        if self.tokenizer == "characters":
            raise UserError('data.tokenizer "characters" is for texts; captions take bpe, bytes or a pretrained one.')
        folder = Path(self.tokenizer).expanduser()
        if _is_assets(folder):
            return tokenizers.load(folder)
        from seedfast.data.text.hub import pretrained_tokenizer

        return pretrained_tokenizer(self.tokenizer)

    @property
    def _kind(self) -> Kind:
        """The kind of source that `path` names."""
        if self.path == "glyphs":
            return "glyphs"
        if self.path.startswith("hf:"):
            return "hub"
        return "function" if names_function(self.path) else "list"

    def _source(self) -> CaptionSource:
        """The source of the images. Raises UserError for options that it does not use."""
        kind = self._kind
        for name, (used_by, title) in _KINDS.items():
            if kind != used_by:
                refuse_unused(self, name, f"data.path is {self.path} and it is an option of {title}", "data.")
        if kind == "glyphs":
            return glyph_captions(self.split_by or "image")
        if kind == "function":
            return function_captions(self.path)
        if kind == "hub":
            name = self.path.removeprefix("hf:")
            return row_captions(name, self.image_field or "image", self.caption_field or "caption")
        return self._listed()

    def _listed(self) -> CaptionSource:
        path = Path(self.path).expanduser().absolute()
        if not path.exists():
            raise UserError(
                f"data.path {self.path} is not a file that lists images with captions: name a .json, .jsonl or .csv "
                "file, a folder with metadata.jsonl, hf:NAME, path/to/file.py:function, or glyphs."
            )
        if not path.is_dir():
            if not path.is_file():  # waiting for a pipe may never end
                raise UserError(f"data.path {self.path} is no regular file: store the captions in one.")
            refuse_other_kinds(path)
        folder = Path(self.images).expanduser().absolute() if self.images else None
        source = listed_captions(path, folder, self.validation_split)
        if source.has_split:
            refuse_unused(self, "validation", f"{self.path} has its own split", "data.")
        else:
            refuse_unused(self, "validation_split", f"data.path {self.path} is no Karpathy split", "data.")
        return source


def _is_assets(folder: Path) -> bool:
    """Whether a folder holds the assets of a captioner's checkpoint."""
    return (folder / "captions.json").is_file()
