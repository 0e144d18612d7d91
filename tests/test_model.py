"""The model's contract: one flat graph, a dict of float32 heads; saved, loaded, started from, trained in part."""

import zipfile

import numpy as np
import pytest

from pipeline.errors import DataError
from trainers import model as models
from trainers.backbones import BACKBONES
from trainers.config import HEADS, TrainConfig

LIGHT = {"custom_cnn": {"image_size": 48, "width": 0.5}, "mobilenet_v2": {"image_size": 32, "width": 0.35}}


def light(name: str = "custom_cnn", **values) -> TrainConfig:
    return TrainConfig(**{"backbone": name, "precision": "float32", "shared_units": (16,), **LIGHT[name], **values})


def faces(size: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, [count, size, size, 3]).astype("uint8")


def predict(model, images) -> dict[str, np.ndarray]:
    return {head: values.numpy() for head, values in model(images).items()}


def step(model, images) -> float:
    """One step of plain gradient descent towards zero everywhere; the loss before it."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = sum(tf.reduce_mean(tf.square(values)) for values in outputs.values())
    for weight, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True):
        weight.assign_sub(0.01 * gradient)
    return float(loss)


def check_trains_saves_and_loads(config: TrainConfig, folder) -> None:
    model = models.build(config)
    images = faces(config.input_size)
    before = [weight.numpy() for weight in model.trainable_variables]
    assert np.isfinite(step(model, images))
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.trainable_variables)]
    assert np.mean(changed) > 0.95
    model.save(folder / models.BEST)
    loaded = models.load(str(folder))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for head, values in predict(model, images).items():
        np.testing.assert_array_equal(predict(loaded, images)[head], values)
    with zipfile.ZipFile(folder / models.BEST) as archive:
        assert b"trainers" not in archive.read("config.json"), "a saved model needs no code of ours"


@pytest.mark.parametrize("name", LIGHT)
def test_trains_saves_and_loads(name, tmp_path):
    check_trains_saves_and_loads(light(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*((name, 96) for name in BACKBONES), ("custom_cnn", 112)])
def test_each_trains_saves_and_loads(name, size, tmp_path):
    check_trains_saves_and_loads(TrainConfig(backbone=name, precision="float32", image_size=size), tmp_path)


@pytest.fixture(scope="module")
def small():
    return models.build(light())


def test_the_contract(small):
    images = faces(48)
    outputs = predict(small, images)
    assert set(outputs) == set(HEADS)
    assert outputs["expression"].shape == (4, 8) and outputs["valence"].shape == outputs["arousal"].shape == (4, 1)
    assert {values.dtype for values in outputs.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(outputs["expression"].sum(-1), 1, atol=1e-6)
    assert all(np.abs(outputs[head]).max() <= 1 for head in ("valence", "arousal"))
    assert small.inputs[0].name == "image" and small.get_layer("pooling").output.shape == (
        None,
        small.get_layer("shared1").input.shape[-1],
    )
    assert not [layer.name for layer in small.layers if hasattr(layer, "layers")]
    for head, values in predict(small, images.astype("float32")).items():
        np.testing.assert_array_equal(values, outputs[head])


def test_heads_and_their_layers():
    config = light(heads=("arousal", "expression"), shared_units=(24, 16), expression_units=12, dropout=0.5)
    model = models.build(config)
    assert set(model.output) == {"expression", "arousal"}
    units = {layer.name: layer.units for layer in model.layers if hasattr(layer, "units")}
    assert units == {"shared1": 24, "shared2": 16, "expression_hidden": 12, "expression_logits": 8, "arousal": 1}
    assert sum(layer.name.endswith("_dropout") for layer in model.layers) == 5


def test_seven_classes():
    """Contempt has no probability, and nothing to learn from it is not a number."""
    model = models.build(light(num_classes=7))
    probabilities = predict(model, faces(48))["expression"]
    assert probabilities.shape == (4, 8) and not probabilities[:, 7].any()
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    step(model, faces(48))
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_mixed_precision(tmp_path):
    """The backbone alone is mixed, this process stays as it was, and loading gives float32."""
    import keras

    precision = "mixed_bfloat16"
    model = models.build(light(precision=precision))
    policies = {layer.name: layer.dtype_policy.name for layer in model.layers}
    assert policies["stem_conv"] == precision
    assert {policies[name] for name in ("image", "normalise", "pooling", "shared1", "expression", "valence")} == {
        "float32"
    }
    assert keras.config.dtype_policy().name == "float32"
    outputs = predict(model, faces(48))
    assert {values.dtype for values in outputs.values()} == {np.dtype("float32")}
    model.save(tmp_path / "mixed.keras")
    loaded = models.load(str(tmp_path / "mixed.keras"))
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for head, values in predict(loaded, faces(48)).items():
        np.testing.assert_allclose(values, outputs[head], atol=0.1)
    again = models.load(str(tmp_path / "mixed.keras"), precision=precision)
    assert {layer.name: layer.dtype_policy.name for layer in again.layers} == policies


def test_phases(small):
    layers = models.backbone_layers(small)
    names = [layer.name for layer in layers]

    def trained(what: str) -> list[str]:
        models.set_trainable(small, what)
        assert small.get_layer("shared1").trainable and small.get_layer("expression_logits").trainable
        return [layer.name for layer in layers if layer.trainable]

    assert trained("heads") == []
    assert trained("top:5") == names[-5:]
    begins = {
        stage: next(i for i, name in enumerate(names) if name.startswith(stage)) for stage in ("stage2", "stage3")
    }
    assert trained("stages:1") == names[begins["stage3"] :]
    assert trained("stages:2") == names[begins["stage2"] :]
    assert trained("stages:4") == trained("stages:99") == trained("top:9999") == trained("all") == names


def test_what_is_frozen_stays_as_it_is():
    """Its batch normalisation too: it neither uses nor learns the statistics of a batch."""
    model = models.build(light())
    models.set_trainable(model, "stages:1")
    before = {layer.name: layer.get_weights() for layer in model.layers}
    step(model, faces(48))
    changed = {
        layer.name for layer in model.layers if not all(map(np.array_equal, before[layer.name], layer.get_weights()))
    }
    assert {"stage3_down_bn", "stage3_block1_conv1", "shared1", "valence"} <= changed
    assert not [name for name in changed if name.startswith(("stem", "stage1", "stage2"))]


def test_start_from_an_earlier_run(small, tmp_path):
    small.save(tmp_path / models.BEST)
    config = light(init=str(tmp_path), heads=("expression", "valence"), valence_units=12)
    model = models.build(config)
    (said,) = models.initialise(model, config)
    assert said == f"start: weights of {tmp_path}; new: valence_hidden, valence"
    for layer in [*models.backbone_layers(model), model.get_layer("shared1"), model.get_layer("expression_logits")]:
        for ours, theirs in zip(layer.get_weights(), small.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_eighth_class_of_a_model_of_seven_is_new(small, tmp_path):
    seven = models.build(light(num_classes=7))
    seven.save(tmp_path / "seven.keras")
    for num_classes, new in ((8, "expression_logits"), (7, "none")):
        config = light(init=str(tmp_path / "seven.keras"), num_classes=num_classes)
        assert models.initialise(models.build(config), config)[0].endswith(f"; new: {new}")


def test_an_earlier_run_needs_no_other_weights(small, tmp_path):
    small.save(tmp_path / models.BEST)
    config = light(init=str(tmp_path), weights=str(tmp_path / "none.h5"))
    assert models.initialise(models.build(config), config) == [f"start: weights of {tmp_path}; new: none"]


def test_weights_of_a_saved_model_are_for_its_backbone(small, tmp_path):
    small.save(tmp_path / "earlier.keras")
    config = light(weights=str(tmp_path / "earlier.keras"))
    model = models.build(config)
    assert models.initialise(model, config) == [f"backbone: weights of {config.weights}"]
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, small.get_layer("stem_conv").kernel)
    assert not np.array_equal(model.get_layer("shared1").kernel, small.get_layer("shared1").kernel)


@pytest.mark.parametrize("field", ["init", "weights"])
def test_start_from_another_architecture(small, tmp_path, field):
    small.save(tmp_path / "earlier.keras")
    config = light(width=0.25, **{field: str(tmp_path / "earlier.keras")})
    with pytest.raises(
        DataError, match=r"'custom_cnn' of other layers: stem_conv and .* more have no counterpart"
    ) as caught:
        models.initialise(models.build(config), config)
    assert "\n" not in str(caught.value)


def test_weights_of_a_file_reach_the_model(tmp_path):
    from trainers import networks

    network = networks.construct("mobilenet_v2", image_size=32, width=0.35)
    network.save_weights(tmp_path / "some.weights.h5")
    config = light("mobilenet_v2", weights=str(tmp_path / "some.weights.h5"))
    model = models.build(config)
    assert models.initialise(model, config) == [f"backbone: weights of {config.weights}"]
    np.testing.assert_array_equal(model.get_layer("Conv1").kernel, network.get_layer("Conv1").kernel)
    assert models.initialise(model, light("mobilenet_v2")) == []


def save_foreign(path, layer) -> None:
    import keras

    image = keras.Input([4, 4, 3], name="image")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(layer(image))
    keras.Model(image, {"valence": keras.layers.Dense(1, name="valence")(pooled)}, name="custom_cnn").save(path)


def test_a_model_with_code_is_refused(tmp_path):
    import keras

    path = tmp_path / "foreign.keras"
    save_foreign(path, keras.layers.Lambda(lambda x: x + 1))
    with pytest.raises(DataError, match=r"is refused: it holds .*keras.layers.Lambda.*may run code of its author"):
        models.load(str(path))


def test_a_model_with_layers_of_others_is_refused(tmp_path):
    import keras

    @keras.saving.register_keras_serializable("theirs")
    class Theirs(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    path = tmp_path / "foreign.keras"
    save_foreign(path, Theirs())
    with pytest.raises(DataError, match=r"is refused: it holds .*Theirs"):
        models.load(str(path))


def test_what_is_no_model_of_ours(tmp_path):
    import keras

    with pytest.raises(DataError, match="does not exist"):
        models.load(str(tmp_path))
    path = tmp_path / "some.keras"
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="or a damaged one"):
        models.load(str(path))
    image = keras.Input([4])
    keras.Model(image, keras.layers.Dense(2)(image)).save(path)
    with pytest.raises(DataError, match="is no model of ours"):
        models.load(str(path))


def test_a_flipped_bit_is_found(small, tmp_path):
    path = tmp_path / "some.keras"
    small.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError):
        models.load(str(path))
