"""A row of `trainers.backbones` becomes a network: built, filled with published weights, and laid out flat.

Keras' own networks are built first, exactly as their weights files expect them, and then laid out again in our graph:
without the preprocessing that some of them hold, behind the normalisation that the row names, with names that do not
depend on what was built before.
"""

import collections
import functools
import os
import re
import socket
import warnings
from collections.abc import Callable

from pipeline.errors import DataError, EnvironmentFault, UsageError
from trainers import custom_cnn
from trainers.backbones import BACKBONES

#: Of ImageNet, RGB, of values from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Of ImageNet, BGR, of values from 0 to 255, as the authors of VGG and ResNet published it for Caffe.
CAFFE_MEAN = (103.939, 116.779, 123.68)

#: Layers that their authors did not name.
_NUMBERED = re.compile(r"(conv2d|batch_normalization|add|zero_padding2d|normalization|rescaling)(?:_\d+)?")
_DOWNLOAD_TIMEOUT = 30.0
#: Of BatchNormalization's running statistics; of Keras' networks MobileNetV2 alone has more. Of the 0.999 there half
#: of the start is left after 700 steps, and a network that has learned well is scored as if it had not.
_MAX_MOMENTUM = 0.99


def construct(name: str, *, image_size: int, width: float = 1.0):
    """The network without its classifier as a keras.Model, with random weights, as its author builds it."""
    import keras

    image = keras.Input([image_size, image_size, 3], name="image")
    if not BACKBONES[name].application:
        return custom_cnn.build(image, width=width)
    return _application(name, width)(include_top=False, weights=None, input_tensor=image)


def normalise(image, kind: str):
    """Pixels as the network's weights expect them.

    Args:
      image: Keras tensor [N, S, S, 3], RGB, 0 to 255.
      kind: the `normalisation` of a row.

    Returns:
      Keras tensor [N, S, S, 3], float32 under any precision: bfloat16 would round away grey levels.
    """
    import keras

    if kind == "signed":
        scale, offset = 1 / 127.5, -1.0
    elif kind == "torch":
        scale = [1 / (255 * deviation) for deviation in DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(MEAN, DEVIATION)]
    else:
        image = keras.ops.flip(image, axis=-1)  # RGB to BGR
        scale, offset = 1.0, [-mean for mean in CAFFE_MEAN]
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="normalise")(image)


def lay_out(network, *, normalisation: str, precision: str):
    """A network of `construct` in our graph.

    Args:
      network: what `construct` returned.
      normalisation: of its row.
      precision: Keras' dtype policy of its layers.

    Returns:
      a flat keras.Model from `image`, float32 [N, S, S, 3] of 0 to 255, to features, with new random weights.
    """
    import keras

    names = _names(network)
    entered = []

    def rebuild(layer):
        config = layer.get_config() | {"name": names[layer.name], "dtype": precision}
        if "momentum" in config:
            config["momentum"] = min(config["momentum"], _MAX_MOMENTUM)
        return type(layer).from_config(config)

    def call(layer, inputs, **kwargs):
        if _is_preprocessing(layer):
            return inputs
        if not entered:
            entered.append(layer)
            inputs = normalise(inputs, normalisation)
        return layer(inputs, **kwargs)

    flat = keras.models.clone_model(network, clone_function=rebuild, call_function=call)
    return keras.Model(flat.inputs[0], flat.outputs[0])


def load_weights(network, name: str, source: str, *, width: float = 1.0) -> None:
    """Fills a network of `construct` with published weights.

    Args:
      network: to fill.
      name: its row.
      source: "imagenet", or a file that Keras publishes or wrote: `…_notop.h5` or `….weights.h5`.
      width: that it was constructed with.

    Raises:
      EnvironmentFault: the weights cannot be downloaded; the message names the file and the flag that takes it.
      UsageError: nobody publishes weights of this width, or there is no such file.
      DataError: the file holds weights of another network.
    """
    if source == "imagenet":
        network.set_weights(_download(name, width).get_weights())
        return
    if not os.path.isfile(source):
        raise UsageError(f"--weights={source!r} is not accepted: there is no such file; give none, imagenet or a file")
    try:
        arrays = _count_arrays(source)
        if arrays not in (len(network.weights), len(network.variables)):
            raise ValueError(f"it holds {arrays} arrays, the network has {len(network.weights)}")
        with warnings.catch_warnings(action="ignore"):  # hundreds of lines that say what the error says in one
            network.load_weights(source)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(
            f"{source} does not hold the weights of {name} of width {width:g} without its classifier "
            f"({str(error).splitlines()[0]}); give the file that was made for it, or none"
        ) from None


def transfer(network, model) -> None:
    """Copies the weights of a network of `construct` to the layers that `lay_out` made of it, in `model`."""
    names = _names(network)
    for layer in network.layers:
        if layer.weights and not _is_preprocessing(layer):
            model.get_layer(names[layer.name]).set_weights(layer.get_weights())


def _application(name: str, width: float) -> Callable:
    import keras

    row = BACKBONES[name]
    constructor = getattr(keras.applications, row.application)
    return constructor if row.widths == (1.0, 1.0) else functools.partial(constructor, alpha=width)


def _download(name: str, width: float):
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        with warnings.catch_warnings(action="ignore"):  # that the weights are those for 224 pixels
            return _application(name, width)(include_top=False, weights="imagenet")
    except ValueError as error:
        raise UsageError(f"--weights=imagenet is not accepted with --width={width:g}: {error}") from None
    except Exception as error:  # Keras raises no narrower one
        address = re.search(r"https?://\S+?(?=[:\s]|$)", str(error))
        what = f"{os.path.basename(address[0])} ({address[0]})" if address else f"the file of {name} without its top"
        raise EnvironmentFault(
            f"the ImageNet weights of {name} cannot be downloaded ({type(error).__name__}: {str(error)[:100]}): fetch "
            f"{what} where there is a network, and give --weights=FILE"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _count_arrays(path: str) -> int:
    import h5py

    count = 0

    def visit(_, item) -> None:
        nonlocal count
        count += isinstance(item, h5py.Dataset)

    with h5py.File(path) as file:
        file.visititems(visit)
    return count


def _is_preprocessing(layer) -> bool:
    from keras import layers

    return isinstance(layer, (layers.Rescaling, layers.Normalization))


def _names(network) -> dict[str, str]:
    """A name for each layer; those that Keras numbers through the whole process are numbered anew."""
    counts = collections.Counter()
    names = {}
    for layer in network.layers:
        numbered = _NUMBERED.fullmatch(layer.name)
        names[layer.name] = f"{numbered[1]}_{counts[numbered[1]]}" if numbered else layer.name
        counts.update([numbered[1]] if numbered else [])
    return names
