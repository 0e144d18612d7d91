"""FER+: the faces of FER-2013 with ten votes each, as a folder, in a zip, or beside `fer2013.csv`.

    RAW/fer2013new.csv      Usage,Image name,neutral,happiness, … ,contempt,unknown,NF
    RAW/FER2013Train/fer0000000.png     FER2013Valid/     FER2013Test/

or RAW/NAME.zip with the same in it, or RAW/fer2013new.csv beside RAW/fer2013.csv, whose row 0 holds
the pixels of fer0000000. Training is train, PublicTest validation, PrivateTest test.

The label is a strict majority (more than half) over all votes that remain when single votes are
dropped as outliers, "unknown" and "not a face" included. Without one, or with the majority on those
two, the expression is -1. The shares of the eight emotions in the remaining votes are always kept.

Barsoum, Zhang, Canton Ferrer, Zhang, "Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution", ICMI 2016; github.com/microsoft/FERPlus.
"""

import dataclasses
import functools
import io
import itertools
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from pipeline import files, records
from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS, Labels, Reject
from pipeline.sources import fer2013, folders, tables
from pipeline.sources.base import Entry, Source

INDEX = "fer2013new.csv"
PIXELS = "fer2013.csv"
#: Columns of votes: the eight emotions by our names for them, then two that are none.
EMOTIONS = {
    "neutral": "neutral", "happiness": "happy", "surprise": "surprise", "sadness": "sad",
    "anger": "anger", "disgust": "disgust", "fear": "fear", "contempt": "contempt",
}  # fmt: skip
NO_EMOTIONS = ("unknown", "nf")
COLUMNS = {name: (name,) for name in ("usage", "image name", *EMOTIONS, *NO_EMOTIONS)}
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
#: What the authors' own tools keep in the image folders.
FOLDER_INDEX = "label.csv"

_COUNT = re.compile(r"(\d{1,4})(?:\.0*)?", re.ASCII)
#: What `zipfile` raises for a damaged or foreign archive.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, UnicodeError, RuntimeError)


class FerPlus(Source):
    """Votes in `fer2013new.csv`; faces in folders, in a zip, or as pixels in `fer2013.csv`."""

    layout = (
        f"{INDEX} beside FER2013Train/, FER2013Valid/ and FER2013Test/ or beside {PIXELS}, or one .zip of the former"
    )

    def scan(self) -> Iterator[Entry]:
        archive = self.options.archive or self._archive()
        if archive:
            return self._in_zip(archive)
        if any(self.files.has_folder(folder) for folder in FOLDERS.values()):
            return _joined(_table(self.files.lines(INDEX)), self._in_folders())
        if self.files.has_file(PIXELS):
            return _side_by_side(_table(self.files.lines(INDEX)), fer2013.pixel_entries(self.files, PIXELS))
        raise self._not_there()

    def labels(self, entry: Entry) -> Labels:
        return labels_from_votes([_vote(text) for text in json.loads(entry.payload)])

    def encoded(self, entry: Entry, raw: bytes) -> bytes:
        return fer2013.png_from_text(raw) if fer2013.is_pixel_text(entry) else raw

    def _archive(self) -> str:
        if self.files.has_file(INDEX):
            return ""
        names = [item.name for item in self.files.items() if item.kind == "file"]
        archives = [name for name in names if name.lower().endswith(".zip")]
        if len(archives) != 1:
            raise self._not_there()
        return archives[0]

    def _not_there(self) -> DataError:
        return DataError(f"{self.files.root} holds {folders.found(self.files)}; expected {self.layout}")

    def _in_folders(self) -> dict[str, Entry]:
        images = {}
        for folder in FOLDERS.values():
            for item in self.files.items(folder) if self.files.has_folder(folder) else ():
                path = f"{folder}/{item.name}"
                image = Entry(path, path) if item.kind == "file" else folders.unusable(item, f"{folder}/")
                images[image.id] = image
        return images

    def _in_zip(self, archive: str) -> Iterator[Entry]:
        try:
            with self.files.open(archive) as file, zipfile.ZipFile(file) as opened:
                index = _index_member(opened, archive)
                table = _table(files.lines(io.BufferedReader(opened.open(index))))
                yield from _joined(table, _members(opened, archive, index))
        except _ZIP_ERRORS as error:
            raise DataError(f"{archive} in {self.files.root} is damaged or no zip: {error}; fetch it again") from None


def labels_from_votes(votes: Sequence[int]) -> Labels:
    """The label and the shares of ten votes.

    Args:
      votes: how many annotators chose each of EMOTIONS and NO_EMOTIONS, in that order.
    """
    votes = [count if count > 1 else 0 for count in votes]
    emotions = dict(zip(EMOTIONS.values(), votes))
    total = sum(emotions.values())
    shares = tuple(emotions[name] / total for name in EXPRESSIONS) if total else records.NO_SHARES
    chosen = [name for name, count in zip([*EMOTIONS.values(), *NO_EMOTIONS], votes) if 2 * count > sum(votes)]
    if chosen and chosen[0] in EXPRESSIONS:
        return Labels(expression=EXPRESSIONS.index(chosen[0]), shares=shares)
    return Labels(shares=shares, notes=(f"votes:{chosen[0] if chosen else 'no majority'}",))


def _table(lines: Iterator[files.Line]) -> tables.Table:
    return tables.Table(lines, INDEX, columns=COLUMNS, required=tuple(COLUMNS))


def _joined(table: tables.Table, images: dict[str, Entry]) -> Iterator[Entry]:
    """An entry for each row, and for each image that no row names.

    Args:
      images: by id, which is the path below the folder of the index.
    """
    named = set()

    def entry(row: tables.Row) -> Entry:
        usage, name = _usage(row), row.text("image name", tables.MAX_PATH)
        if not name:
            raise Reject("missing_image", "the row names no image")
        image = images.get(f"{FOLDERS[usage]}/{name}")
        if image is None:
            raise Reject("missing_image", f"{FOLDERS[usage]}/{name} is not there")
        named.add(image.id)
        return dataclasses.replace(image, split=_split(usage), payload=_votes(row), line=row.line)

    yield from table.entries(entry)
    for name, image in images.items():
        if name not in named and not name.endswith(f"/{FOLDER_INDEX}"):
            reason = image.reason or ("missing_annotation" if folders.image_id(name) else "unknown_file")
            yield dataclasses.replace(image, reason=reason, detail=image.detail or f"no row of {INDEX} names it")


def _side_by_side(table: tables.Table, pixels: Iterator[Entry]) -> Iterator[Entry]:
    """Rows of the two files in step: row n of both is the same face."""
    for row, image in itertools.zip_longest(table.rows(), pixels):
        if row is None:
            yield dataclasses.replace(image, reason="missing_annotation", detail=f"no row of {INDEX} beside it")
        else:
            yield tables.entry(row, functools.partial(_with_pixels, image))


def _with_pixels(image: Entry | None, row: tables.Row) -> Entry:
    usage, name = _usage(row), row.text("image name")
    if image is None:
        raise Reject("missing_image", f"{PIXELS} has fewer rows than {INDEX}")
    if name not in ("", f"{image.id}.png"):
        raise Reject("bad_row", f"the row names {name!r}, and row {image.id} of {PIXELS} stands beside it")
    if image.split not in ("", _split(usage)):
        raise Reject("bad_split", f"Usage is {usage} here and means {image.split} in {PIXELS}")
    return dataclasses.replace(image, split=_split(usage), payload=_votes(row), line=row.line)


def _usage(row: tables.Row) -> str:
    usage = row.text("usage")
    if usage not in FOLDERS:
        raise Reject("bad_split", f"Usage {usage!r} is none of {', '.join(FOLDERS)}")
    return usage


def _split(usage: str) -> str:
    return fer2013.SPLIT_NAMES[usage.lower()]


def _votes(row: tables.Row) -> str:
    return json.dumps([row.text(name) for name in (*EMOTIONS, *NO_EMOTIONS)])


def _vote(text: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise Reject("bad_votes", f"{text!r} is no count of annotators")
    return int(match[1])


def _index_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == INDEX]
    if len(found) != 1:
        raise DataError(f"{name} holds {len(found)} files {INDEX}; expected one, beside FER2013Train/ and the others")
    if found[0].file_size > files.MAX_FILE_BYTES:
        raise DataError(f"{INDEX} in {name} has {found[0].file_size} bytes; at most {files.MAX_FILE_BYTES} are read")
    return found[0]


def _members(archive: zipfile.ZipFile, path: str, index: zipfile.ZipInfo) -> dict[str, Entry]:
    """Every file in the archive but the index and hidden ones, by its path below the folder of the index."""
    images = {}
    for info in archive.infolist():
        name = info.filename.removeprefix(index.filename.removesuffix(INDEX))
        if info is index or info.is_dir() or name.rpartition("/")[2].startswith("."):
            continue
        refused = _refused(info) or ("two members have this name" if name in images else "")
        reason = "bad_member" if refused else ""
        images[name] = Entry(name, path, info.header_offset, info.compress_size, "zip", reason=reason, detail=refused)
    return images


def _refused(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "an encrypted member"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {info.compress_type}; only stored and deflated members are read"
    # 4.5 is the version of the format that brought 64-bit sizes.
    return "a zip64 member" if info.extract_version >= 45 else ""
