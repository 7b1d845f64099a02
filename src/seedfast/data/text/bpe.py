"""A byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) of the training split."""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from seedfast.console import Bar
from seedfast.data.text.tokenizers import END_OF_TEXT, Subwords, Tokenizer
from seedfast.errors import UserError

SMALLEST = 257
"""The smallest vocabulary: the 256 bytes and end-of-text."""

BUDGET = 1 << 26
"""Largest number of characters that merges are learned from; longer data is sampled evenly."""


def train_bpe(texts: Iterable[str], *, total: int, vocabulary: int) -> Subwords:
    """Learn `vocabulary` tokens, end-of-text as the last id included. The same texts give the same tokenizer.

    Texts with too few different pairs support fewer tokens (see `capped`). total: an upper bound on the texts'
    characters. Raises UserError if the vocabulary is too small for all bytes.
    """
    if vocabulary < SMALLEST:
        raise UserError(
            f"data.vocabulary={vocabulary} is too small for bpe: the bytes and end-of-text alone need {SMALLEST}."
        )
    core = tokenizers.Tokenizer(models.BPE())
    # GPT-2's pre-tokenizer: `tokenizers.safe_cuts` relies on its boundaries.
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    with Bar("Training the tokenizer", min(total, BUDGET)) as bar:
        core.train_from_iterator(_with_progress(spread(texts, total, BUDGET), bar), trainer)
    core.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Subwords(core, END_OF_TEXT)


def capped(tokenizer: Tokenizer, vocabulary: int, title: str) -> list[str]:
    """The sentence about a learned tokenizer that is smaller than the `vocabulary` asked for, if it is."""
    if tokenizer.size >= vocabulary:
        return []
    return [
        f"The training split of {title} supports {tokenizer.size:,} tokens, so the vocabulary has these instead of "
        f"{vocabulary:,}."
    ]


def spread(texts: Iterable[str], total: int, budget: int) -> Iterator[str]:
    """All texts or, if their `total` exceeds the budget, an evenly spread part of about that size."""
    passed = taken = 0
    for text in texts:
        passed += len(text)
        if taken * total <= passed * budget and taken < budget:
            taken += len(text)
            yield text


def _with_progress(texts: Iterable[str], bar: Bar) -> Iterator[str]:
    for text in texts:
        yield text
        bar.advance(len(text))
