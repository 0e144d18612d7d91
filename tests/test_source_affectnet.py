"""AffectNet's folders: what is listed, what the labels are, and what each bad file gets."""

import os
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import EXPRESSIONS, Reject
from pipeline.sources.affectnet import AffectNet
from pipeline.sources.base import SourceOptions

POINTS = np.arange(136, dtype=float) / 2


def face(root: pathlib.Path, id: str = "123", *, folder: str = "", image: str = ".jpg", **numbers) -> None:
    """Writes an image (any bytes: no source opens one) and an annotation file for each number given."""
    images, annotations = root / folder / "images", root / folder / "annotations"
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(exist_ok=True)
    if image:
        (images / f"{id}{image}").write_bytes(b"image " + id.encode())
    for kind, number in numbers.items():
        np.save(annotations / f"{id}_{kind}.npy", np.asanyarray(number))


def source_of(root: pathlib.Path, **options) -> AffectNet:
    return AffectNet(InputFiles(root), SourceOptions(**options))


def entries_of(root: pathlib.Path) -> dict:
    entries = list(source_of(root).scan())
    assert len({entry.id for entry in entries}) == len(entries)
    return {entry.id: entry for entry in entries}


def labels_of(root: pathlib.Path, id: str = "123", **options):
    return source_of(root, **options).labels(entries_of(root)[id])


def reason_of(root: pathlib.Path, **options) -> str:
    with pytest.raises(Reject) as caught:
        labels_of(root, **options)
    return caught.value.reason


def test_all_four_labels(tmp_path):
    face(tmp_path, exp=np.array("6"), val=-0.4, aro=[0.25], lnd=POINTS)
    (entry,) = source_of(tmp_path).scan()
    assert (entry.id, entry.path, entry.split, entry.reason) == ("123", "images/123.jpg", "", "")
    source = source_of(tmp_path)
    assert source.raw(entry) == b"image 123"
    labels = source.labels(entry)
    assert EXPRESSIONS[labels.expression] == "anger"
    assert labels.shares == (0, 0, 0, 0, 0, 0, 1, 0)
    assert (labels.valence, labels.arousal) == (-0.4, 0.25)
    assert labels.landmarks == tuple(POINTS)
    assert labels.notes == ("npy exp <U1 ()", "npy val <f8 ()", "npy aro <f8 (1,)", "npy lnd <f8 (136,)")
    assert source.paths(entry) == (
        "images/123.jpg", "annotations/123_exp.npy", "annotations/123_val.npy", "annotations/123_aro.npy",
        "annotations/123_lnd.npy",
    )  # fmt: skip


def test_train_and_val_folders_are_train_and_test(tmp_path):
    face(tmp_path, "5", folder="train_set", exp=1)
    face(tmp_path, "5", folder="val_set", exp=2)
    entries = entries_of(tmp_path)
    assert {id: (entry.path, entry.split) for id, entry in entries.items()} == {
        "train_set/5": ("train_set/images/5.jpg", "train"),
        "val_set/5": ("val_set/images/5.jpg", "test"),
    }
    assert labels_of(tmp_path, "train_set/5").expression == 1
    assert labels_of(tmp_path, "val_set/5").expression == 2


@pytest.mark.parametrize("id", ["a b", "a\nb", "a\"'b", "😀", "x_exp", "x" * 240, "1.2", "a\\b"])
@pytest.mark.parametrize("folder", ["", "train_set"])
def test_any_name_that_is_text(tmp_path, id, folder):
    face(tmp_path, id, folder=folder, image=".PNG", exp=3, val=0.5)
    labels = labels_of(tmp_path, f"{folder}/{id}".lstrip("/"))
    assert (labels.expression, labels.valence) == (3, 0.5)


def test_missing_files_leave_that_head_unknown(tmp_path):
    face(tmp_path, "1", val=0.5)
    face(tmp_path, "2", exp=0)
    face(tmp_path, "3", lnd=POINTS)
    first, second, third = (labels_of(tmp_path, id) for id in "123")
    assert first.expression == -1 and first.valence == 0.5 and np.isnan(first.arousal) and not any(first.shares)
    assert second.expression == 0 and np.isnan([second.valence, second.arousal]).all() and second.landmarks == ()
    assert not third.known and len(third.landmarks) == 136


def test_missing_files_can_be_refused(tmp_path):
    face(tmp_path, exp=0, val=0.5, aro=0.5)
    assert reason_of(tmp_path, missing_labels="reject") == "missing_labels"
    face(tmp_path, lnd=POINTS)
    assert labels_of(tmp_path, missing_labels="reject").known


def test_every_listed_name_is_accounted_for(tmp_path):
    face(tmp_path, "1", exp=0, val=0, aro=0)
    face(tmp_path, "2")
    face(tmp_path, "3", image="", exp=0, val=0)
    (tmp_path / "images/Thumbs.db").touch()
    (tmp_path / "images/7.jpg").mkdir()
    (tmp_path / "images/.DS_Store").touch()
    (tmp_path / "annotations/4_emotion.npy").touch()
    (tmp_path / "annotations/8_exp.npy").mkdir()
    assert {id: entry.reason for id, entry in entries_of(tmp_path).items()} == {
        "1": "", "2": "missing_annotation", "3": "missing_image",
        "images/Thumbs.db": "unknown_file", "images/7.jpg": "unknown_file",
        "annotations/4_emotion.npy": "unknown_file", "annotations/8_exp.npy": "unknown_file",
    }  # fmt: skip


def test_a_name_that_is_not_utf8_leaves_its_neighbours_alone(tmp_path):
    face(tmp_path, "1", exp=0)
    open(os.fsencode(tmp_path) + b"/images/\xff.jpg", "wb").close()
    open(os.fsencode(tmp_path) + b"/annotations/\xff_exp.npy", "wb").close()
    entries = entries_of(tmp_path)
    assert {id: entry.reason for id, entry in entries.items()} == {
        "1": "", "images/\\xff.jpg": "bad_name", "annotations/\\xff_exp.npy": "bad_name",
    }  # fmt: skip
    for id in entries:
        id.encode()


def test_two_images_of_one_id_are_both_listed(tmp_path):
    face(tmp_path, "5", exp=0)
    face(tmp_path, "5", image=".png")
    assert sorted((entry.id, entry.path, entry.reason) for entry in source_of(tmp_path).scan()) == [
        ("5", "images/5.jpg", ""), ("5", "images/5.png", ""),
    ]  # fmt: skip


def test_links_out_and_special_files(tmp_path):
    root = tmp_path / "in"
    face(root, "1", exp=0)
    np.save(tmp_path / "out.npy", 3)
    (root / "annotations/1_val.npy").symlink_to(tmp_path / "out.npy")
    assert reason_of_id(root, "1") == "unsafe_path"
    face(root, "2")
    os.mkfifo(root / "annotations/2_exp.npy")
    assert reason_of_id(root, "2") == "unsafe_path"
    face(root, "3", image="", exp=0)
    (root / "images/3.jpg").symlink_to("3.jpg")
    source = source_of(root)
    with pytest.raises(Reject, match="unsafe_path"):
        source.raw(entries_of(root)["3"])


def reason_of_id(root: pathlib.Path, id: str) -> str:
    with pytest.raises(Reject) as caught:
        labels_of(root, id)
    return caught.value.reason


@pytest.mark.parametrize(
    "numbers, reason",
    [
        ({"exp": 2.5}, "bad_label"), ({"exp": "2.5"}, "bad_label"), ({"exp": -1}, "bad_label"),
        ({"exp": 11}, "bad_label"),
        ({"exp": np.nan}, "non_finite"), ({"exp": "nan"}, "non_finite"), ({"exp": "1e999"}, "non_finite"),
        ({"exp": 10**18}, "bad_label"), ({"exp": "sad"}, "bad_dtype"), ({"exp": [1, 2]}, "bad_shape"),
        ({"val": np.nan, "aro": 0}, "non_finite"), ({"val": "inf", "aro": 0}, "non_finite"),
        ({"aro": -np.inf}, "non_finite"),
        ({"val": 1.0000001, "aro": 0}, "out_of_range"), ({"val": 0, "aro": -1.5}, "out_of_range"),
        ({"val": -2.5}, "out_of_range"),
        ({"val": -2, "aro": 0.5}, "inconsistent_va"), ({"val": 0.5, "aro": "-2"}, "inconsistent_va"),
        ({"lnd": POINTS[:-2]}, "bad_landmarks"), ({"lnd": POINTS.reshape(2, 68)}, "bad_landmarks"),
        ({"lnd": 1.0}, "bad_landmarks"),
        ({"lnd": np.where(POINTS == 3, np.nan, POINTS)}, "non_finite"), ({"lnd": POINTS.astype(str)}, "bad_dtype"),
        ({"lnd": np.zeros(10**5)}, "bad_shape"), ({"exp": "0" * 10**6}, "too_large"),
    ],
)  # fmt: skip
def test_bad_numbers(tmp_path, numbers, reason):
    face(tmp_path, **numbers)
    assert reason_of(tmp_path) == reason


@pytest.mark.parametrize("kind", ["exp", "val", "aro", "lnd"])
@pytest.mark.parametrize(
    "data, reason", [(b"", "bad_npy"), (b"0.5", "bad_npy"), (pickle.dumps([0.5]), "unsafe_pickle")]
)
def test_bad_files_are_named(tmp_path, kind, data, reason):
    face(tmp_path)
    (tmp_path / f"annotations/123_{kind}.npy").write_bytes(data)
    with pytest.raises(Reject, match=f"annotations/123_{kind}.npy") as caught:
        labels_of(tmp_path)
    assert caught.value.reason == reason


def test_a_file_that_vanished(tmp_path):
    face(tmp_path, exp=0)
    source = source_of(tmp_path)
    (entry,) = source.scan()
    (tmp_path / "annotations/123_exp.npy").unlink()
    with pytest.raises(Reject, match="io_error"):
        source.labels(entry)


@pytest.mark.parametrize("shape", [(136,), (68, 2), (1, 136), (136, 1), (1, 68, 2)])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2"])
@pytest.mark.parametrize("order", "CF")
def test_landmarks_in_every_stored_form(tmp_path, shape, dtype, order):
    points = np.arange(136).reshape(shape)
    face(tmp_path, exp=0, lnd=np.array(points, dtype, order=order))
    assert labels_of(tmp_path).landmarks == tuple(range(136))


@pytest.mark.parametrize("code, name", [(8, "none"), (9, "uncertain"), (10, "no_face")])
def test_sentinels_are_unknown_and_counted(tmp_path, code, name):
    face(tmp_path, exp=str(code), val=-2, aro="-2.0")
    labels = labels_of(tmp_path)
    assert not labels.known and not any(labels.shares)
    assert labels.notes[-2:] == (f"expression:{code} {name}", "valence_arousal:-2")


def test_another_label_order(tmp_path):
    face(tmp_path, exp=0)
    assert EXPRESSIONS[labels_of(tmp_path, label_order=("anger", "happy")).expression] == "anger"
    face(tmp_path, exp=2)
    assert reason_of(tmp_path, label_order=("anger", "happy")) == "bad_label"


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "nothing"),
        (["a.jpg", "b.jpg", "c", "d", "e", "f", "g"], "a.jpg, b.jpg, c, d, e and 2 more"),
        (["images/1.jpg"], "annotations/ is missing"),
        (["annotations/1_exp.npy"], "images/ is missing"),
        (["train_set/1.jpg"], "train_set/images/ is missing"),
        (["images/1.jpg", "train_set/images/1.jpg"], "move one form out"),
    ],
)
def test_another_layout_says_what_was_found_and_expected(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message) as caught:
        list(source_of(tmp_path).scan())
    assert "_exp|_val|_aro|_lnd.npy" in str(caught.value)


def test_empty_folders_say_what_was_expected(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="hold nothing"):
        list(source_of(tmp_path).scan())


STORED = st.sampled_from(
    [str, lambda n: str(n).encode(), lambda n: n, lambda n: [n], lambda n: np.array(n, ">f8"), lambda n: [str(n)]]
)


@given(
    code=st.integers(-3, 13),
    valence=st.floats(-2.5, 2.5),
    arousal=st.floats(-1, 1),
    stored=st.tuples(STORED, STORED, STORED),
)
def test_labels_follow_the_table_however_they_are_stored(tmp_path_factory, code, valence, arousal, stored):
    root = tmp_path_factory.mktemp("faces")
    numbers = (write(number) for write, number in zip(stored, (code, valence, arousal)))
    face(root, **dict(zip(("exp", "val", "aro"), numbers)))
    try:
        labels = labels_of(root)
    except Reject as reject:
        expected = "bad_label" if not 0 <= code <= 10 else "inconsistent_va" if valence == -2 else "out_of_range"
        assert reject.reason == expected
    else:
        assert -1 <= valence <= 1 and 0 <= code <= 10
        assert labels.expression == (code if code < 8 else -1)
        assert (labels.valence, labels.arousal) == (valence, arousal)
