"""A chat as a tokenizer's template renders it, turn by turn, and nothing of it left out."""

import json
from collections.abc import Mapping
from typing import Any

from seedfast.data.text.row_forms import Chat, Message, called_name
from seedfast.data.text.tokenizers import ChatTemplate
from seedfast.errors import UserError

Turns = list[tuple[str, bool]]
"""Texts of which the concatenation is the chat, alternately unscored (up to where an answer begins) and scored."""

_WAYS_TO_CALL = (("", False), (None, False), ("", True), (None, True))
"""What templates take for a call of a tool: the content beside it, and whether its arguments are JSON or a mapping."""


def rendered_turns(chat: Chat, template: ChatTemplate, name: str) -> Turns:
    """The texts of a chat up to its last scored turn, and whether each is scored. name: the chat's name in messages.

    Raises UserError if the template rejects the chat, changes its earlier turns, or leaves out a part of it.
    """
    messages = chat.messages[: chat.scored[-1] + 1]
    refusal: UserError | None = None
    for content, as_text in _WAYS_TO_CALL if any("tool_calls" in message for message in messages) else (("", False),):
        try:
            turns = _turns(chat, [_with_calls(message, content, as_text) for message in messages], template, name)
        except UserError as error:
            refusal = refusal or error
            continue
        if all(_has_calls(messages[place], text) for place, (text, _) in zip(chat.scored, turns[1::2], strict=True)):
            break
        refusal = refusal or UserError(
            f"The chat template leaves out the tool calls of {name}: choose a tokenizer with a template for tools."
        )
    else:
        assert refusal is not None
        raise refusal
    if not all(str(called_name(tool)) in turns[0][0] for tool in chat.tools or ()):
        raise UserError(
            f'The chat template leaves out the tools of {name}: remove "tools", or choose a tokenizer with a template '
            "for tools."
        )
    text = "".join(text for text, _ in turns)
    for message in messages:
        if isinstance(message["content"], list) and not _has_parts(message["content"], text):
            raise UserError(f"The chat template does not take a content in parts, as {name} has: give it as one text.")
    return turns


def _turns(chat: Chat, messages: list[Message], template: ChatTemplate, name: str) -> Turns:
    turns: Turns = []
    done = ""
    for place in chat.scored:
        for stop, is_prompt in ((place, True), (place + 1, False)):
            rendered = template.render(
                messages[:stop], add_generation_prompt=is_prompt, tools=chat.tools, options=chat.options, name=name
            )
            if not rendered.startswith(done):
                raise UserError(
                    f"The chat template changes earlier messages when a chat goes on ({name}), so a turn would be "
                    "trained in another form than it is prompted in: give each turn a row of its own."
                )
            turns.append((rendered[len(done) :], not is_prompt))
            done = rendered
    return turns


def _has_calls(message: Message, text: str) -> bool:
    """Whether the text of a turn has the tool calls of its message, with arguments not as Python writes them."""
    for call in message.get("tool_calls", ()):
        arguments = _mapping(call.get("function", call).get("arguments"))
        is_python = isinstance(arguments, dict) and arguments and str(arguments) in text
        if called_name(call) not in text or is_python:
            return False
    return True


def _has_parts(content: list[Any], text: str) -> bool:
    """Whether a rendered chat has the parts of a content, and not the list of them as Python writes it."""
    return str(content) not in text and all(part["text"].strip() in text for part in content)


def _with_calls(message: Message, content: str | None, as_text: bool) -> Message:
    """A message that calls tools, with this content if it has none, and arguments in JSON or as a mapping."""
    if "tool_calls" not in message:
        return message

    def converted(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(call.get("function"), Mapping):
            return {**call, "function": converted(call["function"])}
        arguments = _mapping(call.get("arguments"))
        if as_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {**call, "arguments": arguments}

    calls = [converted(call) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or content, "tool_calls": calls}


def _mapping(arguments: Any) -> Any:
    """Arguments as a mapping, also if they are given in JSON."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
