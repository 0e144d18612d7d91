"""Source `fer2013`: pixels in a CSV, and class folders."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError, UsageError
from pipeline.files import InputFiles
from pipeline.images import ImageSettings, inspect, store
from pipeline.records import EXPRESSIONS, LABEL_ORDERS, Reject
from pipeline.sources import SOURCES, fer2013
from pipeline.sources.base import SourceOptions

GREY = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
TEXT = " ".join(map(str, GREY.ravel()))


def opened(folder, **options):
    return SOURCES["fer2013"](InputFiles(folder), SourceOptions(**options))


def text_of(*rows):
    return "emotion,pixels,Usage\n" + "".join(f"{emotion},{pixels},{usage}\n" for emotion, pixels, usage in rows)


def test_rows_of_pixels(tmp_path):
    rows = [(i, TEXT, usage) for i, usage in enumerate(["Training", "PublicTest", "PrivateTest"] + ["Training"] * 4)]
    (tmp_path / "fer2013.csv").write_text(text_of(*rows))
    source = opened(tmp_path)
    entries = list(source.scan())
    assert [entry.id for entry in entries] == [f"fer000000{i}" for i in range(7)]
    assert [entry.split for entry in entries] == ["train", "validation", "test"] + ["train"] * 4
    names = [EXPRESSIONS[source.labels(entry).expression] for entry in entries]
    assert names == ["anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    for entry in entries:
        raw = source.raw(entry)
        assert raw == TEXT.encode()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(source.encoded(entry, raw)))), GREY)


def test_the_other_release_and_its_blanks(tmp_path):
    (tmp_path / "icml_face_data.csv").write_bytes(f'\ufeffemotion, Usage, pixels\r\n3,Training,"{TEXT}"\r\n'.encode())
    source = opened(tmp_path)
    [entry] = source.scan()
    assert (source.labels(entry).expression, entry.split, source.raw(entry)) == (1, "train", TEXT.encode())


def test_without_usage_no_split_is_declared(tmp_path):
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels\n0,{TEXT}\n")
    assert [entry.split for entry in opened(tmp_path).scan()] == [""]


@pytest.mark.parametrize("row, reason", [
    (("7", TEXT, "Training"), "bad_label"), (("-1", TEXT, "Training"), "bad_label"),
    (("", TEXT, "Training"), "bad_label"),
    (("2.5", TEXT, "Training"), "bad_label"), (("nan", TEXT, "Training"), "non_finite"),
    (("happy", TEXT, "Training"), "bad_label"),
    (("1", TEXT, "Dev"), "bad_split"), (("1", TEXT, ""), "bad_split"), (("1,1", TEXT, "Training"), "bad_row"),
    (("1", "", "Training"), "empty"), (("1", TEXT[: TEXT.rindex(" ")], "Training"), "truncated"),
    (("1", TEXT + " 0", "Training"), "corrupt"), (("1", "256 " + TEXT, "Training"), "corrupt"),
    (("1", TEXT.replace(" ", ";"), "Training"), "corrupt"),
    (("1", "-1" + TEXT[TEXT.index(" ") :], "Training"), "corrupt"),
    (("1", "1_0" + TEXT[TEXT.index(" ") :], "Training"), "corrupt"),
])  # fmt: skip
def test_a_bad_row_keeps_its_number(tmp_path, row, reason):
    (tmp_path / "fer2013.csv").write_text(text_of((0, TEXT, "Training"), row, (0, TEXT, "Training")))
    source = opened(tmp_path)
    found = []
    for entry in source.scan():
        try:
            if entry.reason:
                raise Reject(entry.reason)
            source.labels(entry)
            source.encoded(entry, source.raw(entry))
            found.append((entry.id, ""))
        except Reject as reject:
            found.append((entry.id, reject.reason))
    assert found == [("fer0000000", ""), ("fer0000001", reason), ("fer0000002", "")]


def test_label_order_can_be_set(tmp_path):
    (tmp_path / "fer2013.csv").write_text(text_of((0, TEXT, "Training")))
    source = opened(tmp_path, label_order=LABEL_ORDERS["affectnet"])
    assert source.labels(next(source.scan())).expression == 0


def test_label_order_is_refused_where_there_are_no_codes(tmp_path):
    (tmp_path / "train/angry").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"--label_order is for the codes of fer2013.csv, which is not in .*: leave"):
        list(opened(tmp_path, label_order=LABEL_ORDERS["affectnet"]).scan())


def test_the_png_is_plain_and_kept_as_it_is():
    png = fer2013.png_from_text(TEXT.encode())
    # Stored, not compressed: these bytes are the same with every version of zlib.
    assert (len(png), zlib.crc32(fer2013.png_from_text(b"7 " * 2304))) == (2420, 0xE3211EB9)
    picture = inspect(png, ImageSettings())
    assert (picture.format, picture.width, picture.height, picture.verbatim) == ("png", 48, 48, True)
    assert store(png, ImageSettings()) == png


def test_class_folders(tmp_path):
    paths = [
        "train/angry/a.jpg",
        "train/Happy/a.jpg",
        "test/neutral/b.png",
        "validation/sad/c.jpg",
        "PublicTest/fear/d.jpg",
    ]
    for path in [*paths, "train/stray.jpg", "README.txt"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    (tmp_path / "train/angry/deeper").mkdir()
    (tmp_path / "train/angry/out.jpg").symlink_to("/etc/hostname")
    with open(os.fsencode(tmp_path) + b"/train/angry/\xff.jpg", "wb"):
        pass
    source = opened(tmp_path)
    entries = {entry.id: entry for entry in source.scan()}
    found = {
        entry.id: (entry.split, EXPRESSIONS[source.labels(entry).expression])
        for entry in entries.values()
        if not entry.reason
    }
    assert found == dict(zip(paths, [
        ("train", "anger"), ("train", "happy"), ("test", "neutral"), ("validation", "sad"), ("validation", "fear"),
    ]))  # fmt: skip
    assert all(source.encoded(entries[path], source.raw(entries[path])) == path.encode() for path in paths)
    assert {entry.id: entry.reason for entry in entries.values() if entry.reason} == {
        "README.txt": "unknown_file", "train/stray.jpg": "unknown_file", "train/angry/deeper": "unknown_file",
        "train/angry/out.jpg": "unsafe_path", "train/angry/\\xff.jpg": "bad_name",
    }  # fmt: skip


@pytest.mark.parametrize("paths, words", [
    ([], "nothing"), (["images/happy/a.jpg"], "holds images"), (["train/glad/a.jpg", "train/sad/a.jpg"], "train/glad/"),
    (["train/happy/a.jpg", "other/happy/a.jpg"], "other"), (["fer2013.csv", "icml_face_data.csv"], "twice"),
])  # fmt: skip
def test_a_layout_that_is_not_there_stops(tmp_path, paths, words):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(DataError, match=words):
        list(opened(tmp_path).scan())
