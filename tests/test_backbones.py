"""The table of backbones, the normalisation of each, and weights from files."""

import importlib

import numpy as np
import pytest

from pipeline.errors import DataError, EnvironmentFault, UsageError
from trainers import networks
from trainers.backbones import BACKBONES

LIGHT = {"custom_cnn": 1.0, "mobilenet_v2": 0.35}
MODULES = {
    "resnet50": "resnet50", "mobilenet_v2": "mobilenet_v2", "xception": "xception", "vgg16": "vgg16",
    "densenet121": "densenet",
}  # fmt: skip


def faces(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, [2, size, size, 3]).astype("float32")


def randomise(network) -> None:
    """Weights that are all different, so that no swap of two goes unseen."""
    draw = np.random.default_rng(1)
    network.set_weights([draw.uniform(0.5, 1.5, weight.shape).astype("float32") * 0.05 for weight in network.weights])


def layers_of(kind, model) -> list:
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize("name", MODULES)
def test_normalisation_is_that_of_the_published_weights(name):
    import keras

    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    image = keras.Input([4, 4, 3])
    ours = keras.Model(image, networks.normalise(image, BACKBONES[name].normalisation))
    np.testing.assert_allclose(ours(faces(4)), module.preprocess_input(faces(4).copy()), atol=1e-4)


def test_efficientnets_normalisation_is_keras_own():
    """Keras divides by the square root of the deviation twice when it loads ImageNet's weights."""
    from keras import layers

    chain = [
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=networks.MEAN, variance=networks.DEVIATION),
        layers.Rescaling([deviation**-0.5 for deviation in networks.DEVIATION]),
    ]
    theirs = faces(4)
    for layer in chain:
        theirs = layer(theirs)
    np.testing.assert_allclose(networks.normalise(faces(4), "torch"), theirs, atol=1e-5)
    assert {row.normalisation for name, row in BACKBONES.items() if name.startswith("efficientnet")} == {"torch"}


def check_same_features(name: str, width: float) -> None:
    """Our graph computes from pixels what the published network computes from its preprocessed pixels."""
    import keras
    from keras import layers

    row = BACKBONES[name]
    network = networks.construct(name, image_size=row.min_size, width=width)
    randomise(network)
    pixels = faces(row.min_size)
    published = keras.Model(network.inputs[0], network.outputs[0])
    if layers_of(layers.Normalization, network):  # it normalises for itself
        for layer in layers_of(layers.Normalization, network):
            if layer.weights:
                statistics = np.array(networks.MEAN), np.square(networks.DEVIATION)
                layer.set_weights([*statistics, *layer.get_weights()[2:]])
                layer.finalize_state()
        theirs = published(pixels)
    else:
        theirs = published(networks.normalise(pixels, row.normalisation))
    flat = networks.lay_out(network, normalisation=row.normalisation, precision="float32")
    networks.transfer(network, flat)
    np.testing.assert_allclose(flat(pixels), theirs, rtol=1e-4, atol=1e-5)
    assert [layer.name for layer in layers_of(layers.Rescaling, flat)] == ["normalise"]
    assert not layers_of(layers.Normalization, flat)
    assert not [layer.name for layer in flat.layers if hasattr(layer, "layers")], "a network in the network"
    positions = [
        next(index for index, layer in enumerate(flat.layers) if layer.name.startswith(stage)) for stage in row.stages
    ]
    assert positions == sorted(set(positions)), "stages begin one after the other"


@pytest.mark.parametrize(("name", "width"), LIGHT.items())
def test_laid_out_flat_it_computes_the_same(name, width):
    check_same_features(name, width)


def test_statistics_follow_a_short_training():
    """Keras' MobileNetV2 would keep three quarters of those of the start for 288 steps."""
    from keras import layers

    network = networks.construct("mobilenet_v2", image_size=32, width=0.35)
    flat = networks.lay_out(network, normalisation="signed", precision="float32")
    first = layers_of(layers.BatchNormalization, flat)[0]
    before = np.ones_like(first.moving_variance)
    first.moving_variance.assign(before)
    for _ in range(288):
        first(np.zeros([2, 4, 4, len(before)], "float32"), training=True)
    assert (np.asarray(first.moving_variance) < 0.1).all()
    assert {layer.momentum for layer in layers_of(layers.BatchNormalization, flat)} == {0.99}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in LIGHT])
def test_each_laid_out_flat_computes_the_same(name):
    check_same_features(name, 1.0)


@pytest.mark.slow
def test_names_do_not_depend_on_what_was_built_before():
    """Keras numbers what has no name through the whole process."""
    flats = [
        networks.lay_out(networks.construct("xception", image_size=71), normalisation="signed", precision="float32")
        for _ in range(2)
    ]
    first, second = ([layer.name for layer in flat.layers] for flat in flats)
    assert first == second and "conv2d_0" in first


@pytest.fixture(scope="module")
def mobilenet():
    network = networks.construct("mobilenet_v2", image_size=32, width=0.35)
    randomise(network)
    return network


def write_as_published(network, path) -> None:
    """The format of the files of keras.applications."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


@pytest.mark.parametrize("file", ["some.weights.h5", "some_notop.h5"])
def test_weights_of_a_file(mobilenet, tmp_path, file):
    path = str(tmp_path / file)
    mobilenet.save_weights(path) if ".weights." in file else write_as_published(mobilenet, path)
    other = networks.construct("mobilenet_v2", image_size=64, width=0.35)
    networks.load_weights(other, "mobilenet_v2", path, width=0.35)
    for theirs, ours in zip(mobilenet.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("file", ["other.weights.h5", "other_notop.h5", "text_notop.h5", "empty.weights.h5"])
def test_weights_of_another_network(mobilenet, tmp_path, file):
    path = tmp_path / file
    if file.startswith("other"):
        mobilenet.save_weights(path) if ".weights." in file else write_as_published(mobilenet, path)
    else:
        path.write_text("no weights" * file.startswith("text"))
    wider = networks.construct("mobilenet_v2", image_size=32, width=0.5)
    with pytest.raises(DataError, match="does not hold the weights of mobilenet_v2 of") as caught:
        networks.load_weights(wider, "mobilenet_v2", str(path), width=0.5)
    assert "\n" not in str(caught.value)


def test_weights_with_a_classifier(mobilenet, tmp_path):
    """Keras would load the part that fits, and say nothing."""
    import keras

    pooled = keras.layers.GlobalAveragePooling2D()(mobilenet.outputs[0])
    whole = keras.Model(mobilenet.inputs[0], keras.layers.Dense(10)(pooled))
    whole.save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(DataError, match="it holds 262 arrays, the network has 260"):
        networks.load_weights(mobilenet, "mobilenet_v2", str(tmp_path / "whole.weights.h5"), width=0.35)


def test_weights_that_are_not_there(mobilenet):
    with pytest.raises(UsageError, match="there is no such file; give none, imagenet or a file"):
        networks.load_weights(mobilenet, "mobilenet_v2", "missing.h5", width=0.35)


def test_imagenet_without_a_network(mobilenet, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(EnvironmentFault, match=r"fetch mobilenet_v2_\w+_1.3_224_no_top.h5 \(https://.*--weights=FILE$"):
        networks.load_weights(mobilenet, "mobilenet_v2", "imagenet", width=1.3)
    with pytest.raises(UsageError, match="--weights=imagenet is not accepted with --width"):
        networks.load_weights(mobilenet, "mobilenet_v2", "imagenet", width=0.4)
