"""Chat templates: how the messages of a chat become one text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from string import ascii_letters
from typing import Any

from seedfast.bounded import OutOfBoundsError, bounded
from seedfast.errors import UserError

CONFIG_FILE, TEMPLATE_FILE, DATE_FILE = "tokenizer_config.json", "chat_template.jinja", "chat_date.txt"
"""The files of a tokenizer that hold its template, and the date that this template writes."""

_SECONDS, _MEMORY = 10.0, 1 << 30
"""The bounds of one rendering: seconds of the processor, bytes of memory."""

_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{%- set now = namespace(text=format) -%}"
    "{%- for code, value in date_codes.items() -%}{%- set now.text = now.text | replace(code, value) -%}{%- endfor -%}"
    "{{ now.text }}{%- endmacro %}\n"
)
"""Takes the place of the function with which a template reads the clock (its last line end is trimmed by Jinja)."""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a pretrained tokenizer.

    special_tokens: the names it may use, such as "eos_token". date: the day, YYYY-MM-DD, that a template takes for the
    present one; None reads the clock.
    """

    jinja: str
    special_tokens: Mapping[str, str]
    date: str | None = None

    @staticmethod
    def of(files: Mapping[str, str]) -> "ChatTemplate | None":
        """The template in the files of a pretrained tokenizer, given their contents by name; None without one."""
        config = json.loads(files.get(CONFIG_FILE, "{}"))
        template = files.get(TEMPLATE_FILE, config.get("chat_template"))
        if not isinstance(template, str):
            return None
        names = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
        return ChatTemplate(template, names, files.get(DATE_FILE))

    @property
    def reads_clock(self) -> bool:
        """Whether the template writes the date, as those of Llama 3.2, SmolLM3 and Granite do."""
        return "strftime_now" in self.jinja

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Any] | None = None,
        options: Mapping[str, Any] | None = None,
        name: str = "a chat",
    ) -> str:
        """The messages as text. add_generation_prompt: up to where the assistant's answer begins.

        tools: descriptions of the tools that may be called. options: other values for the template. name: the chat's
        name in messages. Raises UserError if the template rejects the messages, fails, or needs absurd time or memory.
        """
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        jinja, values = self.jinja, {**self.special_tokens, **(options or {})}
        if self.date is not None and self.reads_clock:
            jinja, values = _FIXED_CLOCK + jinja, {**values, "date_codes": _codes(datetime.fromisoformat(self.date))}
        try:
            with bounded(seconds=_SECONDS, size=_MEMORY):
                (text,), _ = render_jinja_template(
                    [list(messages)],
                    tools=list(tools) if tools else None,
                    chat_template=jinja,
                    add_generation_prompt=add_generation_prompt,
                    **values,
                )
                if len(text) > _MEMORY >> 4:
                    raise OutOfBoundsError(f"it writes {len(text):,} characters")
        except OutOfBoundsError as error:
            raise UserError(f"The tokenizer's chat template is out of bounds on {name}: {error}.") from None
        except jinja2.TemplateError as error:
            raise UserError(f"The tokenizer's chat template refuses {name}: {error}.") from error
        except Exception as error:  # a template is code of its author, which may raise anything
            raise UserError(
                f"The tokenizer's chat template fails on {name} ({type(error).__name__}: {error}): fix the row, or "
                "choose a tokenizer whose template takes it."
            ) from error
        return str(text)


def checked_day(value: str) -> str:
    """The value, if it is a day written YYYY-MM-DD. Raises UserError otherwise."""
    try:
        is_day = datetime.fromisoformat(value).date().isoformat() == value
    except ValueError:
        is_day = False
    if not is_day:
        raise UserError(f'data.date must be a day such as 2026-01-31, not "{value}".')
    return value


def _codes(date: datetime) -> dict[str, str]:
    """What each code of strftime writes on this date at midnight, such as %d and, without a zero, %-d."""
    codes = [f"%{flag}{letter}" for flag in ("-", "") for letter in ascii_letters]
    return {code: date.strftime(code) for code in codes} | {"%%": "%"}
