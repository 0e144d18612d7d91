"""RandAugment with keras-cv's policy: ten transforms, the same magnitudes, draws of our own.

Five of the ten map each value of a channel to another one, by what the channel's histogram says: they become one
table of 256 values per image and channel. Four are matrices for `geometry.warp`. The tenth mixes the channels.
Between transforms values are rounded to uint8.

Source: Cubuk et al., RandAugment (https://arxiv.org/abs/1909.13719); keras_cv.layers.RandAugment.
"""

from collections.abc import Callable

import tensorflow as tf

from datasets.augmentation import draws, geometry, passes

#: keras-cv's order.
TRANSFORMS = (
    "auto_contrast", "equalize", "solarize", "color", "contrast", "brightness",
    "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
RATE = 10 / 11
MAGNITUDE_STDDEV = 0.15
LARGEST_ADDITION = 110
#: Numbers that one transform of one image draws.
DRAWS = 4


def draw(uniform: tf.Tensor, magnitude: float) -> dict[str, tf.Tensor]:
    """What is done to each image, as keras-cv draws it.

    Args:
      uniform: float32 [B, DRAWS].
      magnitude: in [0, 1].

    Returns:
      A dict: "transform" int32 [B], an index into TRANSFORMS or -1 for none, and the parameters of each transform.
    """
    applied, choice, first, second = tf.unstack(uniform, axis=1)
    around = {"stddev": MAGNITUDE_STDDEV, "low": 0.0, "high": 1.0}
    strength = draws.normal(first, magnitude, **around)
    return {
        "transform": tf.where(applied > RATE, -1, tf.cast(choice * len(TRANSFORMS), tf.int32)),
        "addition": LARGEST_ADDITION * strength,
        "threshold": 255 * draws.normal(second, 1 - magnitude, **around),
        "degeneration": strength,
        "contrast": draws.between(first, 1 - max(magnitude, 0.001), 1 + max(magnitude, 0.001)),
        "shift": draws.between(first, -magnitude, magnitude),
        "shear": strength * tf.where(second > 0.5, -1.0, 1.0),
    }


def matrices(drawn: dict[str, tf.Tensor], height: int, width: int) -> tf.Tensor:
    """The geometric part, float32 [B, 3, 3]; the identity where the transform is none of the four."""

    def where(name, value):
        return tf.where(_chosen(drawn, name), value, 0.0)

    sheared = geometry.shear(where("shear_x", drawn["shear"]), where("shear_y", drawn["shear"]))
    shifted = geometry.translation(
        width * where("translate_x", drawn["shift"]), height * where("translate_y", drawn["shift"])
    )
    return geometry.compose(sheared, shifted)


def apply(
    images: tf.Tensor, drawn: dict[str, tf.Tensor], transform: Callable[..., tf.Tensor] = passes.transform
) -> tf.Tensor:
    """Applies one of TRANSFORMS to each image, uint8 [B, H, W, 3]; `transform` as for `batch.augment_batch`."""
    nothing = tf.zeros_like(drawn["shift"])
    where = matrices(drawn, *images.shape[1:3])
    return transform(_recolour(images, drawn), where, nothing, nothing + 1)


def _chosen(drawn: dict[str, tf.Tensor], name: str) -> tf.Tensor:
    return drawn["transform"] == TRANSFORMS.index(name)


def _recolour(images: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tf.Tensor:
    """The colour transforms, uint8 [B, H, W, 3]; compiled in steps, for the reason that `geometry` gives."""
    degeneration = tf.where(_chosen(drawn, "color"), drawn["degeneration"], 0.0)
    return _degenerate(_look_up(images, _tables(_histogram(images), drawn)), degeneration)


def _channel_values(images: tf.Tensor) -> tf.Tensor:
    """Value v of channel c of image i as (3 * i + c) * 256 + v, int32 [B, H, W, 3]."""
    return tf.reshape(tf.range(tf.shape(images)[0] * 3), [-1, 1, 1, 3]) * 256 + tf.cast(images, tf.int32)


@tf.function(jit_compile=True, autograph=False)
def _histogram(images: tf.Tensor) -> tf.Tensor:
    """How often each channel has each value, int32 [B, 3, 256]."""
    places = _channel_values(images)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(places), places, tf.shape(images)[0] * 3 * 256)
    return tf.reshape(counts, [-1, 3, 256])


@tf.function(jit_compile=True, autograph=False)
def _look_up(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """What each value becomes, float32 [B, H, W, 3]."""
    return tf.gather(tf.reshape(tables, [-1]), _channel_values(images))


@tf.function(jit_compile=True, autograph=False)
def _degenerate(values: tf.Tensor, degeneration: tf.Tensor) -> tf.Tensor:
    """Moves float32 values towards their grey by the fraction `degeneration` [B]; rounds to uint8."""
    grey = tf.reduce_sum(values * [0.2989, 0.587, 0.114], axis=-1, keepdims=True)
    return tf.cast(tf.round(values + degeneration[:, None, None, None] * (grey - values)), tf.uint8)


@tf.function(jit_compile=True, autograph=False)
def _tables(histogram: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tf.Tensor:
    """What becomes of each value of each channel, float32 [B, 3, 256], from int32 counts of the same shape."""
    value = tf.range(256, dtype=tf.float32)
    counts = tf.cast(histogram, tf.float32)
    present = histogram > 0
    low = tf.reduce_min(tf.where(present, value, 255.0), axis=-1, keepdims=True)
    high = tf.reduce_max(tf.where(present, value, 0.0), axis=-1, keepdims=True)
    mean = tf.reduce_sum(counts * value, axis=-1, keepdims=True) / tf.reduce_sum(counts, axis=-1, keepdims=True)

    def column(name):
        return drawn[name][:, None, None]

    unchanged = value + tf.zeros_like(counts)
    stretched = tf.where(high > low, (value - low) * 255 / tf.maximum(high - low, 1), unchanged)
    added = tf.minimum(value + column("addition"), 255.0)
    tables = unchanged
    for name, table in {
        "auto_contrast": stretched,
        "equalize": _equalised(histogram),
        "solarize": tf.where(added < column("threshold"), added, 255 - added),
        "contrast": (value - mean) * column("contrast") + mean,
        "brightness": value + 255 * column("shift"),
    }.items():
        tables = tf.where(_chosen(drawn, name)[:, None, None], table, tables)
    return tf.clip_by_value(tables, 0.0, 255.0)


def _equalised(histogram: tf.Tensor) -> tf.Tensor:
    """keras-cv's histogram equalisation, which leaves the rarest value out of the step."""
    total = tf.reduce_sum(histogram, axis=-1, keepdims=True)
    rarest = tf.reduce_min(tf.where(histogram > 0, histogram, histogram.dtype.max), axis=-1, keepdims=True)
    step = (total - rarest) // 255
    divisor = tf.maximum(step, 1)
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    table = tf.where(tf.range(256) == 0, 0, (below + divisor // 2) // divisor)
    return tf.cast(tf.where(step == 0, tf.range(256), tf.clip_by_value(table, 0, 255)), tf.float32)
