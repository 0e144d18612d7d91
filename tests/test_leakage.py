"""The guard against scoring on what was trained on: by content, whatever the names."""

import json
import shutil
import types

import numpy as np
import pyarrow as pa
import pytest

from datasets.selection import Selection
from pipeline import conversion, publishing
from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS
from pipeline.settings import Settings
from trainers import config, leakage


def environment(folder, train="train", validation="validation") -> dict:
    return {
        "folder": str(folder),
        "name": "sample",
        "digest": publishing.digest(folder),
        "train_split": train,
        "validation_split": validation,
    }


def test_other_split_passes(sample_dataset):
    found = leakage.check(Selection(sample_dataset, "test", None), environment(sample_dataset))
    assert found == {
        "method": leakage.METHOD, "checked": True, "reason": "", "started_from": [], "shared_with_train": 0,
        "shared_with_validation": 0, "shared_with_ancestors": 0, "trained_classes": list(EXPRESSIONS), "allowed": [],
    }  # fmt: skip


def test_splits_of_the_training_are_refused(sample_dataset):
    trained_on = environment(sample_dataset)
    train, validation = (Selection(sample_dataset, split, None) for split in ("train", "validation"))
    with pytest.raises(
        DataError, match=rf"{train.count} of {train.count} images are in the train split .*--allow_leak"
    ):
        leakage.check(train, trained_on, allow_selection_split=True)
    with pytest.raises(DataError, match=r"they chose the checkpoint.*--allow_selection_split"):
        leakage.check(validation, trained_on, allow_leak=True)
    found = leakage.check(validation, trained_on, allow_selection_split=True)
    assert found["allowed"] == ["selection_split"] and found["shared_with_validation"] == validation.count


def test_a_slice_that_was_not_trained_on_passes(sample_dataset):
    trained_on = environment(sample_dataset, train="train[:50%]")
    rest = Selection(sample_dataset, "train[50%:]", None)
    assert leakage.check(rest, trained_on)["shared_with_train"] == 0
    overlap = Selection(sample_dataset, "train[40%:]", None)
    with pytest.raises(DataError, match=rf"{overlap.count - rest.count} of {overlap.count} images"):
        leakage.check(overlap, trained_on)


def test_the_same_images_under_other_names_are_found(sample_faces_dir, sample_dataset, tmp_path):
    """Five training faces, renamed, in a dataset of their own."""
    train = Selection(sample_dataset, "train", None)
    sources = [name.split("#")[0] for name in train.column("source").to_pylist()[:5]]
    raw = tmp_path / "raw"
    raw.mkdir()
    for index, source in enumerate(sources):
        shutil.copy(sample_faces_dir / source, raw / f"renamed{index}.jpg")
    (raw / "labels.csv").write_text(
        "image,expression,split\n" + "".join(f"renamed{index}.jpg,happy,test\n" for index in range(5))
    )
    other = conversion.convert(Settings("csv", str(raw), str(tmp_path / "data"), "other")).dataset_dir
    with pytest.raises(DataError, match=r"5 of 5 images are in the train split 'train' of sample.*renamed"):
        leakage.check(Selection(other, "test", None), environment(sample_dataset))
    # The other way round, the model knows one class alone.
    trained_on = environment(other, train="test", validation="test")
    assert leakage.check(Selection(sample_dataset, "test", None), trained_on)["trained_classes"] == ["happy"]


def test_votes_without_a_majority_teach_a_class_too():
    shares = np.zeros((3, 8), np.float32)
    shares[0, 1], shares[1, [0, 7]] = 1, 0.5
    train = types.SimpleNamespace(column={"expression_probs": pa.chunked_array([pa.array(list(shares))])}.get)
    assert leakage._classes(train) == ["neutral", "happy", "contempt"]


def test_what_cannot_be_checked_is_refused(sample_dataset, tmp_path):
    test = Selection(sample_dataset, "test", None)
    gone = environment(sample_dataset) | {"folder": str(tmp_path / "gone"), "digest": "0" * 64}
    with pytest.raises(DataError, match=r"cannot be checked: its dataset is not in .*gone any more; --allow_leak"):
        leakage.check(test, gone)
    changed = environment(sample_dataset) | {"digest": "0" * 64}
    with pytest.raises(DataError, match="now holds another dataset"):
        leakage.check(test, changed)
    with pytest.raises(DataError, match="nothing says what it was trained on"):
        leakage.check(test, None)
    with pytest.raises(DataError, match="was trained on sample, and nothing says where that is"):
        leakage.check(test, changed | {"folder": ""})
    found = leakage.check(test, gone, allow_leak=True)
    assert not found["checked"] and "any more" in found["reason"] and found["allowed"] == ["leak"]


def test_a_moved_dataset_is_recognised(sample_dataset, tmp_path):
    moved = shutil.copytree(sample_dataset, tmp_path / "moved")
    trained_on = environment(sample_dataset) | {"folder": str(tmp_path / "gone")}
    with pytest.raises(DataError, match="the model was trained on them"):
        leakage.check(Selection(moved, "train", None), trained_on)


def test_what_it_started_from_counts(sample_dataset, tmp_path):
    """A model that was trained on one half, from one that was trained on the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, split, init in ((first, "train[:50%]", ""), (second, "train[50%:75%]", str(first))):
        folder.mkdir()
        (folder / "environment.json").write_text(json.dumps({"dataset": environment(sample_dataset, split)}))
        (folder / "config.json").write_text(config.to_json(config.TrainConfig(init=init)))
    third = config.TrainConfig(weights=str(second / "best.keras"))
    found = leakage.ancestors(third)
    assert [one.name for one in found] == ["second", "first"]
    trained_on = environment(sample_dataset, "train[75%:]")
    early = Selection(sample_dataset, "train[:25%]", None)
    with pytest.raises(DataError, match=r"in the training of first, which this model started from.*--allow_leak"):
        leakage.check(early, trained_on, ancestors=found)
    allowed = leakage.check(early, trained_on, ancestors=found, allow_leak=True)
    assert allowed["shared_with_ancestors"] == early.count and allowed["allowed"] == ["leak"]
    assert leakage.check(Selection(sample_dataset, "test", None), trained_on, ancestors=found)["allowed"] == []
    (unknown,) = leakage.ancestors(config.TrainConfig(init=str(tmp_path / "gone.keras")))
    assert unknown == leakage.Ancestor("gone.keras", None)
    with pytest.raises(DataError, match=r"started from the weights of gone.keras: nothing says what that was trained"):
        leakage.check(Selection(sample_dataset, "test", None), trained_on, ancestors=[unknown])


def test_environment_is_read_and_checked(tmp_path):
    with pytest.raises(DataError, match=r"environment.json cannot be read.*trainers.train"):
        leakage.read_environment(str(tmp_path))
    (tmp_path / "environment.json").write_text(json.dumps({"dataset": {"folder": "x"}}))
    with pytest.raises(DataError, match="is damaged"):
        leakage.read_environment(str(tmp_path))


def test_columns_follow_the_selection(sample_dataset):
    whole, part = (Selection(sample_dataset, split, None) for split in ("train", "train[10%:60%]"))
    ids, some = whole.column("id").to_pylist(), part.column("id").to_pylist()
    first = ids.index(some[0])
    assert ids[first : first + part.count] == some
    assert np.array_equal(part.column("expression").to_numpy(), part.expression)
