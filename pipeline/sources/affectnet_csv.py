"""AffectNet as first released in 2017: lists of faces, each with a box in a whole photograph.

    RAW/Manually_Annotated_file_lists/training.csv  validation.csv
    RAW/Manually_Annotated_Images/689/737db2….jpg
    RAW/Automatically_annotated_file_list/automatically_annotated.csv
    RAW/Automatically_Annotated_Images/…

The lists may also lie in RAW itself, the images in RAW/images or RAW itself, and both one folder deeper,
in RAW/Manually_Annotated and RAW/Automatically_Annotated. At least one list is there. Published lists
come with a line of column names or without. `training.csv` and `automatically_annotated.csv` are train,
`validation.csv` is test, which is what papers report on.

A face is cropped by its box plus a margin. One photograph may hold several faces, so the id is the
list's path and the box: "689/737db2….jpg#134,134,899,899", with "automatic/" before it for the automatic
list. The 136 landmark numbers, about 1 kB a face, stay in the list and are read by the workers.

Mollahosseini, Hasani, Mahoor, "AffectNet: A Database for Facial Expression, Valence, and Arousal
Computing in the Wild", IEEE Transactions on Affective Computing, 2017.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator

import numpy as np

from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS, LANDMARKS, Labels, Reject
from pipeline.sources import annotation, folders, tables
from pipeline.sources.base import Box, Entry

BOX = ("face_x", "face_y", "face_width", "face_height")
LABEL_COLUMNS = ("expression", "valence", "arousal")
#: In the order of the lists that do not name them.
COLUMNS = {name: (name,) for name in ("subdirectory_filepath", *BOX, "facial_landmarks", *LABEL_COLUMNS)}


@dataclasses.dataclass(frozen=True)
class Collection:
    """One of the two halves of the release.

    Attributes:
      lists: name of each list and the split that it declares.
      list_folders, image_folders: where copies of the release have them; the first that is there is taken.
      prefix: of the ids.
    """

    lists: dict[str, str]
    list_folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    prefix: str = ""


COLLECTIONS = (
    Collection(
        lists={"training.csv": "train", "validation.csv": "test"},
        list_folders=(
            "", "Manually_Annotated_file_lists", "Manually_Annotated",
            "Manually_Annotated/Manually_Annotated_file_lists",
        ),
        image_folders=(
            "Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", "images", "",
        ),
    ),
    Collection(
        lists={"automatically_annotated.csv": "train"},
        list_folders=(
            "", "Automatically_annotated_file_list", "Automatically_Annotated_file_lists", "Automatically_Annotated",
            "Automatically_Annotated/Automatically_annotated_file_list",
        ),
        image_folders=(
            "Automatically_Annotated_Images", "Automatically_Annotated/Automatically_Annotated_Images", "images", "",
        ),
        prefix="automatic/",
    ),
)  # fmt: skip


class AffectNetCsv(tables.ListedImages):
    """The lists of 2017, their boxes and their photographs."""

    layout = (
        "training.csv, validation.csv or automatically_annotated.csv, in the folders of the 2017 release or in the "
        "input directory, and the images in Manually_Annotated_Images/, Automatically_Annotated_Images/ or images/"
    )
    label_order = EXPRESSIONS

    def scan(self) -> Iterator[Entry]:
        """Lists the rows, then the images that no row names.

        The latter are known when all lists of a collection are there and its images have a folder of
        their own; the folders that its rows name are then looked through.
        """
        lists = [(collection, self._lists(collection)) for collection in COLLECTIONS]
        if not any(found for _, found in lists):
            raise DataError(f"{self.files.root} holds {folders.found(self.files)}; expected {self.layout}")
        named: set[str] = set()
        claimed: dict[str, bool] = {}
        for collection, found in lists:
            if found:
                images = next(folder for folder in collection.image_folders if self.files.has_folder(folder))
                claimed[images] = claimed.get(images, True) and len(found) == len(collection.lists)
            for path, split in found.items():
                yield from self._rows(path, split=split, images=images, prefix=collection.prefix, named=named)
        for folder in sorted({os.path.dirname(path) for path in named}):
            of_ours = any(complete and f"{folder}/".startswith(f"{images}/") for images, complete in claimed.items())
            if of_ours and self.files.has_folder(folder):
                yield from self._unnamed(folder, named)

    def labels(self, entry: Entry) -> Labels:
        path, offset, length, _, cells = json.loads(entry.payload)
        landmarks = _landmarks(self.files.read(path, offset, length))
        missing_labels = self.options.missing_labels
        if missing_labels == "reject" and not landmarks:
            raise Reject("missing_labels", "no facial_landmarks")
        cells = dict(zip(LABEL_COLUMNS, cells))
        return tables.cell_labels(cells, self.order, landmarks=landmarks, missing_labels=missing_labels)

    def box(self, entry: Entry) -> Box:
        x, y, width, height = json.loads(entry.payload)[3]
        margin = self.options.box_margin * max(width, height)
        return Box(x - margin, y - margin, x + width + margin, y + height + margin)

    def paths(self, entry: Entry) -> tuple[str, ...]:
        return (entry.path, json.loads(entry.payload)[0])

    def _lists(self, collection: Collection) -> dict[str, str]:
        """Path and split of each list that is there."""
        found = {}
        for name, split in collection.lists.items():
            paths = (f"{folder}/{name}".lstrip("/") for folder in collection.list_folders)
            path = next((path for path in paths if self.files.has_file(path)), None)
            if path:
                found[path] = split
        return found

    def _rows(self, path: str, *, split: str, images: str, prefix: str, named: set[str]) -> Iterator[Entry]:
        lines = self.files.lines(path)
        table = tables.Table(lines, path, columns=COLUMNS, required=tuple(COLUMNS), may_lack_header=True)
        # A row again would differ from the first in where its landmarks are, so it is recognised here.
        seen: set[bytes] = set()

        def entry(row: tables.Row) -> Entry:
            listed = self.files.check_path(row.text("subdirectory_filepath", tables.MAX_PATH))
            if not listed:
                raise Reject("missing_image", "the row names no image")
            image = f"{images}/{listed}" if images else listed
            named.add(image)
            cells = [row.text(column) for column in BOX]
            payload = [path, *row.span("facial_landmarks"), _box(cells), [row.text(column) for column in LABEL_COLUMNS]]
            found = Entry(
                id=f"{prefix}{listed}#{','.join(cells)}",
                path=image,
                split=split,
                payload=json.dumps(payload),
                line=row.line,
            )
            digest = hashlib.sha256(row.data).digest()[:16]
            if digest in seen:
                return dataclasses.replace(
                    found, reason="duplicate_row", detail=f"line {row.line} repeats an earlier row"
                )
            seen.add(digest)
            return found

        yield from table.entries(entry)

    def _unnamed(self, folder: str, named: set[str]) -> Iterator[Entry]:
        for item in self.files.items(folder):
            path = f"{folder}/{item.name}"
            if item.kind == "bad_name":
                yield folders.unusable(item, f"{folder}/")
            elif item.kind != "folder" and path not in named:
                reason = "missing_annotation" if folders.image_id(item.name) else "unknown_file"
                yield Entry(path, path, reason=reason, detail="no list names it")


def _box(cells: list[str]) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (tables.number(cell, column) for cell, column in zip(cells, BOX))
    except Reject as reject:
        raise Reject("bad_box", reject.detail) from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise Reject("bad_box", f"a box of {width:g} × {height:g} pixels at ({x:g}, {y:g})")
    return x, y, width, height


def _landmarks(text: bytes) -> tuple[float, ...]:
    """The numbers of a `facial_landmarks` cell; () when it is empty."""
    if not text.strip():
        return ()
    try:
        # Python would read 1_0 as 10.
        values = [float(part) for part in text.decode("ascii").replace("_", "?").split(";")]
    except ValueError as error:
        raise Reject("bad_landmarks", str(error)) from None
    if len(values) != 2 * LANDMARKS:
        raise Reject("bad_landmarks", f"{len(values)} numbers where {2 * LANDMARKS} are due")
    return annotation.landmark_points(np.array(values))
