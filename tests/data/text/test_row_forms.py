"""Forms of rows: every convention gives the same dialogue, and what cannot be used is named as what it is."""

import json
from typing import Any

import pytest

from seedfast.data.text.row_forms import Chat, Pair, dialogue
from seedfast.errors import UserError

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}

SAME: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ANSWER]},
    "messages in JSON, as in a table": {"messages": json.dumps([USER, ANSWER])},
    "messages with nulls of a Parquet file": {"messages": [USER | {"tool_calls": None}, ANSWER], "tools": None},
    "conversations": {"conversations": SHAREGPT},
    "conversations with roles": {"conversations": [USER, ANSWER]},
    "messages with from and value": {"messages": SHAREGPT},
    "a list and a text": {"prompt": [USER], "completion": "4"},
    "a text and a list": {"prompt": "2+2?", "completion": [ANSWER]},
    "lists of a prompt and a completion": {"prompt": [USER], "completion": [ANSWER]},
    "an instruction": {"instruction": "2+2?", "input": "", "output": "4"},
    "an instruction without input": {"instruction": "2+2?", "output": "4", "input": None},
}


@pytest.mark.parametrize("case", SAME)
def test_every_form_is_the_same_chat(case: str) -> None:
    chat = dialogue(SAME[case], "row")
    assert isinstance(chat, Chat)
    assert list(chat.messages) == [USER, ANSWER]
    assert chat.scored == [1]


def test_a_prompt_and_a_completion_as_texts_are_a_pair() -> None:
    assert dialogue({"prompt": "a", "completion": "b", "messages": None, "label": "x"}, "row") == Pair("a", "b")


def test_answers_within_a_prompt_are_not_scored() -> None:
    chat = dialogue({"prompt": [USER, ANSWER, USER], "completion": [ANSWER, USER, ANSWER]}, "row")
    assert isinstance(chat, Chat)
    assert chat.scored == [3, 5]
    assert chat.texts[0] == "2+2?\n4\n2+2?"


def test_an_answer_of_weight_0_is_not_scored() -> None:
    chat = dialogue({"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1}]}, "row")
    assert isinstance(chat, Chat)
    assert chat.scored == [3]


def test_alpaca_has_its_own_wording_for_tokenizers_without_a_template() -> None:
    """The two prompts of Stanford Alpaca (train.py)."""
    plain, with_input = (dialogue({"instruction": "Add.", "input": x, "output": "4"}, "row") for x in ("", "2 2"))
    assert isinstance(plain, Chat)
    assert isinstance(with_input, Chat)
    assert plain.pair == Pair(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Response:",
        "4",
    )
    assert with_input.pair
    assert with_input.pair.prompt.startswith("Below is an instruction that describes a task, paired with an input that")
    assert with_input.pair.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:")
    assert with_input.messages[0]["content"] == "Add.\n2 2"


def test_an_instruction_may_have_a_system_message_and_a_history() -> None:
    chat = dialogue({"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}, "row")
    assert isinstance(chat, Chat)
    assert [message["content"] for message in chat.messages] == ["s", "a", "b", "c", "d"]
    assert chat.scored == [2, 4]
    assert chat.pair is None


def test_calls_of_tools_are_read_in_every_convention() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    chat = dialogue({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, ANSWER], "tools": tools}, "row")
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'}
    other = dialogue({"conversations": [SHAREGPT[0], call, SHAREGPT[1]], "tools": json.dumps(tools)}, "row")
    assert chat == other
    older = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    oldest = dialogue({"messages": [USER, older, ANSWER], "functions": [{"name": "add"}]}, "row")
    assert chat == oldest, "as OpenAI wrote them before tools"
    assert isinstance(chat, Chat)
    assert chat.messages[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert chat.tools == tools


def test_an_answer_of_a_function_is_that_of_a_tool() -> None:
    chat = dialogue({"messages": [USER, {"role": "function", "name": "add", "content": "4"}, ANSWER]}, "row")
    assert isinstance(chat, Chat)
    assert chat.messages[1] == {"role": "tool", "name": "add", "content": "4"}


def test_messages_go_before_a_prompt_with_a_completion() -> None:
    assert dialogue({"messages": [USER, ANSWER], "prompt": "a", "completion": "b"}, "row") == dialogue(
        {"messages": [USER, ANSWER]}, "row"
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a role that is null": ({"messages": [{"role": None, "content": "x"}, ANSWER]}, "with the role None"),
    "a role that is a number": ({"messages": [{"role": 5, "content": "x"}, ANSWER]}, "with the role 5"),
    "a role in capitals": ({"messages": [USER | {"role": "USER"}, ANSWER]}, '"USER": write it in lower case, "user"'),
    "null content without a call": (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]},
        "has None in .content., which is no text",
    ),
    "a part that is an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ANSWER]},
        "only parts of text",
    ),
    "a call without a name": ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "without the .name."),
    "no messages": ({"messages": []}, "that are no list"),
    "nested deeply": ({"messages": json.loads("[" * 900 + "]" * 900)}, "that are no list"),
    "preferences": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs of chosen and rejected answers"),
    "judged completions": ({"prompt": "a", "completion": "b", "label": False}, "judgement"),
    "judged by numbers": ({"prompt": "a", "completion": "b", "label": 0}, "judgement"),
    "judged in a table": ({"prompt": "a", "completion": "b", "label": "True"}, "judgement"),
    "questions with answers": ({"question": "a", "answer": "b"}, 'call them "prompt" and "completion"'),
    "prompts alone": ({"prompt": "a"}, "prompts without completions"),
    "single messages": (USER, "single messages"),
    "chats about images": ({"messages": [USER, ANSWER], "images": ["x.png"]}, "about images"),
    "a list with a number": ({"prompt": [USER], "completion": 4}, '"completion" that are no list'),
    "half a character in a call": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": "\ud83c"}}]}]},
        r"half a character .*U\+D83C.* in .messages.",
    ),
    "half a character in the reasoning": (
        {"messages": [USER, ANSWER | {"reasoning_content": "\ud83c"}]},
        "half a character .* in .messages.",
    ),
    "half a character in a role": ({"messages": [USER | {"role": "\ud83c"}, ANSWER]}, "half a character .* in .role."),
    "half a character in a tool": ({"messages": [USER, ANSWER], "tools": [{"name": "\ud83c"}]}, "in .tools."),
    "half a character in an option": (
        {"messages": [USER, ANSWER], "chat_template_kwargs": {"a": "\ud83c"}},
        "in .chat_template_kwargs.",
    ),
    "half a character in the history": (
        {"instruction": "a", "output": "b", "history": [["a", "\ud83c"]]},
        "half a character .* in .history.",
    ),
    "tools that are none": ({"messages": [USER, ANSWER], "tools": "[1]"}, "no list of descriptions"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_named(case: str) -> None:
    row, message = BAD[case]
    with pytest.raises(UserError, match=f"Line 7 of x {'.*'}{message}"):
        dialogue(row, "Line 7 of x")
