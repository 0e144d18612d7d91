"""The model: one image in, a dict of heads out, as one flat graph whose every layer can be reached by name.

    model = build(config)
    for sentence in initialise(model, config):
        print(sentence)
    set_trainable(model, "stages:2")
    model(images)  # {"expression": [N, 8], "valence": [N, 1], "arousal": [N, 1]}

The order is: `image`, `normalise`, the backbone, `pooling`, the shared layers, the heads. All from `pooling` on is
float32 under any precision.
"""

import json
import os
import zipfile

from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from trainers import networks
from trainers.backbones import BACKBONES
from trainers.config import HEADS, TrainConfig

BEST = "best.keras"
#: Where the layers come from that a saved model may hold.
_MODULES = ("keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints")
_INTERNAL = ("keras.src.models.", "keras.src.ops.")
#: Layers that run code or models from elsewhere.
_FOREIGN = ("Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper")
_MASKED = -1e9
_LOGITS, _MASK = "expression_logits", "expression_mask"


def build(config: TrainConfig):
    """A new model with random weights.

    Args:
      config: what to build; the precision "auto" is float32 here, because which is best depends on the device.

    Returns:
      a keras.Model from `image`, uint8 or float [N, S, S, 3] of 0 to 255, to a dict of the configuration's heads:
      expression, probabilities [N, 8] that sum to 1; valence and arousal [N, 1] in [-1, 1]; all float32.
    """
    import keras
    from keras import layers

    network = networks.construct(config.backbone, image_size=config.input_size, width=config.width)
    backbone = networks.lay_out(
        network,
        normalisation=BACKBONES[config.backbone].normalisation,
        precision="float32" if config.precision == "auto" else config.precision,
    )
    x = layers.GlobalAveragePooling2D(name="pooling", dtype="float32")(backbone.output)
    for number, units in enumerate(config.shared_units, 1):
        x = _dense(x, units, f"shared{number}", config.dropout)
    outputs = {head: _head(x, head, config) for head in HEADS if head in config.heads}
    return keras.Model(backbone.input, outputs, name=config.backbone)


def load(path: str, *, precision: str = "float32"):
    """A model that `build` made and Keras saved, whatever it was trained in.

    Args:
      path: a .keras file, or the work directory that holds it.
      precision: Keras' dtype policy of the backbone.

    Raises:
      DataError: there is no such file, it is damaged, not a model of ours, or holds more than layers of Keras.
    """
    import keras

    path = os.path.join(path, BEST) if os.path.isdir(path) else path
    model = _read(path)
    outputs = model.output if isinstance(model.output, dict) else {}
    if not outputs or not set(outputs) <= set(HEADS) or model.name not in BACKBONES:
        raise DataError(
            f"{path} is no model of ours: its outputs must be {', '.join(HEADS)}; give one that was trained here"
        )
    own = {layer.name for layer in backbone_layers(model)}

    def rebuild(operation):
        settings = operation.get_config()
        if operation.name in own:
            settings["dtype"] = "float32" if operation.name == "normalise" else precision
        return type(operation).from_config(settings)

    rebuilt = keras.models.clone_model(model, clone_function=rebuild)
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def answering(model, config: TrainConfig):
    """The model that is scored and exported: with `tta_flip` the mean of what the trained one says of an image and of
    its mirror image, else the trained one itself.

    Args:
      model: of `load`.
      config: that it was trained with.
    """
    if not config.tta_flip:
        return model
    import keras

    image = keras.Input(model.input_shape[1:], name="image", dtype=model.inputs[0].dtype)
    both = [model(image), model(keras.ops.flip(image, axis=2))]
    means = {head: keras.layers.Average(name=head)([answer[head] for answer in both]) for head in model.output}
    return keras.Model(image, means, name=model.name)


def initialise(model, config: TrainConfig) -> list[str]:
    """Fills a new model with the weights that the configuration names; `init` gives all that `weights` would.

    Returns:
      a sentence for each source: what came from it, and which layers stay new.

    Raises:
      UsageError, DataError, EnvironmentFault: as `networks.load_weights` and `load`; DataError when a source is of
        another backbone.
    """
    if config.init:
        _require_file("init", os.path.join(config.init, BEST) if os.path.isdir(config.init) else config.init)
        return [_start_from(config.init, model)]
    if config.weights == "none":
        return []
    if config.weights.endswith(".keras"):
        _require_file("weights", config.weights)
        _copy(_read(config.weights), backbone_layers(model), config.weights)
    else:
        network = networks.construct(config.backbone, image_size=config.input_size, width=config.width)
        networks.load_weights(network, config.backbone, config.weights, width=config.width)
        networks.transfer(network, model)
    return [f"backbone: weights of {config.weights}"]


def _require_file(flag: str, path: str) -> None:
    if not os.path.isfile(path):
        raise UsageError(f"--{flag}: {path} does not exist; give a .keras file, or a work directory with a saved model")


def _start_from(path: str, model) -> str:
    """Fills what an earlier model has, too, and says what it lacks."""
    earlier, own = load(path), backbone_layers(model)
    _copy(earlier, own, path)
    heads = [layer for layer in model.layers if layer.weights and layer not in own]
    untaught = _LOGITS if _is_masked(earlier) and not _is_masked(model) else None  # its eighth class never learned
    new = [layer.name for layer in heads if layer.name == untaught or not _copy_layer(earlier, layer)]
    return f"start: weights of {path}; new: {', '.join(new) or 'none'}"


def _is_masked(model) -> bool:
    """Whether it has seven classes."""
    return any(layer.name == _MASK for layer in model.layers)


def backbone_layers(model) -> list:
    """The layers before `pooling`, from the input on."""
    names = [layer.name for layer in model.layers]
    return model.layers[: names.index("pooling")]


def set_trainable(model, what: str) -> None:
    """Says which part of the backbone learns; the heads always do.

    Batch normalisation of the rest runs in inference mode, as Keras has it. What was compiled before stays as it was.

    Args:
      model: of `build`.
      what: "heads", "all", "top:N" (the backbone's last N layers) or "stages:K" (its last K stages, see
        `trainers.backbones`); more than there are is all.
    """
    layers = backbone_layers(model)
    kind, _, count = what.partition(":")
    first = {"heads": len(layers), "all": 0}.get(kind)
    if kind == "top":
        first = max(0, len(layers) - int(count))
    elif kind == "stages":
        stages = BACKBONES[model.name].stages
        begins = [next(i for i, layer in enumerate(layers) if layer.name.startswith(stage)) for stage in stages]
        first = 0 if int(count) >= len(begins) else begins[-int(count)]
    for index, layer in enumerate(layers):
        layer.trainable = index >= first


def _dense(x, units: int, name: str, dropout: float):
    from keras import layers

    return layers.Dense(units, "relu", name=name, dtype="float32")(_drop(x, name, dropout))


def _drop(x, name: str, dropout: float):
    from keras import layers

    return layers.Dropout(dropout, name=f"{name}_dropout", dtype="float32")(x) if dropout else x


def _head(x, head: str, config: TrainConfig):
    """expression: probabilities [N, 8]; valence, arousal: [N, 1] in [-1, 1]."""
    from keras import layers

    if config.head_units(head):
        x = _dense(x, config.head_units(head), f"{head}_hidden", config.dropout)
    x = _drop(x, head, config.dropout)
    if head != "expression":
        return layers.Dense(1, "tanh", name=head, dtype="float32")(x)
    x = layers.Dense(len(EXPRESSIONS), name=_LOGITS, dtype="float32")(x)
    if config.num_classes < len(EXPRESSIONS):
        offset = [0.0] * config.num_classes + [_MASKED] * (len(EXPRESSIONS) - config.num_classes)
        x = layers.Rescaling(1.0, offset, name=_MASK, dtype="float32")(x)
    return layers.Activation("softmax", name="expression", dtype="float32")(x)


def _copy(source, layers: list, path: str) -> None:
    """Fills all of `layers` from those of the same name."""
    missing = [layer.name for layer in layers if layer.weights and not _copy_layer(source, layer)]
    if missing:
        raise DataError(
            f"{path} holds the network {source.name!r} of other layers: {missing[0]} and {len(missing) - 1} more have "
            "no counterpart in it; give the backbone and width that it was made with"
        )


def _copy_layer(source, layer) -> bool:
    """Fills a layer from the one of the same name, if it has the same shapes."""
    found = next((other for other in source.layers if other.name == layer.name), None)
    if found is None or [weight.shape for weight in found.weights] != [weight.shape for weight in layer.weights]:
        return False
    layer.set_weights(found.get_weights())
    return True


def _read(path: str):
    """Loads a .keras file that holds nothing but layers of Keras."""
    import keras

    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist; give a .keras file, or a work directory in which a model was saved")
    try:
        with zipfile.ZipFile(path) as archive:
            foreign = _foreign_parts(json.loads(archive.read("config.json")))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .keras file, or a damaged one: {error}") from None
    if foreign:
        raise DataError(
            f"{path} is refused: it holds {', '.join(sorted(foreign))}, which may run code of its author; only models "
            "of Keras' own layers are loaded"
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a damaged or foreign file makes Keras raise
        raise DataError(f"{path} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from None


def _foreign_parts(part) -> set[str]:
    """Names of what is no layer of Keras itself, anywhere in a saved configuration."""
    if isinstance(part, list):
        return set().union(*map(_foreign_parts, part))
    if not isinstance(part, dict):
        return set()
    found = set().union(*map(_foreign_parts, part.values()))
    if "module" in part and "class_name" in part:
        module, name = str(part["module"]), str(part["class_name"])
        if name in _FOREIGN or not (module in _MODULES or module.startswith(_INTERNAL)):
            found.add(f"{module}.{name}")
    return found
