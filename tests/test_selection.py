"""What is known of a split before its shards are read."""

import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets.selection import Selection
from pipeline.errors import DataError, UsageError


def test_parts_of_the_table_change_nothing(sample_dataset, tmp_path):
    """Large datasets have a row group for each batch of inputs, here seven rows."""
    copy = pathlib.Path(shutil.copytree(sample_dataset, tmp_path / "1.0.0"))
    table = copy / "records.parquet"
    pq.write_table(pq.read_table(table), table, row_group_size=7)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][table.name] = hashlib.sha256(table.read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert pq.ParquetFile(sample_dataset / table.name).num_row_groups == 1 < pq.ParquetFile(table).num_row_groups
    for split in ("train", "validation+train[20:70]"):
        one, several = (Selection(str(folder), split, None) for folder in (sample_dataset, copy))
        rows = np.random.default_rng(0).permutation(one.count)
        assert one.splits == several.splits and one.image_sizes == several.image_sizes
        np.testing.assert_array_equal(one.expression, several.expression)
        np.testing.assert_array_equal(one.known("valence"), several.known("valence"))
        np.testing.assert_array_equal(one.image_keys(), several.image_keys())
        np.testing.assert_array_equal(one.read(rows), several.read(rows))
        for name in ("id", "sha256", "shard", "expression_probs"):
            assert one.column(name).to_pylist() == several.column(name).to_pylist()


def test_no_file_stays_open_and_one_is_at_a_time(sample_dataset, monkeypatch):
    """TensorFlow keeps a stream's functions as long as the process lives; there may be thousands of shards."""
    before = len(os.listdir("/proc/self/fd"))
    selection = Selection(str(sample_dataset), "train+validation", None)
    opened, most, open_file, close_file = set(), [], os.open, os.close

    def opening(*given) -> int:
        opened.add(file := open_file(*given))
        most.append(len(opened))
        return file

    def closing(file: int) -> None:
        opened.discard(file)
        close_file(file)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "close", closing)
    rows = np.random.default_rng(0).permutation(selection.count)
    assert len(selection.read(rows)) == 108
    shards = set(zip(*(selection.column(name).to_pylist() for name in ("split", "shard"))))
    assert len(most) == len(shards) > 2
    selection.announce(rows)
    assert not opened and set(most) == {1}
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_announced_is_what_is_read(sample_dataset, monkeypatch):
    """In long pieces, of which the kernel takes so many bytes by one request, and without what is kept already."""
    selection = Selection(str(sample_dataset), "train+validation", None)
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *request: asked.append(request))
    monkeypatch.setattr("datasets.selection._AHEAD", 50_000)
    rows = np.array([*range(30, 50), 7, 7, 107])
    selection.announce(rows)
    offsets, lengths = (selection.column(name).to_numpy()[rows] for name in ("offset", "length"))
    assert sum(length for _, _, length, _ in asked) == lengths[np.unique(rows, return_index=True)[1]].sum()
    for offset, length in zip(offsets, lengths):
        assert any(start <= offset < start + size for _, start, size, _ in asked)
        assert any(start < offset + length <= start + size for _, start, size, _ in asked)
    assert {what for *_, what in asked} == {os.POSIX_FADV_WILLNEED} and max(size for _, _, size, _ in asked) == 50_000
    whole = len(asked)
    selection.keep_records()
    selection.read(rows[:20])
    selection.announce(rows)
    assert 2 <= len(asked) - whole < whole
    selection.read(rows)
    asked.clear()
    selection.announce(rows)
    assert not asked


def test_only_contempt_can_be_left_out(sample_dataset):
    selection = Selection(str(sample_dataset), "train", None)
    selection.expression = np.where(selection.expression == 7, np.int8(0), selection.expression)
    said = "^contempt: no example in 'train', so there is no class weight; give balance=none, or num_classes=7$"
    with pytest.raises(DataError, match=said):
        selection.class_weights(10.0)
    weights = selection.class_weights(10.0, 7)
    assert weights[7] == 0 and weights[:7].all()
    with pytest.raises(UsageError, match="num_classes is 9; it must be 7 or 8"):
        selection.class_weights(10.0, 9)
