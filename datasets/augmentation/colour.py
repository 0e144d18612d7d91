"""Brightness and contrast in one pass over resampled pixels, which also brings them back to uint8."""

import math

import tensorflow as tf

#: Of an image, added up before the mean is taken: half the time of whole sums.
_PARTS = 8


def brightness_contrast(pixels: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """keras-cv's RandomBrightness, then its RandomContrast, then rounding.

    Args:
      pixels: uint32 [B, H, W] as `geometry.warp` returns them.
      deltas: float32 [B], added to each value; the sum is clipped to [0, 255].
      factors: float32 [B]; the distance from the channel's mean is multiplied by it and the result clipped.

    Returns:
      uint8 [B, H, W, 3].
    """
    return _to_uint8(_adjust(pixels, deltas, factors))


@tf.function(jit_compile=True, autograph=False)
def _adjust(pixels: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The adjusted pixels with 8 bits a channel, uint32 [B, H, W]."""
    size = pixels.shape[1] * pixels.shape[2]
    parts = tf.unstack(tf.reshape(pixels, [-1, math.gcd(size, _PARTS), size // math.gcd(size, _PARTS)]), axis=1)
    adjusted = []
    for channel in range(3):
        # XLA's CPU compiler vectorises a sum of parts, and within a part it does not; short sums also round less.
        total = tf.reduce_sum(sum(_brightened(part, channel, deltas[:, None]) for part in parts), axis=1)
        mean, factor = (total / size)[:, None, None], factors[:, None, None]
        value = _brightened(pixels, channel, deltas[:, None, None])
        value = tf.clip_by_value((value - mean) * factor + mean, 0.0, 255.0)
        # Rounded by 2**23, as in `geometry`.
        whole = tf.bitcast(value + 2.0**23, tf.uint32) & tf.constant(255, tf.uint32)
        adjusted.append(tf.bitwise.left_shift(whole, tf.constant(8 * channel, tf.uint32)))
    return adjusted[0] | adjusted[1] | adjusted[2]


def _brightened(pixels: tf.Tensor, channel: int, deltas: tf.Tensor) -> tf.Tensor:
    """One channel as float32 in [0, 255]."""
    field = tf.bitwise.right_shift(pixels, tf.constant(10 * channel, tf.uint32)) & tf.constant(1023, tf.uint32)
    return tf.clip_by_value(0.25 * tf.cast(tf.cast(field, tf.int32), tf.float32) + deltas, 0.0, 255.0)


@tf.function(jit_compile=True, autograph=False)
def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """A function of its own, so that the pixels are not computed anew for each of their bytes."""
    return tf.bitcast(pixels, tf.uint8)[..., :3]
