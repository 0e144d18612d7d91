"""Geometric transforms as matrices, composed, and applied in one bilinear resampling.

A matrix [B, 3, 3] maps pixels (x, y, 1) of the output to pixels of the input; (0, 0) is the centre of the first
pixel. This and the fill ("reflect": d c b a | a b c d | d c b a) are keras-cv's conventions.

The resampling is integer arithmetic on whole pixels. A pixel is read as one 32-bit word and becomes one of 64 bits, a
channel in each 21, so that one multiplication weighs three channels; weights have 13 bits and sum to 2**13, which
leaves 8 bits of value. It runs as two compiled functions, coordinates and then pixels, because XLA's CPU compiler would
otherwise fuse them into one loop that it cannot vectorise.
"""

import numpy as np
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.records import LANDMARKS

FRACTION_BITS = 13
#: Coordinates are read from the 23 bits that a float32's mantissa has: 10 are left for whole pixels.
LARGEST_SIDE = 1 << (23 - FRACTION_BITS)
_LANES = (0, 21, 42)

#: iBUG's 68 points after a mirror: point i of the mirrored face is point MIRRORED[i] of the face. In order: jaw, brows,
#: bridge of the nose, nostrils, eyes, outer and inner lip.
MIRRORED = np.array(
    [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    + [26, 25, 24, 23, 22, 21, 20, 19, 18, 17]
    + [27, 28, 29, 30]
    + [35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55]
    + [64, 63, 62, 61, 60, 67, 66, 65]
)
assert len(MIRRORED) == LANDMARKS


def _matrix(a, b, c, d, e, f) -> tf.Tensor:
    """[[a, b, c], [d, e, f], [0, 0, 1]] of numbers and vectors [B]; the first is a vector."""
    rows = [value + tf.zeros_like(a) for value in (a, b, c, d, e, f, 0.0, 0.0, 1.0)]
    return tf.reshape(tf.stack(rows, axis=-1), [-1, 3, 3])


def flip(flipped: tf.Tensor, width: int) -> tf.Tensor:
    """Mirrors left and right where `flipped` (bool [B]); float32 [B, 3, 3], like all below."""
    sign = tf.where(flipped, -1.0, 1.0)
    return _matrix(sign, 0.0, (width - 1) * (1 - sign) / 2, 0.0, 1.0, 0.0)


def rotation(angles: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Turns about the centre by angles [B] in radians, anticlockwise on the screen."""
    cos, sin, x, y = tf.cos(angles), tf.sin(angles), (width - 1) / 2, (height - 1) / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def zoom(factors: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Shows the `factors` [B]-fold part of the image about its centre: below 1 magnifies."""
    return _matrix(factors, 0.0, (width - 1) / 2 * (1 - factors), 0.0, factors, (height - 1) / 2 * (1 - factors))


def translation(right: tf.Tensor, down: tf.Tensor) -> tf.Tensor:
    """Shifts by pixels [B]."""
    return _matrix(tf.ones_like(right), 0.0, -right, 0.0, 1.0, -down)


def shear(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Shears about the first pixel: x += shear_x * y, then y += shear_y * x, one of the two being 0."""
    return _matrix(tf.ones_like(x), x, 0.0, y, 1.0, 0.0)


def compose(*matrices: tf.Tensor) -> tf.Tensor:
    """The transforms in the order in which they are applied, as one. Exact float32, which a matmul on a GPU is not."""
    whole = matrices[0]
    for matrix in matrices[1:]:
        whole = tf.reduce_sum(whole[:, :, :, None] * matrix[:, None, :, :], axis=2)
    return whole


def move_landmarks(landmarks: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Where points of the input lie in the output; a mirrored face has its points renamed (MIRRORED).

    Args:
      landmarks: float32 [B, 68, 2], x and y in pixels of the input; NaN stays NaN.
      matrices: float32 [B, 3, 3].

    Returns:
      float32 [B, 68, 2].
    """
    (a, b, c), (d, e, f) = (tf.unstack(matrices[:, row, :, None], axis=1) for row in (0, 1))
    x, y = landmarks[..., 0] - c, landmarks[..., 1] - f
    determinant = a * e - b * d
    moved = tf.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=-1)
    return tf.where(determinant[..., None] < 0, tf.gather(moved, MIRRORED, axis=1), moved)


def warp(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Resamples bilinearly with reflected borders.

    Args:
      images: uint8 [B, H, W, 3]; H and W from 2 to 1024 and known.
      matrices: float32 [B, 3, 3].

    Returns:
      uint32 [B, H, W], pixels as `colour.brightness_contrast` reads them: 10 bits a channel, in quarters of a grey
      level, within 0.16 of the exact value.
    """
    height, width = images.shape[1:3]
    if not (2 <= height <= LARGEST_SIDE and 2 <= width <= LARGEST_SIDE):
        raise UsageError(f"images of {width}x{height} cannot be augmented; give sides from 2 to {LARGEST_SIDE}")
    return _resample(*_coordinates(images, matrices))


@tf.function(jit_compile=True, autograph=False)
def _coordinates(images: tf.Tensor, matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Each pixel as one word, uint32 [B * H * W], and where each output pixel lies: x and y, uint32 [B, H, W]."""
    height, width = images.shape[1:3]
    x = tf.range(width, dtype=tf.float32)[None, None, :]
    y = tf.range(height, dtype=tf.float32)[None, :, None]
    (a, b, c), (d, e, f) = (tf.unstack(matrices[:, row, :, None, None], axis=1) for row in (0, 1))
    padded = tf.bitcast(tf.pad(images, [[0, 0], [0, 0], [0, 0], [0, 1]]), tf.uint32)
    return tf.reshape(padded, [-1]), _fixed(a * x + (b * y + c), width), _fixed(d * x + (e * y + f), height)


def _fixed(coordinate: tf.Tensor, length: int) -> tf.Tensor:
    """Reflects into [0, length - 1) and returns fixed-point numbers with FRACTION_BITS.

    Adding 2**23 rounds a float32 to a whole number and leaves it in the low 23 bits, several times faster than a cast.
    """
    edge = coordinate + 0.5
    edge -= 2 * length * tf.floor(edge * (1 / (2 * length)))
    inside = tf.clip_by_value(length - 0.5 - tf.abs(length - edge), 0.0, length - 1 - 2.0**-FRACTION_BITS)
    return tf.bitcast(inside * 2.0**FRACTION_BITS + 2.0**23, tf.uint32) & _ones(23, tf.uint32)


@tf.function(jit_compile=True, autograph=False)
def _resample(pixels: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Weighs four pixels. The weights are never negative and sum to 2**13, so no lane runs into the next."""
    height, width = x.shape[1:]
    first = tf.range(tf.shape(x)[0])[:, None, None] * (height * width)
    index = first + tf.cast(_right(y, FRACTION_BITS) * width + _right(x, FRACTION_BITS), tf.int32)
    right, down = x & _ones(FRACTION_BITS, tf.uint32), y & _ones(FRACTION_BITS, tf.uint32)
    both = _right(right * down, FRACTION_BITS)
    weights = {
        0: (1 << FRACTION_BITS) - right - down + both,
        1: right - both,
        width: down - both,
        width + 1: both,
    }
    total = sum(
        _lanes(tf.gather(pixels, index + step)) * tf.cast(weight, tf.uint64) for step, weight in weights.items()
    )
    # From 8 + 13 bits in each lane to 8 + 2, rounded.
    total += tf.constant(sum(1 << (lane + FRACTION_BITS - 3) for lane in _LANES), tf.uint64)
    narrow = [
        _right(total, lane + FRACTION_BITS - 2 - 10 * channel) & tf.constant(1023 << 10 * channel, tf.uint64)
        for channel, lane in enumerate(_LANES)
    ]
    return tf.cast(narrow[0] | narrow[1] | narrow[2], tf.uint32)


def _lanes(pixels: tf.Tensor) -> tf.Tensor:
    """The three bytes of each word, each in a lane of its own."""
    words = tf.cast(pixels, tf.uint64)
    spread = [
        _left(words & tf.constant(255 << 8 * channel, tf.uint64), lane - 8 * channel)
        for channel, lane in enumerate(_LANES)
    ]
    return spread[0] | spread[1] | spread[2]


def _right(words: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(bits, words.dtype))


def _left(words: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.left_shift(words, tf.constant(bits, words.dtype))


def _ones(bits: int, dtype: tf.DType) -> tf.Tensor:
    return tf.constant((1 << bits) - 1, dtype)
