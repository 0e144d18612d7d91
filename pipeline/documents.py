"""JSON documents of a published dataset, read and checked field by field."""

import json
import os
from typing import Any, BinaryIO

from pipeline.errors import DataError, EnvironmentFault

NUMBER = (int, float)


def damaged(path: str, field: str, problem: str) -> DataError:
    """The error for a published file that does not hold what it should; `field` may be "" for the whole file."""
    where = f"{path}, field {field}" if field else path
    return DataError(f"{where}: {problem}; the dataset is damaged: restore the file or convert again")


def open_file(path: str) -> BinaryIO:
    """Opens a published file.

    Raises:
      DataError: it is missing.
      EnvironmentFault: it cannot be read.
    """
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        folder = os.path.dirname(path) or "."
        raise DataError(
            f"{path} is missing; {folder} should be a directory that build_tfrecords published "
            "(DATA_DIR/affect_faces/NAME/VERSION)"
        ) from None
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}; check its permissions and its disk") from None


def read_file(path: str) -> bytes:
    """The bytes of a published file; raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def load(path: str, expected: dict, *, version: int) -> tuple[bytes, dict]:
    """A published JSON document, as bytes and parsed; `version` is what its field "format" must be.

    Raises:
      DataError: it is missing, damaged or of another format; names the file and the field.
      EnvironmentFault: it cannot be read.
    """
    data = read_file(path)
    found = parse(data, {"format": int}, path)["format"]
    if found != version:
        raise DataError(
            f"{path}, field format: {found} where this program reads {version}; use the program that wrote it"
        )
    return data, parse(data, expected, path)


def parse(data: bytes, expected: Any, path: str) -> Any:
    """A JSON document that has what `expected` says; fields beyond that are left alone.

    Args:
      data: UTF-8 JSON.
      expected: a type; None; a tuple of alternatives; {"field": …} for an object; {"*": …} for an object whose
        names are free; [x] for a list of any length; [x] * n, n > 1, for a list of n.
      path: names the document in errors.

    Raises:
      DataError: names the file and the field.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise damaged(path, "", f"no JSON ({error})") from None
    _check(document, expected, path, "")
    return document


def _check(value: Any, expected: Any, path: str, field: str) -> None:
    if isinstance(expected, tuple):
        if not any(_fits(value, one) for one in expected):
            raise damaged(path, field, f"{_shown(value)} where {' or '.join(map(_name, expected))} is due")
        expected = next(one for one in expected if _fits(value, one))
    elif not _fits(value, expected):
        raise damaged(path, field, f"{_shown(value)} where {_name(expected)} is due")
    if isinstance(expected, dict):
        for name, inner in (dict.fromkeys(value, expected["*"]) if "*" in expected else expected).items():
            inner_field = f"{field}.{name}" if field else name
            if name not in value:
                raise damaged(path, inner_field, "it is missing")
            _check(value[name], inner, path, inner_field)
    elif isinstance(expected, list):
        for index, item in enumerate(value):
            _check(item, expected[0], path, f"{field}[{index}]")


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(value, dict)
    if isinstance(expected, list):
        return isinstance(value, list) and len(expected) in (1, len(value))
    return value is expected or (isinstance(expected, type) and isinstance(value, expected))


def _name(expected: Any) -> str:
    if isinstance(expected, dict):
        return "an object"
    if isinstance(expected, list):
        return "a list" if len(expected) == 1 else f"a list of {len(expected)}"
    return "null" if expected is None else expected.__name__


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
