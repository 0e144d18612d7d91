"""From a work directory to a version that can be served: saved, asked in a fresh process, described, renamed.

export_model("WORKDIR")      # WORKDIR/export/1
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from datasets.selection import Selection
from export import faces, model_card, parity, serving, smaller_forms, versions
from export.smaller_forms import Margins
from pipeline import publishing
from pipeline.errors import DataError, EnvironmentFault, UsageError
from pipeline.records import EXPRESSIONS
from trainers import config as configuration
from trainers import leakage, prediction
from trainers import model as models

FORMATS = ("saved_model", *smaller_forms.FORMATS)
#: Faces that the export is checked with, in one batch.
CHECKED_FACES = 32
FORMAT = 1


def export_model(
    workdir: str | os.PathLike,
    *,
    formats: Sequence[str] = ("saved_model",),
    dataset_dir: str = "",
    margins: Margins = Margins(),  # noqa: B008 - frozen
    say: Callable[[str], None] = print,
) -> Path:
    """Exports the best model of a training as the next version in WORKDIR/export.

    Args:
      workdir: of the training.
      formats: of FORMATS; the SavedModel is always there.
      dataset_dir: the dataset that it was trained on, if it was moved.
      margins: what a smaller form may lose.
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
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format={name} is not accepted; give any of {','.join(FORMATS)}")
    smaller = [name for name in formats if name in smaller_forms.FORMATS]
    smaller_forms.require(smaller)
    workdir = Path(workdir)
    environment = leakage.read_environment(str(workdir))
    config = configuration.from_json((workdir / "config.json").read_text(encoding="utf-8"))
    trained_on = environment["dataset"]
    dataset, missing = _dataset(trained_on, dataset_dir)
    if smaller and not dataset:
        raise DataError(f"{missing}; --format={','.join(smaller)} needs it, to score what it makes: give --dataset_dir")
    with tf.device("CPU"):
        model = models.load(str(workdir))
    size = config.input_size
    if dataset:
        asked = faces.of_split(dataset, trained_on["validation_split"], size=size, count=CHECKED_FACES)
    else:
        say(f"{missing}; drawn faces take the place of its validation split")
        asked = faces.drawn(size=size, count=CHECKED_FACES)

    with versions.new_version(workdir / "export") as folder:
        try:
            serving.save(model, folder)
        except tf.errors.OpError as error:  # TensorFlow's own file system has no errno
            raise EnvironmentFault(
                f"{workdir / 'export'} cannot be written: {error.message}; check the disk's space, then export again"
            ) from None
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
                split=trained_on["validation_split"], margins=margins, say=say,
            )  # fmt: skip
            for line in smaller_forms.table(rows):
                say(line)
        document = {
            "format": FORMAT,
            "backbone": config.backbone,
            "recipe": config.recipe,
            "parameters": model.count_params(),
            "image_size": size,
            "max_pixels": serving.MAX_PIXELS,
            "heads": list(model.output),
            "class_names": list(EXPRESSIONS),
            "num_classes": config.num_classes,
            "dataset": {name: value for name, value in trained_on.items() if name != "folder"},
            "conversion": _conversion(dataset),
            "parity": {"faces": asked.source, **differences},
            "scores": model_card.scores(workdir),
            "forms": [_form(row) for row in rows],
            "versions": {
                "training": environment.get("versions", {}),
                "export": {
                    "python": sys.version.split()[0], "tensorflow": tf.__version__, "keras": keras.__version__,
                },
            },
        }  # fmt: skip
        _describe(folder, document)
    number = versions.numbers(workdir / "export")[-1]
    return workdir / "export" / str(number)


def _describe(folder: Path, document: dict) -> None:
    """Writes what people and programs read beside the graph."""
    extra = folder / "assets.extra"
    extra.mkdir()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (extra / "model.json").write_text(text + "\n", encoding="utf-8")
    (extra / "labels.txt").write_text("\n".join(EXPRESSIONS) + "\n", encoding="utf-8")
    (folder / "model_card.md").write_text(model_card.render(document), encoding="utf-8")


def _form(row: smaller_forms.Row) -> dict:
    """A row for JSON, which has no NaN."""
    figures = {name: value if np.isfinite(value) else None for name, value in row.scores.items()}
    return dataclasses.asdict(row) | {"scores": figures}


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
    count = min(smaller_forms.CALIBRATION_FACES, selection.count)
    return prediction.read_images(selection, np.arange(count) * selection.count // count, size)[1]


def _conversion(dataset: str) -> dict:
    """How the training dataset took its images in: `export.predict` does the same to photographs."""
    if not dataset:
        return {}
    with open(os.path.join(dataset, "manifest.json"), encoding="utf-8") as file:
        settings = json.load(file)["settings"]
    return {name: settings[name] for name in ("image_size", "min_side")}
