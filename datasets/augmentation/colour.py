"""Contrast in one pass over resampled pixels, which then go back to uint8.

In steps, each a loop of its own, so that pixels are not computed anew for each of their bytes.
"""

import tensorflow as tf

from datasets.augmentation import bits, ops
from datasets.augmentation.geometry import LEVEL_BITS, apart

#: Of an image; added up element by element, because the compiler does not vectorise a sum within one. It writes the
#: additions out, and of twice as many makes seven times the code.
_PARTS = 16


def contrast(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """keras-cv's RandomContrast, then rounding.

    Args:
      pixels: uint32 [B, H, W] as `geometry.warp` returns them.
      factors: float32 [B]; the distance from the channel's mean is multiplied by it and the result clipped.

    Returns:
      uint8 [B, H, W, 3].
    """
    means = tf.stack([apart(mean)(pixels, channel) for channel in range(3)], axis=1)
    return apart(to_uint8)(apart(adjust)(pixels, means, factors))


def mean(pixels: tf.Tensor, channel: int | tf.Tensor) -> tf.Tensor:
    """Of one channel, in grey levels, float32 [B]."""
    size = pixels.shape[1] * pixels.shape[2]
    shifted = ops.right_shift(pixels, ops.cast(LEVEL_BITS * channel, tf.uint32))
    # In whole quarters, and so exact in any order.
    levels = ops.reshape(bits.low(shifted, LEVEL_BITS), [-1, size])
    if size % _PARTS:
        levels = ops.pad(levels, [[0, 0], [0, -size % _PARTS]])
    parts = ops.reduce_sum(ops.reshape(levels, [-1, _PARTS, levels.shape[1] // _PARTS]), axis=1)
    # The compiler would make one sum of two that are of the same type.
    return ops.cast(ops.reduce_sum(ops.bitcast(parts, tf.int32), axis=1), tf.float32) * (0.25 / size)


def adjust(pixels: tf.Tensor, means: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The adjusted pixels with 8 bits a channel, uint32 [B, H, W]."""
    adjusted, quarter = [], ops.reshape(0.25 * factors, [-1, 1, 1])
    kept = ops.reshape(means * (1 - factors)[:, None], [-1, 3, 1, 1])
    for channel, rest in enumerate(ops.unstack(kept, axis=1)):
        level = bits.part(pixels, LEVEL_BITS * channel, LEVEL_BITS, 3 * LEVEL_BITS)
        value = bits.to_float(level) * quarter + rest
        adjusted.append(bits.shifted(bits.to_whole(ops.clip_by_value(value, 0.0, 255.0), 8), 8 * channel))
    return adjusted[0] | adjusted[1] | adjusted[2]


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """The three lower bytes of each word of uint32 […], uint8 […, 3]."""
    return ops.bitcast(pixels, tf.uint8)[..., :3]
