"""The one resampling and the one colour pass of a batch: of all faces at once, or of one face after the other.

Of one face the pixels stay in a core's cache from step to step. The operations are the same, in a form that XLA's CPU
compiler makes fast code of (what it makes is seen with XLA_FLAGS=--xla_dump_to=FOLDER):

- Operations that only follow each other become one loop, which `geometry` says why they must not, and such a loop is
  shared among all cores, which have batches of their own. Neither is done to a loop that fills an array part by part,
  so each step is one.
- New arrays are filled with zeros first. These are carried from face to face.
- More than eight operations in a row are handed out to threads. What a step does not need its counter for would become
  one of them, so the counters run on from face to face, and say which face it is.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from datasets.augmentation import colour, geometry


def transform(
    images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor, *, at_once: bool | None = None
) -> tf.Tensor:
    """`geometry.warp`, then `colour.contrast`.

    Args:
      images: uint8 [B, H, W, 3].
      matrices: float32 [B, 3, 3].
      deltas, factors: float32 [B].
      at_once: as an accelerator wants it, or not, as a processor does; None is at once where TensorFlow sees an
        accelerator. The result is the same but for a value here and there that is rounded to its other neighbour.

    Returns:
      uint8 [B, H, W, 3].

    Raises:
      UsageError: a side is not from 2 to 1024.
    """
    geometry.check_sides(*images.shape[1:3])
    if at_once is None:
        at_once = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    if at_once:
        return colour.contrast(geometry.warp(images, matrices, deltas), factors)
    return one_by_one(images, matrices, deltas, factors, tf.shape(images)[0])


@tf.function(jit_compile=True, autograph=False)
def one_by_one(
    images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor, faces: tf.Tensor
) -> tf.Tensor:
    """What `transform` makes of the first `faces` (int32) images; the others become black."""
    height, width = images.shape[1:3]
    strips = next(number for number in range(2, height + 1) if height % number == 0)
    rows = height // strips

    def whole(array: tf.TensorArray) -> tf.Tensor:
        return tf.reshape(array.stack(), [1, height, width])

    def part(array: tf.TensorArray, strip: tf.Tensor) -> tf.Tensor:
        return tf.slice(whole(array), [0, strip * rows, 0], [1, rows, width])

    def prepare(_, face: tf.Tensor, strip: tf.Tensor) -> Sequence[tf.Tensor]:
        strip_of_face = tf.slice(images, [face, strip * rows, 0, 0], [1, rows, width, 3])
        where = geometry.coordinates(_row(matrices, face), height, width, strip * rows, rows)
        return [geometry.words(strip_of_face), *where]

    def resample(arrays: dict, face: tf.Tensor, strip: tf.Tensor) -> Sequence[tf.Tensor]:
        pixels, where = tf.reshape(arrays["pixels"].stack(), [-1]), (arrays["places"], arrays["fractions"])
        return [geometry.resample(pixels, *(part(array, strip) for array in where), _row(deltas, face))]

    def mean(arrays: dict, _, channel: tf.Tensor) -> Sequence[tf.Tensor]:
        return [colour.mean(whole(arrays["moved"]), channel)]

    def adjust(arrays: dict, face: tf.Tensor, strip: tf.Tensor) -> Sequence[tf.Tensor]:
        means = tf.reshape(arrays["means"].stack(), [1, 3])
        return [colour.adjust(part(arrays["moved"], strip), means, _row(factors, face))]

    # Each with the arrays that it fills, and in how many parts.
    steps = (
        (prepare, ["pixels", "places", "fractions"], strips),
        (resample, ["moved"], strips),
        (mean, ["means"], 3),
        (adjust, ["adjusted"], strips),
    )

    def transform_one(face: tf.Tensor, done: tf.TensorArray, counters: list, arrays: dict) -> tuple:
        counters, arrays = list(counters), dict(arrays)
        for number, (step, names, parts) in enumerate(steps):
            filled = [arrays[name] for name in names]
            make = functools.partial(step, arrays)
            counters[number], filled = _fill(filled, make, parts, face, counters[number])
            arrays.update(zip(names, filled))
        adjusted = tf.reshape(arrays["adjusted"].stack(), [height, width])
        return face + 1, done.write(face, colour.to_uint8(adjusted)), counters, arrays

    arrays = {name: _array(strips, 1, rows, width) for name in ("places", "fractions", "moved", "adjusted")}
    arrays |= {"pixels": _array(strips, rows * width), "means": _array(3, 1, dtype=tf.float32)}
    first = (0, _array(tf.shape(images)[0], height, width, 3, dtype=tf.uint8), [0] * len(steps), arrays)
    return tf.while_loop(lambda face, *_: face < faces, transform_one, first)[1].stack()


def _fill(
    arrays: list[tf.TensorArray], make: Callable, parts: int, face: tf.Tensor, counter: tf.Tensor
) -> tuple[tf.Tensor, list[tf.TensorArray]]:
    """The arrays with what is made of a face and each part, and the counter, which then is at the next face."""

    def fill_part(counter: tf.Tensor, arrays: list[tf.TensorArray]) -> tuple:
        part = counter % parts
        made = make(counter // parts, part)
        return counter + 1, [array.write(part, one) for array, one in zip(arrays, made)]

    return tf.while_loop(lambda counter, _: counter < (face + 1) * parts, fill_part, (counter, arrays))


def _array(parts: int | tf.Tensor, *shape: int, dtype: tf.DType = tf.uint32) -> tf.TensorArray:
    return tf.TensorArray(dtype, parts, element_shape=shape)


def _row(column: tf.Tensor, face: tf.Tensor) -> tf.Tensor:
    return tf.slice(column, [face, *[0] * (column.shape.rank - 1)], [1, *column.shape[1:]])
