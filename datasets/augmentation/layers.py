"""The transforms as keras-cv layers, for models and code that want layers.

    layer = FaceAugmentation(AugmentConfig())
    augmented = layer({"images": images, "seeds": seeds})["images"]

A layer takes "seeds", int32 [B, 2], beside the "images", and draws from them alone: it holds no state, no seed, and
computes in float32 under any global policy. Images come out as whole numbers from 0 to 255, in float32 because
keras-cv's base class casts them.
"""

import dataclasses

import keras_cv
import tensorflow as tf

from datasets.augmentation import batch, geometry, passes, rand_augment
from datasets.augmentation.config import AugmentConfig


class SeededAugmentation(keras_cv.layers.VectorizedBaseImageAugmentationLayer):
    """Base of the layers below: keras-cv's hooks, with draws from each example's seed.

    Args:
      config: the ranges, or a dict of its fields.
    """

    def __init__(self, config: AugmentConfig | dict, **kwargs):
        super().__init__(**(kwargs | {"dtype": "float32"}))
        self.augmentation = AugmentConfig(**config) if isinstance(config, dict) else config

    def get_config(self) -> dict:
        """As Keras saves it."""
        return super().get_config() | {"config": dataclasses.asdict(self.augmentation)}

    def _uniform(self, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        return batch.by_name(batch.draw(seeds, self.augmentation))

    def _batch_augment(self, inputs: dict) -> dict:
        """As keras-cv's, which would not pass the seeds on."""
        if "seeds" not in inputs:
            raise ValueError(f'{type(self).__name__} needs {{"images": …, "seeds": int32 [B, 2]}}, not {list(inputs)}')
        for name in ("bounding_boxes", "segmentation_masks"):
            if name in inputs:
                raise ValueError(
                    f'{type(self).__name__} does not move {name}; give {{"images": …, "seeds": …}}, with "keypoints" '
                    'and "labels" if you like'
                )
        images = inputs["images"]
        transformations = self.get_random_transformation_batch(
            tf.shape(images)[0], images=images, seeds=inputs["seeds"]
        )
        outputs = inputs | {"images": self.augment_images(images, transformations)}
        if "keypoints" in inputs:
            outputs["keypoints"] = self.augment_keypoints(inputs["keypoints"], transformations)
        return outputs


class FaceAugmentation(SeededAugmentation):
    """Flip, rotation, zoom, translation, brightness and contrast; keypoints are iBUG's 68 landmarks."""

    def get_random_transformation_batch(self, batch_size, images=None, seeds=None, **kwargs):
        return batch.draw_face(self._uniform(seeds), self.augmentation, *images.shape[1:3])

    def augment_images(self, images, transformations, **kwargs):
        return tf.cast(passes.transform(_to_uint8(images), **transformations), tf.float32)

    def augment_keypoints(self, keypoints, transformations, **kwargs):
        return geometry.move_landmarks(keypoints, transformations["matrices"])


class Cutout(SeededAugmentation):
    """Black rectangles."""

    def get_random_transformation_batch(self, batch_size, images=None, seeds=None, **kwargs):
        return batch.draw_cutout(self._uniform(seeds), self.augmentation.cutout, *images.shape[1:3])

    def augment_images(self, images, transformations, **kwargs):
        return tf.cast(batch.cut_out(_to_uint8(images), transformations), tf.float32)

    def augment_keypoints(self, keypoints, transformations, **kwargs):
        return keypoints


class RandAugment(SeededAugmentation):
    """The `rand_augment` of the configuration; keypoints are iBUG's 68 landmarks."""

    def get_random_transformation_batch(self, batch_size, images=None, seeds=None, **kwargs):
        drawn = batch.draw_rand_augment(batch.draw(seeds, self.augmentation), self.augmentation)
        return [layer | {"matrices": rand_augment.matrices(layer, *images.shape[1:3])} for layer in drawn]

    def augment_images(self, images, transformations, **kwargs):
        images = _to_uint8(images)
        for drawn in transformations:
            images = rand_augment.apply(images, drawn)
        return tf.cast(images, tf.float32)

    def augment_keypoints(self, keypoints, transformations, **kwargs):
        for drawn in transformations:
            keypoints = geometry.move_landmarks(keypoints, drawn["matrices"])
        return keypoints


def _to_uint8(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(images), tf.uint8)
