"""Data sets and tokenizers of the Hugging Face hub, or of folders that its libraries wrote: optional extras."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from seedfast import huggingface
from seedfast.data.hub_rows import hub_rows
from seedfast.data.text.dialogues import is_chat
from seedfast.data.text.rows import Row, checked_text
from seedfast.data.text.sources import Document, TextSource
from seedfast.data.text.tokenizers import Subwords, Tokenizer, from_files
from seedfast.errors import UserError
from seedfast.files import to_json


@dataclass(frozen=True)
class TextHubSource(TextSource):
    """The rows of a map-style data set; its files are Arrow files. field: the column of the text."""

    field: str = "text"
    dataset: Any = None

    def first_row(self) -> Row | None:
        return next(iter(self.dataset), None)

    def rows(self) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self.dataset):
            yield f"{number} of {self.title}", row

    def documents(self) -> Iterator[Document]:
        number = 0
        for batch in self.dataset.select_columns([self.field]).iter(batch_size=1024):
            for value in batch[self.field]:
                text = checked_text(value, self.field, f"Row {number} of {self.title}")
                yield Document(f"row {number}", number, (text,))
                number += 1


def hub_source(name: str, field: str) -> TextSource:
    """The training split of the data set NAME or NAME:CONFIGURATION, or a folder that `save_to_disk` wrote.

    Raises UserError if it is neither on this machine nor reachable, or has no column `field` and none of chats.
    """
    title = f"hf:{name}"
    dataset, root, names = hub_rows(name)
    if field not in dataset.column_names and not is_chat(dataset.column_names):
        raise UserError(
            f'The data set {title} lacks the column "{field}" (it has {", ".join(dataset.column_names)}): '
            "set data.field to the column that holds the text."
        )
    return TextHubSource(title, root, names, field=field, dataset=dataset)


def pretrained_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a Hugging Face model, by folder or hub name, or of the files that `from_files` reads.

    Raises UserError if it is neither on this machine nor reachable, has no fast form or no end-of-sequence token.
    """
    if (known := from_files(Path(name).expanduser())) is not None:
        return known
    wrapper = huggingface.fetch("The tokenizer", name, huggingface.transformers().AutoTokenizer.from_pretrained)
    core = getattr(wrapper, "backend_tokenizer", None)
    if not isinstance(core, tokenizers.Tokenizer):
        raise UserError(f'The tokenizer "{name}" has no fast form (tokenizer.json): convert it or choose another.')
    if wrapper.eos_token_id is None:
        raise UserError(
            f'The tokenizer "{name}" has no end-of-sequence token, which is needed between documents: choose another.'
        )
    with tempfile.TemporaryDirectory() as folder:
        wrapper.save_pretrained(folder)
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text("utf-8"))
        about = {"tokenizer_config.json": to_json(config | {"eos_token": str(wrapper.eos_token)})}
        if (template := Path(folder) / "chat_template.jinja").is_file():
            about[template.name] = template.read_text("utf-8")
    return Subwords(tokenizers.Tokenizer.from_str(core.to_str()), str(wrapper.eos_token), about)
