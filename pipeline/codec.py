"""A face record to a `tf.train.Example` and back, without TensorFlow.

The message is built at run time with `tf.train.Example`'s own field numbers
(tensorflow/core/example/feature.proto), so TensorFlow and TFDS read it as theirs. It is serialised
deterministically: a map field otherwise comes out in another order in each process.
"""

import dataclasses
import functools
import math
import re

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.records import EXPRESSIONS, LANDMARKS

FEATURES = ("image", "expression", "expression_probs", "valence", "arousal", "landmarks", "id", "group")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of a shard.

    Attributes:
      image: encoded JPEG or PNG.
      expression: 0 to 7, or -1 when unknown.
      shares: float32 (8,), summing to 1, or zeros when unknown.
      valence, arousal: in [-1, 1], NaN when unknown.
      landmarks: float32 (68, 2), x and y in pixels of the stored image, or None when absent.
      id, group: text.
    """

    image: bytes
    expression: int
    shares: np.ndarray
    valence: float
    arousal: float
    landmarks: np.ndarray | None
    id: str
    group: str


def encode(record: Record) -> bytes:
    """The serialised `tf.train.Example`; the same record gives the same bytes in every process."""
    example = _example_class()()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["expression"].int64_list.value.append(record.expression)
    feature["expression_probs"].float_list.value.extend(record.shares.tolist())
    feature["valence"].float_list.value.append(record.valence)
    feature["arousal"].float_list.value.append(record.arousal)
    landmarks = _NO_LANDMARKS if record.landmarks is None else record.landmarks.reshape(-1).tolist()
    feature["landmarks"].float_list.value.extend(landmarks)
    feature["id"].bytes_list.value.append(record.id.encode())
    feature["group"].bytes_list.value.append(record.group.encode())
    return example.SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    """The record of a serialised `tf.train.Example`.

    Raises:
      ValueError: it is no Example, or a feature is missing or has another length than the contract says.
    """
    try:
        feature = _example_class().FromString(data).features.feature
    except Exception as error:  # protobuf's DecodeError has another class in each implementation
        raise ValueError(f"no tf.train.Example: {error}") from None
    if set(feature) != set(FEATURES):
        raise ValueError(f"features {sorted(feature)} where {sorted(FEATURES)} are due")
    landmarks = np.array(_values(feature, "landmarks", "float_list", 2 * LANDMARKS), np.float32).reshape(LANDMARKS, 2)
    return Record(
        image=_values(feature, "image", "bytes_list", 1)[0],
        expression=_values(feature, "expression", "int64_list", 1)[0],
        shares=np.array(_values(feature, "expression_probs", "float_list", len(EXPRESSIONS)), np.float32),
        valence=_values(feature, "valence", "float_list", 1)[0],
        arousal=_values(feature, "arousal", "float_list", 1)[0],
        landmarks=None if np.isnan(landmarks).all() else landmarks,
        id=_values(feature, "id", "bytes_list", 1)[0].decode(),
        group=_values(feature, "group", "bytes_list", 1)[0].decode(),
    )


def cut_image(data: bytes) -> tuple[memoryview, bytes]:
    """The image of a serialised `tf.train.Example`, where it lies in `data`, and the Example without it.

    The image is nearly all of a record, and is not copied so. `data` must be of `encode`.

    Raises:
      ValueError: there is no image, or a length leads beyond the end.
    """
    # Messages are tags, here of one byte, and lengths. Example holds Features, and those the entries of a map.
    try:
        _, first = _varint(data, 1)
        entry = first
        while entry < len(data):
            size, key = data[entry + 1], entry + 2
            if size > 127:
                size, key = _varint(data, entry + 1)
            if header := _IMAGE.match(data, key):
                end = key + size
                if not header.end() <= end <= len(data):
                    raise ValueError("no tf.train.Example: its image has another length than it says")
                rest = data[first:entry] + data[end:]
                return memoryview(data)[header.end() : end], data[:1] + _to_varint(len(rest)) + rest
            entry = key + size
    except IndexError:
        raise ValueError("no tf.train.Example: it ends within a length") from None
    raise ValueError("the record has no image")


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number that begins at `start`, seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while (byte := data[start]) > 127:
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
    return value | byte << shift, start + 1


def _to_varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + _to_varint(value >> 7) if value > 127 else bytes([value])


_LENGTH = rb"[\x80-\xff]*[\x00-\x7f]"
_FIELD = rb"\n" + _LENGTH
#: All of the image's entry that comes before its bytes, which lie in BytesList, which lies in Feature.
_IMAGE = re.compile(rb"\n\x05image\x12" + _LENGTH + 2 * _FIELD)
_NO_LANDMARKS = [math.nan] * (2 * LANDMARKS)


def _values(feature, name: str, kind: str, count: int) -> list:
    values = getattr(feature[name], kind).value
    if len(values) != count:
        raise ValueError(f"feature {name!r} has {len(values)} values in {kind} where {count} are due")
    return list(values)


@functools.cache
def _example_class():
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="affect_faces/example.proto", package="affect_faces", syntax="proto3"
    )
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".affect_faces." + "".join(part.title() for part in name.split("_"))
        feature.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=type_name,
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".affect_faces.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".affect_faces.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".affect_faces.Features",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("affect_faces.Example"))
