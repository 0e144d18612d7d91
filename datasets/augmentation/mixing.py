"""Cutout, mixup and CutMix: rectangles and blends, and what becomes of the labels.

A head whose label is unknown has mask 0. With the share s of an example and 1 - s of its partner, w_a = s * mask_a,
w_b = (1 - s) * mask_b; the target is (w_a * y_a + w_b * y_b) / (w_a + w_b) and the mask w_a + w_b. So an unknown label
never pulls a target, and two unknown ones stay masked.
"""

import tensorflow as tf

_SHARE_BITS = 15


def rectangle(centre_x, centre_y, widths, heights, height: int, width: int) -> tf.Tensor:
    """Pixels in [centre - size / 2, centre + size / 2), as keras-cv's `fill_rectangle` has it.

    Args:
      centre_x, centre_y, widths, heights: float32 [B], whole numbers.
      height, width: of the image.

    Returns:
      bool [B, height, width, 1].
    """

    def inside(centre, size, length):
        place = tf.range(length, dtype=tf.float32)[None, :]
        return (place >= (centre - size / 2)[:, None]) & (place < (centre + size / 2)[:, None])

    return inside(centre_y, heights, height)[:, :, None, None] & inside(centre_x, widths, width)[:, None, :, None]


def cutmix_rectangle(shares: tf.Tensor, u_x: tf.Tensor, u_y: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Where the partner is pasted: an area of 1 - share, centred anywhere, clipped by the border. bool [B, H, W, 1]."""
    ratio = tf.sqrt(1 - shares)
    centre_x, centre_y = tf.floor(u_x * width), tf.floor(u_y * height)
    return rectangle(centre_x, centre_y, tf.floor(ratio * width), tf.floor(ratio * height), height, width)


def visible_share(pasted: tf.Tensor) -> tf.Tensor:
    """The part of each image that is not pasted over, float32 [B].

    The border may clip the rectangle; like CutMix's authors, and unlike keras-cv, we count the pixels that are there.
    """
    return 1 - tf.reduce_mean(tf.cast(pasted, tf.float32), axis=[1, 2, 3])


def blend(images: tf.Tensor, partners: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """share * image + (1 - share) * partner, uint8 [B, H, W, 3], within one grey level of the exact value."""
    weights = tf.cast(shares * (1 << _SHARE_BITS) + 0.5, tf.int32)[:, None, None, None]
    images, partners = tf.cast(images, tf.int32), tf.cast(partners, tf.int32)
    total = partners * (1 << _SHARE_BITS) + weights * (images - partners)
    return tf.cast(tf.bitwise.right_shift(total + (1 << (_SHARE_BITS - 1)), _SHARE_BITS), tf.uint8)


def mix_labels(batch: dict, order: tf.Tensor, shares: tf.Tensor) -> dict:
    """The labels of blended examples, by the rule above.

    Args:
      batch: "expression" int32 [B], "expression_probs" float32 [B, 8], "valence" and "arousal" float32 [B], and the
        masks of the heads, "mask", as a dict of float32 [B].
      order: int32 [B], the partner of each example.
      shares: float32 [B], of the example itself.

    Returns:
      A dict of the same. `expression` is that of the heavier of the two; `expression_probs` is the mixed target.
    """
    own = {head: shares * mask for head, mask in batch["mask"].items()}
    other = {head: (1 - shares) * tf.gather(mask, order) for head, mask in batch["mask"].items()}
    mixed = {"mask": {head: own[head] + other[head] for head in own}}
    for target, head in (("expression_probs", "expression"), ("valence", "valence"), ("arousal", "arousal")):
        shape = [-1] + [1] * (len(batch[target].shape) - 1)
        w_a, w_b = tf.reshape(own[head], shape), tf.reshape(other[head], shape)
        partner = tf.gather(batch[target], order)
        mixed[target] = tf.math.divide_no_nan(w_a * batch[target] + w_b * partner, w_a + w_b)
    heavier = own["expression"] >= other["expression"]
    mixed["expression"] = tf.where(heavier, batch["expression"], tf.gather(batch["expression"], order))
    return mixed
