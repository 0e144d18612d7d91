"""Random numbers that depend on each example's seed alone: the same anywhere, in any batch, compiled or not."""

import functools

import numpy as np
import tensorflow as tf

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def threefry(keys: tf.Tensor, counters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32 with 20 rounds, a random function of a key and a counter.

    Args:
      keys: uint32 [B, 2].
      counters: uint32 [n].

    Returns:
      Two words, uint32 [B, n] each, of the counters (c, 0).

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    schedule = tf.split(keys, 2, axis=1)
    schedule.append(schedule[0] ^ schedule[1] ^ tf.constant(_PARITY, tf.uint32))
    first = counters[None, :] + schedule[0]
    second = tf.zeros_like(first) + schedule[1]
    distances = [(tf.constant(bits, tf.uint32), tf.constant(32 - bits, tf.uint32)) for bits in _ROTATIONS]
    for block in range(5):
        for left, right in distances[4 * (block % 2) :][:4]:
            first += second
            second = (tf.bitwise.left_shift(second, left) | tf.bitwise.right_shift(second, right)) ^ first
        first += schedule[(block + 1) % 3]
        second += schedule[(block + 2) % 3] + tf.constant(block + 1, tf.uint32)
    return first, second


def uniforms(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Uniform numbers of each example; number k is the same for any `count` above k.

    Args:
      seeds: int32 [B, 2].
      count: how many.

    Returns:
      float32 [B, count] in [0, 1), multiples of 2**-24.
    """
    counters = tf.constant(np.arange((count + 1) // 2), tf.uint32)
    words = threefry(tf.bitcast(seeds, tf.uint32), counters)
    high = tf.bitwise.right_shift(tf.stack(words, axis=-1), tf.constant(8, tf.uint32))
    numbers = tf.cast(tf.cast(high, tf.int32), tf.float32) * 2.0**-24
    return tf.reshape(numbers, [-1, 2 * counters.shape[0]])[:, :count]


def between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Uniform in [low, high)."""
    return low + (high - low) * uniform


def normal(uniform: tf.Tensor, mean: float, stddev: float, low: float, high: float) -> tf.Tensor:
    """Normal, clipped to [low, high], as keras-cv's NormalFactorSampler draws it."""
    return tf.clip_by_value(mean + stddev * tf.math.ndtri(uniform + 2.0**-25), low, high)


def symmetric_beta(uniform: tf.Tensor, alpha: float) -> tf.Tensor:
    """Beta(alpha, alpha), by interpolation in its quantiles (within 0.002 of the probability)."""
    table = tf.constant(_beta_quantiles(alpha), tf.float32)
    place = uniform * (table.shape[0] - 1)
    below = tf.minimum(tf.cast(place, tf.int32), table.shape[0] - 2)
    low, high = tf.gather(table, below), tf.gather(table, below + 1)
    return low + (place - tf.cast(below, tf.float32)) * (high - low)


@functools.cache
def _beta_quantiles(alpha: float) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at 2049 equal steps of probability, float64.

    The density is integrated over s = x**k with k = min(alpha, 1), where it is bounded.
    """
    k = min(alpha, 1)
    s = np.linspace(0, 0.5**k, 20001)
    x = s ** (1 / k)
    density = (x * 2) ** (alpha - k) * (1 - x) ** (alpha - 1)
    mass = np.concatenate([[0.0], np.cumsum(np.diff(s) * (density[1:] + density[:-1]) / 2)])
    lower = np.interp(np.linspace(0, 1, 1025), mass / mass[-1], x)
    return np.concatenate([lower, 1 - lower[-2::-1]])
