"""Tokenizers: text to ids and back, without loss. `load` reads every kind from the folder that `save` wrote.

End-of-text is an id that only the code inserts: no string in a text is ever encoded as a special token.
"""

import hashlib
import json
from pathlib import Path

from seedfast.data.text.tokenizers.chat import ChatTemplate
from seedfast.data.text.tokenizers.files import from_files
from seedfast.data.text.tokenizers.plain import Bytes, Characters, plain_tokenizer
from seedfast.data.text.tokenizers.protocol import END_OF_TEXT, TokenArray, Tokenizer, begin, encode_lossless
from seedfast.data.text.tokenizers.subwords import Subwords, safe_cuts
from seedfast.errors import UserError
from seedfast.files import to_json

__all__ = [
    "END_OF_TEXT",
    "Bytes",
    "Characters",
    "ChatTemplate",
    "Subwords",
    "TokenArray",
    "Tokenizer",
    "begin",
    "digest",
    "encode_lossless",
    "from_files",
    "load",
    "on_date",
    "reads_clock",
    "safe_cuts",
    "save",
]


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`, and the other files that `load` needs, into an existing folder."""
    for name, content in tokenizer.files().items():
        (folder / name).write_text(content, "utf-8")


def load(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in `folder`. Raises UserError if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"There is no tokenizer in {folder}: it should hold a file tokenizer.json.")
    return plain_tokenizer(json.loads(path.read_text("utf-8"))) or Subwords.load(folder)


def reads_clock(tokenizer: Tokenizer | None) -> bool:
    """Whether a tokenizer has a chat template that writes the date."""
    template = tokenizer.chat_template if isinstance(tokenizer, Subwords) else None
    return template is not None and template.reads_clock


def on_date(tokenizer: Tokenizer | None, day: str) -> Tokenizer | None:
    """The same tokenizer, of which the chat template takes this day, YYYY-MM-DD, for the present one."""
    return tokenizer.on_date(day) if isinstance(tokenizer, Subwords) else tokenizer


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of everything that the tokenizer's ids depend on."""
    return hashlib.sha256(to_json(tokenizer.files()).encode()).hexdigest()
