"""Our own network, for faces of 48 to 112 pixels: small enough to be trained on two cores, from random weights.

Each stage halves the resolution at two scales side by side, so that wrinkles and whole mouths are seen at once, and
goes on with residual blocks (https://arxiv.org/abs/1512.03385) that weigh their channels
(squeeze-and-excitation, https://arxiv.org/abs/1709.01507). The last stage also weighs places, so that eyes and mouth
count for more than hair (after CBAM, https://arxiv.org/abs/1807.06521; one convolution makes the map). The work is in
3×3 convolutions of few large tensors, which a CPU computes best, and the thin full-resolution stem is not normalised,
because there a pass over memory costs more than the convolution. All are stock Keras layers, so that a saved model
needs no code of ours.
"""

#: Channels of the first convolution.
STEM = 24
#: Channels, residual blocks, and whether places are weighed, of each stage.
STAGES = ((48, 1, False), (96, 2, False), (224, 2, True))


def build(image, *, width: float = 1.0):
    """The network as a keras.Model.

    Args:
      image: keras.Input [N, S, S, 3].
      width: multiplier of the channels, which stay multiples of 8.

    Returns:
      a model from `image` to features [N, ceil(S / 8), ceil(S / 8), C].
    """
    import keras

    def channels(base: int) -> int:
        return max(8, round(base * width / 8) * 8)

    x = keras.layers.Conv2D(
        channels(STEM), 3, padding="same", activation="relu", kernel_initializer="he_normal", name="stem_conv"
    )(image)
    for number, (base, blocks, weigh_places) in enumerate(STAGES, 1):
        stage = f"stage{number}"
        x = _halve(x, channels(base), f"{stage}_down")
        for block in range(1, blocks + 1):
            x = _residual(x, f"{stage}_block{block}", weigh_places)
    return keras.Model(image, x, name="custom_cnn")


def _halve(x, channels: int, name: str):
    """Half the resolution: most channels see 3×3 pixels, a quarter sees 6×6, coarsely."""
    from keras import layers

    wide = channels // 4
    fine = _convolve(x, channels - wide, f"{name}_fine", strides=2)
    coarse = _convolve(layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x), wide, f"{name}_coarse")
    return _activate(layers.Concatenate(name=f"{name}_join")([fine, coarse]), name)


def _residual(x, name: str, weigh_places: bool):
    """Two convolutions, weighed by channel and perhaps by place, on top of the input."""
    from keras import layers

    channels = x.shape[-1]
    y = _activate(_convolve(x, channels, f"{name}_conv1"), f"{name}_1")
    y = layers.BatchNormalization(name=f"{name}_2_bn")(_convolve(y, channels, f"{name}_conv2"))
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_channels_mean")(y)
    weights = layers.Conv2D(max(8, channels // 8), 1, activation="relu", name=f"{name}_channels_in")(weights)
    weights = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_channels_out")(weights)
    y = layers.Multiply(name=f"{name}_channels")([y, weights])
    if weigh_places:
        weights = layers.Conv2D(1, 7, padding="same", activation="sigmoid", name=f"{name}_places_map")(y)
        y = layers.Multiply(name=f"{name}_places")([y, weights])
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def _convolve(x, channels: int, name: str, *, strides: int = 1):
    from keras import layers

    return layers.Conv2D(
        channels, 3, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)


def _activate(x, name: str):
    from keras import layers

    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
