"""From numbers as annotated to checked `Labels`: the rules that AffectNet's layouts share."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline import records
from pipeline.records import Labels, Reject

#: Shapes in which 68 points are stored as x, y, x, y …; (2, 68) is another order and is refused.
LANDMARK_SHAPES = ((136,), (68, 2), (1, 136), (136, 1), (1, 68, 2))


def expression_code(value: float) -> int:
    """A number that must be a whole one, as a code.

    Raises:
      Reject: `non_finite`, or `bad_label` for 2.5.
    """
    if not math.isfinite(value):
        raise Reject("non_finite", f"expression is {value}")
    if value != int(value):
        raise Reject("bad_label", f"expression is {value!r}, not a whole number")
    return int(value)


def landmark_points(array: np.ndarray) -> tuple[float, ...]:
    """68 points as 136 numbers x, y, x, y …

    Args:
      array: numbers in one of LANDMARK_SHAPES.

    Raises:
      Reject: `bad_landmarks` for another shape, `non_finite`.
    """
    if array.shape not in LANDMARK_SHAPES:
        raise Reject("bad_landmarks", f"shape {array.shape} where 68 points x, y are due: (136,) or (68, 2)")
    if not np.isfinite(array).all():
        raise Reject("non_finite", "a landmark is NaN or infinite")
    return tuple(array.ravel().tolist())


def checked_labels(
    order: Sequence[str],
    *,
    expression: float | None = None,
    valence: float | None = None,
    arousal: float | None = None,
    shares: tuple[float, ...] = (),
    landmarks: tuple[float, ...] = (),
    notes: Sequence[str] = (),
    missing_labels: str = "mask",
) -> Labels:
    """Labels from annotated numbers; None where the source has no such number.

    Args:
      order: what expression code 0, 1, 2 … means.
      shares: normalised, in the order of EXPRESSIONS; () makes them one-hot. A sentinel makes them unknown.
      notes: for the census; AffectNet's sentinels are added.
      missing_labels: "reject" wants expression, valence, arousal and landmarks; "mask" leaves them unknown.

    Raises:
      Reject: `bad_label`, `non_finite`, `out_of_range`, `inconsistent_va` or `missing_labels`.
    """
    if missing_labels == "reject":
        given = {"expression": expression, "valence": valence, "arousal": arousal, "landmarks": landmarks or None}
        if missing := [name for name, value in given.items() if value is None]:
            raise Reject("missing_labels", f"no {', '.join(missing)}")
    index, notes = records.UNKNOWN_EXPRESSION, list(notes)
    if expression is not None:
        code = expression_code(expression)
        index, sentinel = records.expression_from_code(code, order)
        if sentinel:
            shares = ()
            notes.append(f"expression:{code} {sentinel}")
    valence, arousal, unknown = records.check_valence_arousal(valence, arousal)
    if unknown:
        notes.append("valence_arousal:-2")
    return Labels(
        expression=index,
        shares=shares or records.one_hot(index),
        valence=float(valence),
        arousal=float(arousal),
        landmarks=landmarks,
        notes=tuple(notes),
    )
