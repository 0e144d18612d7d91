"""Label arrays: rows meet images in natural order, and disagreement stops."""

import math
import os
import pathlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import Reject
from pipeline.sources import arrays
from pipeline.sources.arrays import Arrays, natural_order
from pipeline.sources.base import SourceOptions


def folder_of(root: pathlib.Path, names, **columns) -> pathlib.Path:
    (root / "images").mkdir(exist_ok=True)
    for name in names:
        (root / "images" / name).touch()
    for column, values in columns.items():
        np.save(root / f"{column}.npy", np.asanyarray(values))
    return root


def source_of(root: pathlib.Path, **options) -> Arrays:
    return Arrays(InputFiles(root), SourceOptions(**options))


def labels_of(root: pathlib.Path, **options) -> dict:
    source = source_of(root, **options)
    return {entry.id: source.labels(entry) for entry in source.scan() if not entry.reason}


def test_rows_follow_the_natural_order_of_the_ids(tmp_path):
    names = ["10.jpg", "2.png", "1.JPEG", "9a.jpg"]
    folder_of(
        tmp_path, names, expressions=[1, 2, 3, 4], valence=[0.1, 0.2, 0.3, 0.4], arousal=["-1", "0", "0.5", "-2e-1"]
    )
    labels = labels_of(tmp_path)
    assert {id: (label.expression, label.valence, label.arousal) for id, label in labels.items()} == {
        "1": (1, 0.1, -1), "2": (2, 0.2, 0), "9a": (3, 0.3, 0.5), "10": (4, 0.4, -0.2),
    }  # fmt: skip
    assert labels["1"].notes == ("npy expressions <i8", "npy valence <f8", "npy arousal <U5")


@given(st.lists(st.integers(0, 10**20), unique=True), st.randoms(use_true_random=False))
def test_numbers_sort_as_numbers(numbers, rng):
    ids = [f"face {number}" for number in numbers]
    rng.shuffle(ids)
    assert sorted(ids, key=natural_order) == [f"face {number}" for number in sorted(numbers)]


@pytest.mark.parametrize("column", ["expressions", "valence", "arousal", "landmarks"])
def test_any_of_the_arrays(tmp_path, column):
    values = np.arange(272).reshape(2, 68, 2) if column == "landmarks" else [0, 1]
    folder_of(tmp_path, ["1.jpg", "2.jpg"], **{column: values})
    label = labels_of(tmp_path)["2"]
    assert label.expression == (1 if column == "expressions" else -1)
    assert (label.valence == 1) == (column == "valence") and (label.arousal == 1) == (column == "arousal")
    assert label.landmarks == (tuple(range(136, 272)) if column == "landmarks" else ())


@pytest.mark.parametrize("shape", [(3, 136), (3, 68, 2)])
def test_landmarks_are_read_row_by_row(tmp_path, shape):
    points = np.arange(3 * 136, dtype=">f4").reshape(shape)
    folder_of(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], landmarks=points)
    assert [label.landmarks for label in labels_of(tmp_path).values()] == [tuple(row.ravel()) for row in points]
    source = source_of(tmp_path)
    entry = next(iter(source.scan()))
    assert source.paths(entry) == ("images/1.jpg", "landmarks.npy")


def test_bad_values_reject_their_row_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_ROWS", 3)
    codes = ["1", "happy", "2.5", "8", "nan", "7", "6"]
    valence = [0, 0, 0, 0, 0, 1.5, -2]
    folder_of(tmp_path, [f"{n}.jpg" for n in range(7)], expressions=codes, valence=valence, arousal=[0] * 7)
    source = source_of(tmp_path)
    reasons = {}
    for entry in source.scan():
        try:
            reasons[entry.id] = entry.reason or source.labels(entry).notes[3:]
        except Reject as reject:
            reasons[entry.id] = reject.reason
    assert reasons == {
        "0": (), "1": "bad_dtype", "2": "bad_label", "3": ("expression:8 none",), "4": "non_finite",
        "5": "out_of_range", "6": "inconsistent_va",
    }  # fmt: skip


def test_a_name_that_is_not_utf8_has_its_row(tmp_path):
    folder_of(tmp_path, ["1.jpg", "3.jpg", "readme.txt"], expressions=[0, 1, 2])
    open(os.fsencode(tmp_path) + b"/images/2\xff.jpg", "wb").close()
    assert {id: label.expression for id, label in labels_of(tmp_path).items()} == {"1": 0, "3": 2}
    rejected = {entry.id: entry.reason for entry in source_of(tmp_path).scan() if entry.reason}
    assert rejected == {"images/2\\xff.jpg": "bad_name", "images/readme.txt": "unknown_file"}


@pytest.mark.parametrize(
    "columns, message",
    [
        ({}, "holds images; expected"),
        ({"expressions": [0, 1, 2]}, "expressions.npy has 3 rows, images/ has 2 images"),
        ({"expressions": [0, 1], "valence": [0.5]}, "valence.npy has 1 rows, images/ has 2 images"),
        ({"valence": [[0.5], [0.5]]}, r"valence.npy is <f8 \(2, 1\); expected numbers in the shape \(N,\)"),
        ({"valence": 0.5}, "valence.npy is <f8"),
        ({"expressions": [True, False]}, "expressions.npy is"),
        ({"landmarks": np.zeros((2, 67, 2))}, r"expected numbers in the shape \(N, 68, 2\) or \(N, 136\)"),
        ({"landmarks": np.asfortranarray(np.zeros((2, 68, 2)))}, "ascontiguousarray"),
        ({"expressions": np.array([0, None])}, "unsafe_pickle"),
        ({"expressions": np.zeros(2, "V4")}, "expressions.npy is"),
    ],
)
def test_arrays_that_do_not_fit_stop(tmp_path, columns, message):
    folder_of(tmp_path, ["1.jpg", "2.jpg"], **columns)
    with pytest.raises(DataError, match=message):
        list(source_of(tmp_path).scan())


@pytest.mark.parametrize("data", [b"", b"0.5", b"\x93NUMPY"])
def test_a_file_that_is_no_array_stops(tmp_path, data):
    folder_of(tmp_path, ["1.jpg"], expressions=[0])
    (tmp_path / "valence.npy").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        list(source_of(tmp_path).scan())


def test_an_array_outside_the_input_stops(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    folder_of(root, ["1.jpg"], expressions=[0])
    np.save(tmp_path / "valence.npy", [0.5])
    (root / "valence.npy").symlink_to(tmp_path / "valence.npy")
    with pytest.raises(DataError, match="unsafe_path"):
        list(source_of(root).scan())


def test_no_image_stops(tmp_path):
    folder_of(tmp_path, [], expressions=np.zeros(0))
    with pytest.raises(DataError, match="holds no image"):
        list(source_of(tmp_path).scan())


def test_absent_arrays_can_be_refused(tmp_path):
    folder_of(tmp_path, ["1.jpg"], expressions=[0], valence=[0.5], arousal=[math.nan])
    with pytest.raises(Reject, match="missing_labels"):
        labels_of(tmp_path, missing_labels="reject")


def test_long_arrays_are_streamed(tmp_path):
    rows = 12_288  # three chunks
    names = [f"{n}.jpg" for n in range(rows)]
    folder_of(tmp_path, names, expressions=np.full(rows, "?", "U128"), landmarks=np.zeros((rows, 136)))
    tracemalloc.start()
    reasons = {entry.reason for entry in source_of(tmp_path).scan()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons == {"bad_dtype"}
    assert peak < rows * 1000 < (tmp_path / "landmarks.npy").stat().st_size
