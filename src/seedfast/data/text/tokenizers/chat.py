"""Chat templates: how the messages of a chat become one text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedfast.errors import UserError

CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a pretrained tokenizer. special_tokens: the names it may use, such as "eos_token"."""

    jinja: str
    special_tokens: Mapping[str, str]

    @staticmethod
    def of(files: Mapping[str, str]) -> "ChatTemplate | None":
        """The template in the files of a pretrained tokenizer, given their contents by name; None without one."""
        config = json.loads(files.get(CONFIG_FILE, "{}"))
        template = files.get(TEMPLATE_FILE, config.get("chat_template"))
        if not isinstance(template, str):
            return None
        names = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
        return ChatTemplate(template, names)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """The messages as text. add_generation_prompt: up to where the assistant's answer begins.

        Raises UserError if the template rejects the messages.
        """
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (text,), _ = render_jinja_template(
                [list(messages)],
                chat_template=self.jinja,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"The tokenizer's chat template refuses a chat: {error}.") from error
        return str(text)
