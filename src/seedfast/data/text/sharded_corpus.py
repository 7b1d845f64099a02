"""The corpus of data that is prepared shard by shard."""

from typing import Any, Protocol

from seedfast.data.cache import file_digests
from seedfast.data.text import shards
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.fields import TEXT
from seedfast.data.text.prepared_splits import Cut, read_splits, text_corpus
from seedfast.data.text.shard import ShardOptions
from seedfast.data.text.sources import TextSource
from seedfast.data.text.tokenize import Sample, learned_tokenizer
from seedfast.data.text.tokenizers import Tokenizer


class Options(Protocol):
    """The options of text data that are used here."""

    @property
    def field(self) -> str | None:
        """The field of a row that holds the text."""
        ...

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer."""
        ...

    @property
    def most_tokens(self) -> int:
        """The most tokens that are learned."""
        ...


def sharded_corpus(
    data: Options, source: TextSource, given: Tokenizer | None, validation: float, cut: Cut
) -> TextCorpus:
    """The corpus of a source of files. given: the tokenizer, unless one is learned.

    Raises UserError on unusable data.
    """
    options = ShardOptions(data.field or TEXT, validation, isinstance(source, ChatSource))
    found = shards.shards_of(source)
    tokenizer = given or learned_tokenizer(
        [source],
        fields=[options.field],
        kind=data.tokenizer,
        vocabulary=data.most_tokens,
        validation=validation,
        samples={0: sample_of(data, source, validation)},
    )
    prepared = shards.prepare_shards(found, options, tokenizer, title=source.title)
    splits = read_splits(source, prepared.folders, tokenizer, cut)
    digests: list[Any] = [file_digests(folder) for folder in prepared.folders]
    return text_corpus(source, splits, tokenizer, cut, summaries=prepared.summaries, digests=digests)


def sample_of(data: Options, source: TextSource, validation: float) -> Sample:
    """The texts that a tokenizer is learned from, of a source whose shards are prepared one by one."""
    options = ShardOptions(data.field or TEXT, validation, isinstance(source, ChatSource))
    return lambda: shards.sample_texts(shards.shards_of(source), options)
