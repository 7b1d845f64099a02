"""Data sets and tokenizers of the Hugging Face hub, or of folders that its libraries wrote: optional extras."""

import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from seedfast import huggingface
from seedfast.data.hub_rows import hub_rows
from seedfast.data.text.fields import TEXT, text_field, wanted
from seedfast.data.text.rows import without_nulls
from seedfast.data.text.sources import Document, SourceRow, TextSource
from seedfast.data.text.tokenizers import Subwords, Tokenizer, from_files
from seedfast.errors import UserError
from seedfast.files import to_json


@dataclass(frozen=True)
class TextHubSource(TextSource):
    """The rows of a map-style data set; its files are Arrow files. field: the column of the text."""

    field: str = TEXT
    dataset: Any = None

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        known = self.dataset.column_names
        names = [name for name in known if columns is None or wanted(name, columns)]
        number = 0
        for batch in self.dataset.select_columns(names).iter(batch_size=64 if columns is None else 1024):
            for values in zip(*(batch[name] for name in names), strict=True):
                row = without_nulls(dict(zip(names, values, strict=True)))
                yield SourceRow(f"Row {number} of {self.title}", row)
                number += 1

    def documents(self) -> Iterator[Document]:
        for number, (place, row, _) in enumerate(self.rows({self.field})):
            yield Document(f"row {number}", number, (text_field(row, self.field, place),))


def hub_source(name: str, field: str) -> TextSource:
    """The training split of the data set NAME or NAME:CONFIGURATION, or a folder that `save_to_disk` wrote.

    Raises UserError if it is neither on this machine nor reachable.
    """
    dataset, root, names = hub_rows(name)
    return TextHubSource(f"hf:{name}", root, names, field=field, dataset=dataset)


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
