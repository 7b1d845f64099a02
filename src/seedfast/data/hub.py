"""Data sets and tokenizers of the Hugging Face hub, or of its libraries' folders: optional extras."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from seedfast import hub
from seedfast.data.sources import Document, Source, text_of
from seedfast.data.tokenizers import Subwords
from seedfast.errors import UserError
from seedfast.files import to_json


@dataclass(frozen=True)
class HubSource(Source):
    """The rows of a map-style data set, whose Arrow files are its content."""

    field: str = "text"
    rows: Any = None

    def documents(self) -> Iterator[Document]:
        number = 0
        for batch in self.rows.select_columns([self.field]).iter(batch_size=1024):
            for value in batch[self.field]:
                text = text_of(value, f"Row {number} of {self.title}", self.field)
                yield Document(f"row {number}", number, (text,))
                number += 1


def hub_source(name: str, field: str) -> Source:
    """The training split of the data set NAME or NAME:CONFIGURATION, or a folder that `save_to_disk` wrote.

    Raises UserError if it is not at hand and cannot be fetched, or lacks the column `field`.
    """
    title = f"hf:{name}"
    rows, root, names = hub_rows(name)
    if field not in rows.column_names:
        raise UserError(
            f'The data set {title} lacks the column "{field}" (it has {", ".join(rows.column_names)}): '
            "name the column that holds the text in field."
        )
    return HubSource(title, root, names, field=field, rows=rows)


def hub_rows(name: str) -> tuple[Any, Path, tuple[str, ...]]:
    """The rows of that data set's training split, and the folder and names of the files that hold them.

    Raises UserError if it is not at hand and cannot be fetched.
    """
    title = f"hf:{name}"
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"Reading {title} needs datasets: pip install 'seedfast[hub]'.") from None
    path, _, configuration = name.partition(":")
    folder = Path(path).expanduser()
    why: str | None = None
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(str(folder))
            rows = rows["train"] if isinstance(rows, datasets.DatasetDict) else rows
        else:
            # The library would ask a hub that cannot be reached again and again before it looks into its cache.
            why = hub.unreachable()
            with hub.only_here(datasets.config) if why else nullcontext():
                rows = datasets.load_dataset(path, configuration or None, split="train")
    except (OSError, ValueError, KeyError) as error:
        reason = why or hub.first_line(error)
        raise UserError(
            f"The data set {title} cannot be loaded ({reason}): check the name or, where there is no "
            "network, fetch it elsewhere, keep it with save_to_disk and name that folder."
        ) from None
    files = [Path(entry["filename"]) for entry in rows.cache_files]
    if not files:
        raise UserError(f"The data set {title} has no rows on the disk: choose another split or data set.")
    return rows, files[0].parent, tuple(file.name for file in files)


def pretrained(name: str) -> Subwords:
    """The tokenizer of a Hugging Face model, by folder or hub name.

    Raises UserError if it is not at hand and cannot be fetched, has no fast form or no end-of-sequence token.
    """
    wrapper = hub.fetch("The tokenizer", name, hub.transformers().AutoTokenizer.from_pretrained)
    core = getattr(wrapper, "backend_tokenizer", None)
    if not isinstance(core, tokenizers.Tokenizer):
        raise UserError(f'The tokenizer "{name}" has no fast form (tokenizer.json): convert it or choose another.')
    if wrapper.eos_token_id is None:
        raise UserError(f'The tokenizer "{name}" has no end-of-sequence token, which has to part the documents.')
    with tempfile.TemporaryDirectory() as folder:
        wrapper.save_pretrained(folder)
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text("utf-8"))
        about = {"tokenizer_config.json": to_json(config | {"eos_token": str(wrapper.eos_token)})}
        if (template := Path(folder) / "chat_template.jinja").is_file():
            about[template.name] = template.read_text("utf-8")
    return Subwords(tokenizers.Tokenizer.from_str(core.to_str()), str(wrapper.eos_token), about)
