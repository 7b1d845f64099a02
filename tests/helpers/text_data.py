"""Helpers for tests of text data."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers as library

from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.windows import Windows

Writer = Callable[[Mapping[str, str | bytes]], Path]


def stream(windows: object) -> list[int]:
    """The whole token stream, put together from what is scored."""
    assert isinstance(windows, Windows)
    batch = windows.batch(list(range(len(windows))))
    return [int(batch["tokens"][0, 0]), *batch["tokens"][:, 1:][batch["scored"]].tolist()]


def texts(corpus: TextCorpus, windows: object) -> list[str]:
    """The documents between the end-of-texts of a stream that begins and ends with one."""
    ids, end = stream(windows), corpus.assets.tokenizer.end_of_text
    assert ids[0] == ids[-1] == end
    places = [place for place, token in enumerate(ids) if token == end]
    return [corpus.assets.tokenizer.decode(ids[a + 1 : b]) for a, b in pairwise(places)]


def hub_folder(folder: Path, texts: Sequence[str], *, lowercase: bool = False, eos: str | None = "</s>") -> Path:
    """A pretrained tokenizer as a Hugging Face model has it."""
    transformers = pytest.importorskip("transformers")
    core = library.Tokenizer(library.models.BPE())
    core.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = library.decoders.ByteLevel()
    if lowercase:
        core.normalizer = library.normalizers.Lowercase()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.enable_truncation(5)
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos).save_pretrained(folder)
    return folder
