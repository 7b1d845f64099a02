"""Any text as the windows of a model, as the validation split has them."""

from collections.abc import Iterator

import torch

from seedfast.data.dataset import Batch
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError


def encoded(tokenizer: Tokenizer, text: object, name: str) -> list[int]:
    """The token ids of a text. name: in messages. Raises UserError for what is no text, or has no tokens."""
    if not isinstance(text, str):
        raise UserError(f"{name} is {text!r:.40} ({type(text).__name__}), and no text.")
    tokens = tokenizer.encode(text)
    if not tokens:
        raise UserError(f"{name} is empty, so it has no tokens to score.")
    return tokens


def text_windows(assets: TextAssets, tokens: list[int]) -> Iterator[tuple[int, Batch]]:
    """Consecutive windows of a text's tokens, each as a batch of one, with the position of its first scored token.

    A window is read after the last token of the one before; the first one after the end of another text, as in
    training.
    """
    stream = [assets.tokenizer.end_of_text, *tokens]
    for start in range(0, len(tokens), assets.context):
        tokens_L = torch.tensor(stream[start : start + assets.context + 1])
        batch = {"tokens": tokens_L[None], "scored": torch.ones(1, len(tokens_L) - 1, dtype=torch.bool)}
        if assets.prompt:  # the tokens before the window, at the end of the prompt's places
            before = stream[1 : start + 1][-assets.prompt :]
            empty = assets.prompt - len(before)
            batch["prompt"] = torch.tensor([[assets.tokenizer.end_of_text] * empty + before])
            batch["prompt_real"] = (torch.arange(assets.prompt) >= empty)[None]
        yield start, batch
