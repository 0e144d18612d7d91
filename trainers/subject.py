"""What is evaluated: a model out of a work directory, or an exported one, and what is known of its training."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping

import keras
import tensorflow as tf
from tensorflow.core.util import event_pb2

from pipeline import documents
from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS
from pipeline.staging import file_digest
from trainers import evaluation_files as files
from trainers import leakage, prediction
from trainers import model as models
from trainers.leakage import Ancestor
from trainers.prediction import Predictor

#: What `export` writes beside a SavedModel, as far as it matters here.
_DESCRIPTION = os.path.join("assets.extra", "model.json")
_DATASET = {"name": str, "digest": str, "train_split": str, "validation_split": str}
_DESCRIBED = {"dataset": _DATASET, "num_classes": int, "recipe": str, "backbone": str}
#: Fields of `model.json` that a training's configuration has, too.
_CONFIGURED = ("backbone", "recipe", "num_classes", "tta_flip")
_ANCESTORS = {"started_from": [{"name": str, "dataset": (_DATASET, None)}]}
#: How often a model is read that a training replaces meanwhile.
_READINGS = 5


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and its origin.

    Attributes:
      predictor: how it is called.
      keras: the Keras model; None for an exported one.
      about: name, path, sha256, parameters, bytes, training_seconds, and, when known, recipe, backbone and tta_flip.
      classes: names of those that it can predict.
      trained_on: "dataset" of its `environment.json`; None when nobody knows.
      history: the rows of its `history.csv`; () when nobody knows.
      ancestors: the models that its training started from.
    """

    predictor: Predictor
    keras: keras.Model | None
    about: Mapping
    classes: tuple[str, ...]
    trained_on: Mapping | None
    history: tuple[Mapping[str, float], ...]
    ancestors: tuple[Ancestor, ...] = ()


def from_workdir(workdir: str, *, batch_size: int) -> Subject:
    """The best model of a training, in float32 as it is exported; the training may still be running.

    Raises:
      DataError: the directory is not that of a training, or a file of it is damaged.
    """
    environment = leakage.read_environment(workdir)
    path = os.path.join(workdir, "best.keras")
    if not os.path.isfile(path):
        raise DataError(f"{path} is missing; the training in {workdir} has not come to the end of an epoch yet")
    for _ in range(_READINGS):
        digest = file_digest(path)
        model = models.load(path, precision="float32")
        if file_digest(path) == digest:  # else a training has replaced it, and nobody knows which one was loaded
            break
    else:
        raise DataError(f"{path} was replaced each of the {_READINGS} times that it was read; wait for its training")
    answering = models.answering(model, leakage.read_config(workdir))
    predictor = prediction.from_keras(answering, batch_size=batch_size)
    return _subject(predictor, model, path, digest, workdir, environment)


def from_export(folder: str, workdir: str, *, batch_size: int) -> Subject:
    """An exported model.

    Args:
      folder: the SavedModel.
      workdir: of its training; "" is the one that the folder lies in as WORKDIR/export/NUMBER, if it is one.
      batch_size: of its calls.

    Raises:
      DataError: the folder holds no model of ours, or `workdir` is not that of a training.
    """
    above = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    if not workdir and os.path.isfile(os.path.join(above, "environment.json")):
        workdir = above
    environment = leakage.read_environment(workdir) if workdir else None
    described = _read_description(folder)
    if described and environment:
        _check_origin(folder, described, workdir, environment)
    predictor = prediction.from_saved_model(folder, batch_size=batch_size)
    return _subject(predictor, None, folder, fingerprint(folder), workdir, environment, described)


def fingerprint(path: str) -> str:
    """sha256 of a model: of the file, or of a SavedModel's graph and variables."""
    if os.path.isfile(path):
        return file_digest(path)
    variables = os.path.join(path, "variables")
    stored = [os.path.join(path, "saved_model.pb")]
    if os.path.isdir(variables):
        stored += [os.path.join(variables, name) for name in sorted(os.listdir(variables))]
    digests = [file_digest(file) for file in stored]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_origin(folder: str, described: Mapping, workdir: str, environment: Mapping) -> None:
    """Raises DataError where `model.json` contradicts the training that the export is said to be of."""
    config = leakage.read_config(workdir)
    pairs = {
        f"the dataset's {field}": (described["dataset"][field], environment["dataset"][field])
        for field in ("digest", "train_split", "validation_split")
    }
    pairs |= {field: (described[field], getattr(config, field)) for field in _CONFIGURED if field in described}
    ancestors = leakage.ancestors(config)
    # One that is gone since the export has lost its name.
    if "started_from" in described and all(one.trained_on for one in ancestors):
        names = [one["name"] for one in described["started_from"]], [one.name for one in ancestors]
        pairs["started_from"] = names
    for field, (own, other) in pairs.items():
        if own != other:
            raise DataError(
                f"{folder} is not of the training in {workdir}: its model.json has {field} {own!r}, the training has "
                f"{other!r}; give the --workdir of its training, or none"
            )


def _subject(
    predictor: Predictor,
    model: keras.Model | None,
    path: str,
    digest: str,
    workdir: str,
    environment: Mapping | None,
    described: Mapping | None = None,
) -> Subject:
    about = {
        "name": os.path.basename(os.path.abspath(workdir or path)),
        "path": path,
        "sha256": digest,
        "parameters": predictor.parameters,
        "bytes": _size(path),
        "training_seconds": None,
    }
    classes, trained_on, ancestors, history = EXPRESSIONS, None, (), ()
    if workdir:
        config = leakage.read_config(workdir)
        about |= {name: getattr(config, name) for name in ("recipe", "backbone", "tta_flip")}
        about["training_seconds"] = _logged_seconds(workdir)
        classes = EXPRESSIONS[: config.num_classes]
        trained_on, ancestors = environment["dataset"], leakage.ancestors(config)
        history = files.read_history(os.path.join(workdir, "history.csv"))
    elif described:
        about |= {name: described[name] for name in ("recipe", "backbone", "tta_flip") if name in described}
        classes = EXPRESSIONS[: described["num_classes"]]
        trained_on = described["dataset"] | {"folder": ""}
        ancestors = tuple(
            Ancestor(one["name"], one["dataset"] and one["dataset"] | {"folder": ""})
            for one in described.get("started_from", ())
        )
    return Subject(predictor, model, about, classes, trained_on, history, ancestors)


def _read_description(folder: str) -> dict | None:
    """`model.json` of an export; None when there is none.

    Raises:
      DataError: it is damaged; names the field.
    """
    path = os.path.join(folder, _DESCRIPTION)
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        data = file.read()
    try:
        described = documents.parse(data, _DESCRIBED, path)
        if "started_from" in described:
            documents.parse(data, _ANCESTORS, path)
    except DataError as error:
        raise DataError(f"{str(error).split('; ')[0]}; export the model again") from None
    return described


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _logged_seconds(workdir: str) -> float | None:
    """How long the training ran, by its TensorBoard logs: each file is of one process, without a pause."""
    seconds = None
    for folder, _, names in os.walk(os.path.join(workdir, "logs")):
        for name in (name for name in names if "tfevents" in name):
            times = []
            try:
                for record in tf.data.TFRecordDataset(os.path.join(folder, name)).as_numpy_iterator():
                    times.append(event_pb2.Event.FromString(record).wall_time)
            except tf.errors.DataLossError:  # of a killed run: the last event is cut
                pass
            if times:
                seconds = (seconds or 0.0) + max(times) - min(times)
    return seconds
