"""Named configurations, each after a published set-up; `strong` is ours.

    python -m trainers.train --recipe=two_phase --backbone=resnet50 --data_dir=DATA --name=NAME --workdir=WORK

The first backbone named with a recipe is its default. A recipe runs with every other backbone too; then it is no
longer the published set-up. Building blocks and their papers: label smoothing https://arxiv.org/abs/1512.00567,
mixup https://arxiv.org/abs/1710.09412, CutMix https://arxiv.org/abs/1905.04899, AdamW https://arxiv.org/abs/1711.05101,
cosine schedule https://arxiv.org/abs/1608.03983, warm-up https://arxiv.org/abs/1706.02677, vote shares as targets
https://arxiv.org/abs/1608.01041, averaged weights https://arxiv.org/abs/1803.05407, and CCC, Lin 1989,
https://doi.org/10.2307/2532051.
"""

import dataclasses

from pipeline.errors import UsageError
from trainers.backbones import BACKBONES
from trainers.config import TrainConfig

RECIPES = {
    # Heads on a frozen backbone, then everything at a fifth of the rate. There, the expression head has two more layers
    # and batch normalisation, and images are sheared too.
    # https://github.com/Muhammad-Subhan034/Subhan_Deeplearning_A1
    "two_phase": TrainConfig(
        recipe="two_phase",
        backbone="efficientnet_b0",
        weights="imagenet",
        phases=("heads@0:1e-4", "all@20:2e-5"),
        epochs=35,
        batch_size=32,
        loss_weights=(2.0, 1.0, 1.0),
        label_smoothing=0.1,
        shared_units=(),
        expression_units=512,
        valence_units=64,
        arousal_units=64,
        dropout=0.4,
        rotation=20.0,
        zoom=0.15,
        translation=0.15,
        brightness=0.1,
        contrast=0.0,
    ),
    # The last fifty layers of the backbone and deep heads.
    "top50": TrainConfig(
        recipe="top50",
        backbone="resnet50",
        weights="imagenet",
        phases=("top:50@0",),
        shared_units=(512,),
        expression_units=256,
        valence_units=128,
        arousal_units=128,
        learning_rate=1e-3,
        batch_size=16,
        epochs=50,
        early_stopping=10,
        plateau_patience=4,
        plateau_factor=0.5,
    ),
    # One schedule for a row of networks that are to be compared, all on what ImageNet taught them.
    # https://github.com/meheramir123/Affect-Net
    "model_zoo": TrainConfig(
        recipe="model_zoo",
        backbone="vgg16",
        weights="imagenet",
        phases=("heads@0",),
        shared_units=(512,),
        dropout=0.5,
        learning_rate=1e-3,
        batch_size=32,
        epochs=20,
        early_stopping=5,
        plateau_patience=3,
        rotation=10.0,
        brightness=0.0,
        contrast=0.0,
    ),
    # The backbone thaws from the output on, stage by stage, while mixup and class weights even out the classes.
    # https://github.com/ssijaric1/team7, seven classes: --num_classes=7.
    "progressive_mixup": TrainConfig(
        recipe="progressive_mixup",
        backbone="efficientnet_b0",
        weights="imagenet",
        heads=("expression",),
        phases=("heads@0", "stages:1@2", "stages:2@4:2.5e-4", "stages:4@6:1e-4", "all@9:5e-5"),
        learning_rate=5e-4,
        balance="weights",
        label_smoothing=0.05,
        mixup=0.4,
        zoom=0.0,
        translation=0.0,
        brightness=0.0,
        contrast=0.0,
        shared_units=(256,),
        dropout=0.6,
        weight_decay=2.5e-4,  # times w²; PyTorch writes 5e-4 for the same
        clip_norm=1.0,
        batch_size=32,
        epochs=15,
        plateau_patience=3,
        plateau_factor=0.1,
    ),
    # Expression alone; the learning rate depends on the backbone, see LEARNING_RATES.
    "classifier": TrainConfig(
        recipe="classifier",
        backbone="efficientnetv2_b0",
        weights="imagenet",
        heads=("expression",),
        learning_rate=1e-5,
        batch_size=128,
        epochs=50,
        early_stopping=5,
        plateau_patience=3,
        plateau_factor=0.5,
        min_learning_rate=1e-6,
    ),
    # Dense layers learn valence and arousal from what a frozen network sees.
    "va_regression": TrainConfig(
        recipe="va_regression",
        backbone="vgg16",
        weights="imagenet",
        heads=("valence", "arousal"),
        phases=("heads@0",),
        shared_units=(512, 256),
        dropout=0.3,
        affect_loss="mse",
        epochs=30,
        early_stopping=5,
    ),
    # Ours: a first model in a minute, of faces that are cropped alike; `make demo` trains it.
    "quick": TrainConfig(
        recipe="quick",
        backbone="custom_cnn",
        width=0.5,
        image_size=48,
        shared_units=(64,),
        affect_loss="ccc+mse",
        rotation=5.0,
        zoom=0.05,
        translation=0.02,
        optimizer="adamw",
        learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=1.0,
        weight_decay=0.01,
        epochs=24,
        monitor="score",
    ),
    # Ours: everything that helped, together.
    "strong": TrainConfig(
        recipe="strong",
        backbone="custom_cnn",
        shared_units=(),
        dropout=0.2,
        targets="soft",
        affect_loss="ccc+mse",
        balance="weights",
        max_class_weight=3.0,
        rotation=20.0,
        zoom=0.15,
        translation=0.1,
        brightness=0.1,
        contrast=0.25,
        mixup=0.2,
        cutmix=0.2,
        tta_flip=True,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_epochs=2.0,
        weight_decay=0.05,
        clip_norm=5.0,
        ema=0.999,
        batch_size=128,
        epochs=60,
        monitor="score",
    ),
}

#: The backbones of the published set-up; the first is the recipe's own.
BACKBONES_OF = {
    "two_phase": ("efficientnet_b0", "resnet50"),
    "top50": ("resnet50", "efficientnet_b1"),
    "model_zoo": ("vgg16", "resnet50", "efficientnet_b0", "custom_cnn"),
    "progressive_mixup": ("efficientnet_b0",),
    "classifier": ("efficientnetv2_b0", "mobilenet_v2", "xception"),
    "va_regression": ("vgg16",),
    "quick": ("custom_cnn",),
    "strong": ("custom_cnn",),
}
#: Where a recipe's learning rate depends on the backbone; others have that of the recipe.
LEARNING_RATES = {"classifier": {"efficientnetv2_b0": 1e-5, "mobilenet_v2": 1e-3, "xception": 1e-3}}


def recipe(name: str, *, backbone: str = "") -> TrainConfig:
    """The configuration of a recipe, for the caller to name a dataset in.

    Args:
      name: of RECIPES.
      backbone: another than the recipe's own; custom_cnn has no published weights, so all of it learns from the start.
        A width or image size that it does not accept becomes its own.

    Raises:
      UsageError: there is no such recipe or backbone; the message lists those there are.
    """
    if name not in RECIPES:
        raise UsageError(f"recipe {name!r} does not exist; choose one of {', '.join(RECIPES)}")
    config = RECIPES[name]
    if not backbone or backbone == config.backbone:
        return config
    changes = {"backbone": backbone, "learning_rate": LEARNING_RATES.get(name, {}).get(backbone, config.learning_rate)}
    if backbone in BACKBONES:  # another name is refused below
        row = BACKBONES[backbone]
        if not row.application:
            # Nothing is frozen, so the first phase's rate is that of the whole.
            rate = config.training_phases[0].learning_rate if config.phases else changes["learning_rate"]
            changes |= {"weights": "none", "phases": (), "learning_rate": rate}
        if not row.widths[0] <= config.width <= row.widths[1]:
            changes["width"] = 1.0
        if config.image_size < row.min_size:
            changes["image_size"] = 0
    return dataclasses.replace(config, **changes)
