"""A chat as what a model completes: its messages as the tokenizer's template renders them."""

from collections.abc import Mapping, Sequence
from typing import Any

from seedfast.data.text.tokenizers import ChatTemplate, Subwords, Tokenizer
from seedfast.errors import UserError


def template_of(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template of a tokenizer; None without one."""
    return tokenizer.chat_template if isinstance(tokenizer, Subwords) else None


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The token ids of a chat, up to where the next answer begins. messages: each with a role and a content.

    Raises UserError if there is no chat template, it refuses the messages, or one of them has a special token in it.
    """
    template = template_of(tokenizer)
    if template is None or not isinstance(tokenizer, Subwords):
        raise UserError("This model's tokenizer has no chat template; leave --chat out.")
    for message in messages:
        if special := tokenizer.special_token_in(str(message["content"])):
            raise UserError(f"The prompt contains {special!r}, a special token of the chat template; leave it out.")
    return tokenizer.encode_chat(template.render(messages, add_generation_prompt=True))
