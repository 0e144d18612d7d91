"""Decode and resize: the one function for training, evaluation and serving.

The same bytes give the same pixels wherever a model meets them; `export` holds these very functions in its graph.
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
import tensorflow as tf

from datasets import batch_memory
from pipeline.errors import UsageError

#: Stated, so that TensorFlow's default cannot change it. The fast integer transform saves 7 % of the decoding; its
#: values differ by a level or two, seldom by ten, from those of the accurate one, which Pillow and simplejpeg use.
DCT_METHOD = "INTEGER_FAST"


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG; grey becomes RGB.

    Args:
      image_bytes: a scalar string.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no such image.
    """
    # This op reads PNG too, by the first bytes.
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method=DCT_METHOD)


def decode_jpegs(images: Sequence[bytes | memoryview], size: int) -> np.ndarray:
    """`decode` of JPEGs that all have one size: the same pixels, from a libjpeg that needs two thirds of the time.

    Args:
      images: N of them.
      size: the side of each in pixels.

    Returns:
      uint8 [N, size, size, 3].

    Raises:
      ValueError: the bytes are no JPEG, or one of another size.
    """
    decoded = batch_memory.aligned((len(images), size, size, 3))
    for data, pixels in zip(images, decoded):
        found = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, buffer=pixels)
        if found.shape != pixels.shape:
            raise ValueError(f"a JPEG of {found.shape[1]} by {found.shape[0]} pixels where {size} by {size} are due")
    return decoded


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes to a square without cropping; both axes are scaled on their own.

    Where an axis shrinks, pixels are averaged (a triangle filter as wide as the reduction, so nothing aliases); where
    it grows, they are interpolated bilinearly. An image that has the size already keeps its pixels.

    Args:
      image: uint8 or float [H, W, 3] or [N, H, W, 3], values from 0 to 255.
      size: the side of the result in pixels.

    Returns:
      uint8 [size, size, 3] or [N, size, size, 3], rounded (a half to the even number) and clipped.

    Raises:
      UsageError: the size is below 1.
    """
    if size < 1:
        raise UsageError(f"image_size={size} is not accepted; give the side in pixels, 1 or more")
    image = tf.convert_to_tensor(image)
    if image.shape[-3:-1] == [size, size]:
        # Known beforehand, and so without a branch, which costs a tenth of the decoding.
        return _to_uint8(image)
    square = tf.cond(
        tf.reduce_all(tf.shape(image)[-3:-1] == size),
        lambda: _to_uint8(image),
        lambda: _to_uint8(tf.image.resize(image, [size, size], antialias=True)),
    )
    return tf.ensure_shape(square, [*image.shape[:-3], size, size, 3])


def decode_and_resize(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """A scalar string of a JPEG or PNG to uint8 [size, size, 3]: `decode`, then `resize`."""
    return resize(decode(image_bytes), size)


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
    return image if image.dtype == tf.uint8 else tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
