"""Recipes are what they say, and run with every backbone."""

import pytest

from datasets.augmentation import AugmentConfig
from pipeline.errors import UsageError
from trainers.backbones import BACKBONES
from trainers.recipes import BACKBONES_OF, LEARNING_RATES, RECIPES, recipe


def test_each_knows_its_name_and_backbones():
    assert list(RECIPES) == list(BACKBONES_OF)
    for name, config in RECIPES.items():
        assert (config.recipe, config.backbone) == (name, BACKBONES_OF[name][0])
        assert config.data_dir == config.name == ""


#: What the published set-ups say.
PUBLISHED = {
    "two_phase": {
        "phases": ("heads@0:1e-4", "all@20:2e-5"), "loss_weights": (2.0, 1.0, 1.0), "optimizer": "adam",
        "weights": "imagenet",
    },
    "top50": {
        "phases": ("top:50@0",), "shared_units": (512,), "expression_units": 256, "valence_units": 128,
        "arousal_units": 128, "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16, "epochs": 50,
        "early_stopping": 10, "plateau_factor": 0.5, "plateau_patience": 4, "augment": AugmentConfig(),
    },
    "model_zoo": {"early_stopping": 5, "plateau_patience": 3},
    "progressive_mixup": {
        "heads": ("expression",), "balance": "weights", "flip": True, "batch_size": 32, "epochs": 15,
    },
    "classifier": {
        "heads": ("expression",), "optimizer": "adam", "learning_rate": 1e-5, "batch_size": 128, "early_stopping": 5,
        "plateau_factor": 0.5, "plateau_patience": 3, "min_learning_rate": 1e-6,
    },
    "va_regression": {"heads": ("valence", "arousal"), "phases": ("heads@0",), "affect_loss": "mse"},
    "strong": {
        "optimizer": "adamw", "schedule": "cosine", "affect_loss": "ccc+mse", "targets": "soft", "balance": "weights",
    },
}  # fmt: skip
#: Of these some value above 0.
USED = {
    "two_phase": ("label_smoothing", "dropout"),
    "progressive_mixup": ("label_smoothing", "mixup", "rotation", "dropout", "weight_decay"),
    "strong": ("warmup_epochs", "ema", "mixup", "cutmix"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_has_the_values_that_were_published(name):
    config = recipe(name)
    assert {field: getattr(config, field) for field in PUBLISHED[name]} == PUBLISHED[name]
    assert all(getattr(config, field) > 0 for field in USED.get(name, ()))
    if name == "progressive_mixup":
        thawed = [phase.what for phase in config.training_phases]
        assert thawed == ["heads", "stages:1", "stages:2", "stages:4", "all"]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_accepts_every_backbone(name, backbone):
    config = recipe(name, backbone=backbone)
    assert (config.recipe, config.backbone) == (name, backbone)
    own = RECIPES[name]
    from_scratch = backbone == "custom_cnn" and name != "strong"
    assert (config.weights, config.phases) == (("none", ()) if from_scratch else (own.weights, own.phases))
    if from_scratch and own.phases:
        assert config.learning_rate == own.training_phases[0].learning_rate


def test_the_classifiers_learning_rate_goes_with_the_backbone():
    assert {name: recipe("classifier", backbone=name).learning_rate for name in BACKBONES_OF["classifier"]} == {
        "efficientnetv2_b0": 1e-5, "mobilenet_v2": 1e-3, "xception": 1e-3
    }  # fmt: skip
    assert set(LEARNING_RATES) <= set(RECIPES)


def test_without_a_backbone_it_is_the_recipes_own():
    assert recipe("top50") is RECIPES["top50"]


def test_unknown_names_list_what_there_is():
    with pytest.raises(UsageError, match="recipe 'best' does not exist; choose one of two_phase, top50, model_zoo"):
        recipe("best")
    with pytest.raises(UsageError, match="--backbone='lenet' is not accepted; give one of efficientnet_b0"):
        recipe("strong", backbone="lenet")


def test_a_backbone_that_is_not_as_small_has_its_own_size():
    quick = recipe("quick", backbone="xception")
    assert (quick.width, quick.image_size) == (1.0, 0)
    assert (recipe("quick", backbone="mobilenet_v2").width, recipe("quick").image_size) == (0.5, 48)
