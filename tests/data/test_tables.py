"""Tables: every usual dialect is read, and no row vanishes in the field of another."""

from pathlib import Path

import pytest

from seedfast.data.tables import Fault, Record, records, table_rows
from seedfast.errors import UserError

ROWS = [{"prompt": "a, b", "completion": 'say "c"'}, {"prompt": "two\nlines", "completion": "é; | x"}]
QUOTED = '"{}"{}"{}"{}"a, b"{}"say ""c"""{}"two\nlines"{}"é; | x"{}'


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_dialects_give_the_same_rows(delimiter: str, end: str, mark: str, tmp_path: Path) -> None:
    text = QUOTED.format("prompt", delimiter, "completion", end, delimiter, end + end, delimiter, end)
    (tmp_path / "rows.csv").write_bytes((mark + text).encode())
    assert [row for _, row in table_rows(tmp_path / "rows.csv")] == ROWS


def test_rows_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n')
    assert [number for number, _ in table_rows(path)] == [2, 5]
    path.write_text("sep=;\na;b\n1;x\n")
    assert list(table_rows(path)) == [(3, {"a": "1", "b": "x"})], "the line that Excel writes is no header"


def test_an_unnamed_column_is_left_out(tmp_path: Path) -> None:
    """pandas writes its index so."""
    (tmp_path / "rows.csv").write_text(",text\n0,x\n")
    assert list(table_rows(tmp_path / "rows.csv")) == [(2, {"text": "x"})]


def test_a_field_may_be_longer_than_the_limit_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,n\n" + "x" * 300_000 + ",1\n")
    assert len(next(table_rows(tmp_path / "rows.csv"))[1]["text"]) == 300_000


def test_quotation_marks_can_be_letters() -> None:
    rows = list(records(['a.jpg|"one\n', 'b.jpg|two"\n'], quoted=False))
    assert rows == [Record(1, ["a.jpg", '"one']), Record(2, ["b.jpg", 'two"'])]


def test_a_row_that_cannot_be_read_costs_its_first_line_alone() -> None:
    lines = ['a,"one\n', "b,two\n", 'c,"three\n', 'and more"\n', 'd,"x" y\n', "e,five"]
    unclosed, after = "a quotation mark that is not closed", "text after a closing quotation mark"
    expected = [Fault(1, lines[0], unclosed), Record(2, ["b", "two"]), Record(3, ["c", "three\nand more"])]
    expected += [Fault(5, lines[4], after), Record(6, ["e", "five"])]
    assert list(records(lines, is_row=lambda line: line[1] == ",")) == expected


def test_the_line_ends_of_old_macs_are_line_ends(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b't,n\rx,1\r"y\rz",2\r')
    assert list(table_rows(tmp_path / "rows.csv")) == [(2, {"t": "x", "n": "1"}), (3, {"t": "y\rz", "n": "2"})]


BAD = {
    "never closed": ('t,n\nx,1\n"y,2\nz,3\n', "begins on line 3"),
    "closed by the quotation mark of a later row": ('t,n\n"y,1\nz,2\n"a, b",3\n', "begins on line 2"),
    "closed within the field": ('t,n\n"y" z,1\n', "begins on line 2"),
    "too many fields": ("t,n\nx,1\na, b,2\n", "Line 3 of .* has 3 fields, and the header has 2"),
    "too few fields": ("t,n\nx\n", "Line 2 of .* has 1 fields"),
    "a column twice": ("t,t\nx,y\n", 'has the column "t" twice'),
    "not UTF-8": (b"t,n\nx,1\n\xe9,2\n", "Line 3 of .* is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_row_is_named_by_its_line(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    (tmp_path / "rows.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message):
        list(table_rows(tmp_path / "rows.csv"))
