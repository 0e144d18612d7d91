"""Contrast in one pass over resampled pixels, which then go back to uint8.

In steps, each a loop of its own, so that pixels are not computed anew for each of their bytes.
"""

import tensorflow as tf

from datasets.augmentation import bits
from datasets.augmentation.geometry import LEVEL_BITS

#: Of an image; added up element by element, because the compiler does not vectorise a sum within one.
_PARTS = 32


def contrast(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """keras-cv's RandomContrast, then rounding.

    Args:
      pixels: uint32 [B, H, W] as `geometry.warp` returns them.
      factors: float32 [B]; the distance from the channel's mean is multiplied by it and the result clipped.

    Returns:
      uint8 [B, H, W, 3].
    """
    means = tf.stack([mean(pixels, channel) for channel in range(3)], axis=1)
    return to_uint8(adjust(pixels, means, factors))


@tf.function(jit_compile=True, autograph=False)
def mean(pixels: tf.Tensor, channel: int | tf.Tensor) -> tf.Tensor:
    """Of one channel, in grey levels, float32 [B]."""
    size = pixels.shape[1] * pixels.shape[2]
    flat = tf.pad(tf.reshape(pixels, [-1, size]), [[0, 0], [0, -size % _PARTS]])
    parts = (tf.bitcast(_level(part, channel), tf.int32) for part in tf.split(flat, _PARTS, axis=1))
    # In whole quarters, and so exact in any order.
    return tf.cast(tf.reduce_sum(sum(parts), axis=1), tf.float32) * (0.25 / size)


@tf.function(jit_compile=True, autograph=False)
def adjust(pixels: tf.Tensor, means: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The adjusted pixels with 8 bits a channel, uint32 [B, H, W]."""
    factor, adjusted = factors[:, None, None], []
    for channel in range(3):
        value = bits.to_float(_level(pixels, channel)) * (0.25 * factor) + means[:, channel, None, None] * (1 - factor)
        adjusted.append(bits.shifted(bits.to_whole(tf.clip_by_value(value, 0.0, 255.0), 8), 8 * channel))
    return adjusted[0] | adjusted[1] | adjusted[2]


@tf.function(jit_compile=True, autograph=False)
def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """The three lower bytes of each word of uint32 [B, H, W], uint8 [B, H, W, 3]."""
    return tf.bitcast(pixels, tf.uint8)[..., :3]


def _level(pixels: tf.Tensor, channel: int | tf.Tensor) -> tf.Tensor:
    """One channel in quarters of a grey level."""
    return bits.low(tf.bitwise.right_shift(pixels, tf.cast(LEVEL_BITS * channel, tf.uint32)), LEVEL_BITS)
