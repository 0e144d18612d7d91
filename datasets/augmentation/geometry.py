"""Geometric transforms as matrices, composed, and applied in one bilinear resampling.

A matrix [B, 3, 3] maps pixels (x, y, 1) of the output to pixels of the input; (0, 0) is the centre of the first
pixel. This and the fill ("reflect": d c b a | a b c d | d c b a) are keras-cv's conventions.

The resampling runs in steps, each a loop of its own: in one loop, XLA's CPU compiler would compute every coordinate by
single numbers instead of eight at a time. A pixel is one 32-bit word from the first step to the last but one, so
that each of the four neighbours is read at once.
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from datasets.augmentation import bits, ops
from pipeline.errors import UsageError
from pipeline.records import LANDMARKS

FRACTION_BITS = 13
#: Coordinates are read from the 23 bits that a float32's mantissa has: 10 are left for whole pixels.
LARGEST_SIDE = 1 << (23 - FRACTION_BITS)
_ONE = 2.0**FRACTION_BITS
#: Of a channel in a resampled pixel: 8 for whole grey levels and 2 for quarters.
LEVEL_BITS = 10

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
    numbers = {0.0: tf.zeros_like(a), 1.0: tf.ones_like(a)}
    rows = [value if tf.is_tensor(value) else numbers[value] for value in (a, b, c, d, e, f, 0.0, 0.0, 1.0)]
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
        whole = tf.reduce_sum(tf.expand_dims(whole, 3) * tf.expand_dims(matrix, 1), axis=2)
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


def warp(images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Resamples bilinearly with reflected borders, and adds a brightness.

    Args:
      images: uint8 [B, H, W, 3]; H and W from 2 to 1024 and known.
      matrices: float32 [B, 3, 3].
      deltas: float32 [B], added to each value; the sum is clipped to [0, 255].

    Returns:
      uint32 [B, H, W], pixels as `colour.contrast` reads them: LEVEL_BITS a channel, in quarters of a grey level,
      within 0.16 of the exact value.

    Raises:
      UsageError: a side is not from 2 to LARGEST_SIDE.
    """
    check_sides(*images.shape[1:3])
    return apart(resample)(apart(words)(images), *apart(coordinates)(matrices, *images.shape[1:3]), deltas)


@functools.cache
def apart(step: Callable) -> Callable:
    """A step as a program of its own, compiled once per shape, also when called eagerly.

    In a function that is itself compiled it becomes part of that.
    """
    return tf.function(step, jit_compile=True, autograph=False)


def check_sides(height: int, width: int) -> None:
    """Raises UsageError unless images of such sides can be resampled."""
    if not (2 <= height <= LARGEST_SIDE and 2 <= width <= LARGEST_SIDE):
        raise UsageError(f"images of {width}x{height} cannot be augmented; give sides from 2 to {LARGEST_SIDE}")


def words(images: tf.Tensor) -> tf.Tensor:
    """Each pixel of uint8 [B, H, W, 3] as one word, uint32 [B * H * W]."""
    return ops.reshape(ops.bitcast(ops.pad(images, [[0, 0], [0, 0], [0, 0], [0, 1]]), tf.uint32), [-1])


def coordinates(
    matrices: tf.Tensor, height: int, width: int, rows: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each pixel of the output lies in the input.

    Args:
      matrices: float32 [B, 3, 3].
      height, width: of the images.
      rows: those of the output that are wanted, a part of `from_centre(height)`, float32 [1, rows, 1]; None is all.

    Returns:
      uint32 [B, rows, W], the number of the upper left of its four neighbours among all pixels of the batch, and
      uint32 [B, rows, W], how far it is from there: FRACTION_BITS to the right, and above them FRACTION_BITS down.
    """
    y = from_centre(height) if rows is None else rows
    right, down = (
        _fixed(row, from_centre(width)[:, None, :, 0], y, (width, height), axis)
        for axis, row in enumerate(ops.unstack(matrices, axis=1)[:2])
    )
    places = bits.shifted(down, -FRACTION_BITS) * width + bits.shifted(right, -FRACTION_BITS)
    fractions = bits.low(right, FRACTION_BITS) | bits.shifted(bits.low(down, FRACTION_BITS), FRACTION_BITS)
    if matrices.shape[0] != 1:
        before = tf.range(tf.shape(matrices)[0])[:, None, None] * (height * width)
        places += tf.cast(before, tf.uint32)
    return places, fractions


def from_centre(side: int) -> np.ndarray:
    """The pixels along a side, counted from its middle, float32 [1, side, 1].

    An array, because XLA would make 0, 1, 2 … anew in 64 bits, which the processor turns into floats one by one.
    """
    return (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2))[None, :, None]


def _fixed(row: tf.Tensor, x: tf.Tensor, y: tf.Tensor, sides: tuple[int, int], axis: int) -> tf.Tensor:
    """One coordinate, reflected into [0, side - 1): uint32 [B, H, W] with FRACTION_BITS.

    Args:
      row: float32 [B, 3], of each matrix.
      x, y: float32 [1, 1, W], [1, H, 1], from the centre of the image.
      sides: width and height of the image in pixels.
      axis: which of the two the coordinate runs along.
    """
    by_x, by_y, start = ops.unstack(row[:, :, None, None], axis=1)
    middle = start + by_x * ((sides[0] - 1) / 2) + by_y * ((sides[1] - 1) / 2)
    # From the outer edge of the first pixel, in periods of the reflection.
    by_x, by_y, middle = (value / (2 * sides[axis]) for value in (by_x, by_y, middle + 0.5))
    periods = by_x * x + (by_y * y + middle)
    inside = ops.absolute(periods - ops.rounded(periods)) * (2 * sides[axis]) - 0.5
    return bits.to_whole(ops.clip_by_value(inside * _ONE, 0.0, (sides[axis] - 1) * _ONE - 1), 23)


def resample(pixels: tf.Tensor, places: tf.Tensor, fractions: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """The weighted mean of four neighbours, channel by channel, and `deltas`.

    Args:
      pixels: of `words`.
      places, fractions: of `coordinates`; of a part of the rows, if that is what is wanted.
      deltas: float32 [B].

    Returns:
      As `warp`.
    """
    width = places.shape[2]
    # The mask tells the compiler that no place is negative; parts of equal length, that all are clipped to the same.
    places, last = ops.bitcast(bits.low(places, 31), tf.int32), ops.size(pixels) - width - 1
    # The spare byte is cut here so that each word has one use; XLA would gather each into memory of its own otherwise.
    parts = (ops.part(pixels, [step], [last]) for step in (0, 1, width, width + 1))
    neighbours = [bits.low(ops.gather(part, places), 24) for part in parts]
    right, down = (
        bits.to_float(part) / _ONE
        for part in (bits.low(fractions, FRACTION_BITS), bits.shifted(fractions, -FRACTION_BITS))
    )
    both = right * down
    weights = (1 - right - (down - both), right - both, down - both, both)
    levels, deltas = [], ops.reshape(4 * deltas, [-1, 1, 1])
    for channel in range(3):
        values = (bits.to_float(bits.part(pixel, 8 * channel, 8, 24)) for pixel in neighbours)
        mean = sum(value * weight for value, weight in zip(values, weights))
        quarters = ops.clip_by_value(4 * mean + deltas, 0.0, 1020.0)
        levels.append(bits.shifted(bits.to_whole(quarters, LEVEL_BITS), LEVEL_BITS * channel))
    return levels[0] | levels[1] | levels[2]
