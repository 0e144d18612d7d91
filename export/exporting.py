"""From a work directory to a version that can be served: saved, asked in a fresh process, described, renamed.

export_model("WORKDIR")      # WORKDIR/export/1
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from datasets.selection import Selection
from export import converters, description, faces, model_card, parity, serving, smaller_forms, versions
from export.smaller_forms import Margins
from pipeline import publishing
from pipeline.errors import DataError, UsageError
from pipeline.staging import file_digest
from trainers import leakage, prediction
from trainers import model as models

FORMATS = ("saved_model", *converters.FORMATS)
#: Faces that the export is checked with, in one batch.
CHECKED_FACES = 32
_LOADS = 3


def export_model(
    workdir: str | os.PathLike,
    *,
    formats: Sequence[str] = ("saved_model",),
    dataset_dir: str = "",
    margins: Margins | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Exports the best model of a training as the next version in WORKDIR/export.

    Args:
      workdir: of the training.
      formats: of FORMATS; the SavedModel is always there.
      dataset_dir: the dataset that it was trained on, if it was moved.
      margins: what a smaller form may lose; None is Margins().
      say: takes each line about the export.

    Returns:
      the directory of the version.

    Raises:
      UsageError: a format is unknown.
      DataError: nothing was trained in the directory, or the smaller forms' dataset is not there.
      InvariantError: the SavedModel does not answer as the Keras model does.
      OutputBusyError: another export is writing there.
      EnvironmentFault: a package is missing, or the directory cannot be written.
    """
    smaller = _smaller(formats)
    workdir = Path(workdir)
    environment = leakage.read_environment(str(workdir))
    config = leakage.read_config(str(workdir))
    trained_on, size = environment["dataset"], config.input_size
    dataset, missing = _dataset(trained_on, dataset_dir)
    if smaller and not dataset:
        raise DataError(f"{missing}; --format={','.join(smaller)} needs it, to score what it makes: give --dataset_dir")
    model, sha256 = _load(workdir)
    with tf.device("CPU"):
        model = models.answering(model, config)
    if dataset:
        asked = faces.of_split(dataset, trained_on["validation_split"], size=size, count=CHECKED_FACES)
    else:
        say(f"{missing}; drawn faces take the place of its validation split")
        asked = faces.drawn(size=size, count=CHECKED_FACES)

    with versions.new_version(workdir / "export") as (folder, final):
        serving.save(model, folder)
        differences = parity.check(model, folder, asked)
        say(
            f"parity      {asked.source}, in a fresh process: serving_default differs by "
            f"{differences['serving_default']:.1e}, serving_bytes by {differences['serving_bytes']:.1e}"
        )
        rows = []
        if smaller:
            rows = smaller_forms.add(
                model, folder, smaller, calibration=lambda: _calibration(dataset, trained_on["train_split"], size),
                validation=Selection(dataset, trained_on["validation_split"], None),
                margins=margins or Margins(), say=say,
            )  # fmt: skip
            for line in smaller_forms.table(rows):
                say(line)
        description.write(
            folder, model=model, config=config, environment=environment, conversion=_conversion(dataset),
            parity={"faces": asked.source, **differences}, scores=model_card.scores(workdir, sha256=sha256), forms=rows,
        )  # fmt: skip
    return final


def _smaller(formats: Sequence[str]) -> list[str]:
    """The formats beside the SavedModel, their packages there."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format={name} is not accepted; give any of {','.join(FORMATS)}")
    smaller = [name for name in converters.FORMATS if name in formats]
    converters.require(smaller)
    return smaller


def _load(workdir: Path) -> tuple[keras.Model, str]:
    """The best model, and the sha256 of its file.

    Raises:
      DataError: there is none, or a training that still runs replaces it faster than it is read.
    """
    path = workdir / models.BEST
    for _ in range(_LOADS):
        sha256 = file_digest(path) if path.is_file() else ""
        with tf.device("CPU"):
            model = models.load(str(workdir))
        if file_digest(path) == sha256:
            return model, sha256
    raise DataError(f"{path} was replaced while it was read, {_LOADS} times; export again once the training rests")


def _dataset(trained_on: dict, dataset_dir: str) -> tuple[str, str]:
    """The folder of the training dataset, or "" and why there is none.

    Raises:
      DataError: `dataset_dir` is another dataset.
    """
    folder = dataset_dir or trained_on["folder"]
    if not publishing.is_complete(folder):
        missing = f"{trained_on['name']}, which the model was trained on, is not in {folder}"
    elif publishing.digest(folder) != trained_on["digest"]:
        missing = f"{folder} holds another dataset than {trained_on['name']}, which the model was trained on"
    else:
        return folder, ""
    if dataset_dir:
        raise DataError(f"{missing}; give the directory DATA_DIR/affect_faces/NAME/VERSION of that dataset")
    return "", missing


def _calibration(dataset: str, split: str, size: int) -> np.ndarray:
    """Faces spread evenly over the training split, uint8 [N, size, size, 3]."""
    selection = Selection(dataset, split, None)
    count = min(converters.CALIBRATION_FACES, selection.count)
    return prediction.read_images(selection, np.arange(count) * selection.count // count, size)[1]


def _conversion(dataset: str) -> dict:
    """How the training dataset took its images in: `export.predict` does the same to photographs."""
    if not dataset:
        return {}
    with open(os.path.join(dataset, "manifest.json"), encoding="utf-8") as file:
        settings = json.load(file)["settings"]
    return {name: settings[name] for name in ("image_size", "min_side")}
