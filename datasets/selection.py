"""Which records of a published dataset a split or slice names, where each lies, and their bytes.

Opening one checks what can be checked without reading the shards: the tables' sha256, and that every shard
is as long as its records. Each record's own checksum is checked when it is read.
"""

import functools
import hashlib
import io
import operator
import os
import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from datasets import labels
from pipeline import checking, documents, tfrecord
from pipeline.errors import DataError, UsageError
from pipeline.records import DATASET, EXPRESSIONS, VERSION

_ORDER = ("split", "shard", "position")
_COLUMNS = (
    *_ORDER, "offset", "length", "expression", "valence", "arousal", "expression_probs", "height", "width",
)  # fmt: skip
_CRC = struct.Struct("<I")
_OPEN_FILES = 128


class Selection:
    """The records of a split or slice: where each lies, and what is known of it.

    Attributes:
      count: records.
      splits: names of the splits that they are of.
      record_bytes: of all records together.
      expression: int8 [count], -1 when unknown.
      image_sizes: (height, width) of the stored images, in pixels; each that there is.
    """

    def __init__(self, dataset: str, split: str, data_dir: str | None):
        self.folder = _folder(dataset, data_dir)
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
        self._open = functools.lru_cache(_OPEN_FILES)(lambda shard: io.FileIO(self._paths[shard]))

        table = self._table(_COLUMNS)
        ends = np.cumsum([shard["records"] for shard in shards])
        offsets, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
        for path, shard, end in zip(self._paths, shards, ends):
            _check_shard(path, shard, *(column[end - shard["records"] : end] for column in (offsets, lengths)))
        first = {shard["file"]: end - shard["records"] for shard, end in zip(shards, ends)}
        rows = np.concatenate([first[file] + np.arange(skip, skip + take) for file, skip, take in parts])
        self.count = len(rows)
        self._rows = rows
        self._shards = np.searchsorted(ends, rows, "right")
        self._offsets, self._lengths = offsets[rows], lengths[rows]
        self.record_bytes = int(self._lengths.sum())
        self.expression = table["expression"].to_numpy()[rows]
        sizes = np.stack([table[side].to_numpy()[rows] for side in ("height", "width")], axis=1)
        self.image_sizes = set(map(tuple, np.unique(sizes, axis=0).tolist()))
        shares = table["expression_probs"].combine_chunks().flatten().to_numpy().reshape(-1, len(EXPRESSIONS))
        self._known = {
            "expression": shares[rows].any(-1),
            "valence": np.isfinite(table["valence"].to_numpy()[rows]),
            "arousal": np.isfinite(table["arousal"].to_numpy()[rows]),
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
        """`expression`, int8 [count], where of seven classes contempt is unknown."""
        return np.where(self.expression < num_classes, self.expression, np.int8(-1))

    def class_weights(self, cap: float, num_classes: int = len(EXPRESSIONS)) -> np.ndarray:
        """float32 [8], as `labels.class_weights`, of the `classes` of the selection."""
        return labels.class_weights(self.classes(num_classes), cap=cap)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of `records.parquet`, as it is there, for the records of the selection in their order."""
        return self._table((*_ORDER, name))[name].take(self._rows)

    def keep_records(self) -> None:
        """From now on a record that was read stays in memory."""
        self._kept = {}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The records of `rows` [n], an object array of bytes.

        Raises:
          DataError: a record fails its checksum or the file is cut.
        """
        unique, inverse = np.unique(rows, return_inverse=True)
        if self._kept is None:
            return np.array(self._read(unique), object)[inverse]
        missing = [row for row in unique.tolist() if row not in self._kept]
        self._kept.update(zip(missing, self._read(np.array(missing, np.int64))))
        return np.array([self._kept[row] for row in unique.tolist()], object)[inverse]

    def _table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all records of `splits`, in published order."""
        path = os.path.join(self.folder, "records.parquet")
        table = pq.read_table(path, columns=list(columns), filters=[("split", "in", self.splits)])
        return table.sort_by([(name, "ascending") for name in _ORDER])

    def _read(self, rows: np.ndarray) -> list[bytes]:
        """The records of rows that ascend; what lies together is read in one piece."""
        shards, offsets, lengths = self._shards[rows], self._offsets[rows], self._lengths[rows]
        ends = offsets + lengths
        pieces = np.flatnonzero((shards[1:] != shards[:-1]) | (offsets[1:] != ends[:-1])) + 1
        records = []
        for first, stop in zip([0, *pieces], [*pieces, len(rows)] if len(rows) else []):
            start = int(offsets[first])
            data = os.pread(self._open(int(shards[first])).fileno(), int(ends[stop - 1]) - start, start)
            for offset, end in zip((offsets[first:stop] - start).tolist(), (ends[first:stop] - start).tolist()):
                # A frame is length, its checksum, the record, its checksum; the length is known from the table.
                record = data[offset + 12 : end - 4]
                if data[end - 4 : end] != _CRC.pack(tfrecord.masked_crc(record)):
                    raise DataError(
                        f"{self._paths[shards[first]]}: the record at byte {start + offset} fails its checksum; the "
                        "dataset is damaged: `python -m pipeline.verify` lists what is, convert it again"
                    )
                records.append(record)
        return records


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
    except (ValueError, AssertionError) as error:
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
