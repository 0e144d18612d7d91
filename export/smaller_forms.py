"""Smaller forms of a model, for phones and for other runtimes: those of `converters` that lose little.

Each is scored with its own runtime before it is kept.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from datasets.selection import Selection
from export import converters
from pipeline.errors import InvariantError
from trainers import prediction, scores

_BATCH = 32
_TIMED_CALLS = 50


@dataclasses.dataclass(frozen=True)
class Margins:
    """What a smaller form may lose against the SavedModel on the validation split.

    Attributes:
      accuracy: of the expression, a fraction.
      ccc: of valence and of arousal.
    """

    accuracy: float = 0.01
    ccc: float = 0.02


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: of the form.
      file: in the version's directory; "" when it was left out.
      bytes: its size.
      latency_ms: median of one image a call, on this machine's CPU.
      scores: accuracy, valence_ccc, arousal_ccc on the validation split, as far as there are labels.
      left_out: why it is not kept; "" when it is.
    """

    name: str
    file: str
    bytes: int
    latency_ms: float
    scores: dict[str, float]
    left_out: str = ""


def add(
    model,
    folder: Path,
    formats: Sequence[str],
    *,
    calibration: Callable[[], np.ndarray],
    validation: Selection,
    margins: Margins,
    say: Callable[[str], None],
) -> list[Row]:
    """Converts a model, scores every form, and keeps those that lose little.

    Args:
      model: a keras.Model of `trainers.model`, in float32.
      folder: a version's directory, with its SavedModel.
      formats: of `converters.FORMATS`.
      calibration: gives training faces, uint8 [N, S, S, 3].
      validation: the split that they are scored on.
      margins: what a form may lose.
      say: takes each line about them.

    Returns:
      the table, the SavedModel first.

    Raises:
      InvariantError: a form that is as exact as the SavedModel loses more than the margins.
      EnvironmentFault: the folder, or the temporary one that is converted from, cannot be written.
    """
    heads, size = list(model.output), model.inputs[0].shape[1]

    def measure(name: str, file: str, call: Callable, bytes: int) -> Row:
        predictor = prediction.Predictor(
            call, heads, batch_size=_BATCH, image_size=size, parameters=model.count_params()
        )
        figures = _scores(prediction.predict(predictor, validation))
        return Row(name, file, bytes, _latency(call, size), figures)

    saved = tf.saved_model.load(str(folder)).signatures["serving_default"]
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    rows = [measure("saved_model", ".", lambda images: saved(images=images), total)]
    for form, path in converters.convert(model, folder, formats, calibration=calibration):
        call = form.start(path)
        row = measure(form.name, form.file, call if form.exact else _normalised(call), path.stat().st_size)
        lost = _lost(rows[0].scores, row.scores, margins)
        if lost and form.exact:
            raise InvariantError(f"{form.name} {lost}; it holds the same numbers, so nothing was published")
        if lost:
            path.unlink()
            row = dataclasses.replace(row, file="", left_out=lost)
            kept = [one.name for one in rows if one.file]
            falls_back = form.name == "litert_int8" and "litert_float16" in kept
            say(f"{form.name} is left out: it {lost}" + "; use litert_float16" * falls_back)
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of text."""
    names = list(rows[0].scores)
    lines = ["  ".join([f"{'form':<16}", f"{'bytes':>12}", f"{'ms':>8}", *(f"{name:>12}" for name in names)])]
    for row in rows:
        figures = [f"{row.scores[name]:>12.4f}" for name in names]
        line = [f"{row.name:<16}", f"{row.bytes:>12,}", f"{row.latency_ms:>8.2f}", *figures]
        lines.append("  ".join(line + (["left out"] if row.left_out else [])))
    return lines


def _normalised(call: Callable) -> Callable:
    """The same with probabilities that sum to 1: int8 rounds each to a multiple of 1/256."""

    def normalised(images: np.ndarray) -> dict[str, np.ndarray]:
        answer = dict(call(images))
        if "expression" in answer:
            answer["expression"] = answer["expression"] / answer["expression"].sum(-1, keepdims=True)
        return answer

    return normalised


def _scores(predictions: prediction.Predictions) -> dict[str, float]:
    figures = {}
    for head, outputs in predictions.outputs.items():
        rows = predictions.known(head)
        if not len(rows):
            continue
        truth, outputs = predictions.truth[head][rows], outputs[rows]
        if head == "expression":
            figures["accuracy"] = float(np.mean(outputs.argmax(1) == truth))
        else:
            figures[f"{head}_ccc"] = scores.ccc(truth, outputs)
    return figures


def _lost(before: dict, after: dict, margins: Margins) -> str:
    """What a form loses beyond the margins, in words; "" when nothing."""
    limits = {name: margins.accuracy if name == "accuracy" else margins.ccc for name in before}
    lost = [
        f"has {name} {after[name]:.4f} where the SavedModel has {before[name]:.4f} (at most {limit:g} less)"
        for name, limit in limits.items()
        if not before[name] - after[name] <= limit and np.isfinite(before[name])
    ]
    return ", ".join(lost)


def _latency(call: Callable, size: int) -> float:
    """Median milliseconds of a call with one image."""
    image = tf.zeros([1, size, size, 3], tf.uint8)
    seconds = []
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        np.asarray(next(iter(call(image).values())))
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[_TIMED_CALLS // 5 :]))
