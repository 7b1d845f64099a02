"""Preferences: rows of a prompt with a chosen and a rejected answer, as TRL reads them.

| row | the prompt |
|---|---|
| {"prompt": "…", "chosen": "…", "rejected": "…"} | a text |
| {"prompt": [messages], "chosen": [messages], "rejected": [messages]} | messages |
| {"chosen": [messages], "rejected": [messages]} | the messages that both begin with |
| {"chosen": "…", "rejected": "…"} | the text that both begin with, up to a whole word |

An answer beside messages may be one message or its text. "question" or "instruction" with "input" (a text, perhaps with
a "system" message) and "conversations" (ShareGPT) stand for the prompt too.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seedfast.data.dataset import Batch
from seedfast.data.json_rows import Row, parse_json
from seedfast.data.text.batch import text_batch
from seedfast.data.text.dialogues import ChatSource, texts_of
from seedfast.data.text.fields import in_lower_case
from seedfast.data.text.packing import Examples
from seedfast.data.text.row_forms import Chat, Pair, dialogue
from seedfast.data.text.sources import SourceRow, TextSource
from seedfast.errors import UserError

_ANSWERS = ("chosen", "rejected")
_BESIDE = ("tools", "chat_template_kwargs")
_FIELDS = (*_ANSWERS, "prompt", "question", "instruction", "input", "conversations", "system", *_BESIDE)


@dataclass(frozen=True)
class PreferenceSource(ChatSource):
    """The rows of another source as preferences. Each is a document of two examples: the chosen answer comes first."""

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        for place, row, split in self.source.rows(_FIELDS):
            yield SourceRow(place, in_lower_case(row), split)

    def dialogues(self, row: Row, place: str) -> list[Pair | Chat]:
        made = [dialogue(each, place) for each in answered(row, place)]
        if not any(texts_of(made)):
            raise UserError(f"{place} has no text in its prompt and answers: remove it.")
        return made


def as_preferences(source: TextSource, field: str | None) -> PreferenceSource | None:
    """The source as a `PreferenceSource` if its first row has two answers, and not the field that the user names as the
    text; else None."""
    first = source.first_row()
    if first is None or field in first.row or not set(_ANSWERS) <= in_lower_case(first.row).keys():
        return None
    if source.has_plain_texts:
        raise UserError(
            f"{source.title} holds chosen and rejected answers ({first.place}) beside plain texts: choose one kind "
            "with data.include."
        )
    return PreferenceSource(source.title, source.root, source.names, skipped=source.skipped, source=source)


def answered(row: Row, place: str) -> tuple[Row, Row]:
    """The prompt with the chosen and with the rejected answer, each as a row of `row_forms`.

    place: the row's name in messages. Raises UserError for a row without two answers, or of another form.
    """
    row = {name: value for name, value in row.items() if value is not None}
    for name in _ANSWERS:
        if name not in row:
            raise UserError(f'{place} lacks "{name}": a preference has a "chosen" and a "rejected" answer.')
    answers = [_parsed(row[name], name, place) for name in _ANSWERS]
    prompt = _prompt(row, place)
    if not isinstance(prompt, list) and all(isinstance(answer, str) for answer in answers):
        if prompt is None:
            prompt, answers = _without_common_text(answers)
    else:
        prompt, answers = _as_messages(prompt, answers, place)
    beside = {name: row[name] for name in _BESIDE if name in row}
    chosen, rejected = ({"prompt": prompt, "completion": answer, **beside} for answer in answers)
    return chosen, rejected


def _parsed(value: Any, name: str, place: str) -> Any:
    """The value of a field; tables hold messages as JSON."""
    is_json = isinstance(value, str) and value.lstrip().startswith(("[{", '{"'))
    return parse_json(value, f'"{name}" of {place}') if is_json else value


def _prompt(row: Row, place: str) -> Any:
    """The prompt as a text or as messages; None if it is inside the answers."""
    for name in ("prompt", "conversations"):
        if name in row:
            return _with_system(row, _parsed(row[name], name, place))
    if "question" in row or "instruction" in row:
        parts = [row[name] for name in ("question", "instruction", "input") if row.get(name)]
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f'{place} has a "question" or an "instruction" that is no text: fix it.')
        return _with_system(row, "\n".join(parts))
    return None


def _with_system(row: Row, prompt: Any) -> Any:
    if not row.get("system"):
        return prompt
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": row["system"]}, *messages]


def _as_messages(prompt: Any, answers: list[Any], place: str) -> tuple[list[Any], list[list[Any]]]:
    """The messages of the prompt, and those of each answer."""
    made = []
    for answer in answers:
        if isinstance(answer, str):
            answer = {"role": "assistant", "content": answer}
        made.append(answer if isinstance(answer, list) else [answer])
    if not all(made):
        raise UserError(f"{place} has an answer without messages: fix or remove it.")
    same = next((i for i, (a, b) in enumerate(zip(*made, strict=False)) if a != b), min(map(len, made)))
    same = min(same, *(len(answer) - 1 for answer in made))
    if prompt is None or (isinstance(prompt, str) and same):  # a text beside whole chats repeats their beginning
        return made[0][:same], [answer[same:] for answer in made]
    return (prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]), made


def _without_common_text(answers: list[str]) -> tuple[str, list[str]]:
    """The text that both begin with, up to the last space, and the rest of each."""
    common = os.path.commonprefix(answers)  # noqa: RUF071  # characters are what is compared here
    cut = max((place for place, letter in enumerate(common) if letter.isspace()), default=0)
    return common[:cut], [answer[cut:] for answer in answers]


class PreferenceDataset:
    """Pairs of a chosen and a rejected answer to one prompt.

    A pair of which one is longer than `context` tokens is left out, and one of equal answers too, which teaches
    nothing. targets, bytes: scored tokens and their text's size, of the chosen answers.
    """

    def __init__(self, folder: Path, split: str, *, vocabulary: int, context: int, padding: int) -> None:
        """folder: the prepared data (see `dialogues.tokenise`). padding: the token id behind shorter answers."""
        self._examples = found = Examples(folder, split, vocabulary=vocabulary)
        self._padding = padding
        fits_P = found.lengths.reshape(-1, 2).max(axis=1) <= context + 1
        differ_P = np.array([self._differ(pair) for pair in range(len(fits_P))], bool)
        self._pairs = np.flatnonzero(fits_P & differ_P)
        self.left_out, self.equal = int((~fits_P).sum()), int((fits_P & ~differ_P).sum())
        self.targets = int(found.scored[2 * self._pairs].sum())
        self.bytes = int(found.bytes[2 * self._pairs].sum())

    def _differ(self, pair: int) -> bool:
        chosen, rejected = (self._examples.of(2 * pair + place)[0] for place in range(2))
        return not np.array_equal(chosen, rejected)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._pairs)

    def batch(self, ids: list[int]) -> Batch:
        """The pairs with these ids, the chosen answer first, as long as the longest of them.

        `tokens`, int64 [B, 2, L+1]; `scored`, bool [B, 2, L]; `documents`, int64 [B, 2, L+1]: 0, and 1 at padding.
        """
        numbers_R = (2 * self._pairs[ids][:, None] + np.arange(2)).flatten()
        length = int(self._examples.lengths[numbers_R].max())
        tokens_RL = np.full((len(numbers_R), length), self._padding, np.int64)
        scored_RL = np.zeros((len(numbers_R), length), bool)
        documents_RL = np.ones((len(numbers_R), length), np.int64)
        for row, number in enumerate(numbers_R.tolist()):
            tokens, scored = self._examples.of(number)
            here = slice(len(tokens))
            tokens_RL[row, here], scored_RL[row, here], documents_RL[row, here] = tokens, scored, 0
        return text_batch(
            tokens=_pairs(tokens_RL), scored=_pairs(scored_RL[:, 1:].copy()), documents=_pairs(documents_RL)
        )


def _pairs(rows_RL: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(rows_RL.reshape(-1, 2, rows_RL.shape[1]))
