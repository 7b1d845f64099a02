"""Chat templates are given chats as they expect them; what a template would leave out is refused; its date is fixed."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_models

from seedfast.data.text.chat_turns import rendered_turns
from seedfast.data.text.config import TextData
from seedfast.data.text.row_forms import Chat, dialogue
from seedfast.data.text.tokenizers import ChatTemplate
from seedfast.errors import UserError

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "to": "é"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]
ROW = {
    "messages": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ],
    "tools": TOOLS,
}
IN_JSON = '<{"a": 2, "to": "é"}>'

HEAD = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]"
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.name }}<ARGUMENTS>{% endfor %}"
END = "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def template(body: str, arguments: str = "{{ c.function.arguments | tojson }}", head: str = HEAD) -> ChatTemplate:
    return ChatTemplate(head + body.replace("ARGUMENTS", arguments) + END, {})


TEMPLATES = {
    "that joins the content": template("{{ '' + m.content }}" + CALLS),
    "that prints the content": template("{{ m.content }}" + CALLS),
    "that joins the arguments": template("{{ m.content or '' }}" + CALLS, "{{ '' + c.function.arguments }}"),
    "that prints the arguments": template("{{ m.content or '' }}" + CALLS, "{{ c.function.arguments }}"),
    "that looks for null": template("{% if m.content is none %}" + CALLS + "{% else %}{{ m.content }}{% endif %}"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("as_text", [False, True])
def test_calls_of_tools_reach_every_kind_of_template(kind: str, as_text: bool) -> None:
    row = json.loads(json.dumps(ROW))
    if as_text:  # as the API of OpenAI returns them
        row["messages"][1]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["function"]["arguments"])
    chat = dialogue(row, "row")
    assert isinstance(chat, Chat)
    turns = rendered_turns(chat, TEMPLATES[kind], "row")
    assert [text for text, is_scored in turns if is_scored] == [f"add{IN_JSON}", "It is 4."]
    assert turns[0] == (json.dumps(TOOLS) + "[user]2+2?[assistant]", False)


@pytest.mark.parametrize(
    ("row", "broken", "message"),
    [
        (ROW, template("{{ m.content }}"), "leaves out the tool calls of row"),
        (ROW, template("{{ m.content }}" + CALLS, head=HEAD[HEAD.index("{% for") :]), "leaves out the tools of row"),
        (ROW, template("{{ m.content | nothing }}"), "refuses row: No filter named 'nothing'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ROW["messages"][3]]},
            template("{{ m.content }}"),
            "does not take a content in parts, as row has",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ROW["messages"][3]]},
            template("{{ m.content + '' }}"),
            "fails on row .TypeError",
        ),
    ],
    ids=["calls", "tools", "filter", "printed parts", "joined parts"],
)
def test_twin_templates_that_lose_a_part_are_refused(row: Any, broken: ChatTemplate, message: str) -> None:
    chat = dialogue(row, "row")
    assert isinstance(chat, Chat)
    with pytest.raises(UserError, match=message):
        rendered_turns(chat, broken, "row")


def test_content_in_parts_and_options_reach_a_template_that_takes_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, ROW["messages"][3]], "chat_template_kwargs": {"mood": "!"}}
    each = "{% for p in m.content %}{{ p.text }}{% endfor %}"
    body = "{% if m.content is string %}{{ m.content }}{% else %}" + each + "{% endif %}"
    chat = dialogue(row, "row")
    assert isinstance(chat, Chat)
    assert rendered_turns(chat, template(body + "{{ mood }}"), "row")[0][0] == "[user]ab![assistant]"


CLOCK = "{{ strftime_now('%d %b %Y %H:%M:%S') }}{% if strftime_now is defined %} {% endif %}"


def test_a_template_takes_the_date_that_it_is_given() -> None:
    messages = [{"role": "user", "content": "a"}]
    fixed = replace(template("{{ m.content }}", head="\n" + CLOCK + HEAD), date="2024-07-05")
    assert fixed.render(messages, add_generation_prompt=False) == "\n05 Jul 2024 00:00:00 [user]a"
    dynamic = replace(fixed, jinja="{% set form = '%-d.%m' %}{{ strftime_now(form) }}{{ strftime_now('%%') }}")
    assert dynamic.render(messages, add_generation_prompt=False) == "5.07%"
    today = replace(fixed, date=None).render(messages, add_generation_prompt=False)
    assert today.startswith("\n" + date.today().strftime("%d %b %Y")), "without a date it reads the clock"
    plain = template("{{ m.content }}")
    assert replace(plain, date="2024-07-05").render(messages, add_generation_prompt=False) == "[user]a"


@pytest.fixture
def clock_model(tmp_path: Path) -> Path:
    """A tiny chat model of which the template writes the time."""
    folder = tiny_models.folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(CLOCK + tiny_models.CHAT)
    return folder


def test_a_new_run_fixes_the_date_once(clock_model: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}"}]}
        for n in range(40)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TextData(path=str(tmp_path / "chats.jsonl"), tokenizer=str(clock_model), context=60)
    assert data.started() == replace(data, date=date.today().isoformat())
    dated = replace(data, date="2024-07-05")
    assert dated.started() == dated, "a run that is continued keeps its date"
    corpus = dated.load()
    text = corpus.assets.tokenizer.decode(corpus.train.batch([0])["tokens"][0].tolist())
    assert text.startswith("05 Jul 2024 00:00:00 <|im_start|>user")
    (assets := tmp_path / "assets").mkdir()
    corpus.assets.save(assets)
    stored = dated.from_checkpoint(assets, before=dated)
    assert stored.load().fingerprint.digest == corpus.fingerprint.digest, "and its checkpoints know it"
    assert dated.restore(assets).tokenizer == corpus.assets.tokenizer


def test_a_run_without_a_clock_has_no_date(tmp_path: Path) -> None:
    plain = TextData(tokenizer=str(tiny_models.folder(tmp_path / "model")))
    assert plain.started() == plain
    assert TextData().started() == TextData()
    with pytest.raises(UserError, match=r"data\.date \(2024-07-05\) has no effect, because the tokenizer has no chat"):
        replace(plain, date="2024-07-05").load()
    with pytest.raises(UserError, match=r'data\.date must be a day such as 2026-01-31, not "July"'):
        TextData(date="July")
