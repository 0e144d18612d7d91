"""The convolutional networks that a model can be built on: one row each, no TensorFlow at import.

A row says how Keras builds the network, at which size, what it does to the pixels first, and where its stages begin,
for the phases that train it stage by stage. The normalisation is applied by us, as stock layers, so that
`--weights=imagenet`, a weights file and random weights give the very same graph.
"""

import dataclasses

from pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One network.

    Attributes:
      application: the constructor in `keras.applications`; "" is our own `trainers.custom_cnn`.
      image_size: side in pixels that the network was made for.
      min_size: the smallest side that leaves something to pool.
      normalisation: of the pixels: "signed" (-1 to 1), "torch" (ImageNet's mean and standard deviation) or "caffe"
        (BGR, ImageNet's mean taken off), as the published weights need it.
      stages: how the name of the first layer of each stage begins, from the input on; a stage ends where the next
        begins.
      widths: the smallest and largest multiplier of the number of channels.
      source: the paper.
    """

    application: str
    image_size: int
    min_size: int
    normalisation: str
    stages: tuple[str, ...]
    source: str
    widths: tuple[float, float] = (1.0, 1.0)


_EFFICIENTNET_STAGES = ("stem_", "block1a_", "block2a_", "block3a_", "block4a_", "block5a_", "block6a_", "block7a_")

BACKBONES = {
    "efficientnet_b0": Backbone(
        "EfficientNetB0", 224, 32, "torch", _EFFICIENTNET_STAGES, "https://arxiv.org/abs/1905.11946"
    ),
    "efficientnet_b1": Backbone(
        "EfficientNetB1", 240, 32, "torch", _EFFICIENTNET_STAGES, "https://arxiv.org/abs/1905.11946"
    ),
    "efficientnet_b2": Backbone(
        "EfficientNetB2", 260, 32, "torch", _EFFICIENTNET_STAGES, "https://arxiv.org/abs/1905.11946"
    ),
    "efficientnetv2_b0": Backbone(
        "EfficientNetV2B0", 224, 32, "torch", _EFFICIENTNET_STAGES[:-1], "https://arxiv.org/abs/2104.00298"
    ),
    "resnet50": Backbone(
        "ResNet50", 224, 32, "caffe",
        ("conv1_", "conv2_block1_", "conv3_block1_", "conv4_block1_", "conv5_block1_"),
        "https://arxiv.org/abs/1512.03385",
    ),
    "mobilenet_v2": Backbone(
        "MobileNetV2", 224, 32, "signed",
        ("Conv1", "block_1_", "block_3_", "block_6_", "block_10_", "block_13_"),
        "https://arxiv.org/abs/1801.04381",
        widths=(0.35, 1.4),
    ),
    "xception": Backbone(
        "Xception", 299, 71, "signed",
        ("block1_", "block2_", "block3_", "block4_", "block5_", "block9_", "block13_"),
        "https://arxiv.org/abs/1610.02357",
    ),
    "vgg16": Backbone(
        "VGG16", 224, 32, "caffe",
        ("block1_", "block2_", "block3_", "block4_", "block5_"),
        "https://arxiv.org/abs/1409.1556",
    ),
    "densenet121": Backbone(
        "DenseNet121", 224, 32, "torch",
        ("conv1_", "conv2_block1_", "conv3_block1_", "conv4_block1_", "conv5_block1_"),
        "https://arxiv.org/abs/1608.06993",
    ),
    "custom_cnn": Backbone(
        "", 48, 32, "signed", ("stem_", "stage1_", "stage2_", "stage3_"), "", widths=(0.25, 4.0)
    ),
}  # fmt: skip


def backbone(name: str) -> Backbone:
    """The row of a name.

    Raises:
      UsageError: there is none; the message lists the names.
    """
    if name not in BACKBONES:
        raise UsageError(f"backbone {name!r} does not exist; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
