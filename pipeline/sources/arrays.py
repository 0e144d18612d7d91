"""Images and one array for each label, a row for each image.

    RAW/images/1.jpg  2.jpg  10.jpg …
    RAW/expressions.npy  valence.npy  arousal.npy  landmarks.npy

Any of the arrays may be absent. Row n belongs to the n-th image in natural order of the ids: 2 comes
before 10. Nothing in the arrays says so; that the lengths agree is all that can be checked.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator

import numpy as np

from pipeline.errors import DataError
from pipeline.files import Item
from pipeline.records import EXPRESSIONS, Labels, Reject
from pipeline.sources import annotation, folders, npy
from pipeline.sources.base import Entry, Source

COLUMNS = ("expressions", "valence", "arousal")
LANDMARKS = "landmarks"
#: Rows that are read at once.
CHUNK_ROWS = 4096

_DIGITS = re.compile("([0-9]+)")


class Arrays(Source):
    """Images in natural order, with label arrays of the same length."""

    layout = (
        "images/*.jpg|png and expressions.npy, valence.npy, arousal.npy, landmarks.npy (any of them), one row an image"
    )
    label_order = EXPRESSIONS

    def scan(self) -> Iterator[Entry]:
        if not self.files.has_folder("images") or not self._headers:
            raise DataError(f"{self.files.root} holds {folders.found(self.files)}; expected {self.layout}")
        images: list[Item] = []
        for item in self.files.items("images"):
            if folders.image_id(item.name) and item.kind != "folder":
                images.append(item)
            else:
                yield folders.unusable(item, "images/")
        if not images:
            raise DataError(f"images/ in {self.files.root} holds no image; expected {self.layout}")
        for name, header in self._headers.items():
            if header.shape[0] != len(images):
                raise DataError(
                    f"{name}.npy has {header.shape[0]} rows, images/ has {len(images)} images; "
                    "row n belongs to the n-th image in natural order, so the two must be equal"
                )
        images.sort(key=lambda item: (natural_order(folders.image_id(item.name)), item.name))
        columns = [self._column(name, len(images)) for name in COLUMNS]
        for row, (item, *numbers) in enumerate(zip(images, *columns, strict=True)):
            if item.kind == "bad_name":  # it has a row all the same
                yield folders.unusable(item, "images/")
            else:
                yield _entry(item.name, row, numbers)

    def labels(self, entry: Entry) -> Labels:
        row, expression, valence, arousal = json.loads(entry.payload)
        landmarks = ()
        if header := self._headers.get(LANDMARKS):
            points = npy.read_numbers(self._rows(LANDMARKS, row, row + 1), header)
            landmarks = annotation.landmark_points(np.array(points))
        return annotation.checked_labels(
            self.order,
            expression=expression,
            valence=valence,
            arousal=arousal,
            landmarks=landmarks,
            notes=[f"npy {name} {header.dtype.str}" for name, header in self._headers.items()],
            missing_labels=self.options.missing_labels,
        )

    def paths(self, entry: Entry) -> tuple[str, ...]:
        return (*super().paths(entry), *(f"{name}.npy" for name in self._headers))

    @functools.cached_property
    def _headers(self) -> dict[str, npy.Header]:
        """Of the arrays that are there, by name."""
        present = {item.name for item in self.files.items()}
        return {name: self._header(name) for name in (*COLUMNS, LANDMARKS) if f"{name}.npy" in present}

    def _header(self, name: str) -> npy.Header:
        path = f"{name}.npy"
        try:
            size, _ = self.files.stamp(path)
            header = npy.read_header(self.files.read(path, 0, min(size, npy.MAX_HEADER_BYTES)), size)
        except Reject as reject:
            raise DataError(f"{path} cannot be read ({reject.reason}): {reject.detail}") from None
        shapes = ((68, 2), (136,)) if name == LANDMARKS else ((),)
        numeric = header.dtype.kind in "iufUS" and header.dtype.itemsize
        if not numeric or not header.shape or header.shape[1:] not in shapes:
            expected = " or ".join(str(("N", *shape)).replace("'", "") for shape in shapes)
            raise DataError(f"{path} is {header.note}; expected numbers in the shape {expected}")
        if header.fortran_order and len(header.shape) > 1:
            raise DataError(f"{path} is stored by columns; save numpy.ascontiguousarray of it")
        return header

    def _rows(self, name: str, start: int, stop: int) -> bytes:
        header = self._headers[name]
        size = (header.file_bytes - header.offset) // header.shape[0]
        return self.files.read(f"{name}.npy", header.offset + start * size, (stop - start) * size)

    def _column(self, name: str, rows: int) -> Iterator[int | float | Reject | None]:
        """One number a row, the reason where it is none, None where there is no such array."""
        if name not in self._headers:
            yield from itertools.repeat(None, rows)
            return
        header = self._headers[name]
        for start in range(0, rows, CHUNK_ROWS):
            data = self._rows(name, start, min(start + CHUNK_ROWS, rows))
            try:
                yield from npy.read_numbers(data, header)
            except Reject:
                for at in range(0, len(data), header.dtype.itemsize):
                    yield _number(data[at : at + header.dtype.itemsize], header)


def natural_order(id: str) -> list[str | int]:
    """A sort key in which runs of digits count as numbers: 2 before 10."""
    return [int(part) if index % 2 else part for index, part in enumerate(_DIGITS.split(id))]


def _number(data: bytes, header: npy.Header) -> int | float | Reject:
    try:
        return npy.read_numbers(data, header)[0]
    except Reject as reject:
        return reject


def _entry(name: str, row: int, numbers: list) -> Entry:
    id, path = folders.image_id(name), f"images/{name}"
    for column, number in zip(COLUMNS, numbers, strict=True):
        if isinstance(number, Reject):
            return Entry(id, path, reason=number.reason, detail=f"{column}.npy row {row}: {number.detail}")
    return Entry(id, path, payload=json.dumps([row, *numbers]))
