"""Resampling and colours of a batch, one face after the other: its pixels stay in a core's cache from step to step.

The same operations as those of a whole batch at once, in a form that XLA's CPU compiler makes fast code of (what it
makes is seen with XLA_FLAGS=--xla_dump_to=FOLDER):

- Operations that only follow each other become one loop, which `geometry` says why they must not, and such a loop is
  shared among all cores, which have batches of their own. Neither is done to a loop that fills an array part by part,
  so each step is one.
- New arrays are filled with zeros first. These are carried from face to face.
- More than eight operations in a row are handed out to threads. What a step does not need its counter for would become
  one of them, so the counters run on from face to face, and say which face it is.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from datasets.augmentation import colour, geometry


@tf.function(jit_compile=True, autograph=False)
def transform(images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """`geometry.warp`, then `colour.contrast`.

    Args:
      images: uint8 [B, H, W, 3]; H and W as `geometry.warp` takes them.
      matrices: float32 [B, 3, 3].
      deltas, factors: float32 [B].

    Returns:
      uint8 [B, H, W, 3].
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    geometry.check_sides(height, width)
    strips = next(number for number in range(2, height + 1) if height % number == 0)
    rows = height // strips

    def array(parts: int | tf.Tensor, *shape: int, dtype: tf.DType = tf.uint32) -> tf.TensorArray:
        return tf.TensorArray(dtype, parts, element_shape=shape)

    def of(face: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return column[face, tf.newaxis]

    def transform_one(face: tf.Tensor, counters: list, faces: tf.TensorArray, *arrays: tf.TensorArray) -> tuple:
        pixels, places, fractions, moved, means, adjusted = arrays
        before, counters = iter(counters), []

        def fill(arrays: Sequence[tf.TensorArray], parts: int, step: Callable) -> Sequence[tf.TensorArray]:
            """The arrays with what a step makes of each face and part."""

            def fill_part(counter: tf.Tensor, arrays: Sequence[tf.TensorArray]) -> tuple:
                made = step(counter // parts, counter % parts)
                return counter + 1, [array.write(counter % parts, one) for array, one in zip(arrays, made)]

            first = (next(before), list(arrays))
            counter, filled = tf.while_loop(lambda counter, _: counter < (face + 1) * parts, fill_part, first)
            counters.append(counter)
            return filled

        def whole(array: tf.TensorArray) -> tf.Tensor:
            return tf.reshape(array.stack(), [1, height, width])

        def strip(array: tf.TensorArray, number: tf.Tensor) -> tf.Tensor:
            return tf.slice(whole(array), [0, number * rows, 0], [1, rows, width])

        (pixels,) = fill([pixels], strips, lambda face, number: [
            geometry.words(tf.slice(images, [face, number * rows, 0, 0], [1, rows, width, 3]))
        ])  # fmt: skip
        places, fractions = fill([places, fractions], strips, lambda face, number:
            geometry.coordinates(of(face, matrices), height, width, number * rows, rows)
        )  # fmt: skip
        (moved,) = fill([moved], strips, lambda face, number: [geometry.resample(
            tf.reshape(pixels.stack(), [-1]), strip(places, number), strip(fractions, number), of(face, deltas)
        )])  # fmt: skip
        (means,) = fill([means], 3, lambda _, channel: [colour.mean(whole(moved), channel)])
        (adjusted,) = fill([adjusted], strips, lambda face, number: [colour.adjust(
            strip(moved, number), tf.reshape(means.stack(), [1, 3]), of(face, factors)
        )])  # fmt: skip
        faces = faces.write(face, colour.to_uint8(whole(adjusted))[0])
        return face + 1, counters, faces, pixels, places, fractions, moved, means, adjusted

    places, fractions, moved, adjusted = (array(strips, 1, rows, width) for _ in range(4))
    first = (
        0, [0] * 5, array(count, height, width, 3, dtype=tf.uint8),
        array(strips, rows * width), places, fractions, moved, array(3, 1, dtype=tf.float32), adjusted,
    )  # fmt: skip
    return tf.while_loop(lambda face, *_: face < count, transform_one, first)[2].stack()
