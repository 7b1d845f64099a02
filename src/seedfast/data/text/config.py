"""The configuration of text data: from files to windows of tokens."""

from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from seedfast.console import say
from seedfast.data.cache import file_digests
from seedfast.data.dataset import DataConfig
from seedfast.data.mixture import is_mixture
from seedfast.data.prepare import prepare
from seedfast.data.split import no_validation
from seedfast.data.text import tokenizers
from seedfast.data.text.corpus import TextAssets, TextCorpus
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.fields import TEXT
from seedfast.data.text.folders import EXCLUDE, Mode
from seedfast.data.text.named_source import is_folder, located, named_source
from seedfast.data.text.preferences import PreferenceDataset
from seedfast.data.text.prepared_splits import Cut, Packed, read_splits, text_corpus
from seedfast.data.text.sharded_corpus import sharded_corpus
from seedfast.data.text.shards import MANY, is_large
from seedfast.data.text.sources import TextSource
from seedfast.data.text.tokenize import fill_folder, reading
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.data.text.tokenizers.chat import checked_day
from seedfast.data.text.windows import Windows
from seedfast.errors import UserError
from seedfast.options import AtLeast, Between, Example, Formerly, MayChange, NotEmpty, OnlyWith, check, refuse_unused

STORED = "seedfast"
"""The folder in an exported model that holds the assets of `TextAssets.save`."""
_VOCABULARY = 2048
_BUILT_IN = ("characters", "bytes", "bpe")
_NOT_PATHS = (*_BUILT_IN, "model")
"""Values of tokenizer that are no paths, even where a file or folder has this name."""


@dataclass(frozen=True, kw_only=True)
class TextData(DataConfig):
    """Text to train on, its tokenizer, its windows, and its validation split."""

    takes_mixtures: ClassVar[bool] = True

    path: Annotated[str, NotEmpty(), MayChange()] = "python"
    """Where the text is: python (the standard library's source code, on every machine), a file (of text, or of
    rows: .jsonl, .json, .csv, .tsv, .parquet), a folder, a Hugging Face data set (hf:NAME, hf:NAME:CONFIGURATION or
    hf:FOLDER), a function of yours that yields documents (path/to/file.py:function), or mixture.yaml, sources of all
    these kinds with weights."""

    also: Annotated[tuple[str, ...], NotEmpty(), MayChange(), Example(("python",))] = ()
    """Further data of the same kind, each named as in `path`: all documents are those of one data set, each once in an
    epoch."""

    tokenizer: Annotated[str, Example("bytes")] = "bpe"
    """characters, bytes, bpe (learned from the training split), model (that of the pretrained model), or a pretrained
    one: its hub name, its folder (also with vocab.json and merges.txt), or its tokenizer.json."""

    vocabulary: Annotated[int | None, OnlyWith(tokenizer="bpe"), Example(270, vocabulary=265)] = None
    """The most tokens that bpe learns, end-of-text included (default 2048); a short text supports fewer."""

    context: Annotated[int, AtLeast(1)] = 256
    """The length of a window in tokens."""

    prompt: Annotated[int, AtLeast(0), Example(8, **{"run.recipe": "text-embedding"})] = 0
    """Number of tokens before a window, of the same document, that are given with it to families that use prompts."""

    one_document_per_window: Annotated[bool, Formerly("apart"), Example(True, **{"run.recipe": "text-embedding"})] = (
        False
    )
    """One document per window, padded, instead of packing documents together; for families that learn lengths."""

    include: Annotated[tuple[str, ...], Example(("*.txt",))] = ()
    """Patterns of the files taken from a folder, such as "*.py" or "docs/*"; if empty, `mode` decides."""

    exclude: Annotated[tuple[str, ...], Example(("b.*",))] = EXCLUDE
    """Patterns of the files and folders that are left out of a folder."""

    mode: Mode = "auto"
    """Which endings are taken from a folder if `include` is empty: those of text and rows, of source code, or (auto)
    text and code, and rows where there is neither, apart from a README or a license."""

    field: Annotated[str | None, MayChange(), Example("other")] = None
    """The field or column that holds the text, in rows of files, Hugging Face data sets, and dicts of your function
    (default: text). Rows that are a prompt with a completion or a chat (messages, conversations of ShareGPT, Alpaca's
    instruction and output) are used as such, unless a field is given: only the answers are scored. Rows with a chosen
    and a rejected answer are for the recipe dpo."""

    date: Annotated[str | None, Example("2001-02-03")] = None
    """The day, YYYY-MM-DD, that a chat template which writes the date takes for the present one. A new run stores the
    day on which it starts."""

    validation: Annotated[float, Between(0, 1, open_high=True)] = 0.1
    """The part that validates: whole documents by their keyed hash (equal ones, and rows of one prompt, together), or
    the end of a single plain file and of documents longer than that part; 0 trains on everything. A folder with files
    train.* and val.* (valid, validation, dev), or folders of these names, has its own split; test.* validates only
    where nothing else does, and is never trained on."""

    by_shard: Annotated[bool | None, Example(True)] = None
    """Prepare each file by itself: in bounded memory, with all cores, and only the missing ones after a kill. Documents
    and chats then validate by their own hashes. By default, a new run does so for data of 100 or more files of rows of
    a mebibyte and more on average."""

    def __post_init__(self) -> None:
        check(self, "data.")
        if self.include and self.mode != "auto":
            raise UserError(
                f'data.include={self.include} replaces the endings of data.mode="{self.mode}": give one of them.'
            )
        if self.date is not None:
            checked_day(self.date)

    def load(self) -> TextCorpus:
        """Prepare the data, or take it from the cache. Raises UserError on unusable data."""
        if self.tokenizer == "model":
            raise UserError('data.tokenizer="model" is the tokenizer of the pretrained model: name one with --model.')
        if is_mixture(self.path):
            from seedfast.data.text.mixed import mixed_corpus

            return mixed_corpus(self)
        corpus, why = self.prepared(self.source(), self.given_tokenizer())
        if why:
            say(why)
        return corpus

    def source(self) -> TextSource:
        """The source that the paths name. Raises UserError if there is none."""
        return named_source((self.path, *self.also), self)

    def prepared(
        self, source: TextSource, given: Tokenizer | None, *, alone: bool = True
    ) -> tuple[TextCorpus, str | None]:
        """The corpus of a source, and a sentence if nothing of it validates. Raises UserError on unusable data.

        given: the tokenizer, unless one is learned from the data. alone: whether it is no part of a mixture.
        """
        (corpus, notices), why = self._corpus(source, given, self.validation, alone), "data.validation is 0"
        if self.validation and not (len(corpus.train) and len(corpus.validation)):
            _refuse_one_row(source)
            corpus, notices = self._corpus(source, given, 0, alone)
            own = "its own validation split fills no window"
            why = own if source.has_split else f"it is too small for data.validation={self.validation:g}"
        for notice in notices:
            say(notice)
        if not len(corpus.train):
            raise self._too_short(source, corpus)
        if left_out := sum(packed.left_out for packed in _packed_splits(corpus)):
            say(
                f"Left out of {source.title}: {left_out} examples that are longer than data.context={self.context} "
                "tokens."
            )
        if equal := sum(packed.equal for packed in _packed_splits(corpus) if isinstance(packed, PreferenceDataset)):
            say(f"Left out of {source.title}: {equal} pairs of equal answers, which prefer neither.")
        return corpus, None if len(corpus.validation) else no_validation(source.title, why)

    def _corpus(
        self, source: TextSource, given: Tokenizer | None, validation: float, alone: bool
    ) -> tuple[TextCorpus, tuple[str, ...]]:
        """The corpus with this part as validation split, and what is to be said about it.

        A split that is shorter than a window is empty.
        """
        if isinstance(source, ChatSource):
            self.refuse_unused(("prompt",), "each example is whole, with its prompt inside the window")
        cut = Cut(context=self.context, prompt=self.prompt, one_document=self.one_document_per_window, alone=alone)
        if self.by_shard:
            return sharded_corpus(self, source, given, validation, cut), ()
        options = {
            **reading(source, self.field or TEXT),
            "validation": validation,
            "tokenizer": self.tokenizer if given is None else tokenizers.digest(given),
            "vocabulary": self.most_tokens,
        }

        def fill(folder: Path) -> dict[str, Any]:
            return fill_folder(
                source,
                folder,
                kind=self.tokenizer,
                vocabulary=self.most_tokens,
                validation=validation,
                given=given,
            )

        # Empty files are not reported: nothing is lost with them, and Python packages have many.
        found = prepare(source, options, fill, kind="text", unreported="empty")
        tokenizer = tokenizers.load(found.folder)
        splits = read_splits(source, [found.folder], tokenizer, cut)
        digests = file_digests(found.folder)
        corpus = text_corpus(source, splits, tokenizer, cut, summaries=[found.summary], digests=digests)
        return corpus, found.notices

    @property
    def most_tokens(self) -> int:
        """The most tokens that are learned."""
        return _VOCABULARY if self.vocabulary is None else self.vocabulary

    def with_path(self, path: str, *others: str) -> Self:
        """The same configuration of the data in these places."""
        return replace(self, path=path, also=others)

    def started(self) -> Self:
        """The same data with what depends on when and where a run starts.

        `date` is the present day, if the chat template of the tokenizer writes it; `by_shard` is set for data of many
        large files.
        """
        fixed: dict[str, Any] = {}
        if self.date is None and self.tokenizer != "model" and tokenizers.reads_clock(self.given_tokenizer()):
            fixed["date"] = date.today().isoformat()
        if self.by_shard is None and self.tokenizer != "characters" and self._may_be_large():
            fixed |= {"by_shard": True} if is_large(self.source()) else {}
        return replace(self, **fixed)

    def _may_be_large(self) -> bool:
        """Whether it is worth the time to look how many files the source has."""
        paths = (self.path, *self.also)
        return not is_mixture(self.path) and (len(paths) >= MANY or any(map(is_folder, paths)))

    def given_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that a run has stored, or a pretrained one; None for those that are built from the data."""
        given = None if self.tokenizer in _BUILT_IN else _existing_tokenizer(self.tokenizer)
        if self.date is None:
            return given
        if not tokenizers.reads_clock(given):
            self.refuse_unused(("date",), "the tokenizer has no chat template that writes the date")
        return tokenizers.on_date(given, self.date)

    def located(self) -> Self:
        """The same data with absolute paths; `python`, `hf:…` and the built-in tokenizers are no paths."""
        changed: dict[str, Any] = {"path": located(self.path), "also": tuple(map(located, self.also))}
        if self.tokenizer not in _NOT_PATHS and (path := Path(self.tokenizer).expanduser().absolute()).exists():
            changed["tokenizer"] = str(path)
        return replace(self, **changed)

    def from_checkpoint(self, folder: Path, *, before: Self) -> Self:
        """The same data with the pretrained tokenizer that `TextAssets.save` wrote into `folder` for `before`."""
        same = self.tokenizer == before.tokenizer
        return replace(self, tokenizer=str(folder)) if same and self.tokenizer not in _BUILT_IN else self

    def restore(self, folder: Path) -> TextAssets:
        """The assets that `TextAssets.save` wrote into `folder`."""
        return TextAssets.load(folder)

    def refuse_unused(self, names: tuple[str, ...], reason: str) -> None:
        """Raise UserError if one of these options is set. reason: why it has no effect, as a clause."""
        for name in names:
            refuse_unused(self, name, reason, "data.")

    def _too_short(self, source: TextSource, corpus: TextCorpus) -> UserError:
        """The error for data that fills no window."""
        if isinstance(corpus.train, PreferenceDataset) and corpus.train.equal and not corpus.train.left_out:
            return UserError(
                f"The chosen and the rejected answer of every pair of {source.title} are equal, so they prefer neither."
            )
        if not isinstance(corpus.train, Windows):
            return UserError(
                f"No example of the train split of {source.title} fits into data.context={self.context} tokens: raise "
                "data.context, or add examples."
            )
        return UserError(
            f"The train split of {source.title} has {corpus.splits['train']['tokens'] - 1} tokens to predict, fewer "
            f"than one window of data.context={self.context}: lower data.context, or add text."
        )


def _refuse_one_row(source: TextSource) -> None:
    """Refuse a table of a single short text, which is more often the wrong file than all that is to be learned."""
    if len(list(islice(source.rows(), 2))) == 1 and not isinstance(source, ChatSource):
        raise UserError(
            f"{source.title} holds a single row, too short to hold out a part of it: add rows, or train without a "
            "validation split by --data.validation 0."
        )


def _packed_splits(corpus: TextCorpus) -> "list[Packed]":
    """The splits of chats, of prompts with completions and of preferences; none of a corpus of text."""
    return [split for split in (corpus.train, corpus.validation) if isinstance(split, Packed)]


def _existing_tokenizer(name: str) -> Tokenizer:
    """A tokenizer that a run has stored, or a pretrained one."""
    folder = Path(name).expanduser()
    for stored in (folder, folder / STORED):
        if (stored / "text.json").is_file():
            return tokenizers.load(stored)
    from seedfast.data.text.hub import pretrained_tokenizer

    return pretrained_tokenizer(name)
