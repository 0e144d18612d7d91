"""The one resampling and the one colour pass of a batch: of all faces at once, or of one face after the other.

Of one face the pixels stay in a core's cache from step to step. The operations are the same, in a form that XLA's CPU
compiler makes fast code of (what it makes is seen with XLA_FLAGS=--xla_dump_to=FOLDER):

- Operations that only follow each other become one loop, which `geometry` says why they must not, and such a loop is
  shared among all cores, which have batches of their own. Neither is done to a loop that fills an array part by part,
  so each step is one.
- New arrays are filled with zeros first. These are carried from face to face.
- More than eight operations in a row are handed out to threads. What a step does not need its counter for would become
  one of them, so the counters run on from face to face, and say which face it is.

It is written down as `stablehlo`, which takes a fiftieth of the time that TensorFlow takes for a graph of it.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from datasets.augmentation import colour, geometry, ops, stablehlo
from datasets.augmentation.stablehlo import Value


def transform(
    images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor, *, at_once: bool | None = None
) -> tf.Tensor:
    """`geometry.warp`, then `colour.contrast`.

    Args:
      images: uint8 [B, H, W, 3].
      matrices: float32 [B, 3, 3].
      deltas, factors: float32 [B].
      at_once: as an accelerator wants it, or not, as a processor does; None is at once where TensorFlow sees an
        accelerator. So is what it takes in any case where B is not known beforehand. The result is the same but for a
        value here and there that is rounded to its other neighbour, if the matrices are finite.

    Returns:
      uint8 [B, H, W, 3].

    Raises:
      UsageError: a side is not from 2 to 1024.
    """
    geometry.check_sides(*images.shape[1:3])
    if at_once is None:
        at_once = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    if at_once or images.shape[0] is None:
        return colour.contrast(geometry.warp(images, matrices, deltas), factors)
    count = images.shape[0]
    matrices = tf.ensure_shape(matrices, [count, 3, 3])
    deltas, factors = (tf.ensure_shape(column, [count]) for column in (deltas, factors))
    return one_by_one(images, matrices, deltas, factors, tf.constant(count))


@tf.function(jit_compile=True, autograph=False)
def one_by_one(
    images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor, faces: tf.Tensor
) -> tf.Tensor:
    """What `transform` makes of the first `faces` (int32) images; the others become black."""
    return stablehlo.call(_one_by_one, [images, matrices, deltas, factors, faces])


def _one_by_one(images: Value, matrices: Value, deltas: Value, factors: Value, faces: Value) -> Value:
    program, (_, height, width, _) = images.program, images.shape
    strips = next(number for number in range(2, height + 1) if height % number == 0)
    rows = height // strips

    def strip_of(array: Value, strip: Value) -> Value:
        return ops.part(array, [0, strip * rows, 0], [1, rows, array.shape[2]])

    def prepare(_, face: Value, strip: Value) -> Sequence[Value]:
        part = ops.part(images, [face, strip * rows, 0, 0], [1, rows, width, 3])
        y = strip_of(program.constant(geometry.from_centre(height), tf.float32), strip)
        where = geometry.coordinates(_row(matrices, face), height, width, y)
        return [ops.reshape(geometry.words(part), [1, -1]), *where]

    def resample(arrays: dict, face: Value, strip: Value) -> Sequence[Value]:
        where = (strip_of(arrays[name], strip) for name in ("places", "fractions"))
        return [geometry.resample(ops.reshape(arrays["pixels"], [-1]), *where, _row(deltas, face))]

    def mean(arrays: dict, _, channel: Value) -> Sequence[Value]:
        return [ops.reshape(colour.mean(arrays["moved"], channel), [1, 1])]

    def adjust(arrays: dict, face: Value, strip: Value) -> Sequence[Value]:
        return [colour.adjust(strip_of(arrays["moved"], strip), arrays["means"], _row(factors, face))]

    # Each with the arrays that it fills, and in how many parts.
    steps = (
        (prepare, ["pixels", "places", "fractions"], strips),
        (resample, ["moved"], strips),
        (mean, ["means"], 3),
        (adjust, ["adjusted"], strips),
    )

    def transform_one(face: Value, done: Value, counters: list, arrays: dict) -> tuple:
        counters, arrays = list(counters), dict(arrays)
        for number, (step, names, parts) in enumerate(steps):
            filled = [arrays[name] for name in names]
            make = functools.partial(step, arrays)
            counters[number], filled = _fill(filled, make, parts, face, counters[number])
            arrays.update(zip(names, filled))
        done = stablehlo.update(done, colour.to_uint8(arrays["adjusted"]), [face, 0, 0, 0])
        return face + 1, done, counters, arrays

    zero, face = program.constant(0, tf.int32), program.constant(0, tf.uint32, [1, height, width])
    arrays = dict.fromkeys(("places", "fractions", "moved", "adjusted"), face)
    arrays |= {"pixels": ops.reshape(face, [1, -1]), "means": program.constant(0, tf.float32, [1, 3])}
    first = (zero, program.constant(0, tf.uint8, images.shape), [zero] * len(steps), arrays)
    return stablehlo.loop(lambda face, *_: face < faces, transform_one, first)[1]


def _fill(arrays: list[Value], make: Callable, parts: int, face: Value, counter: Value) -> tuple[Value, list[Value]]:
    """The arrays with what is made of a face and each part, and the counter, which then is at the next face."""

    def fill_part(counter: Value, arrays: list[Value]) -> tuple:
        part = counter % parts
        made = make(counter // parts, part)
        filled = [
            stablehlo.update(array, one, [0, part * one.shape[1], *[0] * (len(array.shape) - 2)])
            for array, one in zip(arrays, made)
        ]
        return counter + 1, filled

    return stablehlo.loop(lambda counter, _: counter < (face + 1) * parts, fill_part, (counter, arrays))


def _row(column: Value, face: Value) -> Value:
    return ops.part(column, [face, *[0] * (len(column.shape) - 1)], [1, *column.shape[1:]])
