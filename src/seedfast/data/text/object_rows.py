"""Rows inside one JSON object, as programs write them that know no JSON lines.

| object | rows |
|---|---|
| {"data": [{…}, {…}], "version": 1} | the objects of its only list of objects |
| {"0": {…}, "1": {…}} | its values (pandas, orient="index") |
| {"prompt": ["…", "…"], "completion": ["…", "…"]} | one for each place of the columns |
| {"prompt": {"0": "…", "1": "…"}, "completion": {"0": …}} | the same (pandas' own form) |
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from seedfast.data.json_rows import Row


class ObjectRows(NamedTuple):
    """The rows of an object. name: what the object is, for messages."""

    name: str
    rows: Sequence[Row]


def object_rows(value: Row, fields: Collection[str]) -> ObjectRows | None:
    """The rows inside an object; None if it is a row itself, or it is not clear where its rows are.

    fields: names of what rows are made of.
    """
    if any(name in fields and (isinstance(each, str) or _is_objects(each)) for name, each in value.items()):
        return None
    if columns := _columns(value, fields):
        numbers = range(len(next(iter(columns.values()))))
        rows = [{name: column[number] for name, column in columns.items()} for number in numbers]
        return ObjectRows("a JSON object of columns", rows)
    lists = [name for name, each in value.items() if _is_objects(each)]
    if len(lists) == 1:
        return ObjectRows(f'a JSON object with the list "{lists[0]}"', value[lists[0]])
    if value and not lists and all(isinstance(each, Mapping) and each for each in value.values()):
        is_one_shape = len({frozenset(each) for each in value.values()}) == 1
        if is_one_shape or all(name.isdecimal() for name in value):
            return ObjectRows("a JSON object of objects", list(value.values()))
    return None


def without_rows(value: Row, fields: Collection[str], *, is_line: bool) -> str | None:
    """Why an object in which `object_rows` finds nothing holds no rows, as a clause; None if it is a row itself.

    is_line: whether it stands on one line, as rows do.
    """
    lists = [name for name, each in value.items() if _is_objects(each)]
    sizes = {name: len(each) for name, each in value.items() if name in fields and isinstance(each, list)}
    if len(sizes) > 1 and len(sizes) == len(value) and len({*sizes.values()}) > 1 and not lists:
        return f"its columns have {' and '.join(f'{size} ({name})' for name, size in sizes.items())} rows: fix it"
    if any(name in fields for name in value):
        return None
    if len(lists) > 1:
        return (
            f"it holds the lists {', '.join(lists)}: store each in a file of its own, such as train.json and val.json"
        )
    keys = ", ".join(list(value)[:8]) or "none"
    return None if is_line else f"its keys are {keys}: store the rows as an array, or one object in each line"


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _columns(value: Row, fields: Collection[str]) -> dict[str, list[Any]] | None:
    """The columns of an object that has nothing else, all of one length; one of them at least is known."""
    if not any(name in fields for name in value):
        return None
    if all(isinstance(each, Mapping) for each in value.values()):  # each value by the number of its row
        first, *others = value.values()
        if (
            not first
            or not all(key.isdecimal() for key in first)
            or any(each.keys() != first.keys() for each in others)
        ):
            return None
        return {name: list(each.values()) for name, each in value.items()}
    lists = {name: each for name, each in value.items() if isinstance(each, list)}
    lengths = {len(each) for each in lists.values()}
    return lists if len(lists) == len(value) and len(lengths) == 1 and 0 not in lengths else None
