"""Recipes are what they say, and run with every backbone."""

import pytest

from pipeline.errors import UsageError
from trainers.backbones import BACKBONES
from trainers.recipes import BACKBONES_OF, LEARNING_RATES, RECIPES, recipe


def test_each_knows_its_name_and_backbones():
    assert list(RECIPES) == list(BACKBONES_OF)
    for name, config in RECIPES.items():
        assert (config.recipe, config.backbone) == (name, BACKBONES_OF[name][0])
        assert config.data_dir == config.name == ""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_runs_with_every_backbone(name, backbone):
    config = recipe(name, backbone=backbone)
    assert (config.recipe, config.backbone) == (name, backbone)
    own = RECIPES[name]
    from_scratch = backbone == "custom_cnn" and name != "strong"
    assert (config.weights, config.phases) == (("none", ()) if from_scratch else (own.weights, own.phases))


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
