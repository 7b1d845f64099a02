"""The user's own source of text: a function `path/to/file.py:function` that yields documents."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from seedfast.data.json_rows import Row
from seedfast.data.text.fields import FIELDS, TEXT, in_lower_case, text_field
from seedfast.data.text.row_forms import is_dialogue
from seedfast.data.text.sources import Document, SourceRow, TextSource
from seedfast.errors import UserError
from seedfast.user_code import OwnFunction, own_function

_FORMS = 'a text, or a dict with the fields of a row: a text, "prompt" and "completion", or "messages"'


class _FirstPass(NamedTuple):
    digest: str
    first: Row | str


@dataclass(frozen=True)
class OwnSource(TextSource):
    """What a function of the user yields: texts, or dicts with the fields of a JSONL row.

    The function is called once whenever the data is loaded, to find its digest, and again for each pass over the data
    while it is prepared. Every call must yield the same documents in the same order.
    """

    function: OwnFunction
    field: str = TEXT

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of the file that defines the function, and of the documents."""
        return super().contents | {self.title: self._first_pass.digest}

    @property
    def yields_texts(self) -> bool:
        """Whether the first document is a text without fields."""
        return isinstance(self._first_pass.first, str)

    def first_row(self) -> SourceRow:
        first = self._first_pass.first
        return SourceRow(f"Document 0 of {self.title}", {self.field: first} if isinstance(first, str) else first)

    def documents(self) -> Iterator[Document]:
        for number, (place, row, _) in enumerate(self.rows()):
            yield Document(f"document {number}", number, (text_field(row, self.field, place),))

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        digest = hashlib.sha256()
        for number, document in enumerate(self._call()):
            row = {self.field: document} if isinstance(document, str) else document
            digest.update(self._canonical(row))
            yield SourceRow(f"Document {number} of {self.title}", row)
        if digest.hexdigest() != self._first_pass.digest:
            raise UserError(
                f"{self.title} yields other documents when it is called again: every call must yield the same "
                "documents in the same order (give random numbers a seed, and sort what you list)."
            )

    @cached_property
    def _first_pass(self) -> _FirstPass:
        digest = hashlib.sha256()
        first: Row | str | None = None
        for document in self._call():
            first = document if first is None else first
            digest.update(self._canonical({self.field: document} if isinstance(document, str) else document))
        if first is None:
            raise UserError(f"{self.title} yields no documents: yield at least two.")
        return _FirstPass(digest.hexdigest(), first)

    def _canonical(self, row: Row) -> bytes:
        """The fields that documents are made of, as bytes."""
        row = row if self.field in row else in_lower_case(row)
        values: list[Any] = [row[self.field]] if self.field in row else []
        if not values or is_dialogue(row):
            main = ("messages", "prompt", "completion")
            values += [row.get(key) for key in main] + [[key, row[key]] for key in FIELDS if key in row.keys() - main]
        return json.dumps(values, sort_keys=True, default=repr).encode() + b"\n"

    def _call(self) -> Iterator[Row | str]:
        """The documents of one call. Raises UserError if the function fails, or yields anything else."""
        try:
            result = self.function.call()
            if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
                raise UserError(
                    f"{self.title} returns {result!r:.60} ({type(result).__name__}), which is no sequence of "
                    "documents: return a list of them, or yield them one by one."
                )
            for number, document in enumerate(result):
                if not isinstance(document, str | Mapping):
                    raise UserError(
                        f"Document {number} of {self.title} is {document!r:.60} ({type(document).__name__}), but a "
                        f"document is {_FORMS}."
                    )
                yield document
        except UserError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise self.function.failure(error) from error


def own_source(name: str, field: str) -> OwnSource:
    """The source that `path/to/file.py:function` names. Raises UserError if there is no such function."""
    function = own_function(name)
    title = f"{function.file.name}:{function.location.rpartition(':')[2]}"
    return OwnSource(title, function.file.parent, (function.file.name,), function=function, field=field)
