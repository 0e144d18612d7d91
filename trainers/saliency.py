"""Which pixels a prediction rests on: Grad-CAM on the last feature map of a model of `trainers.model`'s form."""

import keras
import numpy as np
import tensorflow as tf


def grad_cam(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How much each place of the last feature map speaks for a class, as float32 [N, S, S] in [0, 1].

    The map's channels weighted by the mean gradient of the class's log probability, what is negative cut off, each
    image's largest value 1. Selvaraju et al., "Grad-CAM", ICCV 2017.

    Args:
      model: with a layer "pooling" after the feature map and an output "expression".
      images: uint8 [N, S, S, 3].
      classes: int [N], the class that each image is asked about.
    """
    feature_map, expression = model.get_layer("pooling").input, model.output["expression"]
    # Two models, so that no gradient is asked for of what lies before the map.
    maps = keras.Model(model.inputs, feature_map)(tf.constant(images, tf.float32), training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        probabilities = keras.Model(feature_map, expression)(maps, training=False)
        own = tf.math.log(tf.gather(probabilities, classes, batch_dims=1) + keras.config.epsilon())
    weights = tf.reduce_mean(tape.gradient(own, maps), (1, 2), keepdims=True)
    speaking = tf.nn.relu(tf.reduce_sum(tf.cast(weights * maps, tf.float32), -1, keepdims=True))
    resized = tf.image.resize(speaking, images.shape[1:3])[..., 0].numpy()
    return resized / np.maximum(resized.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
