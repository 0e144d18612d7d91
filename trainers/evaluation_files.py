"""The files of an evaluation: `metrics.json`, `confusion_matrix.csv`, `predictions.csv`.

Each appears complete or not at all. `metrics.json` is written last of the three and holds the sha256 of the other two,
so files of two evaluations do not pass for one.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline import documents
from pipeline.errors import DataError, EnvironmentFault
from pipeline.records import EXPRESSIONS
from pipeline.tfrecord import atomic_file
from trainers.prediction import Predictions

FORMAT = 1
METRICS, CONFUSION, PREDICTIONS = "metrics.json", "confusion_matrix.csv", "predictions.csv"
#: What a killed evaluation leaves half written: a hidden name with its process id.
_TEMPORARY = re.compile(r"\.(?:metrics\.json|(?:confusion_matrix|predictions)\.csv|report\.(?:html|pdf))\.(\d+)")
_COLUMNS = ("id", "true_expression", "true_valence", "true_arousal", "expression", *EXPRESSIONS, "valence", "arousal")

_NUMBER = (*documents.NUMBER, None)
_FIGURE = {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "examples": int}
_PROTOCOL = {
    "title": str,
    "classes": [str],
    "absent": [str],
    "mapping": [str],
    "examples": int,
    "plain": {"*": _FIGURE},
    "skew_normalised": {"*": _FIGURE},
}
_AFFECT = {"examples": int, "zeros": int, "figures": {"*": _FIGURE}}
_METRICS = {
    "format": int,
    "model": {"name": str, "path": str, "parameters": int, "bytes": int, "training_seconds": _NUMBER, "classes": [str]},
    "dataset": {"name": str, "split": str, "digest": str, "examples": int, "evaluated": int, "classes": [str]},
    "only": str,
    "guard": {"checked": bool, "reason": str, "allowed": [str]},
    "intervals": {"level": float, "resamples": int, "seed": int},
    "protocol": str,
    "heads": [str],
    "unscored": {"*": str},
    "speed": {"images_per_second": _NUMBER, "batch_size": int, "seconds": documents.NUMBER, "device": str},
    "predictions_sha256": str,
}


class PredictionsWriter:
    """Writes `predictions.csv` batch by batch; unknown labels and heads that are not there are empty."""

    def __init__(self, file: io.BufferedIOBase):
        self._file, self._text, self._sha256 = file, io.StringIO(), hashlib.sha256()
        self._write_row = row_writer(self._text)
        self._write_row(_COLUMNS)
        self._flush()

    def __call__(self, ids: Sequence[str], truth: dict, outputs: dict) -> None:
        """Adds a batch; truth and outputs as in Predictions."""
        count = len(ids)
        blank = [[""] * count]
        columns = [ids, [EXPRESSIONS[label] if label >= 0 else "" for label in truth["expression"].tolist()]]
        columns += [_digits(truth[head]) for head in ("valence", "arousal")]
        if "expression" in outputs:
            columns.append([EXPRESSIONS[label] for label in outputs["expression"].argmax(1).tolist()])
            columns += [_digits(column) for column in outputs["expression"].T]
        else:
            columns += blank * (1 + len(EXPRESSIONS))
        for head in ("valence", "arousal"):
            columns += [_digits(outputs[head])] if head in outputs else blank
        for row in zip(*columns):
            self._write_row(row)
        self._flush()

    def digest(self) -> str:
        """sha256 of what was written."""
        return self._sha256.hexdigest()

    def _flush(self) -> None:
        data = self._text.getvalue().encode("utf-8", "surrogatepass")
        self._text.seek(0)
        self._text.truncate()
        self._sha256.update(data)
        self._file.write(data)


def row_writer(file: io.TextIOBase) -> Callable[[Sequence[str]], None]:
    """Writes rows of CSV whose first column may be any text.

    Until Python 3.13 a carriage return was left bare, which readers take for the end of the row.
    """
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    return lambda row: (quoted if "\r" in row[0] else plain).writerow(row)


def read_predictions(folder: str, digest: str) -> tuple[list[str], Predictions]:
    """Ids and predictions of an evaluation, every number as it was.

    Args:
      folder: of the evaluation.
      digest: sha256 that its `metrics.json` names.

    Raises:
      DataError: the file is missing, damaged, or of another evaluation.
    """
    path = os.path.join(folder, PREDICTIONS)
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{path} is not what {METRICS} was computed from; evaluate again")
    rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogatepass"), newline=""))
    next(rows)
    columns = list(zip(*rows)) or [()] * len(_COLUMNS)
    named = dict(zip(_COLUMNS, columns))
    indices = {"": -1} | {name: index for index, name in enumerate(EXPRESSIONS)}
    truth = {"expression": np.array([indices[name] for name in named["true_expression"]], np.int8)}
    truth |= {head: _numbers(named[f"true_{head}"]) for head in ("valence", "arousal")}
    outputs = {}
    if any(named["expression"]):
        outputs["expression"] = np.stack([_numbers(named[name]) for name in EXPRESSIONS], 1)
    outputs |= {head: _numbers(named[head]) for head in ("valence", "arousal") if any(named[head])}
    return list(named["id"]), Predictions(truth, outputs)


def read_history(path: str) -> tuple[dict[str, float], ...]:
    """The rows of a `history.csv`, NaN where a cell is empty; () when there is none.

    Raises:
      DataError: it is damaged: a cell is no number, or an epoch is missing.
    """
    if not os.path.isfile(path):
        return ()
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
        if not all(math.isfinite(row.get("epoch", math.nan)) for row in rows):
            raise ValueError("a row has no epoch")
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}); remove it, and the report has no training curves") from None
    return tuple(rows)


def write_metrics(folder: str, metrics: dict) -> None:
    """Writes `metrics.json`; what is not finite becomes null."""
    text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    with output_file(folder, METRICS) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def read_metrics(folder: str) -> dict:
    """`metrics.json` of an evaluation, its fields checked.

    Raises:
      DataError: it is missing, damaged, or of another format; names the field.
    """
    path = os.path.join(folder, METRICS)
    data = _read(path)
    try:
        metrics = documents.parse(data, _METRICS, path)
        if metrics["format"] != FORMAT:
            raise DataError(f"{path}: field format is {metrics['format']}, {FORMAT} is due; ")
        for head in metrics["heads"]:
            due = {"protocols": {"*": _PROTOCOL}} if head == "expression" else _AFFECT
            documents.parse(data, {head: due}, path)
        if "expression" in metrics["heads"] and metrics["protocol"] not in metrics["expression"]["protocols"]:
            raise DataError(f"{path}, field protocol: {metrics['protocol']!r} is not among the protocols; ")
    except DataError as error:
        raise DataError(f"{str(error).split('; ')[0]}; evaluate again") from None
    return metrics


def write_confusion(folder: str, counts: np.ndarray, classes: Sequence[int]) -> str:
    """Writes `confusion_matrix.csv`: a row for each true class of `classes`, a column for each predicted class.

    Args:
      counts: int [8, 8].
      classes: indices into EXPRESSIONS.

    Returns:
      its sha256.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *EXPRESSIONS])
    writer.writerows([EXPRESSIONS[index], *counts[index].tolist()] for index in classes)
    data = text.getvalue().encode()
    with output_file(folder, CONFUSION) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def output_file(folder: str, name: str) -> Iterator[io.BufferedIOBase]:
    """A file of `folder` that appears when it is complete.

    Raises:
      EnvironmentFault: it cannot be written.
    """
    try:
        with atomic_file(os.path.join(folder, name)) as file:
            yield file
    except OSError as error:
        raise EnvironmentFault(
            f"{os.path.join(folder, name)} cannot be written: {error.strerror}; give a folder that can be written"
        ) from None


def remove(folder: str, names: Sequence[str]) -> None:
    """Removes files of an earlier evaluation, as far as they are there."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def make_folder(folder: str) -> None:
    """Makes the folder of an evaluation; in one that is there, what killed evaluations left half written goes.

    Raises:
      EnvironmentFault: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            found = _TEMPORARY.fullmatch(name)
            if found and not _lives(int(found[1])):
                remove(folder, [name])
    except OSError as error:
        raise EnvironmentFault(f"{folder} cannot be made: {error.strerror}; give another --output") from None


def _lives(pid: int) -> bool:
    """Whether this machine has such a process; of another machine's nobody here knows."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; give a directory that `python -m trainers.evaluate` wrote"
        ) from None


def _digits(column: np.ndarray) -> list[str]:
    """Nine digits tell every float32 from every other."""
    return ["" if value != value else f"{value:.9g}" for value in column.tolist()]


def _numbers(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(text) if text else math.nan for text in texts], np.float32)
