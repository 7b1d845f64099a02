"""Forms of rows: a text, a prompt with a completion, or a chat, in the words of each convention.

| row | form |
|---|---|
| {"text": …} (or another field) | a text |
| {"prompt": "…", "completion": "…"} | a prompt with a completion |
| {"messages": [{"role": …, "content": …}, …]}, perhaps with "tools" (or the older "functions") | a chat |
| {"prompt": [messages], "completion": [messages]} (TRL), or one of them a text | a chat; its completion is scored |
| {"conversations": [{"from": …, "value": …}, …]} (ShareGPT) | a chat |
| {"instruction": …, "input": …, "output": …} (Alpaca), perhaps with "system" and "history" | a chat of two messages |

The names of fields may have capitals. A row of several forms is read by the first of `messages`,
`conversations`, prompt and completion, instruction and output.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as brief
from typing import Any

from seedfast.data.json_rows import Row, parse_json
from seedfast.data.text.fields import checked_text, checked_value
from seedfast.errors import UserError

Message = Mapping[str, Any]

WANTED = (
    'give rows "messages" (a list of {"role": …, "content": …}), "prompt" and "completion", "conversations" (ShareGPT) '
    'or "instruction" and "output" (Alpaca)'
)

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""The roles of ShareGPT, its descendants and older interfaces in the words of chat templates."""

_USUAL = ("system", "user", "assistant", "tool")

_UNSUPPORTED = {
    ("chosen", "rejected"): "pairs of chosen and rejected answers, which have data of their own (recipe dpo)",
    ("prompt", "completion", "label"): "completions with a judgement (label), from which this training does not learn",
    ("role", "content"): "single messages without their chat: a row is a whole chat",
    ("input_ids",): "token ids: give the texts that they were made of",
    ("question", "answer"): 'questions with answers: call them "prompt" and "completion"',
    ("question", "response"): 'questions with answers: call them "prompt" and "completion"',
    ("query", "response"): 'questions with answers: call them "prompt" and "completion"',
    ("instruction", "response"): 'instructions with answers: call the answer "output"',
    ("input", "output"): 'inputs with outputs: call them "prompt" and "completion"',
    ("prompt", "response"): 'prompts with answers: call the answer "completion"',
    ("prompt",): "prompts without completions, so nothing could be scored",
}
"""What rows with these fields hold, and cannot be used as."""
_JUDGEMENTS = ("true", "false", "0", "1")
"""Values of a label that say whether a completion is good. Others name a class, and are not used."""


@dataclass(frozen=True)
class Pair:
    """A prompt with the completion that is scored."""

    prompt: str
    completion: str

    @property
    def texts(self) -> list[str]:
        """Every text, the prompt first."""
        return [self.prompt, self.completion]


@dataclass(frozen=True)
class Chat:
    """Messages of which the assistant's are scored, from message `first` on, unless their weight is 0.

    tools: descriptions of the tools that the assistant may call. options: other values for the chat template.
    pair: the same as text, for tokenizers without a chat template, if there is a usual way to write it.
    """

    messages: tuple[Message, ...]
    first: int = 0
    tools: list[Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pair: Pair | None = None

    @property
    def scored(self) -> list[int]:
        """The places of the messages that are scored."""
        return [
            place
            for place, message in enumerate(self.messages)
            if place >= self.first and message["role"] == "assistant" and message.get("weight") != 0
        ]

    @property
    def texts(self) -> list[str]:
        """Every text, the prompt first: the messages before the first that is scored."""
        if self.pair:
            return self.pair.texts
        start = self.scored[0]
        texts = [message_text(message) for message in self.messages]
        return ["\n".join(texts[:start]), *texts[start:]]


def message_text(message: Message) -> str:
    """All text of a message: its content, reasoning and tool calls."""
    content = message["content"]
    parts = [content or ""] if not isinstance(content, list) else [part["text"] for part in content]
    parts += [value for key in ("reasoning_content", "thinking") if isinstance(value := message.get(key), str)]
    if calls := message.get("tool_calls"):
        parts.append(json.dumps(calls, ensure_ascii=False))
    return "".join(parts)


_FORMS: tuple[tuple[str, ...], ...] = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
)
"""The fields of each form of dialogues; of several, the first is read."""


def dialogue_forms(row: Row) -> list[tuple[str, ...]]:
    """The fields of each form of dialogues that a row has, in the order in which they are read. A null is no field."""
    fields = {name for name, value in row.items() if value is not None}
    return [form for form in _FORMS if fields.issuperset(form)]


def _form(row: Row) -> tuple[str, ...]:
    """The fields of the form that a row has; where fields of it are null, of the form that lacks the fewest."""
    if whole := dialogue_forms(row):
        return whole[0]
    named = [form for form in _FORMS if row.keys() >= {*form}]
    return max(named, key=lambda form: sum(row[name] is not None for name in form), default=())


def is_dialogue(row: Row) -> bool:
    """Whether a row is a chat, or a prompt with a completion, perhaps with a null."""
    return bool(_form(row))


def refuse_unsupported(row: Row, place: str) -> None:
    """Raise UserError for a row of a form that is known, and is not supported. place: the row's name in messages."""
    fields = {name for name, value in row.items() if value is not None}
    is_supported = is_dialogue(row)
    for names, what in _UNSUPPORTED.items():
        judged = "label" in names and str(row.get("label")).lower() in _JUDGEMENTS
        if fields.issuperset(names) and (judged or not is_supported):
            raise UserError(f"{place} is one of {what}; for dialogues, {WANTED}.")
    if is_supported and (row.get("images") or row.get("image")):
        raise UserError(f"{place} is a chat about images, and the models of this family read text alone: remove it.")


def dialogue(row: Row, place: str) -> Pair | Chat:
    """A row as a prompt with a completion or as a chat. place: its name in messages. Raises UserError for another."""
    refuse_unsupported(row, place)
    form = _form(row)
    row = {name: value for name, value in row.items() if value is not None or name in form}
    if form in (("messages",), ("conversations",)):
        (name,) = form
        found = _messages(row[name], name, place)
        if name == "conversations" and "system" in row and found[0]["role"] != "system":
            found = ({"role": "system", "content": checked_text(row["system"], "system", place)}, *found)
        return _chat(found, 0, row, place)
    if form == ("instruction", "output"):
        return _alpaca(row, place)
    for key in ("prompt", "completion"):
        if key not in row:
            raise UserError(f'{place} lacks "{key}": {WANTED}.')
    if isinstance(row["prompt"], list) or isinstance(row["completion"], list):
        # Messages beside a text, which is what the user asks or the assistant answers.
        prompt, completion = (
            _messages([{"role": role, "content": row[key]}] if isinstance(row[key], str) else row[key], key, place)
            for key, role in (("prompt", "user"), ("completion", "assistant"))
        )
        return _chat((*prompt, *completion), len(prompt), row, place)
    return Pair(*(checked_text(row[key], key, place) for key in ("prompt", "completion")))


def _chat(messages: tuple[Message, ...], first: int, row: Row, place: str) -> Chat:
    """A chat of these messages with the tools and options of a row. Raises UserError if none of them is scored."""
    chat = Chat(messages, first, tools=_tools(row, place), options=_options(row, place))
    if not chat.scored:
        raise UserError(
            f"{place} has no message of the assistant among its messages, so no token would be scored: remove it."
        )
    return chat


def _parsed(value: Any, name: str, place: str) -> Any:
    """The value of a field, which tables and some data sets hold as JSON."""
    return parse_json(value, f'"{name}" of {place}') if isinstance(value, str) else value


def _messages(value: Any, name: str, place: str) -> tuple[Message, ...]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, name, place)
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise UserError(f'{place} has "{name}" that are no list of {{"role": …, "content": …}}: fix it.')
    return tuple(_message(message, name, place) for message in value)


def _message(given: dict[str, Any], name: str, place: str) -> Message:
    """A message with its role and content in the words of chat templates. Raises UserError if it cannot be rendered."""
    role = given.get("role", given.get("from"))
    if not isinstance(role, str):
        raise UserError(f"{place} has a message with the role {brief(role)}: it is one of {', '.join(_USUAL)}.")
    checked_text(role, "role", place)
    if role.lower() != role and role.lower() in (*_USUAL, *_ROLES):
        raise UserError(f'{place} has a message with the role "{role}": write it in lower case, "{role.lower()}".')
    content = given.get("content", given.get("value"))
    rest = {k: v for k, v in given.items() if v is not None and k not in ("role", "from", "content", "value")}
    if role == "function_call":
        rest["tool_calls"], content = [{"type": "function", "function": _parsed(content, name, place)}], None
    if older := rest.pop("function_call", None):  # of the interface of OpenAI before tools
        rest.setdefault("tool_calls", [{"type": "function", "function": _parsed(older, "function_call", place)}])
    if calls := rest.pop("tool_calls", None):
        rest["tool_calls"] = _tool_calls(calls, place)
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type", "text") != "text" or "text" not in part:
                raise UserError(f"{place} has a message with the part {brief(part)}: only parts of text are supported.")
            checked_text(part["text"], "text", place)
    elif content is not None or not calls:
        checked_text(content, "content", place)
    return {"role": _ROLES.get(role, role), "content": content, **(checked_value(rest, name, place) if rest else rest)}


def _tool_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    calls = _parsed(calls, "tool_calls", place)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f'{place} has "tool_calls" that are no list of calls: fix it.')
    for call in calls:
        if not isinstance(called_name(call), str):
            raise UserError(f'{place} has a tool call without the "name" of its function: fix it.')
    return calls


def called_name(call: Mapping[str, Any]) -> Any:
    """The name of the function in a tool call, or in the description of a tool."""
    function = call.get("function", call)
    return function.get("name") if isinstance(function, dict) else None


def _tools(row: Row, place: str) -> list[Any] | None:
    """The descriptions of tools, which an older interface calls functions and does not wrap."""
    name = "tools" if row.get("tools") else "functions"
    tools = _parsed(row.get(name) or None, name, place)
    if tools is not None and (not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools)):
        raise UserError(f'{place} has "{name}" that are no list of descriptions: fix it.')
    if tools and name == "functions":
        tools = [{"type": "function", "function": tool} for tool in tools]
    return checked_value(tools, name, place) if tools else None


def _options(row: Row, place: str) -> Mapping[str, Any]:
    options = _parsed(row.get("chat_template_kwargs") or {}, "chat_template_kwargs", place)
    if not isinstance(options, dict):
        raise UserError(f'{place} has "chat_template_kwargs" that are no mapping: fix it.')
    return checked_value(options, "chat_template_kwargs", place)


def _alpaca(row: Row, place: str) -> Chat:
    """An instruction with its answer: as a chat, or in the wording of Stanford Alpaca (Taori et al. 2023)."""
    texts = {key: checked_text(row.get(key, ""), key, place) for key in ("instruction", "input", "output", "system")}
    history = _parsed(row.get("history") or [], "history", place)
    if not isinstance(history, list) or not all(_is_exchange(each) for each in history):
        raise UserError(f'{place} has a "history" that is no list of [instruction, answer]: fix it.')
    user = "\n".join(part for part in (texts["instruction"], texts["input"]) if part)
    messages: list[Message] = [{"role": "system", "content": texts["system"]}] if texts["system"] else []
    for question, answer in checked_value(history, "history", place):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": texts["output"]}]
    pair = None if texts["system"] or history else Pair(_alpaca_prompt(texts), texts["output"])
    return Chat(tuple(messages), pair=pair)


def _is_exchange(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _alpaca_prompt(texts: Mapping[str, str]) -> str:
    beside = ", paired with an input that provides further context" if texts["input"] else ""
    context = f"### Input:\n{texts['input']}\n\n" if texts["input"] else ""
    return (
        f"Below is an instruction that describes a task{beside}. Write a response that appropriately completes the "
        f"request.\n\n### Instruction:\n{texts['instruction']}\n\n{context}### Response:"
    )
