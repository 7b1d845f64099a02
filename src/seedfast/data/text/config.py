"""Text as data: one configuration, from the words on the disk to windows of tokens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from seedfast.console import listed, say
from seedfast.data.cache import cached_folder, file_digests, read_tokens, token_type
from seedfast.data.dataset import Corpus, DataConfig, Fingerprint
from seedfast.data.fingerprint import hash_files
from seedfast.data.text import tokenizers
from seedfast.data.text.dialogues import DialogueSource, Packs, dialogues
from seedfast.data.text.sources import EXCLUDE, Mode, Source, file_source, folder_source, is_rows, python_source
from seedfast.data.text.tokenize import SPLITS, prepare
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.data.text.windows import DocumentWindows, Windows
from seedfast.errors import UserError
from seedfast.files import to_json

_FORMAT = 1  # of the prepared data: raise it when the same input is prepared differently
_VOCABULARY = 2048
_BUILT_IN = ("characters", "bytes", "bpe")


@dataclass(frozen=True)
class TextAssets:
    """What a text model needs of its data for ever after.

    context: the window's length in tokens. prompt: how many before it are given with it. apart: whether a window
    holds one document, or what is left of it. validation_tokens: the scored tokens of the validation split (all but
    the first end-of-text). validation_bytes: its raw text in UTF-8, to which end-of-text adds nothing.
    """

    tokenizer: Tokenizer
    context: int
    validation_tokens: int
    validation_bytes: int
    prompt: int = 0
    apart: bool = False

    @property
    def tokens_per_byte(self) -> float:
        """Nats per token times this, divided by ln 2, are bits per byte."""
        return self.validation_tokens / self.validation_bytes

    def save(self, folder: Path) -> None:
        """Write text.json and the tokenizer's files into an existing folder."""
        tokenizers.save(self.tokenizer, folder)
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tokenizer"}
        (folder / "text.json").write_text(to_json(numbers), "utf-8")

    @staticmethod
    def load(folder: Path) -> "TextAssets":
        """What `save` wrote. Raises UserError if the folder holds none."""
        path = folder / "text.json"
        if not path.is_file():
            raise UserError(f"There are no text assets in {folder}: it should hold a file text.json.")
        return TextAssets(tokenizers.load(folder), **json.loads(path.read_text("utf-8")))


@dataclass(frozen=True)
class TextCorpus(Corpus):
    """A corpus of text, and what came of its files.

    splits: by the split's name, its "documents", "bytes" (UTF-8) and "tokens" (end-of-texts included).
    skipped: what was left out, each with its reason.
    """

    splits: Mapping[str, Mapping[str, int]]
    skipped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextData(DataConfig):
    """Text to train on, how it is cut into tokens, and what of it validates."""

    path: str = "python"
    """Where the text is: python (the standard library's source code, on every machine), a file (text, .jsonl
    or .parquet), a folder, or a Hugging Face data set (hf:NAME, hf:NAME:CONFIGURATION or hf:FOLDER)."""

    tokenizer: str = "bpe"
    """characters, bytes, bpe (learned from the training split), a pretrained one's folder or hub name, or model
    (that of the pretrained model)."""

    vocabulary: int | None = None
    """The number of tokens that bpe learns, end-of-text included (default 2048)."""

    context: int = 256
    """The length of a window in tokens."""

    prompt: int = 0
    """Tokens of the same document before a window that are given with it, to models that can be prompted so."""

    apart: bool = False
    """Whether documents never share a window (a short one is padded), for models that learn how long texts are."""

    include: tuple[str, ...] = ()
    """Patterns of the files taken from a folder, such as "*.py" or "docs/*"; if empty, `mode` decides."""

    exclude: tuple[str, ...] = EXCLUDE
    """Patterns of the files and folders that are left out of a folder."""

    mode: Mode = "auto"
    """Which endings are taken from a folder if `include` is empty: those of text (with .jsonl and .parquet), of source
    code, or (auto) text and code, and .jsonl and .parquet where there is neither."""

    field: str = "text"
    """The field or column that holds the text, in JSONL, Parquet and Hugging Face data sets. JSONL without it, whose
    rows have a prompt and a completion, or messages (a chat), is read as such: only completions are scored."""

    validation: float = 0.1
    """The part that validates: whole documents by their keyed hash, or the end of a single plain file."""

    def load(self) -> TextCorpus:
        """Prepare the data, or take them from the cache. Raises UserError on data that cannot be used."""
        self._check()
        source = self._source()
        seen = source.signatures()
        contents = hash_files(source.root, seen)
        given = None if self.tokenizer in _BUILT_IN else _given(self.tokenizer)
        folder, facts = cached_folder(
            self._key(contents, source, given),
            lambda attempt: prepare(
                source,
                attempt,
                seen=seen,
                kind=self.tokenizer,
                vocabulary=_VOCABULARY if self.vocabulary is None else self.vocabulary,
                validation=self.validation,
                given=given,
            ),
        )
        # An empty file holds nothing that could be missed, and packages are full of them.
        if missed := [name for name in facts["skipped"] if not name.endswith("(empty)")]:
            say(f"Left out of {source.title}: {listed(missed)}.")
        return self._corpus(source, folder, facts, contents)

    def located(self) -> Self:
        """The same data, to be found from any folder (`python` is a name, whatever lies in the current folder)."""
        named = {"path": self.path} if self.path != "python" else {}
        named |= {"tokenizer": self.tokenizer} if self.tokenizer not in _BUILT_IN else {}
        found = {key: Path(name).expanduser().absolute() for key, name in named.items()}
        there: dict[str, Any] = {key: str(path) for key, path in found.items() if path.exists()}
        return replace(self, **there)

    def from_checkpoint(self, folder: Path, *, before: Self) -> Self:
        """The same data with the pretrained tokenizer that `TextAssets.save` wrote into `folder` for `before`."""
        same = self.tokenizer == before.tokenizer
        return replace(self, tokenizer=str(folder)) if same and self.tokenizer not in _BUILT_IN else self

    def restore(self, folder: Path) -> TextAssets:
        """The assets that `TextAssets.save` wrote into `folder`."""
        return TextAssets.load(folder)

    def _check(self) -> None:
        if not 0 < self.validation < 1:
            raise UserError(f"validation={self.validation} is no part of the data: choose one between 0 and 1.")
        if self.context < 1:
            raise UserError(f"context={self.context} is no length of a window: choose at least 1 token.")
        if self.prompt < 0:
            raise UserError(f"prompt={self.prompt} is no number of tokens: choose 0 or more.")
        if self.include and self.mode != "auto":
            raise UserError(f'include={self.include} replaces the endings of mode="{self.mode}": give one of them.')
        if self.tokenizer == "model":
            raise UserError('tokenizer="model" stands for a pretrained model\'s own: name the model (--model).')
        if self.tokenizer != "bpe":
            self._refuse_idle("vocabulary", f'tokenizer="{self.tokenizer}" has a vocabulary of its own')

    def _refuse_idle(self, name: str, why: str) -> None:
        """An option that could change nothing is refused: whoever sets it expects something of it."""
        value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{name}={value!r} has no effect, for {why}: leave it at {default!r}.")

    def _source(self) -> Source:
        """Find the documents, and refuse the options that have nothing to act on."""
        path = Path(self.path).expanduser().absolute()
        is_hub = self.path.startswith("hf:")
        is_folder = self.path != "python" and not is_hub and path.is_dir()
        if not is_folder:
            for name in ("include", "exclude", "mode"):
                self._refuse_idle(name, f'path="{self.path}" is not a folder')
        if self.path == "python":
            self._refuse_idle("field", "Python files have no fields")
            return python_source()
        if is_hub:
            from seedfast.data.text.hub import hub_source

            return hub_source(self.path.removeprefix("hf:"), self.field)
        if is_folder:
            source = dialogues(folder_source(path, self.include, self.exclude, self.mode, self.field))
        elif path.is_file():
            source = dialogues(file_source(path, self.field))
        else:
            raise UserError(
                f'path="{self.path}" is neither a file nor a folder: name one, hf:NAME, or python for the '
                "standard library's source code."
            )
        if not any(is_rows(Path(name)) for name in source.names):
            self._refuse_idle("field", f'path="{self.path}" holds no JSONL or Parquet')
        return source

    def _key(self, contents: Mapping[str, str], source: Source, given: Tokenizer | None) -> str:
        """The key of the prepared data: it depends on everything that shapes them."""
        shape: dict[str, Any] = {
            "format": _FORMAT,
            "contents": dict(contents),
            "skipped": source.skipped,
            "plain": source.plain,
            "field": self.field,
            "dialogues": isinstance(source, DialogueSource),
            "validation": self.validation,
            "tokenizer": self.tokenizer if given is None else tokenizers.digest(given),
            "vocabulary": _VOCABULARY if self.vocabulary is None else self.vocabulary,
        }
        return hashlib.sha256(to_json(shape).encode()).hexdigest()[:32]

    def _corpus(self, source: Source, folder: Path, facts: dict[str, Any], contents: dict[str, str]) -> TextCorpus:
        tokenizer = tokenizers.load(folder)
        cut = self._packs if isinstance(source, DialogueSource) else self._windows
        train, held_out = cut(source, folder, facts, tokenizer)
        apart = isinstance(held_out, DocumentWindows)
        assets = TextAssets(
            tokenizer=tokenizer,
            prompt=self.prompt,
            context=self.context,
            apart=apart,
            validation_tokens=held_out.targets,
            validation_bytes=held_out.bytes if isinstance(held_out, Packs) else facts["validation"]["bytes"],
        )
        # What is trained on are these ids in these windows: what leaves them alone leaves the data the same.
        identity = to_json(
            {"prepared": file_digests(folder), "context": self.context} | ({"apart": True} if apart else {})
        )
        return TextCorpus(
            train=train,
            validation=held_out,
            assets=assets,
            fingerprint=Fingerprint(hashlib.sha256(identity.encode()).hexdigest(), contents),
            splits={name: facts[name] for name in SPLITS},
            skipped=tuple(facts["skipped"]),
        )

    def _packs(self, source: Source, folder: Path, facts: dict[str, Any], tokenizer: Tokenizer) -> list[Packs]:
        """Both splits of dialogues, whole examples packed into windows."""
        self._refuse_idle("prompt", "a dialogue is a whole example, with its prompt inside the window")
        end = tokenizer.end_of_text
        splits = [Packs(folder, name, vocabulary=tokenizer.size, context=self.context, padding=end) for name in SPLITS]
        for name, packs in zip(SPLITS, splits, strict=True):
            if not len(packs):
                raise UserError(
                    f"No example of the {name} split of {source.title} fits into context={self.context} tokens: "
                    f"raise context, change validation={self.validation}, or bring more examples."
                )
        if left_out := sum(packs.left_out for packs in splits):
            say(f"Left out of {source.title}: {left_out} examples that are longer than context={self.context} tokens.")
        return splits

    def _windows(self, source: Source, folder: Path, facts: dict[str, Any], tokenizer: Tokenizer) -> list[Windows]:
        """Both splits of text, cut into windows."""
        for name in SPLITS:
            if (targets := facts[name]["tokens"] - 1) < self.context:
                raise UserError(
                    f"The {name} split of {source.title} has {targets} tokens to predict, fewer than one "
                    f"window of context={self.context}: lower context, change validation={self.validation}, "
                    "or bring more text."
                )
        kind = token_type(tokenizer.size)
        # A plain text is one document: there is nothing to keep it apart from.
        windows = DocumentWindows if self.apart and not source.plain else Windows
        return [
            windows(
                read_tokens(folder / f"{name}.bin", kind),
                self.context,
                prompt=self.prompt,
                end_of_text=tokenizer.end_of_text,
            )
            for name in SPLITS
        ]


def _given(name: str) -> Tokenizer:
    """A tokenizer that exists already: one that a run kept, or a pretrained one."""
    folder = Path(name).expanduser()
    if (folder / "text.json").is_file():
        return tokenizers.load(folder)
    from seedfast.data.text.hub import pretrained

    return pretrained(name)
