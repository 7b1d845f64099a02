"""The splits in a folder of prepared data: packed examples of chats, or windows of text."""

from collections.abc import Sequence

from seedfast.data.cache import read_tokens, token_type
from seedfast.data.prepare import SPLITS, Prepared
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.packing import PackedDataset
from seedfast.data.text.preferences import PreferenceDataset, PreferenceSource
from seedfast.data.text.sources import TextSource
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.data.text.windows import DocumentWindows, Windows
from seedfast.errors import UserError

Packed = PackedDataset | PreferenceDataset
"""A split of whole examples: of prompts with completions, chats or preferences."""


def read_splits(
    source: TextSource, prepared: Prepared, tokenizer: Tokenizer, *, context: int, prompt: int, one_document: bool
) -> Sequence[Packed | Windows]:
    """Both splits in windows of `context` tokens; one that is shorter than a window is empty.

    prompt: number of tokens that are given with a window of text. one_document: whether such a window holds only one.
    Raises UserError for chats without answers.
    """
    size, end = tokenizer.size, tokenizer.end_of_text
    if isinstance(source, ChatSource):
        kind = PreferenceDataset if isinstance(source, PreferenceSource) else PackedDataset
        splits: list[Packed] = [
            kind(prepared.folder, name, vocabulary=size, context=context, padding=end) for name in SPLITS
        ]
        if not all(packed.bytes for packed in splits if len(packed)):
            raise UserError(f"All answers of a split of {source.title} are empty: fill them, or remove these rows.")
        return splits
    streams = [read_tokens(prepared.folder / f"{name}.bin", token_type(size)) for name in SPLITS]
    # A single text is one document, so its windows are the same either way.
    windows = DocumentWindows if one_document and not source.is_one_text else Windows
    return [
        windows(tokens if len(tokens) > context else tokens[:1], context, prompt=prompt, end_of_text=end)
        for tokens in streams
    ]
