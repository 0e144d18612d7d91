"""FER-2013, as the challenge's CSV of pixels or as class folders.

    RAW/fer2013.csv         emotion,pixels,Usage        (also as icml_face_data.csv)
    RAW/train/angry/*.jpg   RAW/test/happy/*.jpg  …

In the CSV a face is 2,304 grey values as text; row 0 is fer0000000, as FER+ names it, and codes are in
the challenge's order. Training is train, PublicTest validation, PrivateTest test. In the folder form
the label is the folder's name, so no order matters, and the id is the path.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning
contests", ICONIP 2013.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator

from pipeline import records
from pipeline.errors import DataError, UsageError
from pipeline.files import InputFiles
from pipeline.records import LABEL_ORDERS, Labels, Reject
from pipeline.sources import annotation, folders, tables
from pipeline.sources.base import Entry, Source

INDEXES = ("fer2013.csv", "icml_face_data.csv")
COLUMNS = {name: (name,) for name in ("emotion", "pixels", "usage")}
#: Names of splits, as `Usage` and as folders, in lower case.
SPLIT_NAMES = {
    "training": "train", "train": "train",
    "publictest": "validation", "validation": "validation", "valid": "validation", "val": "validation",
    "privatetest": "test", "test": "test",
}  # fmt: skip
SIDE = 48
#: A grey value as `fer2013.csv` writes it; "007" and "+7" are none.
_VALUES = {str(value).encode(): value for value in range(256)}


class Fer2013(Source):
    """Rows of pixels, or class folders."""

    layout = "fer2013.csv with emotion, pixels, Usage, or train/angry/*.jpg, test/happy/*.jpg …"
    label_order = LABEL_ORDERS["fer2013"]

    def scan(self) -> Iterator[Entry]:
        indexes = [name for name in INDEXES if self.files.has_file(name)]
        if len(indexes) > 1:
            raise DataError(f"{self.files.root} holds {' and '.join(indexes)}, the same faces twice; keep one of them")
        if indexes:
            return pixel_entries(self.files, indexes[0])
        if self.options.label_order:
            raise UsageError(
                f"--label_order is for the codes of {INDEXES[0]}, which is not in {self.files.root}; "
                "the labels of class folders are names: leave the flag out"
            )
        return self._class_folders()

    def labels(self, entry: Entry) -> Labels:
        if not is_pixel_text(entry):
            index = int(entry.payload)
            return Labels(expression=index, shares=records.one_hot(index))
        try:
            code = tables.number(entry.payload, "emotion")
        except Reject as reject:
            raise Reject("bad_label", reject.detail) from None
        return annotation.checked_labels(self.order, expression=code)

    def encoded(self, entry: Entry, raw: bytes) -> bytes:
        return png_from_text(raw) if is_pixel_text(entry) else raw

    def _class_folders(self) -> Iterator[Entry]:
        tops = list(self.files.items())
        splits = {item.name: SPLIT_NAMES.get(item.name.lower()) for item in tops if item.kind == "folder"}
        if not splits or None in splits.values():
            raise DataError(f"{self.files.root} holds {folders.found(self.files)}; expected {self.layout}")
        yield from (folders.unusable(item, "") for item in tops if item.kind != "folder")
        for top, split in splits.items():
            for item in list(self.files.items(top)):
                if item.kind != "folder":
                    yield folders.unusable(item, f"{top}/", split)
                else:
                    yield from self._class_folder(top, item.name, split)

    def _class_folder(self, top: str, name: str, split: str) -> Iterator[Entry]:
        try:
            label = str(records.expression_index(name))
        except Reject:
            raise DataError(
                f"{top}/{name}/ in {self.files.root} is named after no expression; {top}/ holds "
                f"{folders.found(self.files, top)}; expected one folder for each of {', '.join(self.label_order)}"
            ) from None
        for item in self.files.items(f"{top}/{name}"):
            path = f"{top}/{name}/{item.name}"
            if item.kind == "file":
                yield Entry(id=path, path=path, split=split, payload=label)
            else:
                yield folders.unusable(item, f"{top}/{name}/", split)


def pixel_entries(files: InputFiles, name: str) -> Iterator[Entry]:
    """One entry for each row of a CSV of pixels; `payload` is the emotion's code.

    The bytes of an entry are the text of its pixels.
    """
    table = tables.Table(files.lines(name), name, columns=COLUMNS, required=("emotion", "pixels"))
    declares_split = "usage" in table.columns

    def entry(row: tables.Row) -> Entry:
        usage = row.text("usage")
        if declares_split and usage.lower() not in SPLIT_NAMES:
            raise Reject("bad_split", f"Usage {usage!r} is none of Training, PublicTest, PrivateTest")
        offset, length = row.span("pixels")
        split = SPLIT_NAMES[usage.lower()] if declares_split else ""
        return Entry("", name, offset, length, split=split, payload=row.text("emotion"), line=row.line)

    for index, found in enumerate(table.entries(entry)):
        yield dataclasses.replace(found, id=f"fer{index:07d}")


def is_pixel_text(entry: Entry) -> bool:
    """Whether the entry's bytes are a cell of a CSV rather than a file or an archive's member."""
    return entry.length >= 0 and not entry.codec


def png_from_text(text: bytes) -> bytes:
    """A 48 × 48 grey PNG of the values in a `pixels` cell.

    The pixels are stored without compression: the bytes depend on no library's version.

    Raises:
      Reject: `empty`; `truncated` for fewer than 2,304 values; `corrupt` for more, or for text that is
        no value from 0 to 255.
    """
    values = text.split()
    if not values:
        raise Reject("empty", "no pixels")
    try:
        pixels = bytes(map(_VALUES.__getitem__, values))
    except KeyError as error:
        raise Reject("corrupt", f"pixel {error.args[0][:20]!r} is no number from 0 to 255") from None
    if len(pixels) != SIDE * SIDE:
        reason = "truncated" if len(pixels) < SIDE * SIDE else "corrupt"
        raise Reject(reason, f"{len(pixels)} pixels where {SIDE} × {SIDE} are due")
    # Each row of a PNG begins with its filter; 0 is none.
    rows = b"".join(b"\0" + pixels[start : start + SIDE] for start in range(0, len(pixels), SIDE))
    block = b"\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    stream = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", stream) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
