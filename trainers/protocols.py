"""Which examples and which classes a score counts: four protocols, because published scores count differently.

Each takes the same predictions and says in words what it did with them, so that a score never stands alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipeline.errors import UsageError
from pipeline.records import EXPRESSIONS

_CONTEMPT = EXPRESSIONS.index("contempt")
#: Name of each protocol, and what it is for.
PROTOCOLS = {
    "eight": "all eight classes",
    "seven": "seven classes: contempt is masked in the prediction, its faces are left out",
    "seven_contempt_wrong": "seven classes: a prediction of contempt counts as wrong, its faces are left out",
    "common": "the classes that both model and dataset have: all others are masked, their faces left out",
}


@dataclasses.dataclass(frozen=True)
class View:
    """What a protocol counts.

    Attributes:
      name: of the protocol.
      classes: indices into EXPRESSIONS of the classes that are scored.
      masked: those whose probability is masked. Two views of the same classes that mask the same count the same.
      rows: int [N], which of the examples.
      truth: int [N].
      probabilities: float32 [N, 8], rows sum to 1.
      mapping: one line for each class that is not scored as itself, or that model or dataset do not have.
    """

    name: str
    classes: tuple[int, ...]
    masked: tuple[int, ...]
    rows: np.ndarray
    truth: np.ndarray
    probabilities: np.ndarray
    mapping: tuple[str, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of scored classes that no example is of."""
        return tuple(EXPRESSIONS[index] for index in self.classes if not (self.truth == index).any())


def view(
    name: str,
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    model_classes: Sequence[str] = EXPRESSIONS,
    data_classes: Sequence[str] = EXPRESSIONS,
) -> View:
    """The examples and probabilities that protocol `name` counts.

    A masked class's probability becomes 0 and the rest is divided by its sum, which is what masking the logit before
    the softmax does. Where the rest is 0 altogether, the scored classes are equally probable.

    Args:
      name: one of PROTOCOLS.
      truth: int [N], indices into EXPRESSIONS; -1 is unknown and never counted.
      probabilities: float32 [N, 8].
      model_classes: the classes that the model was trained on.
      data_classes: the classes that the dataset has.

    Raises:
      UsageError: the name is no protocol's.
    """
    classes = _classes(name, model_classes, data_classes)
    wrong = name == "seven_contempt_wrong"
    masked = () if wrong else tuple(index for index in range(len(EXPRESSIONS)) if index not in classes)
    rows = np.flatnonzero(counted(name, truth, model_classes=model_classes, data_classes=data_classes)).astype(np.int32)
    return View(
        name=name,
        classes=classes,
        masked=masked,
        rows=rows,
        truth=truth[rows],
        # Without a copy where it would be one of everything.
        probabilities=mask(probabilities[rows] if len(rows) < len(truth) else probabilities, masked),
        mapping=tuple(_mapping(classes, masked, truth, model_classes, data_classes)),
    )


def counted(
    name: str,
    truth: np.ndarray,
    *,
    model_classes: Sequence[str] = EXPRESSIONS,
    data_classes: Sequence[str] = EXPRESSIONS,
) -> np.ndarray:
    """bool [N]: the examples that a protocol counts; arguments and errors as in `view`."""
    return np.isin(truth, _classes(name, model_classes, data_classes))


def mask(probabilities: np.ndarray, masked: Sequence[int]) -> np.ndarray:
    """The probabilities [N, 8] given that none of the classes `masked` is true; the same array when there is none."""
    if not masked:
        return probabilities
    rest = probabilities.copy()
    rest[:, masked] = 0
    total = rest.sum(1)
    equal = np.ones(rest.shape[1], rest.dtype)
    equal[list(masked)] = 0
    rest[total == 0] = equal
    # In place: a second copy of all would be memory for nothing.
    rest /= np.where(total > 0, total, equal.sum())[:, None]
    return rest


def _classes(name: str, model_classes: Sequence[str], data_classes: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes that a protocol scores."""
    if name not in PROTOCOLS:
        raise UsageError(f"protocol {name!r} is unknown; it must be one of {', '.join(PROTOCOLS)}")
    every = range(len(EXPRESSIONS))
    if name == "eight":
        return tuple(every)
    if name == "common":
        shared = {EXPRESSIONS.index(name) for name in model_classes if name in data_classes}
        return tuple(index for index in every if index in shared)
    return tuple(index for index in every if index != _CONTEMPT)


def _mapping(
    classes: Sequence[int],
    masked: Sequence[int],
    truth: np.ndarray,
    model_classes: Sequence[str],
    data_classes: Sequence[str],
) -> list[str]:
    lines = []
    for index, name in enumerate(EXPRESSIONS):
        faces = int((truth == index).sum())
        if index in classes and name not in data_classes:
            lines.append(f"{name}: no example is of it; a prediction of it is wrong")
        elif index in classes and name not in model_classes:
            lines.append(f"{name}: the model was not trained on it; its {faces} faces count")
        elif index in masked:
            lines.append(f"{name}: masked in the prediction; {faces} faces left out")
        elif index not in classes:
            lines.append(f"{name}: a prediction of it is wrong; {faces} faces left out")
    return lines
