"""Has the model seen these images before? By the sha256 of their source bytes, so under any name, in any dataset.

The same picture stored otherwise (as another format, or cropped) has other bytes and is not found.
"""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasets.selection import Selection
from pipeline import documents, publishing
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS

_DATASET = {"folder": str, "name": str, "digest": str, "train_split": str, "validation_split": str}
_ENVIRONMENT = {"dataset": _DATASET}


def read_environment(workdir: str) -> dict:
    """`environment.json` of a work directory.

    Raises:
      DataError: it is missing or damaged; names the field.
    """
    path = os.path.join(workdir, "environment.json")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; --workdir is a directory that `python -m trainers.train` made"
        ) from None
    try:
        return documents.parse(data, _ENVIRONMENT, path)
    except DataError:
        raise DataError(f"{path} is damaged; it names the dataset that the model was trained on: train again") from None


def check(
    selection: Selection,
    trained_on: Mapping | None,
    *,
    allow_leak: bool = False,
    allow_selection_split: bool = False,
) -> dict:
    """Refuses examples that the model was trained on, or that its checkpoint was chosen on.

    Args:
      selection: what it is to be scored on.
      trained_on: "dataset" of its `environment.json`; None when nobody knows.
      allow_leak: score all the same, also where nothing can be checked.
      allow_selection_split: score on the split that chose the checkpoint.

    Returns:
      What was found, for `metrics.json`: checked, reason (why not), shared_with_train, shared_with_validation
      (numbers of images, None when unchecked), allowed, and trained_classes, the names of those that the training split
      has an example of (all eight when unchecked).

    Raises:
      DataError: there is a leak, or it cannot be checked, and it is not allowed.
    """
    found = {"checked": False, "reason": "", "shared_with_train": None, "shared_with_validation": None}
    found["trained_classes"] = list(EXPRESSIONS)
    try:
        train, validation = _splits(selection, trained_on)
    except DataError as error:
        if not allow_leak:
            raise DataError(
                f"whether the model has seen these images cannot be checked: {error}; --allow_leak scores all the same"
            ) from None
        return found | {"reason": str(error), "allowed": ["leak"]}
    shared = {"train": _shared(selection, train), "validation": _shared(selection, validation)}
    allowed = []
    for split, flag, allows, what in (
        ("train", "leak", allow_leak, "the model was trained on them"),
        ("validation", "selection_split", allow_selection_split, "they chose the checkpoint"),
    ):
        if not len(shared[split]):
            continue
        if not allows:
            name = trained_on[f"{split}_split"]
            raise DataError(
                f"{len(shared[split])} of {selection.count} images are in the {split} split {name!r} of "
                f"{trained_on['name']}, too: {what}, so the score would say little about other faces "
                f"(the first: {', '.join(shared[split][:3])}); score another split, or give --allow_{flag}"
            )
        allowed.append(flag)
    return found | {
        "checked": True,
        "shared_with_train": len(shared["train"]),
        "shared_with_validation": len(shared["validation"]),
        "trained_classes": _classes(train),
        "allowed": allowed,
    }


def _splits(selection: Selection, trained_on: Mapping | None) -> tuple[Selection, Selection]:
    """Training and validation split of the model.

    Raises:
      DataError: they are not to be had; says why.
    """
    if trained_on is None:
        raise DataError("nothing says what it was trained on (--workdir names the directory of its training)")
    folder = trained_on["folder"]
    if publishing.digest(selection.folder) == trained_on["digest"]:
        folder = selection.folder  # wherever it was moved to
    elif not os.path.isfile(os.path.join(folder, "manifest.json")):
        raise DataError(f"its dataset is not in {folder} any more")
    elif publishing.digest(folder) != trained_on["digest"]:
        raise DataError(f"{folder} now holds another dataset than the one that it was trained on")
    try:
        return tuple(Selection(folder, trained_on[f"{split}_split"], None) for split in ("train", "validation"))
    except UsageError as error:
        raise DataError(str(error)) from None


def _classes(train: Selection) -> list[str]:
    known, weights = np.unique(train.expression), train.class_weights(1.0)  # which count votes without a majority, too
    return [name for index, name in enumerate(EXPRESSIONS) if index in known or weights[index]]


def _shared(selection: Selection, other: Selection) -> list[str]:
    """Ids of the selection's images whose bytes the other has, too."""
    seen = pc.is_in(selection.column("sha256"), value_set=pa.chunked_array(other.column("sha256")).combine_chunks())
    rows = np.flatnonzero(seen.to_numpy())
    return selection.column("id").take(rows).to_pylist() if len(rows) else []
