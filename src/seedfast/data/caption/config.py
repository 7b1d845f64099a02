"""Captions as data: one configuration, from pictures with captions of any kind to pixels and tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus
from seedfast.data.caption.prepare import Pixels
from seedfast.data.caption.sources import CaptionSource, glyph_captions, listed_captions, row_captions
from seedfast.data.dataset import DataConfig
from seedfast.data.image import processor as vision
from seedfast.data.image.glyphs import SplitBy
from seedfast.data.image.processor import CenterCropResize, Processor
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError

_VOCABULARY = 1024
_WORDS = ("bpe", "bytes", "model")
"""What tokenizers and processors are called that are no paths."""


@dataclass(frozen=True, kw_only=True)
class CaptionData(DataConfig):
    """Images with captions, how both are cut, and which of them validate."""

    path: str = "glyphs"
    """Where they are: glyphs (the characters of the faces that come with matplotlib, and their names), a JSON file
    ({file: [captions]}, a Karpathy split, COCO's annotations), Flickr30k's table (.csv), or a Hugging Face data set
    (hf:NAME, hf:FOLDER)."""

    images: str | None = None
    """For JSON and tables: the folder of the images (default: images/ beside the file if there is one, or its own)."""

    unseen: SplitBy | None = None
    """For glyphs: validation holds new images (the default), new characters, or new faces (then nobody names faces)."""

    held_out: Literal["val", "test"] | None = None
    """For Karpathy splits: which part validates (default val); the other is left alone."""

    image_field: str | None = None
    """For Hugging Face data sets: the column of the images (default image)."""

    caption_field: str | None = None
    """For Hugging Face data sets: the column of the captions, texts or lists of them (default caption)."""

    processor: str = "model"
    """What makes pixels of pictures: the image processor of a pretrained model, by folder or hub name, or model (that
    of the pretrained encoder; for an encoder of ours the middle square, scaled to `size`)."""

    size: int | None = None
    """Height and width in pixels for an encoder of ours (default 32)."""

    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colours, for an encoder of ours (default: grey for glyphs, else colours)."""

    tokenizer: str = "bpe"
    """bpe (learned from the training captions), bytes, a pretrained one's folder or hub name, or model (that of the
    language model that the decoder begins with)."""

    vocabulary: int | None = None
    """The number of tokens that bpe learns, end-of-text included (default 1024)."""

    context: int = 48
    """The longest caption in tokens, its end included; longer ones are cut."""

    validation: float = 0.05
    """The part that validates, by the keyed hash of each image's content (a Karpathy split says so itself)."""

    def load(self) -> CaptionCorpus:
        """Prepare the data, or take them from the cache. Raises UserError on data that cannot be used."""
        self._check()
        source = self._source()
        pixels = Pixels.of(source, self._processor(source))
        return pixels.captioned(
            tokenizer=self._tokenizer(),
            vocabulary=self.vocabulary or _VOCABULARY,
            validation=self.validation,
            context=self.context,
        )

    def located(self) -> Self:
        """The same data, to be found from any folder (`glyphs` is a name, whatever lies in the current folder)."""
        named = {"path": self.path} if self.path != "glyphs" else {}
        named |= {"images": self.images} if self.images else {}
        named |= {key: name for key in ("tokenizer", "processor") if (name := getattr(self, key)) not in _WORDS}
        found = {key: Path(name).expanduser().absolute() for key, name in named.items()}
        there: dict[str, Any] = {key: str(path) for key, path in found.items() if path.exists()}
        return replace(self, **there)

    def from_checkpoint(self, folder: Path, *, before: Self) -> Self:
        """The same data with the pretrained parts that `CaptionAssets.save` wrote into `folder` for `before`."""
        same = [key for key in ("tokenizer", "processor") if getattr(self, key) == getattr(before, key)]
        found: dict[str, Any] = {key: str(folder) for key in same if getattr(self, key) not in _WORDS}
        return replace(self, **found)

    def restore(self, folder: Path) -> CaptionAssets:
        """The assets that `CaptionAssets.save` wrote into `folder`."""
        return CaptionAssets.load(folder)

    def _check(self) -> None:
        if not 0 < self.validation < 1:
            raise UserError(f"validation={self.validation} is no part of the data: choose one between 0 and 1.")
        if self.context < 2:
            raise UserError(f"context={self.context} is no length of a caption: choose at least 2 tokens.")
        if self.size is not None and self.size < 4:
            raise UserError(f"size={self.size} is no size of an image: choose at least 4 pixels.")
        if self.tokenizer == "model":
            raise UserError('tokenizer="model" stands for a language model\'s own: name it in model.language_model.')
        if self.tokenizer != "bpe":
            self._refuse_idle("vocabulary", f'tokenizer="{self.tokenizer}" has a vocabulary of its own')
        if self.processor != "model":
            for name in ("size", "channels"):
                self._refuse_idle(name, "the image processor of the pretrained model decides")

    def _refuse_idle(self, name: str, why: str) -> None:
        """An option that could change nothing is refused: whoever sets it expects something of it."""
        value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{name}={value!r} has no effect, for {why}: leave it at {default!r}.")

    def _processor(self, source: CaptionSource) -> Processor:
        if self.processor == "model":
            return CenterCropResize(self.size or 32, self.channels or source.channels)
        folder = Path(self.processor).expanduser()
        return vision.load(folder) if (folder / "captions.json").is_file() else vision.pretrained(self.processor)

    def _tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None if it is to be learned."""
        if self.tokenizer in ("bpe", "bytes"):
            return tokenizers.Bytes() if self.tokenizer == "bytes" else None
        folder = Path(self.tokenizer).expanduser()
        if (folder / "captions.json").is_file():  # one that a run kept
            return tokenizers.load(folder)
        from seedfast.data.text.hub import pretrained

        return pretrained(self.tokenizer)

    def _source(self) -> CaptionSource:
        """Find the images, and refuse the options that have nothing to act on."""
        is_hub, path = self.path.startswith("hf:"), Path(self.path).expanduser().absolute()
        is_list = self.path != "glyphs" and not is_hub
        if self.path != "glyphs":
            self._refuse_idle("unseen", "only glyphs have characters and faces")
        if not is_list:
            for name in ("images", "held_out"):
                self._refuse_idle(name, f'path="{self.path}" is no file that lists images')
        if not is_hub:
            for name in ("image_field", "caption_field"):
                self._refuse_idle(name, f'path="{self.path}" has no columns')
        if self.path == "glyphs":
            return glyph_captions(self.unseen or "image")
        if is_hub:
            return row_captions(
                self.path.removeprefix("hf:"), self.image_field or "image", self.caption_field or "caption"
            )
        if not path.is_file():
            raise UserError(
                f'path="{self.path}" is no file that lists images with captions: name a .json or .csv file, hf:NAME, '
                "or glyphs."
            )
        folder = Path(self.images).expanduser().absolute() if self.images else None
        source = listed_captions(path, folder, self.held_out or "val")
        images = getattr(source, "listed", ())
        if all(each.role is None for each in images):
            self._refuse_idle("held_out", "this file has no Karpathy split")
        else:
            self._refuse_idle("validation", "a Karpathy split says itself what validates")
        return source
