"""Source `ferplus`: votes to labels; folders, a zip, and pixels beside the votes."""

import dataclasses
import fractions
import io
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import EXPRESSIONS, NO_SHARES, Reject
from pipeline.sources import SOURCES, ferplus
from pipeline.sources.base import SourceOptions

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
HAPPY = "0,10,0,0,0,0,0,0,0,0"


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 48), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(folder, **options):
    return SOURCES["ferplus"](InputFiles(folder), SourceOptions(**options))


def listed(source):
    return {entry.id: entry.reason for entry in source.scan()}


ROWS = (
    f"Training,fer0000000.png,{HAPPY}\nTraining,,0,0,0,0,0,0,0,0,0,10\nPublicTest,fer0000002.png,{HAPPY}\n"
    f"PrivateTest,fer0000003.png,{HAPPY}\nTraining,fer0000004.png,{HAPPY}\nOther,fer0000005.png,{HAPPY}\n"
)  # fmt: skip
IMAGES = {
    "FER2013Train/fer0000000.png": png(0), "FER2013Valid/fer0000002.png": png(2), "FER2013Test/fer0000003.png": png(3),
    "FER2013Train/extra.png": png(9), "FER2013Train/Thumbs.db": b"x", "FER2013Train/label.csv": b"x",
}  # fmt: skip
LISTED = {
    "FER2013Train/fer0000000.png": "", "FER2013Valid/fer0000002.png": "", "FER2013Test/fer0000003.png": "",
    "fer2013new.csv:line-000003": "missing_image", "fer2013new.csv:line-000006": "missing_image",
    "fer2013new.csv:line-000007": "bad_split", "FER2013Train/extra.png": "missing_annotation",
    "FER2013Train/Thumbs.db": "unknown_file",
}  # fmt: skip


def write_folder(folder, rows=ROWS, images=IMAGES):
    (folder / "fer2013new.csv").write_text(HEADER + rows)
    for name, data in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def write_zip(path, rows=ROWS, images=IMAGES, prefix="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in images.items():
            archive.writestr(prefix + name, data)
        archive.writestr(f"{prefix}fer2013new.csv", HEADER + rows)


def test_folder(tmp_path):
    write_folder(tmp_path)
    source = opened(tmp_path)
    assert listed(source) == LISTED
    good = {entry.id: entry for entry in source.scan() if not entry.reason}
    assert [entry.split for entry in good.values()] == ["train", "validation", "test"]
    for name, entry in good.items():
        assert source.encoded(entry, source.raw(entry)) == IMAGES[name]
        assert source.labels(entry).expression == EXPRESSIONS.index("happy")


@pytest.mark.parametrize("prefix", ["", "ferplus/data/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_lists_what_the_folder_lists(tmp_path, prefix, compression):
    write_zip(tmp_path / "a.zip", prefix=prefix, compression=compression)
    source = opened(tmp_path)
    assert listed(source) == LISTED
    for entry in source.scan():
        if not entry.reason:
            assert source.encoded(entry, source.raw(entry)) == IMAGES[entry.id]


def test_the_zip_that_was_named(tmp_path):
    write_folder(tmp_path, rows=f"Training,fer0000000.png,{HAPPY}\n")
    write_zip(tmp_path / "a.zip")
    write_zip(tmp_path / "b.zip", rows="")
    assert len(list(opened(tmp_path, archive="a.zip").scan())) == len(LISTED)


def test_one_name_twice_is_the_same_but_for_its_line(tmp_path):
    write_folder(
        tmp_path, rows=f"Training,fer0000000.png,{HAPPY}\n" * 2, images={"FER2013Train/fer0000000.png": png(0)}
    )
    first, second = opened(tmp_path).scan()
    assert (first.id, first.payload, first.split) == (second.id, second.payload, second.split)
    assert (first.line, second.line) == (2, 3)


def test_names_and_links_that_leave(tmp_path):
    write_folder(
        tmp_path, rows=f"Training,../secret.png,{HAPPY}\nTraining,out.png,{HAPPY}\n", images={"FER2013Train/a.png": b""}
    )
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "FER2013Train/out.png").symlink_to("/etc/hostname")
    assert listed(opened(tmp_path)) == {
        "fer2013new.csv:line-000002": "missing_image", "FER2013Train/out.png": "unsafe_path",
        "FER2013Train/a.png": "missing_annotation",
    }  # fmt: skip


def edit_members(path, field_offset, value):
    """Overwrites a 16-bit field of every entry of the central directory but the index's."""
    data = bytearray(path.read_bytes())
    position = data.find(b"PK\x01\x02")
    while position >= 0:
        name_length = int.from_bytes(data[position + 28 : position + 30], "little")
        if not data[position + 46 : position + 46 + name_length].endswith(b".csv"):
            data[position + field_offset : position + field_offset + 2] = value.to_bytes(2, "little")
        position = data.find(b"PK\x01\x02", position + 4)
    path.write_bytes(data)


@pytest.mark.parametrize("field_offset, value, words", [
    (8, 1, "encrypted"), (10, zipfile.ZIP_LZMA, "compression method 14"), (6, 45, "zip64"),
])  # fmt: skip
def test_members_of_other_kinds_are_refused(tmp_path, field_offset, value, words):
    write_zip(tmp_path / "a.zip", f"Training,fer0000000.png,{HAPPY}\n", {"FER2013Train/fer0000000.png": png(0)})
    edit_members(tmp_path / "a.zip", field_offset, value)
    [entry] = opened(tmp_path).scan()
    assert (entry.id, entry.reason) == ("FER2013Train/fer0000000.png", "bad_member")
    assert words in entry.detail


def test_damaged_members(tmp_path):
    name = "FER2013Train/fer0000000.png"
    write_zip(tmp_path / "a.zip", f"Training,fer0000000.png,{HAPPY}\n", {name: png(7)})
    whole = (tmp_path / "a.zip").read_bytes()
    start = whole.index(name.encode()) + len(name)
    for position in range(start, start + 40, 3):
        (tmp_path / "a.zip").write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        source = opened(tmp_path)
        [entry] = source.scan()
        with pytest.raises(Reject) as caught:
            source.raw(entry)
        assert caught.value.reason == "corrupt"


def test_a_member_cut_in_the_stream_that_has_no_checksum_ahead(tmp_path):
    name, data = "FER2013Train/fer0000000.png", bytes(range(256)) * 9
    write_zip(tmp_path / "a.zip", f"Training,fer0000000.png,{HAPPY}\n", {name: data})
    zipped = bytearray((tmp_path / "a.zip").read_bytes())
    # As a program writes that cannot seek: sum and size follow the member, and the first header says so.
    zipped[6] |= 8
    (tmp_path / "a.zip").write_bytes(zipped)
    source = opened(tmp_path)
    [entry] = source.scan()
    assert source.raw(entry) == data
    with pytest.raises(Reject) as caught:
        source.raw(dataclasses.replace(entry, length=entry.length - 2))
    assert caught.value.reason == "corrupt"


def test_a_bomb_is_not_inflated(tmp_path):
    name = "FER2013Train/fer0000000.png"
    write_zip(tmp_path / "a.zip", f"Training,fer0000000.png,{HAPPY}\n", {name: bytes(10**6)})
    source = opened(tmp_path)
    [entry] = source.scan()
    with pytest.raises(Reject) as caught:
        source.files.read(entry.path, entry.offset, entry.length, entry.codec, limit=10**5)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2], lambda data: b"no zip", lambda data: b"",
    lambda data: data.replace(b"Usage", b"Osage"),
    lambda data: data.replace(b"fer2013new", b"fer2013old"),
])  # fmt: skip
def test_a_damaged_archive_stops(tmp_path, damage):
    write_zip(tmp_path / "a.zip", compression=zipfile.ZIP_STORED)
    (tmp_path / "a.zip").write_bytes(damage((tmp_path / "a.zip").read_bytes()))
    with pytest.raises(DataError, match=r"a\.zip"):
        list(opened(tmp_path).scan())


@pytest.mark.parametrize("names, words", [
    ([], "nothing"), (["a.zip", "b.zip"], "a.zip, b.zip"), (["fer2013new.csv"], "FER2013Train"),
])  # fmt: skip
def test_a_layout_that_is_not_there_stops(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"expected fer2013new\.csv") as caught:
        list(opened(tmp_path).scan())
    assert words in str(caught.value)


def test_a_missing_column_stops(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "fer2013new.csv").write_text(HEADER.replace("contempt", "scorn") + ROWS)
    with pytest.raises(DataError, match="'contempt'"):
        list(opened(tmp_path).scan())


def test_pixels_beside_the_votes(tmp_path):
    pixels = ["Training", "Training", "PublicTest", "Training", "Training"]
    rows = "".join(f"0,{' '.join([str(i)] * 2304)},{usage}\n" for i, usage in enumerate(pixels))
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + rows)
    names = ["Training,fer0000000.png", "Training,", "PublicTest,fer0000002.png", "Training,fer0000009.png"]
    votes = "".join(f"{name},{HAPPY}\n" for name in names)
    (tmp_path / "fer2013new.csv").write_text(HEADER + votes)
    source = opened(tmp_path)
    entries = list(source.scan())
    assert [(entry.id, entry.reason, entry.split) for entry in entries] == [
        ("fer0000000", "", "train"), ("fer0000001", "", "train"), ("fer0000002", "", "validation"),
        ("fer2013new.csv:line-000005", "bad_row", ""), ("fer0000004", "missing_annotation", "train"),
    ]  # fmt: skip
    for value, entry in enumerate(entries[:3]):
        image = Image.open(io.BytesIO(source.encoded(entry, source.raw(entry))))
        assert (image.mode, image.size, set(image.getdata())) == ("L", (48, 48), {value})
        assert source.labels(entry).expression == 1


def reference(votes):
    """The rule in the source's words, in exact fractions."""
    names = [*ferplus.EMOTIONS.values(), "unknown", "nf"]
    left = {name: fractions.Fraction(count) for name, count in zip(names, votes) if count != 1}
    emotions = {name: left.get(name, 0) for name in EXPRESSIONS}
    total = sum(emotions.values())
    shares = [float(emotions[name] / total) if total else 0.0 for name in EXPRESSIONS]
    majority = [name for name in left if left[name] > sum(left.values()) / 2]
    return EXPRESSIONS.index(majority[0]) if majority and majority[0] in EXPRESSIONS else -1, shares


@given(st.lists(st.integers(0, 10), min_size=10, max_size=10))
@example([5, 5, 0, 0, 0, 0, 0, 0, 0, 0])
@example([5, 4, 0, 0, 0, 0, 0, 0, 0, 0])
@example([5, 4, 1, 0, 0, 0, 0, 0, 0, 0])
@example([4, 0, 0, 0, 0, 0, 0, 0, 4, 2])
@example([1] * 10)
@example([0] * 10)
def test_vote_rule(votes):
    labels = ferplus.labels_from_votes(votes)
    expression, shares = reference(votes)
    assert labels.expression == expression
    assert labels.shares == pytest.approx(shares)
    assert bool(labels.notes) == (expression == -1)


@pytest.mark.parametrize("votes, expression, shares, notes", [
    ((4, 0, 0, 1, 3, 2, 0, 0, 0, 0), -1, {"neutral": 4 / 9, "anger": 3 / 9, "disgust": 2 / 9}, ("votes:no majority",)),
    ((6, 0, 1, 1, 0, 0, 0, 0, 2, 0), 0, {"neutral": 1.0}, ()),
    ((2, 0, 0, 0, 0, 0, 0, 0, 0, 8), -1, {"neutral": 1.0}, ("votes:nf",)),
    ((0, 0, 0, 1, 0, 0, 0, 0, 9, 0), -1, {}, ("votes:unknown",)),
])  # fmt: skip
def test_votes_by_hand(votes, expression, shares, notes):
    labels = ferplus.labels_from_votes(votes)
    assert (labels.expression, labels.notes) == (expression, notes)
    assert labels.shares == pytest.approx([shares.get(name, 0.0) for name in EXPRESSIONS])
    assert labels.known == (labels.shares != NO_SHARES)


@pytest.mark.parametrize("cell, expected", [
    ("10", 1), ("10.0", 1), ("-1", "bad_votes"), ("2.5", "bad_votes"), ("", "bad_votes"), ("nan", "bad_votes"),
    ("x", "bad_votes"),     ("99999", "bad_votes"), ("3 3", "bad_votes"),
])  # fmt: skip
def test_vote_cells(tmp_path, cell, expected):
    rows = f"Training,a.png,0,{cell},0,0,0,0,0,0,0,0\n"
    write_folder(tmp_path, rows, {"FER2013Train/a.png": png(1)})
    source = opened(tmp_path)
    [entry] = source.scan()
    if isinstance(expected, int):
        assert source.labels(entry).expression == expected
    else:
        with pytest.raises(Reject) as caught:
            source.labels(entry)
        assert caught.value.reason == expected
