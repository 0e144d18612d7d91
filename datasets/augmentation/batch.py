"""What happens to one batch: the transforms of each example, drawn from its seed and applied in order."""

import math
from collections.abc import Callable

import tensorflow as tf

from datasets.augmentation import draws, geometry, mixing, passes, rand_augment
from datasets.augmentation.config import AugmentConfig

#: Which random number of an example is for what. Turning one augmentation on or off leaves the others as they were.
DRAWS = (
    "flip", "rotation", "zoom", "right", "down", "brightness", "contrast",
    "cutout_x", "cutout_y", "cutout_width", "cutout_height",
    "kind", "order", "mixup", "cutmix", "cutmix_x", "cutmix_y",
)  # fmt: skip
_LABELS = ("expression", "expression_probs", "valence", "arousal", "mask")


def augment_batch(
    batch: dict, config: AugmentConfig, seeds: tf.Tensor, *, transform: Callable[..., tf.Tensor] | None = None
) -> dict:
    """Augments one batch. Every random number is a function of the example's seed and of nothing else.

    Flip, rotation, zoom and translation are composed into one bilinear resampling, along with which goes brightness;
    contrast follows in one pass (`passes`); then RandAugment, cutout, and mixup or CutMix with another example of the
    batch. The result is rounded to uint8. Each step is compiled by XLA, once per shape, also when called eagerly; in a
    function that is itself compiled it becomes part of that function.

    Args:
      batch: "image" uint8 [B, H, W, 3] with H and W known, from 2 to 1024. For mixup and CutMix also "expression",
        "expression_probs", "valence", "arousal" and "mask" as `mixing.mix_labels` has them. "landmarks" float32
        [B, 68, 2] follow the geometry; mixing leaves them, and where "has_landmarks" float32 [B] is 0 they become
        zeros. What else is there is passed through.
      config: what to do.
      seeds: int32 [B, 2], one per example.
      transform: what resamples and adjusts the images, called as `passes.transform`, which None is.

    Returns:
      A dict with the keys of `batch`.
    """
    images, landmarks, transform = batch["image"], batch.get("landmarks"), transform or passes.transform
    height, width = images.shape[1:3]
    numbers = draw(seeds, config)
    uniform = by_name(numbers)
    moved = []
    if config.geometric or config.brightness or config.contrast:
        drawn = draw_face(uniform, config, height, width)
        moved.append(drawn["matrices"])
        images = transform(images, **drawn)
    for drawn in draw_rand_augment(numbers, config):
        moved.append(rand_augment.matrices(drawn, height, width))
        images = rand_augment.apply(images, drawn, transform)
    if config.cutout:
        images = cut_out(images, draw_cutout(uniform, config.cutout, height, width))
    augmented = dict(batch)
    if config.mixup or config.cutmix:
        labels = {name: batch[name] for name in _LABELS}
        images, labels = _mix(images, labels, uniform, config.mixup, config.cutmix)
        augmented |= labels
    if landmarks is not None and moved:
        augmented["landmarks"] = geometry.move_landmarks(landmarks, geometry.compose(*moved))
        if "has_landmarks" in batch:
            augmented["landmarks"] *= batch["has_landmarks"][:, tf.newaxis, tf.newaxis]
    return augmented | {"image": images}


def draw(seeds: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """All random numbers of a batch: those of DRAWS, then those of RandAugment. float32 [B, n] in [0, 1)."""
    layers, _ = config.rand_augment or (0, 0.0)
    return draws.uniforms(seeds, len(DRAWS) + layers * rand_augment.DRAWS)


def draw_rand_augment(numbers: tf.Tensor, config: AugmentConfig) -> list[dict[str, tf.Tensor]]:
    """What each layer of RandAugment does to each image."""
    layers, magnitude = config.rand_augment or (0, 0.0)
    first = [len(DRAWS) + layer * rand_augment.DRAWS for layer in range(layers)]
    return [rand_augment.draw(numbers[:, start : start + rand_augment.DRAWS], magnitude) for start in first]


def by_name(numbers: tf.Tensor) -> dict[str, tf.Tensor]:
    """The random numbers of each example, float32 [B, n], by what they are for."""
    return dict(zip(DRAWS, tf.unstack(numbers, axis=1)))


def draw_face(uniform: dict[str, tf.Tensor], config: AugmentConfig, height: int, width: int) -> dict[str, tf.Tensor]:
    """What flip, rotation, zoom, translation, brightness and contrast do to each image.

    Args:
      uniform: float32 [B] in [0, 1) by name.
      config: their ranges.
      height, width: of the images.

    Returns:
      "matrices" float32 [B, 3, 3], composed; "deltas" and "factors" float32 [B].
    """
    turn = math.radians(config.rotation)
    shift = (-config.translation, config.translation)
    return {
        "matrices": geometry.compose(
            geometry.flip((uniform["flip"] > 0.5) & config.flip, width),
            geometry.rotation(draws.between(uniform["rotation"], -turn, turn), height, width),
            geometry.zoom(draws.between(uniform["zoom"], 1 - config.zoom, 1 + config.zoom), height, width),
            geometry.translation(
                width * draws.between(uniform["right"], *shift), height * draws.between(uniform["down"], *shift)
            ),
        ),
        "deltas": 255 * draws.between(uniform["brightness"], -config.brightness, config.brightness),
        "factors": draws.between(uniform["contrast"], 1 - config.contrast, 1 + config.contrast),
    }


def draw_cutout(uniform: dict[str, tf.Tensor], largest: float, height: int, width: int) -> dict[str, tf.Tensor]:
    """Centres and sizes of rectangles in whole pixels, float32 [B] each."""
    return {
        "centre_x": tf.floor(uniform["cutout_x"] * width),
        "centre_y": tf.floor(uniform["cutout_y"] * height),
        "widths": tf.math.ceil(uniform["cutout_width"] * largest * width),
        "heights": tf.math.ceil(uniform["cutout_height"] * largest * height),
    }


@tf.function(jit_compile=True, autograph=False)
def cut_out(images: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tf.Tensor:
    """Blackens the rectangles, uint8 [B, H, W, 3]."""
    height, width = images.shape[1:3]
    return tf.where(mixing.rectangle(**drawn, height=height, width=width), tf.constant(0, tf.uint8), images)


@tf.function(jit_compile=True, autograph=False)
def _mix(
    images: tf.Tensor, labels: dict, uniform: dict[str, tf.Tensor], mixup: float, cutmix: float
) -> tuple[tf.Tensor, dict]:
    """Each example and a partner, in a random order of the batch; float arguments are constants of the function."""
    order = tf.argsort(uniform["order"], stable=True)
    partners = tf.gather(images, order)
    by_cutmix = uniform["kind"] < (0.5 if mixup else 1.0) if cutmix else tf.zeros_like(order, tf.bool)
    shares = tf.ones_like(uniform["mixup"])
    mixed = images
    if mixup:
        shares = tf.where(by_cutmix, 1.0, draws.symmetric_beta(uniform["mixup"], mixup))
        mixed = mixing.blend(images, partners, shares)
    if cutmix:
        area = tf.where(by_cutmix, draws.symmetric_beta(uniform["cutmix"], cutmix), 1.0)
        pasted = mixing.cutmix_rectangle(area, uniform["cutmix_x"], uniform["cutmix_y"], *images.shape[1:3])
        mixed = tf.where(pasted, partners, mixed)
        shares = tf.where(by_cutmix, mixing.visible_share(pasted), shares)
    return mixed, mixing.mix_labels(labels, order, shares)
