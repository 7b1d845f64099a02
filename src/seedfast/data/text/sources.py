"""Sources of text: what all have in common, and files. A source yields documents."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import NamedTuple

from seedfast.console import say
from seedfast.data.fingerprint import signature
from seedfast.data.json_rows import Row
from seedfast.data.prepare import SourceFiles
from seedfast.data.text.fields import TEXT, in_lower_case, text_field
from seedfast.data.text.row_forms import is_dialogue
from seedfast.data.text.rows import LINES, PARQUET, TABLE, RowFile, named_as_rows, row_file
from seedfast.errors import UserError

_BLOCK = 1 << 18  # bytes of a file that are decoded together


@dataclass(frozen=True)
class Document:
    """One text.

    name: for messages. key: the key of its random assignment to a split. texts: its parts, read lazily and once.
    split: "train" or "validation" if the source itself defines the split.
    """

    name: str
    key: str | int
    texts: Iterable[str]
    split: str | None = None


class SourceRow(NamedTuple):
    """A row of a source. place: its name in messages. split: as of a `Document`."""

    place: str
    row: Row
    split: str | None = None


@dataclass(frozen=True)
class TextSource(SourceFiles, ABC):
    """Documents in a fixed order. is_one_text: a single text, which is split by position, not by document."""

    _: KW_ONLY
    is_one_text: bool = False

    @property
    def has_plain_texts(self) -> bool:
        """Whether some files are texts without rows."""
        return False

    @property
    def has_split(self) -> bool:
        """Whether the source itself defines the split of every document."""
        return False

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents. Raises UserError on an invalid row."""

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        """Each row; nothing if the documents are no rows.

        columns: the only fields that are needed (default: all). Raises UserError on an invalid row.
        """
        return iter(())

    def first_row(self) -> SourceRow | None:
        """The first of `rows`, with all its fields."""
        return next(self.rows(), None)


@dataclass(frozen=True)
class TextFileSource(TextSource):
    """Files: each is a document, or each of its rows is one.

    row_files: those with rows, by name. splits: the split of each, by name, if the names give one. field: the field of
    a row that holds the text.
    """

    row_files: Mapping[str, RowFile] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    field: str = TEXT

    @property
    def has_plain_texts(self) -> bool:
        return len(self.row_files) < len(self.names)

    @property
    def has_split(self) -> bool:
        return bool(self.splits)

    def documents(self) -> Iterator[Document]:
        for name in self.names:
            split = self.splits.get(name)
            if name not in self.row_files:
                yield Document(name, name, _read_text(self.root / name), split)
                continue
            file = self.row_files[name]
            for number, row in file.rows({self.field}):
                # In a single file the key of a row is its number: the split does not change if the file is renamed.
                key = number if len(self.names) == 1 else f"{name}:{number}"
                text = text_field(row, self.field, file.place(number))
                yield Document(f"{name}:{number}", key, (text,), split)

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        for name, file in self.row_files.items():
            for number, row in file.rows(columns):
                yield SourceRow(file.place(number), row, self.splits.get(name))


def file_source(path: Path, field: str) -> TextSource:
    """One file. Raises UserError if it cannot be read, or is named as a file of rows and holds none."""
    if not signature(path):
        raise UserError(f"The file {path} cannot be read: check its permissions.")
    rows = row_file(path, field)
    if rows and not named_as_rows(path.name):
        first = in_lower_case(next(rows.rows())[1])
        is_known = field in first or is_dialogue(first) or {"chosen", "rejected"} <= first.keys()
        rows = rows if is_known else None  # a text that begins with JSON
    if rows is not None and rows.form not in (LINES, TABLE, PARQUET):
        form = rows.form
        say(f"{path} is {form.name}: its {form.unit.lower()}s are read like the lines of a .jsonl file.")
    return TextFileSource(
        str(path),
        path.parent,
        (path.name,),
        is_one_text=rows is None,
        skipped=byte_order_marks(path.parent, [path.name]),
        row_files={path.name: rows} if rows else {},
        field=field,
    )


def byte_order_marks(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """What is dropped at the beginnings of files that an editor of Windows has saved."""
    found = []
    for name in names:
        if signature(root / name):
            with (root / name).open("rb") as file:
                if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                    found.append(f"the byte order mark of {name}")
    return tuple(found)


def _read_text(path: Path) -> Iterator[str]:
    """The characters of a file exactly as they are, without a byte order mark: no newline is translated."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
