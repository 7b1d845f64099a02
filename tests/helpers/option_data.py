"""The data and the pretrained models that some options are about: by option, the run to change and another value."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from tests.helpers import captions as small_captions
from tests.helpers.options import Option
from tests.helpers.runs import write_images

from seedfast.data.caption.config import CaptionData
from seedfast.loop.config import Run
from seedfast.models.captioner import Captioner
from seedfast.models.transformer import Transformer

_DECODER = Transformer(layers=1, heads=2, width=16)


class OptionData:
    """Data and models on the disk, written when an option needs them."""

    def __init__(self, story: Path, folder: Path) -> None:
        self._text, self._folder = story.read_text(), folder
        self._bases: dict[str, Callable[[Run], Run]] = {
            "document_mask": lambda run: _on(run, self._documents),
            "one_document_per_window": lambda run: _on(run, self._documents),
            "TextData.date": lambda run: _on(run, self._chats, tokenizer=str(self._model_with_clock), context=96),
            "TextData.by_shard": lambda run: _on(run, self._documents, tokenizer="bytes"),
            "TextData.field": lambda run: _on(run, self._documents),
            "TextData.include": lambda run: _on(run, self._files),
            "TextData.exclude": lambda run: _on(run, self._files),
            "TextData.mode": lambda run: _on(run, self._files),
            "ImageData.glyph_class": self._on_glyphs,
            "ImageData.split_by": self._on_glyphs,
            "ImageData.image_field": self._on_rows,
            "ImageData.label_field": self._on_rows,
            "CaptionData.image_field": lambda run: _on(run, self._rows),
            "CaptionData.caption_field": lambda run: _on(run, self._rows),
            "CaptionData.validation_split": lambda run: _on(run, self._karpathy, validation=CaptionData().validation),
            "CaptionData.images": lambda run: _on(run, self._captions / "captions.json"),
            "CaptionData.processor": self._with_processor,
            "Captioner.path": self._pretrained,
            "Captioner.architecture": self._pretrained,
            "Captioner.frozen": self._pretrained,
            "Captioner.cache_features": self._pretrained,
            "Captioner.language_model": self._with_language_model_tokenizer,
            "PretrainedLM.path": self._of_the_language_models_shape,
        }
        self._values: dict[str, Callable[[], Path | str | tuple[str, ...]]] = {
            "TextData.path": lambda: self._other_text,
            "TextData.also": lambda: (str(self._other_text),),
            "ImageData.path": lambda: self._other_images,
            "CaptionData.path": lambda: self._captions / "captions.json",
            "CaptionData.images": lambda: self._captions / "others",
            "CaptionData.processor": lambda: self._vision(16),
            "CaptionData.tokenizer": lambda: self._language_model,
            "Captioner.path": lambda: self._vision(8),
            "Captioner.architecture": lambda: json.dumps(_vision_shape(8, hidden_size=8)),
            "Captioner.language_model": lambda: self._language_model,
            "PretrainedLM.path": lambda: self._language_model,
        }

    def base(self, option: Option, run: Run) -> Run:
        """The run with the data or the model that the option is about."""
        prepare = self._bases.get(f"{option.kind.__name__}.{option.field}") or self._bases.get(option.field)
        return prepare(run) if prepare else run

    def value(self, option: Option) -> str | tuple[str, ...] | None:
        """Another value of an option that is a path or about a file, or None for all other options."""
        make = self._values.get(f"{option.kind.__name__}.{option.field}")
        value = make() if make else None
        return str(value) if isinstance(value, Path) else value

    @cached_property
    def _other_text(self) -> Path:
        return self._written("other.txt", self._text[::-1])

    @cached_property
    def _documents(self) -> Path:
        """Documents of different lengths, with texts in two fields."""
        lines = self._text.splitlines()
        rows = [{"text": lines[i][: 9 + i % 5], "other": lines[i + 1]} for i in range(200)]
        return self._written("documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    @cached_property
    def _chats(self) -> Path:
        """Chats of one question each."""
        words = self._text.split()[:200]
        chats = [[{"role": "user", "content": word}, {"role": "assistant", "content": word[::-1]}] for word in words]
        return self._written("chats.jsonl", "".join(json.dumps({"messages": chat}) + "\n" for chat in chats))

    @cached_property
    def _model_with_clock(self) -> Path:
        """A model with a chat template that writes the date."""
        from tests.helpers import tiny_models

        folder = tiny_models.folder(self._folder / "clock", "gpt2", self._text)
        (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}" + tiny_models.CHAT)
        return folder

    @cached_property
    def _files(self) -> Path:
        """A folder of texts and code."""
        half = len(self._text) // 2
        for name, part in (("a.txt", self._text[:half]), ("b.txt", self._text[half:]), ("c.py", self._text[::-1])):
            self._written(f"files/{name}", part)
        return self._folder / "files"

    @cached_property
    def _other_images(self) -> Path:
        write_images(self._folder / "images", self._text[::-1].encode())
        return self._folder / "images"

    @cached_property
    def _captions(self) -> Path:
        """captions.json, its images, and other images of the same names in others/."""
        folder = self._folder / "captions"
        small_captions.write(folder / "others", self._text)
        return small_captions.write(folder, self._text[::-1]).parent

    @cached_property
    def _karpathy(self) -> Path:
        """A Karpathy split of the images and captions."""
        captions = json.loads((self._captions / "captions.json").read_text())
        splits = ("train", "train", "val", "test")
        images = [
            {"filename": name, "split": splits[i % 4], "sentences": [{"raw": text} for text in texts]}
            for i, (name, texts) in enumerate(captions.items())
        ]
        return self._written("captions/karpathy.json", json.dumps({"images": images, "dataset": "x"}))

    @cached_property
    def _rows(self) -> str:
        """A data set with two columns of images, two of captions, and one of classes."""
        import datasets

        images = [Image.effect_noise((8, 8), 10 + i) for i in range(24)]
        columns = {"image": images, "picture": images[::-1], "kind": ["x", "y"] * 12}
        words = self._text.split()
        columns |= {"caption": words[:24], "title": [" ".join(words[i : i + 3]) for i in range(24)]}
        features = datasets.Features(
            {"image": datasets.Image(), "picture": datasets.Image()}
            | dict.fromkeys(("kind", "caption", "title"), datasets.Value("string"))
        )
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(self._folder / "rows"))
        return f"hf:{self._folder / 'rows'}"

    def _on_rows(self, run: Run) -> Run:
        """Without class balance: the images have no classes at first."""
        return replace(_on(run, self._rows, balance=None), objective=replace(run.objective, class_balance=None))

    def _on_glyphs(self, run: Run) -> Run:
        """Without class balance: some scripts have a single glyph, which may be a validation image."""
        data = replace(run.data, path="glyphs", validation=0.05, balance=None)
        return replace(run, data=data, objective=replace(run.objective, class_balance=None))

    def _vision(self, size: int) -> Path:
        """A vision transformer of transformers for images of this size, with its image processor."""
        import transformers

        folder = self._folder / f"vision-{size}"
        if not folder.exists():
            transformers.ViTModel(transformers.ViTConfig(**_vision_shape(size))).save_pretrained(folder)
            transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
        return folder

    def _pretrained(self, run: Run) -> Run:
        """A captioner with an encoder of the architecture of `_vision(8)`, without its weights."""
        return replace(
            _on(run, run.data.path, size=None, channels=None, processor=str(self._vision(8))),
            model=Captioner(architecture=json.dumps(_vision_shape(8)), decoder=_DECODER),
        )

    def _with_processor(self, run: Run) -> Run:
        return _on(run, run.data.path, size=None, channels=None, processor=str(self._vision(8)))

    @cached_property
    def _language_model(self) -> Path:
        from tests.helpers import tiny_models

        return tiny_models.folder(self._folder / "gpt2", "gpt2", self._text)

    def _with_language_model_tokenizer(self, run: Run) -> Run:
        run = _on(run, run.data.path, tokenizer=str(self._language_model))
        return replace(run, model=replace(run.model, decoder=Transformer()))

    def _of_the_language_models_shape(self, run: Run) -> Run:
        from seedfast.models.hf_causal_lm import architecture

        return replace(run, model=replace(run.model, architecture=architecture(str(self._language_model))))

    def _written(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def _on(run: Run, path: Path | str, **options: Any) -> Run:
    """The run on other data."""
    return replace(run, data=replace(run.data, path=str(path), **options))


def _vision_shape(size: int, **changes: int) -> dict[str, Any]:
    """The configuration of a vision transformer of transformers."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"image_size": size, "patch_size": 4, **changes}
    return {"model_type": "vit", "architectures": ["ViTModel"], **sizes}
