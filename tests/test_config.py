"""The configuration of a training run checks itself and survives JSON."""

import dataclasses
import json
import subprocess
import sys

import pytest

from datasets.augmentation import AugmentConfig
from pipeline.errors import UsageError
from trainers.config import HEADS, Phase, TrainConfig, differences, from_json, replace, to_json


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "lenet"}, "--backbone='lenet' is not accepted; give one of efficientnet_b0, "),
        ({"heads": ("expression", "dominance")}, "give one of expression, valence, arousal"),
        ({"heads": ()}, "at least one, each once"),
        ({"heads": ("valence", "valence")}, "at least one, each once"),
        ({"heads": ["valence"]}, "a tuple of str"),
        ({"num_classes": 9}, "one of 7, 8"),
        ({"width": 0.5}, "1 to 1 with efficientnet_b0"),
        ({"backbone": "xception", "image_size": 48}, "71 to 1024 with xception, or 0 for its own 299"),
        ({"backbone": "custom_cnn", "weights": "imagenet"}, "nobody publishes weights of custom_cnn"),
        ({"weights": ""}, "none, imagenet or a file"),
        ({"shared_units": (512, 0)}, "a whole number from 1 to 65536"),
        ({"dropout": float("nan")}, "a number from 0 to 0.99"),
        ({"batch_size": 2.5}, "give a whole number"),
        ({"batch_size": True}, "give a whole number"),
        ({"learning_rate": 0.0}, "a number of at least"),
        ({"learning_rate": float("inf")}, "a number of at least"),
        ({"loss_weights": (1.0, 1.0)}, "three numbers"),
        ({"loss_weights": (0.0, 1.0, 1.0), "heads": ("expression",)}, "a weight above 0"),
        ({"balance": "weights", "heads": ("valence",)}, "none without the expression head"),
        ({"monitor": "accuracy", "heads": ("valence",)}, "without the expression head"),
        ({"monitor": "ccc", "heads": ("expression",)}, "without valence and arousal"),
        ({"targets": "hard", "mixup": 0.2}, "soft with mixup or cutmix"),
        ({"xla": True, "distribute": "mirrored"}, "False with --distribute=mirrored"),
        ({"rotation": 200.0}, "rotation=200.0 is not accepted"),
        ({"rand_augment": "2"}, "TRANSFORMS,MAGNITUDE"),
        ({"rand_augment": "2,3"}, "a magnitude from 0 to 1"),
        ({"rand_augment": "two,0.5"}, "TRANSFORMS,MAGNITUDE"),
        ({"phases": ("some@0",)}, "WHAT@FIRST_EPOCH"),
        ({"phases": ("top@0",)}, "WHAT@FIRST_EPOCH"),
        ({"phases": ("top:0@0",)}, "WHAT@FIRST_EPOCH"),
        ({"phases": ("heads",)}, "WHAT@FIRST_EPOCH"),
        ({"phases": ("heads@0:0",)}, "WHAT@FIRST_EPOCH"),
        ({"phases": ("heads@1",)}, "the first begins at epoch 0"),
        ({"phases": ("heads@0", "all@0")}, "each later than the one before"),
        ({"phases": ("heads@0", "all@20")}, "all below 20"),
    ],
)
def test_a_value_that_nothing_accepts(values, message):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**values)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_field_is_explained():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"] and isinstance(field.metadata["decides"], bool), field.name


def test_phases():
    config = TrainConfig(phases=("heads@0", "top:50@3:1e-4", "stages:2@5", "all@9"), learning_rate=0.01)
    assert config.training_phases == (
        Phase(0, "heads", 0.01), Phase(3, "top:50", 1e-4), Phase(5, "stages:2", 0.01), Phase(9, "all", 0.01)
    )  # fmt: skip
    assert TrainConfig().training_phases == (Phase(0, "all", 1e-3),)


def test_augmentation():
    config = TrainConfig(rand_augment="2,0.5", zoom=0.2, mixup=0.2)
    assert config.augment == AugmentConfig(rand_augment=(2, 0.5), zoom=0.2, mixup=0.2)
    assert TrainConfig().augment == AugmentConfig()


def test_sizes_and_heads():
    assert TrainConfig(backbone="efficientnet_b2").input_size == 260
    assert TrainConfig(backbone="custom_cnn", image_size=64).input_size == 64
    config = TrainConfig(valence_units=128, loss_weights=(2.0, 1.0, 0.5))
    assert [config.head_units(head) for head in HEADS] == [0, 128, 0]
    assert [config.loss_weight(head) for head in HEADS] == [2.0, 1.0, 0.5]


def test_dataset_directory():
    assert TrainConfig(data_dir="data", name="mine").dataset_dir == "data/affect_faces/mine/1.0.0"
    with pytest.raises(UsageError, match=r"--name='' is not accepted"):
        TrainConfig(data_dir="data").dataset_dir  # noqa: B018


def test_json_round_trip():
    config = TrainConfig(
        data_dir="gesichter/größe", heads=("valence",), shared_units=(), phases=("heads@0", "all@2:1e-05"), seed=7
    )
    assert from_json(to_json(config)) == config
    assert from_json("{}") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON document"),
        ("[1]", "a JSON list"),
        ('{"learning_rat": 1}', "learning_rat: no such field of a configuration; there are data_dir, name, "),
        ('{"epochs": "3"}', "--epochs='3' is not accepted"),
        ('{"heads": "valence"}', "a tuple of str"),
    ],
)
def test_json_that_is_no_configuration(text, message):
    with pytest.raises(UsageError) as caught:
        from_json(text)
    assert message in str(caught.value)


def test_differences():
    old = TrainConfig(data_dir="a", name="one", epochs=5, num_threads=1)
    new = replace(old, {"data_dir": "b", "num_threads": 2, "epochs": 6, "heads": ["expression"], "save_minutes": 1})
    assert differences(old, new) == ["heads: expression,valence,arousal -> expression", "epochs: 5 -> 6"]
    assert differences(old, old) == []


def test_json_of_a_file_shows_every_field():
    assert list(json.loads(to_json(TrainConfig()))) == [field.name for field in dataclasses.fields(TrainConfig)]


def test_importing_it_is_cheap():
    script = "import sys; import trainers.recipes; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
