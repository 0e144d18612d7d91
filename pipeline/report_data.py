"""What the report shows, read from a published dataset directory and checked field by field."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from pipeline import codec, documents
from pipeline.documents import NUMBER, damaged, open_file, parse, read_file
from pipeline.metadata import FORMAT, MANIFEST, RECORDS_SCHEMA
from pipeline.records import EXPRESSIONS
from pipeline.sources.base import SPLITS
from pipeline.tfrecord import DamagedRecord, read_records

# What the page shows of each document, in the notation of `documents.parse`.
_SUMMARY = ({"mean": NUMBER, "std": NUMBER, "min": NUMBER, "max": NUMBER}, None)
_SPLIT = {
    "examples": int,
    "bytes": int,
    "shards": int,
    "classes": dict.fromkeys((*EXPRESSIONS, "unknown"), int),
    "known": dict.fromkeys(("expression", "expression_probs", "valence", "arousal", "landmarks"), int),
    "class_weights": dict.fromkeys(EXPRESSIONS, (*NUMBER, None)),
    "valence": _SUMMARY,
    "arousal": _SUMMARY,
    "valence_histogram": [int] * 40,
    "arousal_histogram": [int] * 40,
    "valence_arousal_histogram": [[int] * 40] * 40,
}
_STATISTICS = {
    "format": int,
    "inputs": int,
    "written": int,
    "rejected": int,
    "filtered": int,
    "splits": {"*": _SPLIT},
    "histogram_edges": [NUMBER] * 41,
    "rejected_by_reason": {"*": int},
    "filtered_by_reason": {"*": int},
    "census": {"*": int},
    "image_sizes": {"*": int},
    "formats": {"*": int},
    "verbatim": int,
    "transcoded": int,
    "duplicates": {"groups": int, "images": int, "examples": [[str]]},
    "warnings": [str],
    "leaks": {"policy": str, "groups": int, "images": int, "dropped": int, "examples": [[{"id": str, "split": str}]]},
}
_REJECTED = {"id": str, "reason": str, "detail": str}
_COLUMNS = (
    "id", "split", "shard", "position", "offset", "expression", "valence", "arousal", "status", "reason", "detail",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Published:
    """The metadata of a published directory.

    Attributes:
      folder: as it was given.
      digest: sha256 of `manifest.json`, which holds the sha256 of every other file.
      manifest, statistics: the JSON documents, every field that the report shows present and of its type.
      rows: the columns of `records.parquet` that the report needs, one row per input.
    """

    folder: str
    digest: str
    manifest: Mapping[str, Any]
    statistics: Mapping[str, Any]
    rows: pa.Table

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that have examples, in the usual order."""
        return tuple(name for name in SPLITS if name in self.statistics["splits"])


@dataclasses.dataclass(frozen=True)
class Face:
    """One written face: its split and its record."""

    split: str
    record: codec.Record


def load(folder: str | os.PathLike) -> Published:
    """Reads the metadata of a published directory.

    Raises:
      DataError: a file is missing or damaged, or a field is missing or of another type; names both.
      EnvironmentFault: a file cannot be read.
    """
    folder = os.fspath(folder)
    manifest_bytes, manifest = documents.load(os.path.join(folder, "manifest.json"), MANIFEST, version=FORMAT)
    _, statistics = documents.load(os.path.join(folder, "statistics.json"), _STATISTICS, version=FORMAT)
    outcomes = statistics["written"] + statistics["rejected"] + statistics["filtered"]
    if statistics["inputs"] != outcomes:
        raise damaged(
            os.path.join(folder, "statistics.json"),
            "inputs",
            f"{statistics['inputs']} where written + rejected + filtered is {outcomes}",
        )
    return Published(
        folder=folder,
        digest=hashlib.sha256(manifest_bytes).hexdigest(),
        manifest=manifest,
        statistics=statistics,
        rows=_rows(os.path.join(folder, "records.parquet")),
    )


def rejected_examples(published: Published, most: int) -> dict[str, list[dict]]:
    """The first `most` lines of `rejected.jsonl` for each reason.

    Raises:
      DataError: a line is damaged or lacks a field; names both.
    """
    examples = collections.defaultdict(list)
    path = os.path.join(published.folder, "rejected.jsonl")
    for number, line in enumerate(read_file(path).splitlines(), start=1):
        row = parse(line, _REJECTED, f"{path}, line {number}")
        if len(examples[row["reason"]]) < most:
            examples[row["reason"]].append(row)
    return examples


def filtered_examples(published: Published, most: int) -> dict[str, list[dict]]:
    """The first `most` rows, by id, that each policy left out."""
    examples = collections.defaultdict(list)
    filtered = published.rows.filter(pa.compute.equal(published.rows["status"], "filtered"))
    for row in filtered.select(["id", "reason", "detail"]).to_pylist():
        if len(examples[row["reason"]]) < most:
            examples[row["reason"]].append(row)
    return examples


def valence_arousal(published: Published) -> dict[str, np.ndarray]:
    """Class name -> float32 (n, 2), valence and arousal of its written faces where both are known; no empty class."""
    rows = published.rows
    pairs = np.stack([rows["valence"].to_numpy(), rows["arousal"].to_numpy()], axis=1)
    known = _written(rows) & ~np.isnan(pairs).any(axis=1)
    expression = rows["expression"].to_numpy()
    points = {name: pairs[known & (expression == index)] for index, name in enumerate(EXPRESSIONS)}
    return {name: pairs for name, pairs in points.items() if len(pairs)}


def sample_faces(published: Published, per_class: int) -> Iterator[tuple[str, list[Face]]]:
    """A seeded choice of written faces for each class that has any, "unknown" last.

    Raises:
      DataError: a record is damaged; names the shard and the record.
    """
    rows = published.rows
    written = _written(rows)
    expression = rows["expression"].to_numpy()
    random = np.random.default_rng(0)
    for index, name in [*enumerate(EXPRESSIONS), (-1, "unknown")]:
        candidates = np.flatnonzero(written & (expression == index))
        if len(candidates):
            chosen = np.sort(random.choice(candidates, min(per_class, len(candidates)), replace=False))
            yield name, [_face(published, row) for row in rows.take(chosen).to_pylist()]


def _face(published: Published, row: dict) -> Face:
    shards = sorted(shard["file"] for shard in published.manifest["shards"] if shard["split"] == row["split"])
    if row["shard"] >= len(shards):
        manifest = os.path.join(published.folder, "manifest.json")
        raise damaged(manifest, "shards", f"{len(shards)} of split {row['split']!r} where shard {row['shard']} is read")
    path = os.path.join(published.folder, shards[row["shard"]])
    try:
        with open_file(path) as file:
            file.seek(row["offset"])
            _, data = next(read_records(file))
        record = codec.decode(data)
    except (DamagedRecord, StopIteration):
        raise damaged(
            path, "", f"record {row['position']} at byte {row['offset']} is cut or fails its checksum"
        ) from None
    except ValueError as error:
        raise damaged(
            path, "", f"record {row['position']} at byte {row['offset']} is no face record ({error})"
        ) from None
    if record.id != row["id"]:
        raise damaged(path, "", f"record {row['position']} is {record.id!r}, records.parquet lists {row['id']!r}")
    return Face(row["split"], record)


def _rows(path: str) -> pa.Table:
    with open_file(path) as file:
        try:
            schema = pq.read_schema(file)
            for column in map(RECORDS_SCHEMA.field, _COLUMNS):
                if column.name not in schema.names or schema.field(column.name).type != column.type:
                    raise damaged(path, column.name, f"the column is missing or not of type {column.type}")
            return pq.read_table(file, columns=list(_COLUMNS))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, "", f"no Parquet file ({error})") from None


def _written(rows: pa.Table) -> np.ndarray:
    return pa.compute.equal(rows["status"], "written").to_numpy()
