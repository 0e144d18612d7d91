"""Settings check themselves; label orders are checked against valence."""

import dataclasses

import numpy as np
import pytest

from pipeline import label_order
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS, LABEL_ORDERS
from pipeline.settings import Settings

GOOD = {"source": "affectnet", "input_dir": "raw", "data_dir": "data", "name": "mine"}


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("source", "celeba", "one of affectnet"),
        ("input_dir", "", "the directory"),
        ("data_dir", "gs://bucket/data", "no atomic rename"),
        ("input_dir", "s3://bucket/raw", "no atomic rename"),
        ("name", "../up", "letters, digits"),
        ("name", "1.0.0", "not a version number"),
        ("splits", "train:0.8", "summing to 1"),
        ("splits", "train:0.8,dev:0.2", "over train, validation, test"),
        ("splits", "train:0.5,train:0.5", "name:fraction"),
        ("splits", "train", "name:fraction"),
        ("splits", "train:nan,test:0.5", "summing to 1"),
        ("splits", "train:1.5,test:-0.5", "summing to 1"),
        ("holdout", 1.0, "fraction"),
        ("holdout", -0.1, "fraction"),
        ("max_bad_fraction", 1.5, "fraction"),
        ("num_shards", -1, "number from 0"),
        ("num_shards", 100_000, "at most 99999"),
        ("shard_mb", 0, "number from 1"),
        ("image_size", -5, "number from 0"),
        ("min_side", 0, "number from 1"),
        ("num_workers", -2, "number from 0"),
        ("box_margin", float("nan"), "fraction"),
        ("decode_timeout", 0.0, "seconds"),
        ("on_leak", "ignore", "one of stop, drop, allow"),
        ("sentinels", "maybe", "one of keep, drop"),
        ("missing_labels", "guess", "one of mask, reject"),
        ("label_order", "neutral,neutral", "twice"),
        ("label_order", "neutral,glad", "none of neutral"),
    ],
)
def test_a_bad_value_says_the_field_the_value_and_what_is_accepted(field, value, accepted):
    with pytest.raises(UsageError) as caught:
        Settings(**(GOOD | {field: value}))
    message = str(caught.value)
    assert message.startswith(f"--{field}")
    assert accepted in message
    assert str(value) in message


def test_an_output_whose_name_is_not_utf8_is_refused():
    with pytest.raises(UsageError, match=r"--data_dir=.data.+udcff. is not accepted; give a name in UTF-8"):
        Settings(**(GOOD | {"data_dir": "data\udcff"}))
    Settings(**(GOOD | {"input_dir": "raw\udcff"}))


def test_a_label_order_is_refused_by_a_source_of_names():
    with pytest.raises(UsageError, match="--label_order='affectnet' is not accepted; give no order: ferplus has names"):
        Settings(**(GOOD | {"source": "ferplus", "label_order": "affectnet"}))


OUTSIDE = {
    "input_dir": "x", "data_dir": "y", "max_bad_fraction": 0.5, "num_workers": 3, "overwrite": True, "dry_run": True,
    "beam_options": "--x", "decode_timeout": 5.0,
}  # fmt: skip
DECIDING = {
    "source": "csv", "name": "z", "splits": "train:1", "holdout": 0.5, "num_shards": 2, "shard_mb": 3, "image_size": 64,
    "seed": 4, "on_leak": "drop", "sentinels": "drop", "label_order": "fer2013", "max_examples_per_split": 5,
    "min_side": 20, "box_margin": 0.3, "missing_labels": "reject",
}  # fmt: skip


def test_what_decides_bytes_is_in_the_manifest_and_nothing_else():
    assert {field.name for field in dataclasses.fields(Settings)} == set(OUTSIDE) | set(DECIDING)
    base = Settings(**GOOD)
    for name, value in (OUTSIDE | DECIDING).items():
        changed = dataclasses.replace(base, **{name: value}).deciding_bytes() != base.deciding_bytes()
        assert changed == (name in DECIDING), name


def _faces(order, seed=0, noise=0.2):
    """Expressions as a source with these codes would be read under AffectNet's order, and their valence."""
    chance = np.random.default_rng(seed)
    codes = chance.integers(0, len(order), 400)
    valence = np.array([label_order.TYPICAL_VALENCE[order[c]] for c in codes]) + chance.normal(0, noise, 400)
    return codes.astype(np.int8), np.clip(valence, -1, 1).astype(np.float32)


@pytest.mark.parametrize("name", ["fer2013", "alphabetical"])
def test_permuted_labels_stop_and_the_likely_order_is_named(name):
    with pytest.raises(DataError, match=f"--label_order={name} ") as caught:
        label_order.check(*_faces(LABEL_ORDERS[name]), EXPRESSIONS)
    assert "valence contradicts the label order" in str(caught.value).splitlines()[0]


def test_labels_in_order_pass_and_so_do_labels_that_valence_says_nothing_about():
    expression, valence = _faces(EXPRESSIONS)
    label_order.check(expression, valence, EXPRESSIONS)
    label_order.check(expression, np.full_like(valence, np.nan), EXPRESSIONS)
    label_order.check(expression, np.zeros_like(valence), EXPRESSIONS)
    label_order.check(expression, np.random.default_rng(1).uniform(-1, 1, 400).astype(np.float32), EXPRESSIONS)
    label_order.check(expression[:20], -valence[:20], EXPRESSIONS)
    label_order.check(expression, -valence, ())
    label_order.check(np.full_like(expression, -1), valence, EXPRESSIONS)


def test_workers_get_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = Settings(**GOOD).absolute()
    assert (absolute.input_dir, absolute.data_dir) == (str(tmp_path / "raw"), str(tmp_path / "data"))
    assert absolute.deciding_bytes() == Settings(**GOOD).deciding_bytes()
