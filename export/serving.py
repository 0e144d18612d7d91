"""The graph that is served: encoded or decoded images of any size in, probabilities, valence and arousal out.

    save(model, folder)

Preprocessing is inside, the functions of evaluation themselves. The SavedModel needs TensorFlow and nothing else.
"""

import os
from collections.abc import Mapping

import tensorflow as tf

from datasets import preprocessing
from pipeline.errors import EnvironmentFault
from pipeline.images import ImageSettings

#: More pixels than conversion accepts are refused before they are decoded.
MAX_PIXELS = ImageSettings.max_pixels
#: Images decoded at once. A decoded one takes up to 3 × MAX_PIXELS = 120 MB, and more threads were no faster.
DECODED_AT_ONCE = 4

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
#: A PNG's first chunk ends its sides here.
_PNG_HEADER = 24


def save(model, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with the signatures `serving_default` and `serving_bytes`.

    Args:
      model: a keras.Model of `trainers.model`, in float32.
      folder: to be made.

    Raises:
      EnvironmentFault: the folder cannot be written.
    """
    write(model, folder, signatures(model))


def write(model, folder: str | os.PathLike, functions: Mapping) -> None:
    """Writes a SavedModel of functions that use the weights of a model; the rest as in `save`."""
    module = tf.Module()
    # The variables alone: the Keras model itself would ask for Keras when it is loaded.
    module.weights = [variable.value for variable in model.weights]
    try:
        tf.saved_model.save(module, os.fspath(folder), signatures=functions)
    except tf.errors.OpError as error:  # TensorFlow's own file system has no errno
        raise EnvironmentFault(
            f"{folder} cannot be written: {error.message}; check the disk's space, then export again"
        ) from None


def signatures(model) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """The functions that are served, by name.

    `serving_default` takes `images`, uint8 [N, H, W, 3] in RGB; `serving_bytes` takes `image_bytes`, string [N], each
    a JPEG or PNG of its own size. Both return {head: float32 [N, 8] or [N, 1]} for the heads of the model.

    Their errors, tf.errors.InvalidArgumentError: an empty batch, an image of more than MAX_PIXELS, bytes that are
    neither JPEG nor PNG or do not decode.
    """
    size = model.inputs[0].shape[1]

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(model(tf.cast(images, tf.float32), training=False))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def of_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(images, tf.int64)
        pixels = shape[1] * shape[2]
        checks = [
            _not_empty("images", shape[0]),
            tf.debugging.Assert(pixels > 0, ["images: a side is 0; their shape is", shape]),
            _not_too_large("images", pixels, shape[1:3]),
        ]
        with tf.control_dependencies(checks):
            return answer(preprocessing.resize(tf.identity(images), size))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def of_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([_not_empty("image_bytes", tf.size(image_bytes))]):
            count = tf.size(image_bytes)
        images = tf.map_fn(
            lambda one: decode(*one, size=size),
            (image_bytes, tf.range(count)),
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
            parallel_iterations=DECODED_AT_ONCE,
        )
        return answer(images)

    return {"serving_default": of_images, "serving_bytes": of_bytes}


def decode(image_bytes: tf.Tensor, place: tf.Tensor, *, size: int) -> tf.Tensor:
    """`preprocessing.decode_and_resize`, behind a look at the header.

    Args:
      image_bytes: scalar string.
      place: of the image in its batch, for errors.
      size: the side of the result in pixels.

    Returns:
      uint8 [size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: the bytes are neither JPEG nor PNG, are damaged, or would decode to more than
        MAX_PIXELS; nothing is decoded then.
    """
    where = tf.strings.join(["image_bytes[", tf.strings.as_string(place), "]"])
    header = tf.strings.substr(image_bytes, 0, _PNG_HEADER)
    is_jpeg = tf.strings.substr(header, 0, len(_JPEG)) == _JPEG
    is_png = (tf.strings.substr(header, 0, len(_PNG)) == _PNG) & (tf.strings.length(header) == _PNG_HEADER)
    # The message holds none of the bytes: TensorFlow's errors must be UTF-8.
    known = tf.debugging.Assert(is_jpeg | is_png, [where, "is neither a JPEG nor a PNG"])
    with tf.control_dependencies([known]):
        sides = tf.cond(is_png, lambda: _png_sides(header), lambda: tf.io.extract_jpeg_shape(image_bytes)[:2])
    # A side of 2³¹ or more reads as negative; PNG allows none, and the decoder says so.
    checked = _not_too_large(where, tf.reduce_prod(tf.cast(sides, tf.int64)), sides)
    with tf.control_dependencies([checked]):
        return preprocessing.decode_and_resize(tf.identity(image_bytes), size)


def _png_sides(header: tf.Tensor) -> tf.Tensor:
    """int32 [2]: height and width, as IHDR has them (big-endian, width first)."""
    return tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False)[::-1]


def _not_empty(name: str, count: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(count > 0, [f"{name}: the batch is empty; give at least one image"])


def _not_too_large(name: str | tf.Tensor, pixels: tf.Tensor, sides: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(
        pixels <= MAX_PIXELS, [name, "has height and width", sides, f"; at most {MAX_PIXELS} pixels are accepted"]
    )
