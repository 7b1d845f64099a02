"""What preparing text yields: its two splits, and the assets that every checkpoint of a text model stores."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from seedfast.data.dataset import Corpus, stored_assets
from seedfast.data.text import tokenizers
from seedfast.data.text.packing import JoinedPacked, PackedDataset
from seedfast.data.text.preferences import PreferenceDataset
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.files import to_json


@dataclass(frozen=True)
class TextAssets:
    """The data-derived part of a text model, stored in every checkpoint.

    context: a window's length in tokens. prompt: number of preceding tokens given with it. one_document_per_window:
    whether a window holds one document, padded. validation_tokens: scored tokens of the validation split (all but the
    first end-of-text). validation_bytes: its raw text in UTF-8, to which end-of-text adds nothing. Both are those of
    the training split where no validation split is. preferences: whether each example is a pair of answers; tokens and
    bytes are those of the chosen ones.
    """

    tokenizer: Tokenizer
    context: int
    validation_tokens: int
    validation_bytes: int
    prompt: int = 0
    one_document_per_window: bool = False
    preferences: bool = False

    @property
    def tokens_per_byte(self) -> float:
        """Nats per token times this, divided by ln 2, are bits per byte."""
        return self.validation_tokens / self.validation_bytes

    def save(self, folder: Path) -> None:
        """Write text.json and the tokenizer's files into an existing folder."""
        tokenizers.save(self.tokenizer, folder)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tokenizer"}
        if not self.preferences:
            del values["preferences"]  # as in the files of versions before it
        (folder / "text.json").write_text(to_json(values), "utf-8")

    @staticmethod
    def load(folder: Path) -> "TextAssets":
        """The assets that `save` wrote. Raises UserError if the folder has none."""
        values = stored_assets(folder, "text.json", "text")
        if "apart" in values:  # its name in version 0.1
            values["one_document_per_window"] = values.pop("apart")
        return TextAssets(tokenizers.load(folder), **values)


@dataclass(frozen=True)
class TextCorpus(Corpus):
    """A corpus of text.

    splits: by the split's name, its numbers of "documents", "bytes" (UTF-8) and "tokens" (end-of-texts included).
    skipped: what was left out, each with the reason.
    """

    splits: Mapping[str, Mapping[str, int]]
    skipped: tuple[str, ...]

    def introduction(self, epochs: float) -> list[str]:
        train = self.train
        if isinstance(train, PreferenceDataset):
            return [f"preferences: {len(train):,} pairs, {epochs:.3g} epochs"]
        if not isinstance(train, PackedDataset | JoinedPacked):
            return []
        return [
            f"chats: {train.examples:,} examples, scored {train.targets:,} of {train.tokens:,} tokens, "
            f"{epochs:.3g} epochs"
        ]
