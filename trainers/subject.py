"""What is evaluated: a model out of a work directory, or an exported one, and what is known of its training."""

import dataclasses
import os
from collections.abc import Mapping

import keras
import tensorflow as tf

from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS
from trainers import config as configuration
from trainers import evaluation_files as files
from trainers import leakage, prediction
from trainers import model as models
from trainers.prediction import Predictor


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and its origin.

    Attributes:
      predictor: how it is called.
      keras: the Keras model; None for an exported one.
      about: name, path, parameters, bytes, training_seconds, and, when known, recipe and backbone.
      classes: names of those that it can predict.
      trained_on: "dataset" of its `environment.json`; None when nobody knows.
      history: the rows of its `history.csv`; () when nobody knows.
    """

    predictor: Predictor
    keras: keras.Model | None
    about: Mapping
    classes: tuple[str, ...]
    trained_on: Mapping | None
    history: tuple[Mapping[str, float], ...]


def from_workdir(workdir: str, *, batch_size: int) -> Subject:
    """The best model of a training, in float32 as it is exported.

    Raises:
      DataError: the directory is not that of a training, or a file of it is damaged.
    """
    environment = leakage.read_environment(workdir)
    path = os.path.join(workdir, "best.keras")
    if not os.path.isfile(path):
        raise DataError(f"{path} is missing; the training in {workdir} has not come to the end of an epoch yet")
    model = models.load(path, precision="float32")
    return _subject(prediction.from_keras(model, batch_size=batch_size), model, path, workdir, environment)


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
    predictor = prediction.from_saved_model(folder, batch_size=batch_size)
    return _subject(predictor, None, folder, workdir, environment)


def _subject(
    predictor: Predictor, model: keras.Model | None, path: str, workdir: str, environment: Mapping | None
) -> Subject:
    about = {
        "name": os.path.basename(os.path.abspath(workdir or path)),
        "path": path,
        "parameters": predictor.parameters,
        "bytes": _size(path),
        "training_seconds": None,
    }
    classes, history = EXPRESSIONS, ()
    if workdir:
        config = _config(workdir)
        about |= {"recipe": config.recipe, "backbone": config.backbone, "training_seconds": _logged_seconds(workdir)}
        classes = EXPRESSIONS[: config.num_classes]
        history = files.read_history(os.path.join(workdir, "history.csv"))
    trained_on = environment["dataset"] if environment else None
    return Subject(predictor, model, about, classes, trained_on, history)


def _config(workdir: str) -> configuration.TrainConfig:
    path = os.path.join(workdir, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return configuration.from_json(file.read())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the directory of a training") from None


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
                for event in tf.compat.v1.train.summary_iterator(os.path.join(folder, name)):
                    times.append(event.wall_time)
            except tf.errors.DataLossError:  # of a killed run: the last event is cut
                pass
            if times:
                seconds = (seconds or 0.0) + max(times) - min(times)
    return seconds
