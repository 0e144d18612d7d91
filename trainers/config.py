"""What one training run is asked to do: a frozen object that checks itself. Standard library only.

    config = TrainConfig(data_dir="DATA", name="NAME", backbone="mobilenet_v2", phases=("heads@0", "all@5:1e-4"))

Every field is a flag of `python -m trainers.train`; its help text stands beside it.
"""

import dataclasses
import json
import math
import os
from typing import Any, get_args, get_origin

from datasets.augmentation import AugmentConfig
from pipeline.errors import UsageError
from pipeline.records import DATASET, VERSION
from trainers.backbones import BACKBONES

#: In the order of `loss_weights`.
HEADS = ("expression", "valence", "arousal")
NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
WHAT = "heads, all, top:N (the last N layers of the backbone) or stages:K (its last K stages)"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the training in which the same layers are trained; the schedule begins anew with each.

    Attributes:
      first_epoch: the first one of the phase, from 0.
      what: "heads", "all", "top:N" or "stages:K"; the heads are trained in every phase.
      learning_rate: the highest of the phase's schedule.
    """

    first_epoch: int
    what: str
    learning_rate: float


def _field(
    default: Any,
    text: str,
    *,
    choices: tuple = (),
    low: float | None = None,
    high: float = math.inf,
    decides: bool = True,
) -> Any:
    """A field with what it accepts and its help.

    Args:
      default: its value in a bare TrainConfig.
      text: the help of its flag.
      choices: the values of it, or of each item of a tuple; () is any.
      low, high: the range of a number, or of each item of a tuple; finite.
      decides: whether the result of a run depends on it.
    """
    metadata = {"help": text, "choices": choices, "low": low, "high": high, "decides": decides}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run; `dataclasses.fields` gives each field's type, default and, in its metadata, help.

    Raises:
      UsageError: with the field, what was received and what is accepted.
    """

    data_dir: str = _field("", "directory that datasets are kept in", decides=False)
    name: str = _field("", "name of the dataset in it")
    train_split: str = _field("train", "split, or slice as in 'train[:80%]', to learn from")
    validation_split: str = _field("validation", "split or slice that chooses the best epoch")
    recipe: str = _field("", "recipe that these values came from", decides=False)

    backbone: str = _field("efficientnet_b0", "convolutional network", choices=tuple(BACKBONES))
    width: float = _field(1.0, "multiplier of the channels of mobilenet_v2 or custom_cnn", low=0.1)
    image_size: int = _field(0, "side of the images in pixels; 0 is the backbone's own", low=0, high=1024)
    weights: str = _field("none", "of the backbone at the start: none (random), imagenet, or a weights file")
    init: str = _field("", "work directory or .keras file of an earlier run to start from")
    heads: tuple[str, ...] = _field(HEADS, "what the model predicts", choices=HEADS)
    num_classes: int = _field(8, "7 is without contempt, whose faces then have no expression", choices=(7, 8))
    shared_units: tuple[int, ...] = _field((512,), "units of the dense layers that all heads share", low=1, high=65_536)
    expression_units: int = _field(0, "units of the expression head's own dense layer; 0 is none", low=0, high=65_536)
    valence_units: int = _field(0, "units of the valence head's own dense layer; 0 is none", low=0, high=65_536)
    arousal_units: int = _field(0, "units of the arousal head's own dense layer; 0 is none", low=0, high=65_536)
    dropout: float = _field(0.0, "fraction of units dropped before each dense layer and output", low=0, high=0.99)

    expression_loss: str = _field("cross_entropy", "loss of the expression", choices=("cross_entropy",))
    targets: str = _field("soft", "of the expression: vote shares or the label alone", choices=("soft", "hard"))
    label_smoothing: float = _field(0.0, "part of an expression target spread over all classes", low=0, high=0.99)
    affect_loss: str = _field("mse", "loss of valence and arousal", choices=("mse", "mae", "ccc", "ccc+mse"))
    loss_weights: tuple[float, ...] = _field((1.0, 1.0, 1.0), "of expression, valence and arousal", low=0)
    weighting: str = _field("fixed", "loss weights alone, or also learned ones", choices=("fixed", "uncertainty"))
    balance: str = _field(
        "none", "against rare classes; the weight of a target is the mean over its vote shares",
        choices=("none", "weights", "resample"),
    )  # fmt: skip
    max_class_weight: float = _field(10.0, "largest class weight", low=1)

    flip: bool = _field(True, "mirror left and right at random")
    rotation: float = _field(15.0, "largest rotation in degrees")
    zoom: float = _field(0.1, "largest change of scale, a fraction")
    translation: float = _field(0.1, "largest shift, a fraction of the side")
    brightness: float = _field(0.1, "largest change of brightness, a fraction of 255")
    contrast: float = _field(0.1, "largest change of contrast, a fraction")
    rand_augment: str = _field("0", "RandAugment as TRANSFORMS,MAGNITUDE, for example 2,0.5; 0 is off")
    cutout: float = _field(0.0, "largest side of the blackened rectangle, a fraction; 0 is off")
    mixup: float = _field(0.0, "alpha of mixup; 0 is off")
    cutmix: float = _field(0.0, "alpha of CutMix; 0 is off")
    tta_flip: bool = _field(
        False, "evaluation and export answer with the mean over an image and its mirror image, at twice the cost"
    )
    augment_place: str = _field("pipeline", "where batches are augmented", choices=("pipeline", "device"))

    optimizer: str = _field("adam", "sgd has a momentum of 0.9", choices=("adam", "adamw", "sgd"))
    learning_rate: float = _field(1e-3, "the highest of the schedule", low=1e-12)
    schedule: str = _field(
        "constant", "of the rate, within each phase; cosine ends at 0", choices=("constant", "cosine")
    )
    warmup_epochs: float = _field(0.0, "epochs at each phase's start in which the rate rises from 0", low=0)
    weight_decay: float = _field(0.0, "decoupled for adamw, else times the squared weights in the loss", low=0, high=10)
    clip_norm: float = _field(0.0, "largest norm of the gradient of all weights together; 0 is any", low=0)
    epochs: int = _field(20, "passes over the training split", low=1, high=100_000)
    phases: tuple[str, ...] = _field((), f"WHAT@FIRST_EPOCH[:LEARNING_RATE], …; WHAT is {WHAT}; none is all@0")
    batch_size: int = _field(32, "examples of a step, on all devices together", low=1, high=65_536)
    seed: int = _field(0, "of the initial weights, the order and every augmentation", low=0, high=2**31 - 1)
    ema: float = _field(0.0, "decay of the averaged weights that are scored and saved; 0 is off", low=0, high=0.99999)

    monitor: str = _field(
        "loss", "what chooses the best epoch, on validation", choices=("loss", "accuracy", "macro_f1", "ccc", "score")
    )
    early_stopping: int = _field(0, "epochs without a better one that end the training; 0 is never", low=0)
    plateau_patience: int = _field(0, "epochs without a better one that lower the rate; 0 is never", low=0)
    plateau_factor: float = _field(0.5, "by which the rate is lowered then", low=0.01, high=0.99)
    min_learning_rate: float = _field(0.0, "floor of that", low=0)

    precision: str = _field(
        "auto", "of the layers but the heads", choices=("auto", "float32", "mixed_bfloat16", "mixed_float16")
    )
    xla: bool = _field(False, "compile the training step with XLA")
    distribute: str = _field("none", "mirrored is over all devices of this machine", choices=("none", "mirrored"))
    cache: str = _field(
        "auto", "of the training split in memory", choices=("none", "encoded", "decoded", "auto"), decides=False
    )
    num_threads: int = _field(0, "decoding threads; 0 is one per core", low=0, high=1024, decides=False)
    save_minutes: float = _field(10.0, "time between saves of the state within an epoch", low=0, decides=False)
    stall_minutes: float = _field(10.0, "time without a step that ends the run; 0 is never", low=0, decides=False)
    tensorboard: bool = _field(True, "write logs for TensorBoard", decides=False)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check_field(field)
        self._check_model()
        self._check_heads()
        self._require(
            not (self.xla and self.distribute == "mirrored"), "xla",
            "False with --distribute=mirrored: XLA compiles for one device",
        )  # fmt: skip
        self.augment, self.training_phases  # noqa: B018 - each raises when its fields are not accepted

    def _check_field(self, field: dataclasses.Field) -> None:
        value, kind, several = getattr(self, field.name), field.type, get_origin(field.type) is tuple
        if several:
            kind = get_args(field.type)[0]
            self._require(isinstance(value, tuple), field.name, f"a tuple of {kind.__name__}")
        items = value if several else (value,)
        choices, low, high = (field.metadata[name] for name in ("choices", "low", "high"))
        self._require(all(_is_a(item, kind) for item in items), field.name, f"{NOUNS[kind]}{' each' * several}")
        if choices:
            self._require(set(items) <= set(choices), field.name, f"one of {', '.join(map(str, choices))}")
        if low is not None:
            accepted = f"{NOUNS[kind]} {f'from {low:g} to {high:g}' if high < math.inf else f'of at least {low:g}'}"
            self._require(all(low <= item <= high and item < math.inf for item in items), field.name, accepted)

    def _check_model(self) -> None:
        row = BACKBONES[self.backbone]
        self._require(
            row.widths[0] <= self.width <= row.widths[1], "width",
            f"{row.widths[0]:g} to {row.widths[1]:g} with {self.backbone}",
        )  # fmt: skip
        self._require(
            self.image_size == 0 or row.min_size <= self.image_size <= 1024, "image_size",
            f"{row.min_size} to 1024 with {self.backbone}, or 0 for its own {row.image_size}",
        )  # fmt: skip
        self._require(self.weights, "weights", "none, imagenet or a file")
        self._require(
            self.weights != "imagenet" or row.application, "weights",
            f"none or a file: nobody publishes weights of {self.backbone}",
        )  # fmt: skip

    def _check_heads(self) -> None:
        """Fields that need a head, or another field."""
        has_expression, has_affect = "expression" in self.heads, {"valence", "arousal"} & set(self.heads)
        self._require(self.heads and len(set(self.heads)) == len(self.heads), "heads", "at least one, each once")
        self._require(len(self.loss_weights) == len(HEADS), "loss_weights", f"three numbers, for {', '.join(HEADS)}")
        self._require(
            any(self.loss_weight(head) for head in self.heads), "loss_weights", "a weight above 0 for some head"
        )
        self._require(has_expression or self.balance == "none", "balance", "none without the expression head")
        self._require(
            has_expression or self.monitor not in ("accuracy", "macro_f1"), "monitor",
            "loss, ccc or score without the expression head",
        )  # fmt: skip
        self._require(
            has_affect or self.monitor != "ccc", "monitor",
            "loss, accuracy, macro_f1 or score without valence and arousal",
        )  # fmt: skip
        self._require(self.targets == "soft" or not (self.mixup or self.cutmix), "targets", "soft with mixup or cutmix")

    def _require(self, holds: Any, name: str, accepted: str) -> None:
        if not holds:
            raise UsageError(f"--{name}={_written(getattr(self, name))} is not accepted; give {accepted}")

    @property
    def dataset_dir(self) -> str:
        """DATA_DIR/affect_faces/NAME/1.0.0.

        Raises:
          UsageError: data_dir or name is empty, as in a recipe.
        """
        self._require(self.data_dir, "data_dir", "the directory that datasets are kept in")
        self._require(self.name, "name", "the name of the dataset")
        return os.path.join(self.data_dir, DATASET, self.name, VERSION)

    @property
    def input_size(self) -> int:
        """Side of the model's images in pixels."""
        return self.image_size or BACKBONES[self.backbone].image_size

    @property
    def augment(self) -> AugmentConfig:
        """The augmentations of the training stream."""
        rand_augment = 0
        if self.rand_augment != "0":
            transforms, _, magnitude = self.rand_augment.partition(",")
            try:
                rand_augment = (int(transforms), float(magnitude))
            except ValueError:
                self._require(False, "rand_augment", "0 (off) or TRANSFORMS,MAGNITUDE as in 2,0.5")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(AugmentConfig)}
        return AugmentConfig(**values | {"rand_augment": rand_augment})

    @property
    def training_phases(self) -> tuple[Phase, ...]:
        """The phases in order; the first begins with epoch 0."""
        phases = tuple(self._phase(text) for text in self.phases) or (Phase(0, "all", self.learning_rate),)
        starts = [phase.first_epoch for phase in phases]
        self._require(
            starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < self.epochs,
            "phases",
            f"phases of which the first begins at epoch 0, each later than the one before, all below {self.epochs}",
        )
        return phases

    def _phase(self, text: str) -> Phase:
        what, _, start = text.partition("@")
        epoch, _, rate = start.partition(":")
        kind, colon, count = what.partition(":")
        try:
            phase = Phase(int(epoch), what, float(rate) if rate else self.learning_rate)
            accepted = kind in ("top", "stages") and int(count) > 0 if colon else what in ("heads", "all")
        except ValueError:
            accepted = False
        self._require(
            accepted and 0 < phase.learning_rate < math.inf, "phases",
            f"WHAT@FIRST_EPOCH[:LEARNING_RATE], … where WHAT is {WHAT}",
        )  # fmt: skip
        return phase

    def loss_weight(self, head: str) -> float:
        """The weight of a head's loss."""
        return self.loss_weights[HEADS.index(head)]

    def head_units(self, head: str) -> int:
        """Units of a head's own dense layer; 0 is none."""
        return getattr(self, f"{head}_units")


def to_json(config: TrainConfig) -> str:
    """The configuration as a JSON document, one field a line, in the order of the class."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> TrainConfig:
    """Undoes `to_json`; a field that the document leaves out has its default.

    Raises:
      UsageError: the text is no such document, or a field is unknown or not accepted.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the configuration is no JSON document ({error}); give what to_json wrote") from None
    if not isinstance(values, dict):
        raise UsageError(f"the configuration is a JSON {type(values).__name__}; it must be an object of fields")
    return replace(TrainConfig(), values)


def replace(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """The configuration with other values of some fields; a list becomes a tuple.

    Raises:
      UsageError: a field is unknown (the message lists those there are) or its value not accepted.
    """
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no such field of a configuration; there are {', '.join(names)}")
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return dataclasses.replace(config, **tuples)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """ "field: old -> new" for each field that decides the result of a run and differs."""
    return [
        f"{field.name}: {_written(getattr(old, field.name))} -> {_written(getattr(new, field.name))}"
        for field in dataclasses.fields(TrainConfig)
        if field.metadata["decides"] and getattr(old, field.name) != getattr(new, field.name)
    ]


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _written(value: Any) -> str:
    """A value as it stands behind a flag."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
