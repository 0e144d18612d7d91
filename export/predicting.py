"""What an exported model says of photographs: a row for each, also for those that cannot be used."""

import contextlib
import dataclasses
import io
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from export import contact_sheet, description, photographs, versions
from export.photographs import Photograph
from pipeline import documents
from pipeline.errors import DataError, EnvironmentFault, PipelineError, UsageError
from pipeline.files import printable
from pipeline.images import ImageSettings
from pipeline.records import EXPRESSIONS
from pipeline.tfrecord import atomic_file
from trainers import prediction
from trainers.evaluation_files import row_writer
from trainers.prediction import Predictor

SUFFIXES = (".csv", ".jsonl")
_CONVERSION = ("image_size", "min_side")


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a prediction.

    Attributes:
      images: rows that were written.
      errors: those of images that could not be used.
      images_per_second: reading, asking and writing, once the model is loaded and warm.
    """

    images: int
    errors: int
    images_per_second: float


def predict(
    model: str | os.PathLike, patterns: Sequence[str], output: str | os.PathLike, *, batch_size: int = 32,
    sheet: str | os.PathLike = "",
) -> Result:  # fmt: skip
    """Writes a row for each photograph.

    What a killed prediction left half written beside the output is removed. Photographs are verified and decoded in
    threads of this process: a decoder that crashed or hung would end the prediction, where a conversion goes on.

    Args:
      model: a SavedModel, the directory of its versions, or the work directory with them.
      patterns: files, folders and patterns, see `photographs.find`.
      output: .csv, or .jsonl for JSON lines; appears complete or not at all. Unknown values are empty, or null.
      batch_size: of every call.
      sheet: PNG of the first `contact_sheet.CELLS` photographs with what was said of them; "" is none.

    Raises:
      UsageError: an argument has a value that nothing accepts.
      DataError: there is no such model, or no image; or the model's outputs are not what its heads should give.
      EnvironmentFault: a file cannot be written.
    """
    suffix = Path(output).suffix
    if suffix not in SUFFIXES:
        raise UsageError(f"--output={output} is not accepted; give a name that ends in {' or '.join(SUFFIXES)}")
    if sheet and Path(sheet).suffix != ".png":
        raise UsageError(f"--contact_sheet={sheet} is not accepted; give a name that ends in .png")
    paths = photographs.find(patterns)
    folder = versions.latest(model)
    predictor = prediction.from_saved_model(str(folder), batch_size=batch_size)
    batches = photographs.read(paths, _settings(folder), batch_size=batch_size)
    count, errors, cells = 0, 0, []
    predictor(np.array([], object))  # the first call compiles
    with _output(output) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        write = _csv_writer(text) if suffix == ".csv" else _json_writer(text)
        start = time.perf_counter()
        for batch in batches:
            rows = list(_rows(predictor, batch))
            for row in rows:
                write(row)
            if sheet:
                shown = contact_sheet.CELLS - len(cells)
                cells += [contact_sheet.cell(photo.encoded, row) for photo, row in zip(batch[:shown], rows)]
            count, errors = count + len(batch), errors + sum(bool(row["error"]) for row in rows)
        text.detach()
    seconds = time.perf_counter() - start
    if sheet:
        with _output(sheet) as file:
            file.write(contact_sheet.draw(cells))
    return Result(count, errors, count / seconds)


def _rows(predictor: Predictor, batch: list[Photograph]) -> Iterator[dict]:
    """A row for each photograph of a batch: image, error, and {head: value}, where the expression is float32 [8]."""
    answers = iter(_answers(predictor, [photo for photo in batch if not photo.error]))
    for photo in batch:
        error, values = (photo.error, {}) if photo.error else next(answers)
        yield {"image": printable(photo.path), "error": error, **values}


def _answers(predictor: Predictor, photos: list[Photograph]) -> list[tuple[str, dict]]:
    """(error, {head: value}) of each photograph.

    TensorFlow's decoder refuses some images that ours accepts. One such image fails its whole batch, which is then
    asked image by image.

    Raises:
      DataError: the model's outputs are not what its heads should give.
    """
    if not photos:
        return []
    try:
        outputs = predictor(np.array([photo.encoded for photo in photos], object))
    except tf.errors.InvalidArgumentError as error:
        if len(photos) == 1:
            return [(f"corrupt: {_cause(error.message)}", {})]
        return [_answers(predictor, [photo])[0] for photo in photos]
    paths = [photo.path for photo in photos]
    values = {head: prediction.checked(head, column, paths) for head, column in outputs.items()}
    return [("", {head: column[row] for head, column in values.items()}) for row in range(len(photos))]


def _cause(message: str) -> str:
    """The line of a TensorFlow error that says what is wrong; where in the graph stands around it."""
    return message.rpartition("<stack traces unavailable>\n")[2].split("\n\t [[")[0].splitlines()[0]


def _csv_writer(file: io.TextIOBase):
    write_row = row_writer(file)
    write_row(["image", "expression", *EXPRESSIONS, "valence", "arousal", "error"])

    def write(row: Mapping) -> None:
        shares = row.get("expression")
        named = [""] * (1 + len(EXPRESSIONS)) if shares is None else [_name(shares), *map(_digits, shares)]
        affect = [_digits(row[head]) if head in row else "" for head in ("valence", "arousal")]
        write_row([row["image"], *named, *affect, row["error"]])

    return write


def _json_writer(file: io.TextIOBase):
    def write(row: Mapping) -> None:
        shares = row.get("expression")
        document = {
            "image": row["image"],
            "expression": None if shares is None else _name(shares),
            "probabilities": None if shares is None else dict(zip(EXPRESSIONS, map(_rounded, shares))),
            **{head: _rounded(row[head]) if head in row else None for head in ("valence", "arousal")},
            "error": row["error"] or None,
        }
        file.write(json.dumps(document, ensure_ascii=False) + "\n")

    return write


def _name(shares: np.ndarray) -> str:
    return EXPRESSIONS[int(np.argmax(shares))]


def _digits(value: np.float32) -> str:
    return f"{value:.6f}"


def _rounded(value: np.float32) -> float:
    return round(float(value), 6)


def _settings(folder: Path) -> ImageSettings:
    """Photographs are converted as the training dataset was; where the export does not know how, by default.

    Raises:
      DataError: `model.json` is damaged; names the field.
    """
    described = folder / description.EXTRA / "model.json"
    if not described.is_file():
        return ImageSettings()
    try:
        given = documents.parse(described.read_bytes(), {"conversion": {"*": int}}, str(described))["conversion"]
        return ImageSettings(**{name: given[name] for name in _CONVERSION if name in given})
    except PipelineError as error:
        raise DataError(f"{str(error).split('; ')[0]}; {described} is damaged: export the model again") from None


@contextlib.contextmanager
def _output(path: str | os.PathLike) -> Iterator[io.BufferedIOBase]:
    try:
        _remove_leftovers(path)
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be written: {error.strerror}; give a file in a folder that can be written"
        ) from None


def _remove_leftovers(path: str | os.PathLike) -> None:
    """Removes what `atomic_file` of processes that were killed has left: hidden files that end in their numbers."""
    folder, name = os.path.split(os.path.abspath(path))
    for left in os.listdir(folder):
        number = left.removeprefix(f".{name}.")
        if left != number and re.fullmatch(r"\d{1,9}", number, re.ASCII) and not _runs(int(number)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, left))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
