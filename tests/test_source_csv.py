"""Source `csv`, and the reading of index files that all table sources share."""

import csv
import io
import math
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import files
from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import EXPRESSIONS, LABEL_ORDERS, Reject, one_hot
from pipeline.sources import SOURCES, tables
from pipeline.sources.base import SourceOptions


@pytest.fixture
def source(tmp_path):
    """Writes labels.csv, text or bytes, and opens the source."""

    def open_source(content, name="labels.csv", **options):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return SOURCES["csv"](InputFiles(tmp_path), SourceOptions(**options))

    return open_source


def labels_of(source):
    """Labels, or the reason of the rejection, by id."""
    found = {}
    for entry in source.scan():
        try:
            found[entry.id] = entry.reason or source.labels(entry)
        except Reject as reject:
            found[entry.id] = reject.reason
    return found


def reasons(source):
    return {entry.id: entry.reason for entry in source.scan()}


def test_reads_every_column(source):
    src = source("image,expression,valence,arousal,split,group\nfaces/a.jpg,happy,0.5,-0.25,Train,anna\n")
    [entry] = src.scan()
    assert (entry.id, entry.path, entry.split, entry.group, entry.line) == (
        "faces/a.jpg",
        "faces/a.jpg",
        "train",
        "anna",
        2,
    )
    labels = src.labels(entry)
    assert (labels.expression, labels.shares, labels.valence, labels.arousal) == (1, one_hot(1), 0.5, -0.25)
    assert src.paths(entry) == ("faces/a.jpg",)
    assert src.box(entry) is None


def test_columns_by_name_in_any_order_case_and_spelling(source):
    [entry] = source(" Arousal ,SUBJECT_ID,extra,File\n0.5,s1,x,a.jpg\n").scan()
    assert (entry.path, entry.group) == ("a.jpg", "s1")
    assert source("arousal,path\n0.5,a.jpg\n").labels(entry).arousal == 0.5


def test_the_main_spelling_wins_over_another(source):
    [entry] = source("path,image,expression\nold/a.jpg,a.jpg,happy\n").scan()
    assert entry.path == "a.jpg"


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbfimage,expression\r\na.jpg,happy\r\n\r\nb.jpg,sad\r\n",
    b"image\texpression\na.jpg\thappy\nb.jpg\tsad",
    b'"image","expression"\n"a.jpg","happy"\n"b.jpg",sad\n',
    b"\n\nimage, expression\n a.jpg , happy\nb.jpg,\tsad\n",
])  # fmt: skip
def test_every_dialect(source, content):
    assert {name: labels.expression for name, labels in labels_of(source(content)).items()} == {"a.jpg": 1, "b.jpg": 2}


@pytest.mark.parametrize("name", [
    "a b.jpg", " a.jpg ", "a\nb.jpg", "a\r\nb.jpg", 'a"b.jpg', "a,b.jpg",
    "\N{GRINNING FACE}.jpg", "ü" * 120, "\n\n\na.jpg",
])  # fmt: skip
def test_names_in_quotes_hold_anything(source, tmp_path, name):
    (tmp_path / name).write_bytes(b"face")
    quoted = name.replace('"', '""')
    src = source(f'image,expression\nfirst.jpg,sad\r\n"{quoted}",happy\nlast.jpg,sad\n')
    entries = list(src.scan())
    assert [entry.id for entry in entries] == ["first.jpg", name, "last.jpg"]
    assert [entry.reason for entry in entries] == ["", "", ""]
    assert src.raw(entries[1]) == b"face"


@pytest.mark.parametrize("bad, fault", [
    (b"a.jpg,happy,,", "4 cells"), (b"a.jpg", "1 cells"), (b'"a.jpg,happy', "quote"),
    (b'"a".jpg,happy', "closing quote"),
    (b"\xff.jpg,happy", "UTF-8"), (b"a" * (files.MAX_LINE_BYTES + 9) + b",happy", "bytes"), (b'"a\n",\xff', "UTF-8"),
    (b"a.jpg," + b"x" * 200, "200 characters"), (b'"a' + b"\n" * tables.MAX_ROW_LINES + b'",happy', "not closed"),
])  # fmt: skip
def test_a_bad_row_leaves_its_neighbours_alone(source, bad, fault):
    src = source(b'image,expression\n"good1",happy\n' + bad + b"\ngood2,sad\n" + b'"good3",sad\n')
    entries = list(src.scan())
    assert [entry.id for entry in entries if not entry.reason] == ["good1", "good2", "good3"]
    first = next(entry for entry in entries if entry.reason)
    assert (first.id, first.line, first.reason) == ("labels.csv:line-000003", 3, "bad_row")
    assert fault in first.detail and "line 3" in first.detail


@pytest.mark.parametrize("path, reason", [
    ("../a.jpg", "unsafe_path"), ("/etc/passwd", "unsafe_path"), ("a/../../b", "unsafe_path"), ("", "missing_image"),
])  # fmt: skip
def test_rows_that_name_no_image_inside(source, path, reason):
    assert reasons(source(f"image,expression\n{path},happy\n")) == {"labels.csv:line-000002": reason}


def test_absent_file_and_link_out(source, tmp_path):
    (tmp_path / "link.jpg").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.jpg")
    src = source("image,expression\nabsent.jpg,1\nlink.jpg,1\npipe.jpg,1\nno/folder.jpg,1\n")
    found = {}
    for entry in src.scan():
        with pytest.raises(Reject) as caught:
            src.raw(entry)
        found[entry.id] = caught.value.reason
    assert found == {
        "absent.jpg": "missing_image", "link.jpg": "unsafe_path", "pipe.jpg": "unsafe_path",
        "no/folder.jpg": "missing_image",
    }  # fmt: skip


@pytest.mark.parametrize("cell, expected", [
    ("3", 3), ("3.0", 3), ("+3", 3), ("0", 0), ("7", 7), ("3e0", 3), ("Happiness", 1), ("ANGRY", 6), ("", -1),
    ("8", -1), ("10.0", -1), ("11", "bad_label"), ("-1", "bad_label"), ("2.5", "bad_label"), ("0x1", "bad_label"),
    ("1_0", "bad_label"), ("glad", "bad_label"), ("nan", "non_finite"), ("1e400", "non_finite"), ("-inf", "non_finite"),
    ("٣", "bad_label"),
])  # fmt: skip
def test_expression_cells(source, cell, expected):
    [found] = labels_of(source(f"image,expression\na.jpg,{cell}\n")).values()
    assert found == expected if isinstance(expected, str) else found.expression == expected


@pytest.mark.parametrize("valence, arousal, expected", [
    ("0.5", "-1", (0.5, -1.0)), (".5", "1.", (0.5, 1.0)), ("5e-1", "", (0.5, math.nan)), ("", "", (math.nan, math.nan)),
    ("-2", "-2.0", (math.nan, math.nan)), ("-2", "0", "inconsistent_va"), ("1.5", "0", "out_of_range"),
    ("nan", "0", "non_finite"), ("1e400", "0", "non_finite"), ("Infinity", "0", "non_finite"),
    ("0x1", "0", "bad_row"), ("1_0", "0", "bad_row"), ("half", "0", "bad_row"), ("0.1 0.2", "0", "bad_row"),
    ("٠", "0", "bad_row"),
])  # fmt: skip
def test_valence_and_arousal_cells(source, valence, arousal, expected):
    [found] = labels_of(source(f"image,valence,arousal\na.jpg,{valence},{arousal}\n")).values()
    assert (
        found == expected
        if isinstance(expected, str)
        else (found.valence, found.arousal) == pytest.approx(expected, nan_ok=True)
    )


def test_sentinels_are_noted(source):
    [labels] = labels_of(source("image,expression,valence,arousal\na.jpg,9,-2,-2\n")).values()
    assert labels.notes == ("expression:9 uncertain", "valence_arousal:-2")
    assert not labels.known


def test_empty_cells_are_rejected_on_request(source):
    content = "image,expression,valence\na.jpg,1,0.5\nb.jpg,1,\nc.jpg,,0\n"
    found = labels_of(source(content, missing_labels="reject"))
    assert (found["a.jpg"].valence, found["b.jpg"], found["c.jpg"]) == (0.5, "missing_labels", "missing_labels")


def test_label_order_holds_for_codes_and_not_for_names(source):
    src = source("image,expression\na.jpg,0\nb.jpg,anger\nc.jpg,7\n", label_order=LABEL_ORDERS["fer2013"])
    found = labels_of(src)
    assert (found["a.jpg"].expression, found["b.jpg"].expression, found["c.jpg"]) == (6, 6, "bad_label")


def test_splits(source):
    rows = {"train": "train", "VAL": "validation", "Validation": "validation", "valid": "validation", "test": "test"}
    src = source("image,expression,split\n" + "".join(f"{i}.jpg,1,{name}\n" for i, name in enumerate(rows)))
    assert [entry.split for entry in src.scan()] == list(rows.values())
    src = source("image,expression,split\na.jpg,1,train\nb.jpg,1,\nc.jpg,1,dev\n")
    assert list(reasons(src).values()) == ["", "bad_split", "bad_split"]


def test_two_images_that_differ_in_extension_and_a_row_twice(source):
    entries = list(source("image,expression\na.jpg,1\na.png,2\na.jpg,1\n").scan())
    assert [entry.id for entry in entries] == ["a.jpg", "a.png", "a.jpg"]
    assert entries[0].payload == entries[2].payload != entries[1].payload


@pytest.mark.parametrize("content, words", [
    ("expression,valence\n1,0\n", ["'image'", "image_path", "expression, valence"]), ("", ["empty", "image"]),
    ("image,name\na.jpg,b\n", ["labels", "valence"]),
    ("image,expression,expression\n", ["more than one", "expression"]),
    (b"\xff\xfei\0m\0a\0g\0e\0", ["UTF-8"]), (b"a" * 2**21, ["first line"]), ('"image,expression\n', ["first line"]),
])  # fmt: skip
def test_an_unusable_first_line_stops(source, content, words):
    with pytest.raises(DataError) as caught:
        list(source(content).scan())
    assert all(word in str(caught.value) for word in words), caught.value


def test_which_file_is_the_index(source, tmp_path):
    with pytest.raises(DataError, match=r"nothing.*labels\.csv"):
        list(SOURCES["csv"](InputFiles(tmp_path), SourceOptions()).scan())
    assert reasons(source("image,expression\na.jpg,1\n", "list.tsv")) == {"a.jpg": ""}
    with pytest.raises(DataError, match=r"2 index files: list\.tsv, other\.csv"):
        list(source("image,expression\nb.jpg,1\n", "other.csv").scan())
    assert reasons(source("image,expression\nc.jpg,1\n")) == {"c.jpg": ""}


def test_an_index_that_is_no_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a regular file"):
        list(InputFiles(tmp_path).lines("pipe.csv"))


CELL = st.text(st.sampled_from('ab",\n\r\t é1'), max_size=8)


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=6), st.sampled_from(["\n", "\r\n"]))
@example([('"', "\r\n", "")], "\n")
def test_reads_what_pythons_csv_writes(rows, line_end):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerow("xyz")
    writer.writerows(rows)
    data = buffer.getvalue().encode()
    lines = files.lines(io.BytesIO(data))
    table = tables.Table(lines, "t", columns={name: (name,) for name in "xyz"}, required="xyz")
    read = list(table.rows())
    expected = [row for row in rows if sum(cell.count("\n") for cell in row) < tables.MAX_ROW_LINES]
    assert [tuple(row.text(name) for name in "xyz") for row in read if not row.fault] == expected
    for row, cells in zip((row for row in read if not row.fault), expected):
        for name, cell in zip("xyz", cells):
            offset, length = row.span(name)
            assert data[offset : offset + length].decode() == cell.replace('"', '""')


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b'"', b'"')
@example(b'"\n', b"1,2\n")
def test_any_bytes_are_rows_or_rejections_and_close_neighbours_survive(before, after):
    data = b"x,y\n" + before + b"\n" * tables.MAX_ROW_LINES + b"good,1\n" + after
    table = tables.Table(files.lines(io.BytesIO(data)), "t", columns={name: (name,) for name in "xy"}, required="xy")
    rows = list(table.rows())
    assert any(not row.fault and (row.text("x", 999), row.text("y", 999)) == ("good", "1") for row in rows)
    assert len({row.id for row in rows}) == len(rows)


@given(st.one_of(st.floats(), st.integers(), st.text(max_size=6)))
@example("1_0")
@example("0x1")
@example("")
@example(" 1")
def test_a_number_is_what_a_plain_decimal_says(value):
    text = str(value)
    # Python reads more than decimal notation: underscores, blanks around, digits of other scripts.
    try:
        expected = float(text) if text.isascii() and "_" not in text and text.strip() == text else None
    except ValueError:
        expected = None
    try:
        found = tables.number(text, "n")
    except Reject as reject:
        assert (reject.reason, expected) == ("bad_row", None)
    else:
        assert expected is not None and (found == expected or (math.isnan(found) and math.isnan(expected)))


def test_codes_follow_affectnet_unless_told():
    assert SOURCES["csv"].label_order == EXPRESSIONS
