"""The unfinished dataset on disk: what each stage left, so that a rerun repeats nothing.

    NAME/.1.0.0.partial/
        scan/00000.arrow               the listed inputs, sorted by id, in chunks
        verify/00000-KEY.arrow         a chunk's verified rows; there or not at all: its own done-record
        plan/plan.json, order.npy …    splits and shards
        write/SHARD.json, SHARD.npy    a written shard's done-record, and the offsets in it
        out/                           the dataset directory to be
        outcome.json                   what the last stage said; "reserve" keeps space for it

Every done-record is named or keyed by a digest of what it was made from, so a record made from other
settings or other inputs is never taken for this run's.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline import tfrecord
from pipeline.records import DATASET, EXPRESSIONS, LANDMARKS
from pipeline.settings import Settings
from pipeline.sources.base import Entry

SCAN_SCHEMA = pa.schema(
    [
        pa.field(field.name, pa.int64() if field.type is int else pa.string(), nullable=False)
        for field in dataclasses.fields(Entry)
    ]
)

VERIFY_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),  # "" for a usable input, else where it was rejected
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.binary(32)),  # of the source bytes; null when they were never read
        ("source_bytes", pa.int64()),
        ("expression", pa.int8()),
        ("shares", pa.binary(4 * len(EXPRESSIONS))),  # float32, little-endian
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        ("landmarks", pa.binary(8 * LANDMARKS)),  # float32, in pixels of the stored image; null when absent
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("format", pa.string()),
        ("verbatim", pa.bool_()),
        ("unchanged", pa.bool_()),  # the encoded image is stored as it is
        ("known", pa.bool_()),
        ("sentinel", pa.bool_()),
        ("notes", pa.list_(pa.string())),
    ]
)


def shard_name(split: str, index: int, count: int) -> str:
    """TFDS's own file name of a shard."""
    return f"{DATASET}-{split}.tfrecord-{index:05d}-of-{count:05d}"


class Staging:
    """Paths and small files of one unfinished dataset; picklable, so that workers can hold it."""

    def __init__(self, folder: str):
        self.folder = folder

    @property
    def out(self) -> str:
        """The dataset directory to be."""
        return os.path.join(self.folder, "out")

    def create(self) -> None:
        """Makes the folders, and sets space aside for the outcome of a run that fills the disk."""
        for name in ("scan", "verify", "plan", "write", "out"):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        with tfrecord.atomic_file(self._reserve) as file:
            file.write(bytes(2**16))

    def remove(self) -> None:
        """Removes everything, in one step for whoever looks: a kill leaves a name that `sweep` removes."""
        if os.path.exists(self.folder):
            os.rename(self.folder, self._trash)
        self.sweep()

    def sweep(self) -> None:
        """Removes what a killed `remove` left."""
        shutil.rmtree(self._trash, ignore_errors=True)

    @property
    def _trash(self) -> str:
        return f"{self.folder}.trash"

    def scan_path(self, chunk: int) -> str:
        """The listed inputs of a chunk."""
        return os.path.join(self.folder, "scan", f"{chunk:05d}.arrow")

    def verify_path(self, chunk: int, key: str) -> str:
        """The verified rows of a chunk."""
        return os.path.join(self.folder, "verify", f"{chunk:05d}-{key}.arrow")

    def plan_path(self, name: str) -> str:
        """A file of the plan."""
        return os.path.join(self.folder, "plan", name)

    def write_path(self, shard: str, suffix: str) -> str:
        """The done-record (".json") or offsets (".npy") of a shard."""
        return os.path.join(self.folder, "write", shard + suffix)

    @property
    def outcome_path(self) -> str:
        """What the last stage said."""
        return os.path.join(self.folder, "outcome.json")

    def write_outcome(self, outcome: dict) -> None:
        """Says how the pipeline ended, also on a full disk."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._reserve)
        write_json(self.outcome_path, outcome)

    @property
    def _reserve(self) -> str:
        return os.path.join(self.folder, "reserve")


def write_table(path: str, table: pa.Table) -> None:
    """Writes an Arrow file atomically; the same table gives the same bytes."""
    with tfrecord.atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Maps an Arrow file; only the columns asked for are ever touched."""
    with pa.memory_map(path) as source:
        table = pa.ipc.open_file(source).read_all()
    return table if columns is None else table.select(columns)


def write_json(path: str, value) -> None:
    """Writes JSON atomically, keys in their order."""
    with tfrecord.atomic_file(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_json(path: str):
    """Reads a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_array(path: str, array: np.ndarray) -> None:
    """Writes a .npy file atomically."""
    with tfrecord.atomic_file(path) as file:
        np.save(file, array)


def read_array(path: str) -> np.ndarray:
    """Maps a .npy file; only the rows asked for are ever touched."""
    return np.lib.format.open_memmap(path, mode="r")


def file_digest(path: str) -> str:
    """sha256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_digest(settings: dict) -> str:
    """sha256 of settings, as hex."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def make_staging(settings: Settings) -> Staging:
    """The staging directory beside the dataset that it will become, on the same file system."""
    parent, version = os.path.split(settings.dataset_dir)
    return Staging(os.path.join(parent, f".{version}.partial"))
