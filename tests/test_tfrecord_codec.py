"""Framing and the Example codec: round trips, damage, and agreement with TensorFlow's constants."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline import codec, tfrecord


def _write(path, records):
    with open(path, "wb") as file:
        for record in records:
            file.write(tfrecord.frame(record))


def _read(path):
    with open(path, "rb") as file:
        return list(tfrecord.read_records(file))


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_records_come_back_with_their_offsets(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("shard") / "shard"
    _write(path, records)
    read = _read(path)
    assert [data for _, data in read] == records
    starts = np.cumsum([0] + [len(record) + tfrecord.FRAME_BYTES for record in records])
    assert [offset for offset, _ in read] == starts[:-1].tolist()
    assert os.path.getsize(path) == starts[-1]


@given(st.data())
def test_every_flipped_bit_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("shard") / "shard"
    _write(path, [b"first", b"second record", b""])
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(tfrecord.DamagedRecord):
        _read(path)


@given(cut=st.integers(1, 60))
def test_a_cut_file_names_the_record(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("shard") / "shard"
    _write(path, [b"x" * 20, b"y" * 9])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    if cut == 25:  # at a record boundary: only the counts of the manifest can tell
        assert len(_read(path)) == 1
        return
    with pytest.raises(tfrecord.DamagedRecord) as caught:
        _read(path)
    assert caught.value.index == (1 if cut < 25 else 0)


def test_a_length_that_lies_is_not_believed(tmp_path):
    length = (2**60).to_bytes(8, "little")
    path = tmp_path / "shard"
    path.write_bytes(length + tfrecord.masked_crc(length).to_bytes(4, "little") + b"x" * 40)
    with pytest.raises(tfrecord.DamagedRecord, match="1152921504606846976 bytes announced"):
        _read(path)


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with tfrecord.atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    with pytest.raises(RuntimeError), tfrecord.atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


_FLOATS = st.floats(-1, 1, width=32)


@st.composite
def _records(draw):
    known = draw(st.booleans())
    return codec.Record(
        image=draw(st.binary(max_size=200)),
        expression=draw(st.integers(-1, 7)),
        shares=np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8)), np.float32),
        valence=draw(_FLOATS) if known else math.nan,
        arousal=draw(_FLOATS),
        landmarks=draw(
            st.none()
            | st.lists(st.floats(-10, 500, width=32), min_size=136, max_size=136).map(
                lambda points: np.array(points, np.float32).reshape(68, 2)
            )
        ),
        id=draw(st.text(max_size=30)),
        group=draw(st.text(max_size=30)),
    )


@given(_records())
def test_a_record_comes_back(record):
    back = codec.decode(codec.encode(record))
    for field in codec.Record.__slots__:
        np.testing.assert_array_equal(getattr(back, field), getattr(record, field))


@given(_records(), st.integers(0, 40_000))
def test_an_image_is_cut_out(record, size):
    """Lengths of one, two and three bytes; the texts before it may say "image" too."""
    record = dataclasses.replace(record, image=record.image + bytes(size), id="\n\x05image\x12\x03\n\x01" + record.id)
    data = codec.encode(record)
    image, rest = codec.cut_image(data)
    assert image == record.image
    whole = tf.train.Example.FromString(data)
    del whole.features.feature["image"]
    assert rest == whole.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="the record has no image"):
        codec.cut_image(rest)
    with pytest.raises(ValueError, match=r"it ends within a length|the record has no image"):
        codec.cut_image(rest[: size % len(rest)])
    if image:
        first = np.frombuffer(image, np.uint8).ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
        with pytest.raises(ValueError, match="its image has another length than it says"):
            codec.cut_image(data[: first + size % len(image)])


@given(st.binary(max_size=400))
def test_foreign_bytes_are_a_value_error(data):
    with pytest.raises(ValueError):
        codec.decode(data)
    with pytest.raises(ValueError):
        codec.cut_image(data)


_ENCODE = """
import hashlib, numpy as np
from pipeline import codec
record = codec.Record(b"image", 3, np.eye(8, dtype=np.float32)[3], 0.5, -0.25, None, "id", "group")
print(hashlib.sha256(codec.encode(record)).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", _ENCODE], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(digests) == 1


def test_tensorflow_writes_and_reads_the_same(tmp_path):
    landmarks = np.arange(136, dtype=np.float32).reshape(68, 2)
    record = codec.Record(b"image", -1, np.full(8, 0.125, np.float32), math.nan, 0.5, landmarks, "id", "group")
    example = tf.train.Example.FromString(codec.encode(record))
    assert codec.decode(example.SerializeToString()).id == "id"
    assert example.SerializeToString(deterministic=True) == codec.encode(record)

    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"one")
        writer.write(b"")
    assert path.read_bytes() == tfrecord.frame(b"one") + tfrecord.frame(b"")
