"""Rows in JSON: lines and arrays give the same rows, in bounded memory, and every fault is named with its place."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedfast.data import json_rows
from seedfast.data.json_rows import json_items, json_lines, json_objects, parse_json, read_json
from seedfast.errors import UserError

WORDS = 'naïve, [not] {a} \\"b\\" \n'
ROWS: list[dict[str, Any]] = [{"text": WORDS * n, "n": [n, {"m": None}]} for n in range(40)]


def test_lines_and_arrays_hold_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS), "utf-8")
    assert list(json_lines(path)) == [(2 * n + 1, row) for n, row in enumerate(ROWS)], "numbered by line"
    for indent in (None, 2):
        path.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), "utf-8-sig")
        assert list(json_items(path)) == list(enumerate(ROWS, 1))
    path.write_text("[ ]\n")
    assert list(json_items(path)) == []


@given(st.integers(1, 50), st.lists(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False)), max_size=9))
def test_an_array_is_read_alike_wherever_its_blocks_end(block: int, rows: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_BLOCK", block)
        found = json_rows._items(json_rows._Text(io.StringIO(json.dumps(rows)), Path("rows.json")))
        assert [row for _, row in found] == rows


def test_objects_over_several_lines_are_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS), "utf-8")
    for block in (1, 7, 1 << 16):
        monkeypatch.setattr(json_rows, "_BLOCK", block)
        assert list(json_objects(path)) == list(enumerate(ROWS, 1))
    path.write_text('{\n"a": 1}\n{\n"a": }')
    with pytest.raises(UserError, match=r"Object 2 of .* is not JSON"):
        list(json_objects(path))


BAD_ITEMS = {
    "no comma": ('[{"a": 1} {"a": 2}]', "Item 1 of .* is followed by"),
    "no end": ('[{"a": 1}, {"a": 2}', "Item 2 of .*the array does not end"),
    "cut": ('[{"a": 1}, {"a": ', "Item 2 of .* is not JSON"),
    "text after it": ('[{"a": 1}]\n[{"a": 2}]', "is followed by .*one array"),
    "a comma too many": ('[{"a": 1},\n]', "has a comma after its last item"),
    "no object": ('[{"a": 1}, "b"]', "Item 2 of .*it is no JSON object"),
    "a key twice": ('[{"a": 1}, {"a": 1, "a": 2}]', 'Item 2 of .* has the key "a" twice'),
    "deep": ("[" + "[" * 999 + "]" * 999 + "]", "Item 1 of .* nests too deeply"),
    "not UTF-8": (b'[{"a": "\xe9"}]', "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_a_faulty_item_is_named(case: str, tmp_path: Path) -> None:
    text, message = BAD_ITEMS[case]
    (tmp_path / "rows.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message):
        list(json_items(tmp_path / "rows.json"))


def test_rows_longer_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST", 100)
    monkeypatch.setattr(json_rows, "_BLOCK", 10)
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 200 + '"}\n')
    with pytest.raises(UserError, match=r"Line 2 of .* is longer than"):
        list(json_lines(path))
    path.write_text('[{"a": 1}, {"a": "' + "x" * 300 + '"}]')
    with pytest.raises(UserError, match=r"Item 2 of .*"):
        list(json_items(path))


@pytest.mark.parametrize("depth", [150, 250, 5000, 100_000])
def test_nesting_is_limited_whatever_the_interpreter_allows(depth: int) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    if depth <= 200:
        parse_json(text, "it")
    else:
        with pytest.raises(UserError, match=r"it is not JSON .it nests too deeply"):
            parse_json(text, "it")
    flat = json.dumps([{}] * depth)
    assert parse_json(flat, "it") == [{}] * depth, "many brackets are not deep ones"


def test_a_whole_file_is_read_with_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"a.jpg": ["x"]}', "utf-8-sig")
    assert read_json(path) == {"a.jpg": ["x"]}
    path.write_text('{"a.jpg": ["x"], "a.jpg": ["y"]}')
    with pytest.raises(UserError, match=r'captions.json has the key "a.jpg" twice'):
        read_json(path)
