"""What stands beside the graph: `model.json` and `labels.txt` for programs, the model card for people."""

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from export import model_card, serving
from export.smaller_forms import Row
from pipeline.records import EXPRESSIONS
from trainers import leakage
from trainers.config import TrainConfig

FORMAT = 1
EXTRA = "assets.extra"
#: Fields of a dataset that are no path of this machine.
_DATASET = ("name", "digest", "train_split", "validation_split", "examples")


def write(
    folder: Path,
    *,
    model: keras.Model,
    config: TrainConfig,
    environment: Mapping,
    conversion: Mapping,
    parity: Mapping,
    scores: Mapping | None,
    forms: Sequence[Row],
) -> None:
    """Writes the three files; no path of this machine is in them.

    Args:
      folder: of the version.
      model: what was exported.
      config, environment: of the training.
      conversion: the settings that its dataset was made with; {} when nobody knows.
      parity: the faces that were asked, and the largest differences.
      scores: of `model_card.scores`.
      forms: the table of the smaller forms; may be empty.
    """
    document = {
        "format": FORMAT,
        "backbone": config.backbone,
        "recipe": config.recipe,
        "parameters": model.count_params(),
        "image_size": config.input_size,
        "tta_flip": config.tta_flip,
        "max_pixels": serving.MAX_PIXELS,
        "heads": list(model.output),
        "class_names": list(EXPRESSIONS),
        "num_classes": config.num_classes,
        "dataset": _without_folder(environment["dataset"]),
        "started_from": [
            {"name": one.name, "dataset": one.trained_on and _without_folder(one.trained_on)}
            for one in leakage.ancestors(config)
        ],
        "conversion": conversion,
        "parity": parity,
        "scores": scores,
        "forms": [_without_nan(row) for row in forms],
        "versions": {
            "training": environment["versions"],
            "export": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
            },
        },
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / EXTRA).mkdir()
    (folder / EXTRA / "model.json").write_text(text + "\n", encoding="utf-8")
    (folder / EXTRA / "labels.txt").write_text("\n".join(EXPRESSIONS) + "\n", encoding="utf-8")
    (folder / "model_card.md").write_text(model_card.render(document), encoding="utf-8")


def _without_folder(dataset: Mapping) -> dict:
    return {name: value for name, value in dataset.items() if name in _DATASET}


def _without_nan(row: Row) -> dict:
    figures = {name: value if math.isfinite(value) else None for name, value in row.scores.items()}
    return dataclasses.asdict(row) | {"scores": figures}
