"""Whole numbers within 32-bit words, and to float32 and back, by operations that a processor does eight at a time."""

import tensorflow as tf

from datasets.augmentation import ops

#: A number below it that is added to it is rounded to a whole one (a half to the even) in the lowest bits of the float.
_WHOLE = 2.0**23


def shifted(words: tf.Tensor, bits: int) -> tf.Tensor:
    """To the left; to the right where `bits` is negative."""
    shift = ops.left_shift if bits > 0 else ops.right_shift
    return shift(words, abs(bits)) if bits else words


def low(words: tf.Tensor, bits: int) -> tf.Tensor:
    """The lowest bits."""
    return words & ((1 << bits) - 1)


def part(words: tf.Tensor, first: int, count: int, used: int) -> tf.Tensor:
    """`count` bits from number `first` on, of words of which only the lowest `used` bits are not 0."""
    words = shifted(words, -first)
    return low(words, count) if first + count < used else words


def to_float(words: tf.Tensor) -> tf.Tensor:
    """float32 of uint32 below 2**31; a cast of unsigned numbers takes several operations."""
    return ops.cast(ops.bitcast(words, tf.int32), tf.float32)


def to_whole(values: tf.Tensor, bits: int) -> tf.Tensor:
    """uint32 of float32 from 0 to 2**bits - 1, at most 23 bits, rounded; a cast looks for infinity and NaN too."""
    return low(ops.bitcast(values + _WHOLE, tf.uint32), bits)
