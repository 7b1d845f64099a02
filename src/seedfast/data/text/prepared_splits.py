"""From folders of prepared data to a corpus: packed examples of chats, or windows of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from seedfast.data.cache import read_tokens, token_type
from seedfast.data.dataset import Fingerprint
from seedfast.data.prepare import SPLITS, json_digest
from seedfast.data.text.corpus import TextAssets, TextCorpus
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.packing import JoinedPacked, PackedDataset
from seedfast.data.text.preferences import PreferenceDataset, PreferenceSource
from seedfast.data.text.sharded_tokens import ShardedTokens
from seedfast.data.text.sources import TextSource
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.data.text.windows import DocumentWindows, Windows
from seedfast.errors import UserError

Packed = PackedDataset | PreferenceDataset | JoinedPacked
"""A split of whole examples: of prompts with completions, chats or preferences."""
Split = Packed | Windows


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How prepared text becomes examples.

    context: tokens of a window. prompt: number of tokens that are given with one. one_document: whether it holds only
    one. alone: whether a single text is cut like the only document that it is; as a part of a mixture it is cut like
    the others.
    """

    context: int
    prompt: int
    one_document: bool
    alone: bool = True


def read_splits(source: TextSource, folders: Sequence[Path], tokenizer: Tokenizer, cut: Cut) -> Sequence[Split]:
    """Both splits; one that is shorter than a window is empty. folders: of the prepared shards, or the only one.

    Raises UserError for chats without answers.
    """
    if isinstance(source, ChatSource):
        kind = PreferenceDataset if isinstance(source, PreferenceSource) else PackedDataset
        splits = [_packed(kind, folders, name, tokenizer, cut) for name in SPLITS]
        if not all(packed.bytes for packed in splits if len(packed)):
            raise UserError(f"All answers of a split of {source.title} are empty: fill them, or remove these rows.")
        return splits
    # A single text is one document, so its windows are the same either way.
    windows = DocumentWindows if cut.one_document and not (source.is_one_text and cut.alone) else Windows
    return [_windows(windows, folders, name, tokenizer, cut) for name in SPLITS]


def _packed(
    kind: type[PackedDataset | PreferenceDataset], folders: Sequence[Path], split: str, tokenizer: Tokenizer, cut: Cut
) -> Packed:
    size, end = tokenizer.size, tokenizer.end_of_text
    if len(folders) == 1:
        return kind(folders[0], split, vocabulary=size, context=cut.context, padding=end)
    return JoinedPacked(
        [PackedDataset(each, split, vocabulary=size, context=cut.context, padding=end) for each in folders]
    )


def _windows(kind: type[Windows], folders: Sequence[Path], split: str, tokenizer: Tokenizer, cut: Cut) -> Windows:
    parts = [read_tokens(each / f"{split}.bin", token_type(tokenizer.size)) for each in folders]
    tokens = parts[0] if len(parts) == 1 else ShardedTokens(parts)
    if len(tokens) <= cut.context:  # shorter than a window
        tokens = parts[0][:1]
    return kind(tokens, cut.context, prompt=cut.prompt, end_of_text=tokenizer.end_of_text)


def text_corpus(
    source: TextSource,
    splits: Sequence[Split],
    tokenizer: Tokenizer,
    cut: Cut,
    *,
    summaries: Sequence[Mapping[str, Any]],
    digests: Any,
) -> TextCorpus:
    """The corpus of prepared data. summaries: of the shards, or the only one. digests: of what was prepared."""
    train, held_out = splits
    measured, name = (held_out, "validation") if len(held_out) else (train, "train")
    counts = {
        each: {key: sum(summary[each][key] for summary in summaries) for key in ("documents", "bytes", "tokens")}
        for each in SPLITS
    }
    one_document = isinstance(held_out, DocumentWindows)
    assets = TextAssets(
        tokenizer=tokenizer,
        prompt=cut.prompt,
        context=cut.context,
        one_document_per_window=one_document,
        validation_tokens=measured.targets,
        validation_bytes=counts[name]["bytes"] if isinstance(measured, Windows) else measured.bytes,
        preferences=isinstance(source, PreferenceSource),
    )
    # The data is the same if the ids and the windows are: files may be touched, moved or split differently.
    identity = {"prepared": digests, "context": cut.context} | ({"apart": True} if one_document else {})
    return TextCorpus(
        train=train,
        validation=held_out,
        assets=assets,
        fingerprint=Fingerprint(json_digest(identity), source.contents),
        splits=counts,
        skipped=tuple(chain.from_iterable(summary["skipped"] for summary in summaries)),
    )
