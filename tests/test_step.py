"""Single steps of a small model: what they change, and that it does not depend on where or how they are computed."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from datasets import labels
from datasets.augmentation import AugmentConfig
from datasets.input_pipeline import make_train
from trainers.step import Learner

ROOT = pathlib.Path(__file__).parents[1]
HEADS = ("expression", "valence", "arousal")
SIZE, BATCH = 16, 16


def settings(**given):
    """The fields of a TrainConfig that a step reads."""
    defaults = {
        "heads": HEADS, "num_classes": 8, "targets": "soft", "label_smoothing": 0.0, "affect_loss": "ccc+mse",
        "weighting": "fixed", "loss_weights": (1.0, 1.0, 1.0), "ema": 0.0, "xla": False, "clip_norm": 0.0,
        "optimizer": "sgd", "weight_decay": 0.0, "augment_place": "pipeline", "augment": AugmentConfig(),
    }  # fmt: skip
    found = types.SimpleNamespace(**defaults | given)
    found.loss_weight = lambda head: found.loss_weights[HEADS.index(head)]
    return found


def network(precision: str = "float32") -> keras.Model:
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, dtype=precision, name="conv")(x)
    x = layers.BatchNormalization(dtype=precision, name="bn")(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(layers.ReLU()(x))
    x = layers.Dropout(0.2)(layers.Dense(16, "relu", name="shared")(x))
    outputs = {head: layers.Dense(1, "tanh", name=head)(x) for head in HEADS[1:]}
    return keras.Model(image, outputs | {"expression": layers.Dense(8, "softmax", name="expression")(x)})


def learner_of(config, *, precision: str = "float32", **given) -> Learner:
    keras.utils.set_random_seed(1)
    model = network(precision)
    learner = Learner(model, config, strategy=tf.distribute.get_strategy(), **given)
    learner.begin_phase(model.trainable_variables)
    return learner


@pytest.fixture(scope="module")
def batches(sample_dataset) -> list[dict]:
    return list(stream(sample_dataset))


def stream(dataset, **given) -> tf.data.Dataset:
    defaults = {"batch_size": BATCH, "image_size": SIZE, "epochs": 1}
    return make_train(str(dataset), "train", **defaults | given)


def train(learner: Learner, batches, rate: float = 0.05) -> dict[str, float]:
    for batch in batches:
        learner.train(batch, rate)
    return learner.scores()


def values(variables) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def test_it_learns(batches):
    learner = learner_of(settings(optimizer="adam"))
    first = train(learner, batches, 0.01)["loss"]
    for _ in range(8):
        learner.restart_scores()
        last = train(learner, batches, 0.01)["loss"]
    assert last < first - 0.3 and learner.steps == 9 * len(batches)


def test_same_seed_same_bytes(batches):
    runs = []
    for _ in range(2):
        learner = learner_of(settings(ema=0.9, optimizer="adamw", weight_decay=0.1))
        train(learner, batches)
        runs.append([value.tobytes() for value in values(learner.variables)])
    assert runs[0] == runs[1]


def test_xla_makes_the_same_step(batches):
    """But for rounding."""
    scores = []
    for xla in (False, True):
        learner = learner_of(settings(xla=xla, clip_norm=0.5))
        dropout = next(layer for layer in learner.model.layers if isinstance(layer, keras.layers.Dropout))
        dropout.rate = 0.0
        scores.append(train(learner, batches))
    for name, value in scores[0].items():
        assert value == pytest.approx(scores[1][name], abs=1e-3), name


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_reduced_precision(batches, precision):
    float16 = precision == "mixed_float16"
    learner = learner_of(settings(clip_norm=1.0), precision=precision, float16=float16)
    assert train(learner, batches)["loss"] == pytest.approx(
        train(learner_of(settings(clip_norm=1.0)), batches)["loss"], rel=0.1
    )
    assert learner.first_bad_step() is None and learner.model.layers[2].compute_dtype == precision[len("mixed_") :]
    # It began with 2**15, and found one that does not overflow.
    assert 2**10 < learner.loss_scale <= 2**15 if float16 else learner.loss_scale is None
    assert all(weight.dtype == "float32" for weight in learner.model.trainable_variables)


def test_float16_skips_steps_that_overflow(batches):
    learner = learner_of(settings(), precision="mixed_float16", float16=True)
    learner.optimizer.dynamic_scale.assign(2.0**120)
    before = values(learner.model.trainable_variables)
    train(learner, batches[:3])
    for old, new in zip(before, values(learner.model.trainable_variables)):
        np.testing.assert_array_equal(old, new)
    assert learner.loss_scale == 2.0**117 and learner.first_bad_step() is None


def test_clipping_bounds_the_step(batches):
    learner = learner_of(settings(clip_norm=1e-3))
    before = values(learner.model.trainable_variables)
    learner.train(batches[0], 1.0)
    moved = [new - old for old, new in zip(before, values(learner.model.trainable_variables))]
    assert np.sqrt(sum((part.astype(float) ** 2).sum() for part in moved)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("clip_norm", [0.0, 1e-6])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_is_for_kernels(batches, optimizer, clip_norm):
    """With losses that weigh nothing it is all that moves a weight; clipping does not touch it."""
    config = settings(optimizer=optimizer, weight_decay=0.1, loss_weights=(0.0, 0.0, 0.0), clip_norm=clip_norm)
    learner = learner_of(config)
    before = values(learner.model.trainable_variables)
    learner.train(batches[0], 0.5)
    factor = 1 - 0.5 * 0.1 * (2 if optimizer == "sgd" else 1)
    for weight, old in zip(learner.model.trainable_variables, before):
        expected = old * factor if weight.name == "kernel" else old
        np.testing.assert_allclose(np.array(weight), expected, rtol=1e-5, err_msg=weight.path)


def test_only_a_phase_s_weights_learn(batches):
    learner = learner_of(settings(optimizer="adam"))
    model = learner.model
    train(learner, batches[:2])
    for layer in model.layers[:4]:
        layer.trainable = False
    learner.begin_phase(model.trainable_variables)
    frozen, heads = values(model.get_layer("bn").variables), values(model.get_layer("valence").variables)
    train(learner, batches[:2])
    for old, new in zip(frozen, values(model.get_layer("bn").variables)):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(heads[0], values(model.get_layer("valence").variables)[0]) and learner.steps == 4


def test_uncertainty_is_learned_and_scored_apart(batches):
    learner = learner_of(settings(weighting="uncertainty"))
    before = {id(variable): np.array(variable) for variable in learner.variables}
    scores = train(learner, batches)
    changed = [variable for variable in learner.variables if "log_variance" in variable.name]
    assert len(changed) >= 3 and all(np.array(variable) != before[id(variable)] for variable in changed[:3])
    parts = sum(scores[f"{head}_loss"] for head in HEADS)
    assert scores["loss"] != pytest.approx(parts, rel=0.01)


def test_uncertainty_of_heads_that_have_no_say_is_not_learned(batches):
    """Arousal weighs nothing; of valence the batch knows nothing."""
    learner = learner_of(settings(weighting="uncertainty", loss_weights=(1.0, 1.0, 0.0), affect_loss="mse"))
    unknown = [batch | {"mask": batch["mask"] | {"valence": tf.zeros(BATCH)}} for batch in batches]
    train(learner, unknown)
    found = {v.name.split(":")[0]: float(v.numpy()) for v in learner.variables if v.name.startswith("log_variance")}
    assert set(found) == {"log_variance_expression", "log_variance_valence"}
    assert found["log_variance_valence"] == 0 != found["log_variance_expression"]


def test_device_and_pipeline_augment_alike(sample_dataset):
    """Class weights included."""
    weights, scores = np.linspace(0.5, 2, 8).astype(np.float32), []
    augment = AugmentConfig(mixup=0.2)
    for place in ("pipeline", "device"):
        found = stream(sample_dataset, augment=augment, place=place)
        given = {"class_weights": weights}
        if place == "pipeline":
            found, given = found.map(lambda batch: labels.apply_class_weights(batch, weights)), {}
        learner = learner_of(settings(augment=augment, augment_place=place), **given)
        scores.append(train(learner, found.take(3)))
    assert scores[0] == pytest.approx(scores[1], rel=1e-5, abs=1e-6)


def test_averaged_weights(batches):
    """The decay rises from 0.1 to what was asked for."""
    learner = learner_of(settings(ema=0.5))
    weight = learner.model.get_layer("shared").kernel
    expected = np.array(weight)
    for step, batch in enumerate(batches[:4]):
        learner.train(batch, 0.1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.array(weight)
    before = values(learner.variables)
    with learner.averaged(lambda: batches, lambda: None):
        np.testing.assert_allclose(np.array(weight), expected, rtol=1e-5)
        assert not np.array_equal(expected, before[0])
    for old, new in zip(before, values(learner.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_statistics_of_averaged_weights_are_their_own(batches):
    """Means over the batches of what the averaged convolution gives: those of the training are of other weights."""
    learner = learner_of(settings(ema=0.9))
    train(learner, batches, 0.3)
    model, means, variances = learner.model, [], []
    with learner.averaged(lambda: batches, lambda: None):
        inner = keras.Model(model.input, model.get_layer("conv").output)
        for batch in batches:
            features = inner(batch["image"]).numpy()
            means.append(features.mean((0, 1, 2)))
            variances.append(features.var((0, 1, 2)))
        np.testing.assert_allclose(model.get_layer("bn").moving_mean, np.mean(means, 0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(model.get_layer("bn").moving_variance, np.mean(variances, 0), rtol=1e-3, atol=1e-5)


def test_first_bad_step_is_kept(batches):
    learner = learner_of(settings())
    learner.train(batches[0], 0.1)
    assert learner.first_bad_step() is None
    learner.model.get_layer("valence").kernel.assign(np.full((16, 1), np.nan))
    learner.train(batches[1], 0.1)
    learner.train(batches[2], 0.1)
    step, found = learner.first_bad_step()
    assert step == 1 and np.isnan(found["loss"]) and np.isnan(found["valence_loss"])
    assert np.isfinite(found["expression_loss"])


_TWO_DEVICES = """
import json, sys
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path[:0] = ["tests"]
import keras, test_step
from trainers.step import Learner

dataset, curves = sys.argv[1], {}
for name, strategy in {
    "one": tf.distribute.get_strategy(),
    "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
}.items():
    keras.utils.set_random_seed(1)
    config = test_step.settings(optimizer="adamw", weight_decay=0.01, clip_norm=1.0, ema=0.9, weighting="uncertainty")
    with strategy.scope():
        model = test_step.network()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    learner = Learner(model, config, strategy=strategy)
    learner.begin_phase(model.trainable_variables)
    batches = test_step.stream(dataset, epochs=3).map(lambda batch: {k: v for k, v in batch.items() if k != "id"})
    losses = []
    for batch in strategy.experimental_distribute_dataset(batches):
        learner.restart_scores()
        learner.train(batch, 0.01)
        losses.append(learner.scores())
    with learner.averaged(lambda: batches.take(2), lambda: None):
        evaluated = [float(np.sum(np.abs(w))) for w in model.get_weights()]
    curves[name] = {"losses": losses, "evaluated": evaluated}
print("RESULT" + json.dumps(curves))
"""


def test_two_devices_make_the_same_curve(sample_dataset):
    """Of all losses and scores, CCC included, and of the averaged weights; rounding differs, and grows."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TWO_DEVICES, str(sample_dataset)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    curves = json.loads(done.stdout.split("RESULT")[1])
    assert len(curves["one"]["losses"]) == 18
    for one, two in zip(curves["one"]["losses"], curves["two"]["losses"]):
        for name in ("loss", *(f"{head}_loss" for head in HEADS)):
            assert one[name] == pytest.approx(two[name], rel=2e-3), name
    np.testing.assert_allclose(curves["one"]["evaluated"], curves["two"]["evaluated"], rtol=1e-2)
