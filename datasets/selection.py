"""Which records of a published dataset a split or slice names, where each lies, and their bytes.

Opening one checks what can be checked without reading the shards: the tables' sha256, and that every shard
is as long as its records. Each record's own checksum is checked when it is read.
"""

import hashlib
import operator
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from datasets import labels
from pipeline import checking, documents, tfrecord
from pipeline.errors import DataError, UsageError
from pipeline.records import DATASET, EXPRESSIONS, VERSION

_NUMBERS = ("shard", "position", "offset", "length", "expression", "valence", "arousal", "height", "width")
#: Bytes that are announced at once; the kernel does not read ahead more than this by one request.
_AHEAD = 1 << 17
_CRC = struct.Struct("<I")
_NUM_CLASSES = (7, 8)


class Selection:
    """The records of a split or slice: where each lies, and what is known of it.

    Attributes:
      count: records.
      split: as it was asked for.
      splits: names of the splits that they are of.
      record_bytes: of all records together.
      expression: int8 [count], -1 when unknown.
      image_sizes: (height, width) of the stored images, in pixels; each that there is.
    """

    def __init__(self, dataset: str, split: str, data_dir: str | None):
        self.folder, self.split = _folder(dataset, data_dir), split
        manifest = checking.read_manifest(self.folder)
        for name in ("dataset_info.json", "features.json", "records.parquet", "statistics.json"):
            _check_digest(os.path.join(self.folder, name), manifest["files"].get(name))
        parts = _parts(self.folder, split)
        files = {file for file, _, _ in parts}
        self.splits = sorted({shard["split"] for shard in manifest["shards"] if shard["file"] in files})
        # Whole splits, because the table knows a shard by its split and number only.
        shards = sorted(
            (shard for shard in manifest["shards"] if shard["split"] in self.splits), key=operator.itemgetter("file")
        )
        self._paths = [os.path.join(self.folder, shard["file"]) for shard in shards]
        self._kept: dict[int, bytes] | None = None

        found = self._read_numbers()
        order = np.lexsort((found["position"], found["shard"], found["split"]))
        ends = np.cumsum([shard["records"] for shard in shards])
        offsets, lengths = found["offset"][order], found["length"][order]
        for path, shard, end in zip(self._paths, shards, ends):
            _check_shard(path, shard, *(column[end - shard["records"] : end] for column in (offsets, lengths)))
        first = {shard["file"]: end - shard["records"] for shard, end in zip(shards, ends)}
        rows = np.concatenate([first[file] + np.arange(skip, skip + take) for file, skip, take in parts])
        self.count = len(rows)
        self._shards = np.searchsorted(ends, rows, "right").astype(np.int32)
        self._offsets, self._lengths = offsets[rows], lengths[rows].astype(np.int32)
        self.record_bytes = int(self._lengths.sum(dtype=np.int64))
        #: Where each record is among all of `splits` in records.parquet, which is in the order of the inputs.
        self._places = order[rows].astype(np.int32)
        self.expression = found["expression"][self._places]
        sides = np.unique(found["height"][self._places] * np.int64(2**32) + found["width"][self._places])
        self.image_sizes = {divmod(both, 2**32) for both in sides.tolist()}
        self._known = {
            "expression": found["votes"][self._places],
            "valence": np.isfinite(found["valence"][self._places]),
            "arousal": np.isfinite(found["arousal"][self._places]),
        }

    def check_labels(self, heads: Sequence[str]) -> None:
        """Raises DataError unless some label is known, and one for each of `heads`; UsageError for no head of ours."""
        for head in heads:
            if head not in labels.HEADS:
                raise UsageError(f"heads is {head!r}; it must be one of {', '.join(labels.HEADS)}")
        known = [head for head in labels.HEADS if self._known[head].any()]
        missing = [head for head in dict.fromkeys(heads) if head not in known]
        if missing or not known:
            raise DataError(
                f"{' and '.join(missing) or 'every label'} is unknown in all {self.count} examples of "
                f"{' + '.join(self.splits)} in {self.folder}; known are {', '.join(known) or 'none'}: "
                "train those heads, or convert with annotations"
            )

    def classes(self, num_classes: int = len(EXPRESSIONS)) -> np.ndarray:
        """`expression`, int8 [count], where of seven classes contempt is unknown.

        Raises:
          UsageError: `num_classes` is neither 7 nor 8.
        """
        if num_classes not in _NUM_CLASSES:
            raise UsageError(
                f"num_classes is {num_classes!r}; it must be {' or '.join(map(str, _NUM_CLASSES))}: all, or all but "
                "contempt"
            )
        return np.where(self.expression < num_classes, self.expression, np.int8(-1))

    def class_weights(self, cap: float, num_classes: int = len(EXPRESSIONS)) -> np.ndarray:
        """float32 [8], as `labels.class_weights`, of the `classes` of the selection; of seven contempt has 0.

        Raises:
          UsageError: `num_classes` is neither 7 nor 8.
          DataError: a class has no example, so that there is no weight of it.
        """
        weights = labels.class_weights(self.classes(num_classes), cap=cap)
        if missing := [name for name, weight in zip(EXPRESSIONS[:num_classes], weights) if not weight]:
            raise DataError(
                f"{', '.join(missing)}: no example in {self.split!r}, so there is no class weight; give balance=none"
                + (", or num_classes=7" if missing == ["contempt"] else "")
            )
        return weights

    def known(self, head: str) -> np.ndarray:
        """bool [count]: which records have a label of `head`; votes without a majority are one."""
        return self._known[head]

    @property
    def formats(self) -> set[str]:
        """Formats of the source images, each that there is; "jpeg" is stored as JPEG."""
        return set(self.column("format").unique().to_pylist())

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of `records.parquet`, as it is there, for the records of the selection in their order."""
        return pa.concat_tables(self._tables([name]))[name].take(self._places)

    def image_keys(self) -> np.ndarray:
        """uint64 [count]: the first 64 bits of the sha256 of each image's source bytes."""
        parts = []
        for table in self._tables(["sha256"]):
            starts = pc.utf8_slice_codeunits(table["sha256"], 0, 16).to_pylist()
            parts.append(np.frombuffer(bytes.fromhex("".join(starts)), ">u8").astype(np.uint64))
        return np.concatenate(parts)[self._places]

    def keep_records(self) -> None:
        """From now on a record that was read stays in memory."""
        self._kept = {}

    def announce(self, rows: np.ndarray) -> None:
        """Has the system read the records of `rows` [n] into its cache, in long pieces, while other work goes on."""
        rows = np.unique(rows if self._kept is None else [row for row in rows.tolist() if row not in self._kept])
        if not len(rows):
            return
        shards, offsets = self._shards[rows], self._offsets[rows]
        ends = offsets + self._lengths[rows]
        pieces = np.flatnonzero((shards[1:] != shards[:-1]) | (offsets[1:] != ends[:-1])) + 1
        with _Shards(self._paths) as opened:
            for first, stop in zip([0, *pieces], [*pieces, len(rows)]):
                file, end = opened(shards[first]), int(ends[stop - 1])
                for start in range(int(offsets[first]), end, _AHEAD):
                    os.posix_fadvise(file, start, min(_AHEAD, end - start), os.POSIX_FADV_WILLNEED)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The records of `rows` [n], an object array of bytes.

        Raises:
          DataError: a record fails its checksum or the file is cut.
        """
        records = np.empty(len(rows), object)
        shards, offsets = self._shards[rows], self._offsets[rows]
        order = np.lexsort((offsets, shards))
        columns = (order, *(column[order] for column in (shards, offsets, self._lengths[rows], rows)))
        with _Shards(self._paths) as opened:
            for index, shard, offset, length, row in zip(*(column.tolist() for column in columns)):
                record = None if self._kept is None else self._kept.get(row)
                if record is None:
                    record = self._read(opened(shard), shard, offset, length)
                    if self._kept is not None:
                        self._kept[row] = record
                records[index] = record
        return records

    def _read(self, file: int, shard: int, offset: int, length: int) -> bytes:
        frame = os.pread(file, length, offset)
        # A frame is length, its checksum, the record, its checksum; the length is known from the table.
        record = frame[12:-4]
        if frame[-4:] != _CRC.pack(tfrecord.masked_crc(record)):
            raise DataError(
                f"{self._paths[shard]}: the record at byte {offset} fails its checksum; the "
                "dataset is damaged: `python -m pipeline.verify` lists what is, convert it again"
            )
        return record

    def _read_numbers(self) -> dict[str, np.ndarray]:
        """The columns _NUMBERS, "split" as a number, and "votes", whether there are any, of all records of `splits`."""
        parts = []
        for table in self._tables([*_NUMBERS, "expression_probs"]):
            votes = table["expression_probs"].combine_chunks().flatten().to_numpy().reshape(-1, len(EXPRESSIONS))
            split = pc.index_in(table["split"], pa.array(self.splits)).to_numpy().astype(np.int16)
            parts.append({name: table[name].to_numpy() for name in _NUMBERS} | {"split": split, "votes": votes.any(1)})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns, and "split", of all records of `splits`, a part of the file at a time."""
        with pq.ParquetFile(os.path.join(self.folder, "records.parquet")) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["split", *columns])
                yield table.filter(pc.is_in(table["split"], pa.array(self.splits)))


class _Shards:
    """Shards to read from, one open at a time: there may be more of them than a process may have open files.

    None is kept: TensorFlow never forgets a stream's functions, and so a file that they hold is never closed.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths, self._shard, self._file = paths, -1, -1

    def __call__(self, shard: int) -> int:
        """The descriptor of a shard, until the next one is asked for."""
        if shard != self._shard:
            self._close()
            self._file = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            self._shard = shard
        return self._file

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *_) -> None:
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._shard = self._file = -1


def _folder(dataset: str, data_dir: str | None) -> str:
    name, _, config = os.fspath(dataset).partition("/")
    if name != DATASET or (data_dir is None and os.path.isdir(dataset)):
        return os.fspath(dataset)
    return os.path.join(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR), DATASET, config, VERSION)


def _parts(folder: str, split: str) -> list[tuple[str, int, int]]:
    """A split or slice as (shard file, records to skip, records to take)."""
    splits = tfds.builder_from_directory(folder).info.splits
    try:
        instructions = splits[split].file_instructions
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"split {split!r} cannot be read: {str(error).splitlines()[0]} {folder} has {', '.join(splits)}; slices "
            "are written 'train[:80%]', sums 'train+validation'"
        ) from None
    parts = [(os.path.basename(part.filename), part.skip, part.take) for part in instructions]
    if not parts:
        raise UsageError(f"split {split!r} of {folder} holds no example; take a larger slice")
    return parts


def _check_digest(path: str, digest: str | None) -> None:
    if hashlib.sha256(documents.read_file(path)).hexdigest() != digest:
        raise documents.damaged(path, "", "its sha256 is not the manifest's")


def _check_shard(path: str, shard: dict, offsets: np.ndarray, lengths: np.ndarray) -> None:
    """Is the file as long as published, and does the table account for every byte of it?"""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if size != shard["bytes"]:
        raise documents.damaged(path, "", f"it has {size} bytes, {shard['bytes']} were published")
    ends = np.concatenate([[0], offsets + lengths])
    if len(offsets) != shard["records"] or (offsets != ends[:-1]).any() or ends[-1] != shard["bytes"]:
        raise documents.damaged(path, "", "it has other records than records.parquet lists")
