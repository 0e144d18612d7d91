"""Labels as a network learns from them: a value and a mask per head, never NaN, and weights per class.

A label that is unknown has mask 0 and a value that does no harm in a loss (0 times NaN would be NaN).
"""

import math

import numpy as np
import tensorflow as tf

from pipeline.records import EXPRESSIONS, LANDMARKS

HEADS = ("expression", "valence", "arousal")
#: AffectNet's rarest class weighs 9.6 by its frequency. A rarer one would let a handful of faces steer the network.
MAX_CLASS_WEIGHT = 10.0


def parse(records: tf.Tensor, *, image: bool = True, landmarks: bool = False) -> dict:
    """Serialised `tf.train.Example`s, string [N], to one dict of columns of length N.

    Returns:
      image (unless it is not asked for, as when it was cut out): string, encoded.
      expression: int32, the source's label; where it has only votes, the commonest; 0 when unknown.
      expression_probs: float32 [N, 8], summing to 1, or zeros when unknown.
      valence, arousal: float32 in [-1, 1], 0 when unknown.
      mask: {head: float32}, 1 when known; expression is known when its shares are.
      id: string.
      landmarks, has_landmarks (when asked for): float32 [N, 68, 2], x and y in pixels of the stored image, zeros when
        absent; float32 [N], 1 when there.
    """
    features = {
        "expression": tf.io.FixedLenFeature([], tf.int64),
        "expression_probs": tf.io.FixedLenFeature([len(EXPRESSIONS)], tf.float32),
        "valence": tf.io.FixedLenFeature([], tf.float32),
        "arousal": tf.io.FixedLenFeature([], tf.float32),
        "id": tf.io.FixedLenFeature([], tf.string),
    }
    if image:
        features["image"] = tf.io.FixedLenFeature([], tf.string)
    if landmarks:
        features["landmarks"] = tf.io.FixedLenFeature([LANDMARKS, 2], tf.float32)
    columns = tf.io.parse_example(records, features)
    shares = columns["expression_probs"]
    columns["expression"] = tf.where(
        columns["expression"] >= 0, tf.cast(columns["expression"], tf.int32), tf.argmax(shares, -1, tf.int32)
    )
    mask = {"expression": tf.cast(tf.reduce_any(shares > 0, -1), tf.float32)}
    for name in ("valence", "arousal"):
        known = tf.math.is_finite(columns[name])
        columns[name], mask[name] = tf.where(known, columns[name], 0.0), tf.cast(known, tf.float32)
    if landmarks:
        there = tf.reduce_all(tf.math.is_finite(columns["landmarks"]), [1, 2])
        columns["landmarks"] = tf.where(there[:, tf.newaxis, tf.newaxis], columns["landmarks"], 0.0)
        columns["has_landmarks"] = tf.cast(there, tf.float32)
    return columns | {"mask": mask}


def pack(batch: dict) -> dict:
    """All numeric columns as one, `numbers` [N, K]: each column that passes through alone costs 5 µs an example."""
    texts = {name: batch[name] for name in ("image", "id")}
    numeric = tf.nest.flatten({name: column for name, column in batch.items() if name not in texts})
    rows = tf.shape(batch["id"])[0]
    flat = [tf.reshape(tf.bitcast(column, tf.int32), [rows, _width(column)]) for column in numeric]
    return texts | {"numbers": tf.concat(flat, 1)}


def unpack(batch: dict, columns: dict, image_size: int) -> dict:
    """Undoes `pack` and brings landmarks from the stored to the resized image, where pixel centres are integers.

    Args:
      batch: image, id, numbers, and stored_size (height and width).
      columns: the numeric columns as tensor specifications [None, …].
      image_size: side of the resized images.
    """
    specs = tf.nest.flatten(columns)
    parts = tf.split(batch["numbers"], [_width(spec) for spec in specs], 1)
    size = -1 if batch["id"].shape[0] is None else batch["id"].shape[0]
    values = [tf.bitcast(tf.reshape(part, [size, *spec.shape[1:]]), spec.dtype) for part, spec in zip(parts, specs)]
    unpacked = tf.nest.pack_sequence_as(columns, values) | {"image": batch["image"], "id": batch["id"]}
    if "landmarks" in unpacked:
        scale = image_size / tf.cast(batch["stored_size"][:, tf.newaxis, ::-1], tf.float32)
        there = unpacked["has_landmarks"][:, tf.newaxis, tf.newaxis]
        unpacked["landmarks"] = there * (unpacked["landmarks"] * scale + (scale - 1) / 2)
    return unpacked


def class_weights(classes: np.ndarray, *, cap: float = MAX_CLASS_WEIGHT) -> np.ndarray:
    """float32 [8]: known examples / (classes present × examples of the class), at most `cap`; 0 for an absent class.

    Args:
      classes: int8 [N], indices of expressions, -1 unknown.
      cap: the largest weight.
    """
    counts = np.bincount(classes[classes >= 0], minlength=len(EXPRESSIONS))
    weights = counts.sum() / (max(1, np.count_nonzero(counts)) * np.maximum(counts, 1))
    return np.where(counts > 0, np.minimum(weights, cap), 0.0).astype(np.float32)


def apply_class_weights(batch: dict, weights: np.ndarray) -> dict:
    """The batch with the expression's mask times the weight of its target, the mean over `expression_probs`.

    The mean is over the classes that have a weight; a target that lies in others alone becomes unknown. It comes after
    mixup and cutmix: the weight must not pull the mixed target.
    """
    weights = tf.constant(weights, tf.float32)
    mass, sums = (tf.linalg.matvec(batch["expression_probs"], of) for of in (tf.cast(weights > 0, tf.float32), weights))
    weight = tf.math.divide_no_nan(sums, mass)
    return batch | {"mask": batch["mask"] | {"expression": batch["mask"]["expression"] * weight}}


def _width(column: tf.Tensor | tf.TensorSpec) -> int:
    return math.prod(column.shape[1:])
