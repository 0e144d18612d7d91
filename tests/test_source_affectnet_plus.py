"""AffectNet+: hard label, soft label and metadata from one JSON file a face."""

import json
import math
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.records import EXPRESSIONS, NO_SHARES, REJECTION_REASONS, Reject
from pipeline.sources.affectnet_plus import AffectNetPlus
from pipeline.sources.base import SourceOptions

SOFT = [0.05, 0.6, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05]
POINTS = list(range(136))


def face(root: pathlib.Path, id: str = "123", *, folder: str = "", text: str | None = None, **fields) -> None:
    images, annotations = root / folder / "images", root / folder / "annotations"
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(exist_ok=True)
    (images / f"{id}.jpg").write_bytes(b"image")
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    (annotations / f"{id}.json").write_text(json.dumps(fields) if text is None else text)


def labels_of(root: pathlib.Path, id: str = "123", **options):
    source = AffectNetPlus(InputFiles(root), SourceOptions(**options))
    (entry,) = (entry for entry in source.scan() if entry.id == id)
    assert entry.reason == ""
    return source.labels(entry)


def reason_of(root: pathlib.Path, **options) -> str:
    with pytest.raises(Reject) as caught:
        labels_of(root, **options)
    return caught.value.reason


def test_all_fields(tmp_path):
    meta = {"valence": 0.5, "arousal": -0.25, "landmark-68": POINTS, "landmark-29": [1], "age": math.nan}
    face(tmp_path, human_label=1, soft_label=SOFT, subset=2, meta_data=meta)
    labels = labels_of(tmp_path)
    assert EXPRESSIONS[labels.expression] == "happy"
    assert labels.shares == pytest.approx(SOFT)
    assert (labels.valence, labels.arousal) == (0.5, -0.25)
    assert labels.landmarks == tuple(POINTS)
    assert labels.notes == ("subset:difficult",)


def test_the_release_folders_declare_their_splits(tmp_path):
    for folder in ("train_set", "validation_set"):
        face(tmp_path, "5", folder=folder, human_label=0)
    source = AffectNetPlus(InputFiles(tmp_path), SourceOptions())
    entries = list(source.scan())
    assert {entry.id: entry.split for entry in entries} == {"train_set/5": "train", "validation_set/5": "test"}
    for entry in entries:
        assert source.labels(entry).expression == 0
        assert source.paths(entry) == (entry.path, f"{entry.id.replace('/', '/annotations/')}.json")


def test_a_test_set_makes_the_other_one_validation(tmp_path):
    for folder in ("train_set", "val_set", "test_set"):
        face(tmp_path, "5", folder=folder, human_label=0)
    entries = AffectNetPlus(InputFiles(tmp_path), SourceOptions()).scan()
    assert {entry.id: entry.split for entry in entries} == {
        "train_set/5": "train", "val_set/5": "validation", "test_set/5": "test",
    }  # fmt: skip


def test_the_folder_above_says_what_it_holds(tmp_path):
    face(tmp_path / "human_annotated", folder="train_set", human_label=0)
    with pytest.raises(DataError, match=r"holds human_annotated; expected .*validation_set"):
        list(AffectNetPlus(InputFiles(tmp_path), SourceOptions()).scan())


def test_without_a_human_label_the_soft_label_stays(tmp_path):
    face(tmp_path, human_label=None, soft_label=[2 * share for share in SOFT])
    labels = labels_of(tmp_path)
    assert labels.expression == -1 and labels.known
    assert labels.shares == pytest.approx(SOFT)


@pytest.mark.parametrize("soft", [None, [], [0] * 8])
def test_without_a_soft_label_the_shares_are_one_hot(tmp_path, soft):
    face(tmp_path, human_label=7, soft_label=soft)
    assert labels_of(tmp_path).shares == (0, 0, 0, 0, 0, 0, 0, 1)


def test_a_sentinel_leaves_the_expression_unknown(tmp_path):
    face(tmp_path, human_label=10, soft_label=SOFT, meta_data={"valence": -2, "arousal": -2})
    labels = labels_of(tmp_path)
    assert labels.shares == NO_SHARES and not labels.known
    assert labels.notes == ("expression:10 no_face", "valence_arousal:-2")


def test_another_label_order_holds_for_both_labels(tmp_path):
    face(tmp_path, human_label=0, soft_label=SOFT)
    order = ("contempt", *EXPRESSIONS[:7])
    labels = labels_of(tmp_path, label_order=order)
    assert EXPRESSIONS[labels.expression] == "contempt"
    assert labels.shares == pytest.approx((*SOFT[1:], SOFT[0]))


def test_missing_labels_can_be_refused(tmp_path):
    face(tmp_path, human_label=0, soft_label=SOFT, meta_data={"valence": 0, "arousal": 0})
    assert labels_of(tmp_path).landmarks == ()
    assert reason_of(tmp_path, missing_labels="reject") == "missing_labels"


def test_landmarks_as_pairs(tmp_path):
    face(tmp_path, human_label=0, meta_data={"landmark-68": [[2 * n, 2 * n + 1] for n in range(68)]})
    assert labels_of(tmp_path).landmarks == tuple(POINTS)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"human_label": 2.5}, "bad_label"), ({"human_label": 11}, "bad_label"), ({"human_label": -1}, "bad_label"),
        ({"human_label": math.nan}, "non_finite"), ({"human_label": "3"}, "bad_json"),
        ({"human_label": True}, "bad_json"),
        ({"human_label": [1]}, "bad_json"),
        ({"soft_label": SOFT[:7]}, "bad_json"), ({"soft_label": "even"}, "bad_json"),
        ({"soft_label": [None] * 8}, "bad_json"),
        ({"soft_label": [-0.1, 1.1] + [0] * 6}, "bad_json"), ({"soft_label": [math.nan] * 8}, "non_finite"),
        ({"soft_label": [1e308] * 8}, "non_finite"), ({"soft_label": [[1]] * 8}, "bad_json"),
        ({"meta_data": {"valence": 1.5, "arousal": 0}}, "out_of_range"),
        ({"meta_data": {"valence": math.inf}}, "non_finite"),
        ({"meta_data": {"valence": -2, "arousal": 0}}, "inconsistent_va"),
        ({"meta_data": {"valence": "0"}}, "bad_json"),
        ({"meta_data": [1]}, "bad_json"), ({"meta_data": {"landmark-68": POINTS[:-1]}}, "bad_landmarks"),
        ({"meta_data": {"landmark-68": {"x": 1}}}, "bad_landmarks"),
        ({"meta_data": {"landmark-68": [[1, 2, 3, 4]] * 34}}, "bad_landmarks"),
        ({"meta_data": {"landmark-68": [math.nan] * 136}}, "non_finite"),
        ({"meta_data": {"landmark-68": ["1"] * 136}}, "bad_landmarks"),
        ({"label": 3}, "bad_json"),
    ],
)  # fmt: skip
def test_bad_fields(tmp_path, fields, reason):
    face(tmp_path, **fields)
    assert reason_of(tmp_path) == reason


def test_a_number_without_end_is_infinite(tmp_path):
    face(tmp_path, text=f'{{"human-label": {"1" * 10**5}}}')
    assert reason_of(tmp_path) == "non_finite"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "null", '{"human-label": 1} x', "[" * 100_000, "\ud800", '{"human-label": 0x1}']
)
def test_what_is_no_such_object_is_bad_json(tmp_path, text):
    face(tmp_path)
    (tmp_path / "annotations/123.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert reason_of(tmp_path) == "bad_json"


def test_a_huge_file_is_not_read(tmp_path):
    face(tmp_path, text=" " * 2_000_000)
    assert reason_of(tmp_path) == "too_large"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9),
)


@given(
    human=st.integers(-1, 11) | VALUES, soft=st.lists(st.floats(0, 1), min_size=8, max_size=8) | VALUES,
    meta=st.fixed_dictionaries({}, optional={"valence": VALUES, "arousal": VALUES, "landmark-68": VALUES}) | VALUES,
)  # fmt: skip
def test_any_json_is_labels_or_a_reason(tmp_path_factory, human, soft, meta):
    root = tmp_path_factory.mktemp("faces")
    face(root, human_label=human, soft_label=soft, meta_data=meta)
    try:
        labels = labels_of(root)
    except Reject as reject:
        assert reject.reason in REJECTION_REASONS
    else:
        assert -1 <= labels.expression <= 7
        assert labels.shares == NO_SHARES or math.fsum(labels.shares) == pytest.approx(1)
        assert all(math.isnan(value) or -1 <= value <= 1 for value in (labels.valence, labels.arousal))
