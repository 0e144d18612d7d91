"""Has the model seen these images before? By the sha256 of their source bytes, so under any name, in any dataset.

The same picture stored otherwise (as another format, or cropped) has other bytes and is not found. Where images are
written as numbers in a table, as in FER-2013, the bytes are the text of the pixels: the same faces as files differ.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasets.selection import Selection
from pipeline import documents, publishing
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from trainers import config as configuration
from trainers.config import TrainConfig
from trainers.model import BEST

#: What the guard goes by, and what it therefore does not see.
METHOD = "sha256 of the source bytes (of the pixels' text, where a table holds them); re-encoded copies are not seen"

_DATASET = {"folder": str, "name": str, "digest": str, "train_split": str, "validation_split": str}
_ENVIRONMENT = {"dataset": _DATASET}
#: A document with less is no configuration: defaults would take the place of what was trained.
_CONFIG = {"backbone": str, "image_size": int, "num_classes": int, "heads": [str]}


@dataclasses.dataclass(frozen=True)
class Ancestor:
    """A model whose weights another one started from.

    Attributes:
      name: of its work directory or file, without the folders around it.
      trained_on: "dataset" of its `environment.json`; None when nobody knows.
    """

    name: str
    trained_on: Mapping | None


def read_environment(workdir: str) -> dict:
    """`environment.json` of a work directory.

    Raises:
      DataError: it is missing or damaged; names the field.
    """
    path = os.path.join(workdir, "environment.json")
    data = _read(path)
    try:
        return documents.parse(data, _ENVIRONMENT, path)
    except DataError:
        raise DataError(f"{path} is damaged; it names the dataset that the model was trained on: train again") from None


def read_config(workdir: str) -> TrainConfig:
    """`config.json` of a work directory.

    Raises:
      DataError: it is missing or damaged.
    """
    path = os.path.join(workdir, "config.json")
    data = _read(path)
    try:
        documents.parse(data, _CONFIG, path)
        return configuration.from_json(data.decode())
    except (DataError, UsageError, TypeError) as error:
        reason = str(error).split("; ")[0]
        raise DataError(f"{path} is damaged ({reason}); it says what was trained: train again") from None


def ancestors(config: TrainConfig) -> tuple[Ancestor, ...]:
    """The trained models that a training started from, and those that they started from."""
    found, seen, sources = [], set(), _sources(config)
    while sources:
        source = os.path.realpath(os.path.expanduser(sources.pop(0)))
        workdir, name = os.path.split(source) if source.endswith(".keras") else (source, BEST)
        if workdir + name in seen:
            continue
        seen.add(workdir + name)
        try:
            if name != BEST:
                raise DataError(f"{source} is no file of a work directory")
            trained_on, earlier = read_environment(workdir)["dataset"], read_config(workdir)
        except DataError:
            found.append(Ancestor(os.path.basename(source), None))
        else:
            found.append(Ancestor(os.path.basename(workdir), trained_on))
            sources += _sources(earlier)
    return tuple(found)


def check(
    selection: Selection,
    trained_on: Mapping | None,
    *,
    ancestors: Sequence[Ancestor] = (),
    allow_leak: bool = False,
    allow_selection_split: bool = False,
) -> dict:
    """Refuses examples that the model was trained on, or that its checkpoint was chosen on.

    Args:
      selection: what it is to be scored on.
      trained_on: "dataset" of its `environment.json`, where a folder of "" is unknown; None when nobody knows.
      ancestors: the models that it started from; their splits count as its own.
      allow_leak: score all the same, also where nothing can be checked.
      allow_selection_split: score on the split that chose the checkpoint.

    Returns:
      What was found, for `metrics.json`: method, checked, reason (why not), started_from (names of the ancestors),
      shared_with_train, shared_with_validation, shared_with_ancestors (numbers of images, None when unchecked),
      allowed, and trained_classes, the names of those that an example of the training split is of or has votes for (all
      eight when unchecked).

    Raises:
      DataError: there is a leak, or it cannot be checked, and it is not allowed.
    """
    found = {"method": METHOD, "checked": False, "reason": "", "started_from": [one.name for one in ancestors]}
    found |= dict.fromkeys(("shared_with_train", "shared_with_validation", "shared_with_ancestors"))
    found["trained_classes"] = list(EXPRESSIONS)
    try:
        train, validation = _splits(selection, trained_on)
        earlier = [(one, _ancestor_splits(selection, one)) for one in ancestors]
    except DataError as error:
        if not allow_leak:
            raise DataError(
                f"whether the model has seen these images cannot be checked: {error}; --allow_leak scores all the same"
            ) from None
        return found | {"reason": str(error), "allowed": ["leak"]}
    own = selection.image_keys()
    shared = {"train": _shared(selection, own, train), "validation": _shared(selection, own, validation)}
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
    inherited = set()
    for ancestor, splits in earlier:
        for flag, allows, split in zip(("leak", "selection_split"), (allow_leak, allow_selection_split), splits):
            seen = _shared(selection, own, split)
            if seen and not allows:
                raise DataError(
                    f"{len(seen)} of {selection.count} images were in the training of {ancestor.name}, which this "
                    f"model started from (the first: {', '.join(seen[:3])}); score others, or give --allow_{flag}"
                )
            inherited |= set(seen)
            allowed += [flag] * (bool(seen) and flag not in allowed)
    return found | {
        "checked": True,
        "shared_with_train": len(shared["train"]),
        "shared_with_validation": len(shared["validation"]),
        "shared_with_ancestors": len(inherited),
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
    elif not folder:
        raise DataError(
            f"it was trained on {trained_on['name']}, and nothing says where that is (--workdir names the directory of "
            "its training)"
        )
    elif not os.path.isfile(os.path.join(folder, "manifest.json")):
        raise DataError(f"its dataset is not in {folder} any more")
    elif publishing.digest(folder) != trained_on["digest"]:
        raise DataError(f"{folder} now holds another dataset than the one that it was trained on")
    try:
        return tuple(Selection(folder, trained_on[f"{split}_split"], None) for split in ("train", "validation"))
    except UsageError as error:
        raise DataError(str(error)) from None


def _ancestor_splits(selection: Selection, ancestor: Ancestor) -> tuple[Selection, Selection]:
    try:
        return _splits(selection, ancestor.trained_on)
    except DataError as error:
        reason = "nothing says what that was trained on" if ancestor.trained_on is None else str(error)
        raise DataError(f"it started from the weights of {ancestor.name}: {reason}") from None


def _sources(config: TrainConfig) -> list[str]:
    """The trained models that a configuration names; weights in other files are of ImageNet, not of faces."""
    return [path for path in (config.init, config.weights) if path and (path == config.init or path.endswith(".keras"))]


def _classes(train: Selection) -> list[str]:
    """What the split teaches: the shares are the targets of training, also where no class has a majority."""
    shares = train.column("expression_probs").combine_chunks().flatten().to_numpy().reshape(-1, len(EXPRESSIONS))
    return [name for name, taught in zip(EXPRESSIONS, (shares > 0).any(0)) if taught]


def _shared(selection: Selection, own: np.ndarray, other: Selection) -> list[str]:
    """Ids of the selection's images, of which `own` are the keys, whose bytes the other has, too."""
    keys = np.sort(other.image_keys())
    rows = np.flatnonzero(keys[np.searchsorted(keys, own) % len(keys)] == own)
    if not len(rows):
        return []
    # Half a key in common may be chance, however unlikely.
    digests, ids = (selection.column(name).take(rows) for name in ("sha256", "id"))
    seen = pc.is_in(digests, value_set=pa.chunked_array(other.column("sha256")).combine_chunks())
    return ids.filter(seen).to_pylist()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; --workdir is a directory that `python -m trainers.train` made"
        ) from None
