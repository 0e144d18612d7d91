"""Source `affectnet_csv`: the lists of 2017, boxes, landmarks, and the folders they come in."""

import math

import pytest

from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import Reject
from pipeline.sources import SOURCES
from pipeline.sources.base import Box, SourceOptions

COLUMNS = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
POINTS = ";".join(f"{i}.5" for i in range(136))


def row(image="1/a.jpg", box="10,20,100,200", points=POINTS, labels="1,0.5,-0.25"):
    return f"{image},{box},{points},{labels}\n"


@pytest.fixture
def release(tmp_path):
    """Writes files by path and opens the source."""

    def open_source(contents: dict[str, str], **options):
        for name, text in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return SOURCES["affectnet_csv"](InputFiles(tmp_path), SourceOptions(**options))

    return open_source


def rejection(call, *arguments):
    with pytest.raises(Reject) as caught:
        call(*arguments)
    return caught.value.reason


def test_one_face(release):
    source = release({"validation.csv": "\ufeff" + row(), "1/a.jpg": "face"}, box_margin=0.1)
    [entry] = source.scan()
    assert (entry.id, entry.path, entry.split, entry.line) == ("1/a.jpg#10,20,100,200", "1/a.jpg", "test", 1)
    assert source.raw(entry) == b"face"
    assert source.box(entry) == Box(-10, 0, 130, 240)
    labels = source.labels(entry)
    assert (labels.expression, labels.valence, labels.arousal) == (1, 0.5, -0.25)
    assert labels.landmarks == tuple(i + 0.5 for i in range(136))
    assert source.paths(entry) == ("1/a.jpg", "validation.csv")


@pytest.mark.parametrize("lists, images", [
    ("", ""), ("", "images/"), ("", "Manually_Annotated_Images/"),
    ("Manually_Annotated_file_lists/", "Manually_Annotated_Images/"),
    ("Manually_Annotated/Manually_Annotated_file_lists/", "Manually_Annotated/Manually_Annotated_Images/"),
])  # fmt: skip
def test_every_published_arrangement(release, lists, images):
    contents = {
        # As published: column names in one list and none in the other.
        f"{lists}training.csv": COLUMNS + "\n" + row("1/a.jpg"), f"{lists}validation.csv": row("2/b.jpg"),
        f"{images}1/a.jpg": "a", f"{images}2/b.jpg": "b", f"{images}2/c.jpg": "c", f"{images}2/Thumbs.db": "d",
    }  # fmt: skip
    source = release(contents)
    entries = {entry.id: entry for entry in source.scan()}
    good = [entry for entry in entries.values() if not entry.reason]
    assert [(entry.id, entry.split) for entry in good] == [
        ("1/a.jpg#10,20,100,200", "train"), ("2/b.jpg#10,20,100,200", "test"),
    ]  # fmt: skip
    assert [source.raw(entry) for entry in good] == [b"a", b"b"]
    unnamed = {entry.id: entry.reason for entry in entries.values() if entry.reason}
    expected = {f"{images}2/c.jpg": "missing_annotation", f"{images}2/Thumbs.db": "unknown_file"}
    assert unnamed == (expected if images else {})


def test_the_automatic_half(release):
    contents = {
        "Manually_Annotated_file_lists/validation.csv": row("1/a.jpg"), "Manually_Annotated_Images/1/a.jpg": "a",
        "Manually_Annotated_Images/1/of_training.jpg": "a",
        "Automatically_annotated_file_list/automatically_annotated.csv": COLUMNS + "\n" + row("1/a.jpg"),
        "Automatically_Annotated_Images/1/a.jpg": "b", "Automatically_Annotated_Images/1/c.jpg": "b",
    }  # fmt: skip
    entries = list(release(contents).scan())
    assert [(entry.id, entry.split, entry.reason) for entry in entries] == [
        ("1/a.jpg#10,20,100,200", "test", ""), ("automatic/1/a.jpg#10,20,100,200", "train", ""),
        # With one of the two manual lists alone, images that it does not name belong to the other.
        ("Automatically_Annotated_Images/1/c.jpg", "", "missing_annotation"),
    ]  # fmt: skip


def test_several_faces_in_one_photograph_and_a_row_twice(release):
    rows = row() + row(box="300,20,50,50") + row() + row(points=POINTS.replace("0.5", "9.5", 1))
    first, other, again, differs = release({"training.csv": rows, "1/a.jpg": "a"}).scan()
    assert (first.reason, other.reason, again.reason, differs.reason) == ("", "", "duplicate_row", "")
    assert first.id == again.id == differs.id != other.id
    # The listing stops for one id with two payloads.
    assert first.payload != differs.payload


def test_columns_by_name_quotes_and_crlf(release):
    names = "expression,arousal,valence,facial_landmarks,face_height,face_width,face_y,face_x,subDirectory_filePath"
    source = release({"training.csv": f'{names}\r\n3,0.1,0.2,"{POINTS}",4,3,2,1,"1/a.jpg"\r\n'})
    [entry] = source.scan()
    labels = source.labels(entry)
    assert (entry.id, labels.expression, labels.valence, len(labels.landmarks)) == ("1/a.jpg#1,2,3,4", 3, 0.2, 136)


@pytest.mark.parametrize("box", ["NULL,NULL,10,10", "1,1,0,10", "1,1,10,-5", "1,1,nan,10", "1,1,1e999,1", ",,,"])
def test_a_box_that_is_none(release, box):
    entries = list(release({"training.csv": row(box=box) + row()}).scan())
    assert [entry.reason for entry in entries] == ["bad_box", ""]
    assert entries[0].id == "training.csv:line-000001"


@pytest.mark.parametrize("margin, box", [(0.0, Box(10, 20, 110, 220)), (0.5, Box(-90, -80, 210, 320))])
def test_margin_is_a_fraction_of_the_longer_side(release, margin, box):
    source = release({"training.csv": row()}, box_margin=margin)
    assert source.box(next(source.scan())) == box


@pytest.mark.parametrize("image, reason", [
    ("../a.jpg", "unsafe_path"), ("/etc/passwd", "unsafe_path"), ("", "missing_image"),
])  # fmt: skip
def test_paths_that_leave(release, image, reason):
    [entry] = release({"training.csv": row(image)}).scan()
    assert entry.reason == reason


def test_an_absent_photograph(release):
    source = release({"training.csv": row("9/gone.jpg"), "validation.csv": row("9/too.jpg"), "images/1/a.jpg": "a"})
    assert [rejection(source.raw, entry) for entry in source.scan()] == ["missing_image", "missing_image"]


@pytest.mark.parametrize("points, expected", [
    ("", ()), (POINTS + ";", "bad_landmarks"), (POINTS[:-6], "bad_landmarks"),
    (POINTS.replace("0.5", "x", 1), "bad_landmarks"),
    (POINTS.replace("0.5", "1_0", 1), "bad_landmarks"), (POINTS.replace("0.5", "nan", 1), "non_finite"),
    (POINTS.replace("0.5", "1e999", 1), "non_finite"), (POINTS.replace("0.5", "٣", 1), "bad_landmarks"),
])  # fmt: skip
def test_landmark_cells(release, points, expected):
    source = release({"training.csv": row(points=points)})
    [entry] = source.scan()
    if isinstance(expected, str):
        assert rejection(source.labels, entry) == expected
    else:
        assert source.labels(entry).landmarks == expected


def test_sentinels_and_missing_labels(release):
    rows = row(labels="8,-2,-2") + row(labels=",,", points="", box="1,1,1,1") + row(labels="11,0,0", box="1,1,2,2")
    rows += row(labels="1,-2,0", box="1,1,3,3") + row(labels="1,0,0", points="", box="1,1,4,4")
    source = release({"training.csv": rows})
    none, empty, bad, half, pointless = source.scan()
    labels = source.labels(none)
    assert (labels.expression, math.isnan(labels.valence)) == (-1, True)
    assert labels.notes == ("expression:8 none", "valence_arousal:-2")
    assert not source.labels(empty).known
    assert (rejection(source.labels, bad), rejection(source.labels, half)) == ("bad_label", "inconsistent_va")
    strict = release({}, missing_labels="reject")
    assert [rejection(strict.labels, entry) for entry in (empty, pointless)] == ["missing_labels"] * 2


def test_bad_rows_and_columns(release):
    entries = list(release({"training.csv": row() + "1/b.jpg,1,2\n" + row("1/c.jpg")}).scan())
    assert [entry.reason for entry in entries] == ["", "bad_row", ""]
    with pytest.raises(DataError, match="facial_landmarks"):
        list(release({"training.csv": COLUMNS.replace("facial_landmarks", "points") + "\n" + row()}).scan())


def test_no_list_stops(release):
    with pytest.raises(DataError, match=r"holds images; expected training\.csv"):
        list(release({"images/1/a.jpg": "a"}).scan())
