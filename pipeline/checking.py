"""Does a published dataset still hold what was published? Every checksum, count and record.

The manifest's own sha256 is the dataset's digest; what the manifest lists is checked against it, and
what the shards hold is checked against `records.parquet`, record by record.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import codec, documents, images, metadata, publishing, tfrecord
from pipeline.errors import EnvironmentFault
from pipeline.records import Reject

#: Published files that no digest covers.
_OUTSIDE = {"manifest.json", "run.json"}
_EXPECTED = ("id", "group", "offset", "length", "expression", "expression_probs", "valence", "arousal", "has_landmarks",
             "height", "width")  # fmt: skip
_PROBLEMS_PER_SHARD = 5


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
      digest: of the dataset, as hex.
      shards, records, bytes: how much was read.
      problems: one line each, naming the file and, where there is one, the record; empty when all is well.
    """

    digest: str
    shards: int
    records: int
    bytes: int
    problems: tuple[str, ...]


def read_manifest(dataset_dir: str) -> dict:
    """The manifest of a published dataset, its fields checked.

    Raises:
      DataError: it is missing, damaged, or of another format; the message names the field.
      EnvironmentFault: it cannot be read.
    """
    return documents.load(os.path.join(dataset_dir, "manifest.json"), metadata.MANIFEST, version=metadata.FORMAT)[1]


def check_dataset(dataset_dir: str, *, workers: int) -> Verdict:
    """Checks everything, shards in parallel.

    Args:
      dataset_dir: the published directory.
      workers: processes.

    Raises:
      DataError: the manifest is missing or damaged, so that there is nothing to check against.
    """
    manifest = read_manifest(dataset_dir)
    problems = list(_file_problems(dataset_dir, manifest))
    if not problems:  # the tables are whole, so shards can be held against them
        problems += _count_problems(dataset_dir, manifest)
    rows = None
    if not any(problem.startswith("records.parquet") for problem in problems):
        rows = os.path.join(dataset_dir, "records.parquet")
    present = [shard for shard in manifest["shards"] if os.path.exists(os.path.join(dataset_dir, shard["file"]))]
    # Spawned, so that a worker inherits no thread of Arrow's.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            found = list(pool.map(_shard_problems, [dataset_dir] * len(present), present, [rows] * len(present)))
        except concurrent.futures.process.BrokenProcessPool:
            raise EnvironmentFault(
                "a checking process was killed, most likely for want of memory; use fewer --num_workers"
            ) from None
    problems += [problem for shard in found for problem in shard]
    return Verdict(
        digest=publishing.digest(dataset_dir),
        shards=len(present),
        records=sum(shard["records"] for shard in present),
        bytes=sum(shard["bytes"] for shard in present),
        problems=tuple(problems),
    )


def _file_problems(dataset_dir: str, manifest: dict) -> Iterator[str]:
    shards = {shard["file"] for shard in manifest["shards"]}
    present = set(os.listdir(dataset_dir))
    for name in sorted(present - shards - set(manifest["files"]) - _OUTSIDE):
        yield f"{name}: is not in the manifest; an extra file"
    for name in sorted((shards | set(manifest["files"])) - present):
        yield f"{name}: is missing"
    for name, digest in sorted(manifest["files"].items()):
        if name in present:
            with open(os.path.join(dataset_dir, name), "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield f"{name}: its sha256 is not the manifest's; it was changed after publishing"


def _count_problems(dataset_dir: str, manifest: dict) -> Iterator[str]:
    """Do the tables agree with each other? Each has its right sha256 already."""

    def load(name: str) -> dict:
        with open(os.path.join(dataset_dir, name), encoding="utf-8") as file:
            return json.load(file)

    info = load("dataset_info.json")
    lengths = {split["name"]: [int(n) for n in split["shardLengths"]] for split in info["splits"]}
    for split in {shard["split"] for shard in manifest["shards"]} | set(lengths):
        records = [shard["records"] for shard in manifest["shards"] if shard["split"] == split]
        if lengths.get(split) != records:
            yield f"dataset_info.json: split {split} has shard lengths {lengths.get(split)}, the manifest {records}"
    status = pq.read_table(os.path.join(dataset_dir, "records.parquet"), columns=["status"])["status"]
    counts = {row["values"]: row["counts"] for row in pc.value_counts(status).to_pylist()}
    statistics = load("statistics.json")
    for name in ("written", "rejected", "filtered"):
        if counts.get(name, 0) != statistics[name]:
            yield f"statistics.json: {statistics[name]} {name}, records.parquet has {counts.get(name, 0)}"
    with open(os.path.join(dataset_dir, "rejected.jsonl"), "rb") as file:
        lines = sum(1 for _ in file)
    if lines != statistics["rejected"]:
        yield f"rejected.jsonl: {lines} lines for {statistics['rejected']} rejected inputs"
    if manifest["input"]["count"] != len(status) or sum(counts.values()) != statistics["inputs"]:
        yield f"records.parquet: {len(status)} rows for {manifest['input']['count']} inputs"


def _shard_problems(dataset_dir: str, shard: dict, rows: str | None) -> list[str]:
    """Reads one shard whole: framing, sha256, and each record against its row."""
    problems: list[str] = []
    path = os.path.join(dataset_dir, shard["file"])
    expected = _expected_rows(rows, shard) if rows else None
    count = 0
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                problems.append(f"{shard['file']}: its sha256 is not the manifest's")
            file.seek(0)
            for offset, data in tfrecord.read_records(file):
                if expected is None or count < len(expected):
                    row = expected[count] if expected else None
                    problems += [f"{shard['file']}: record {count}{p}" for p in _record_problems(offset, data, row)]
                count += 1
    except tfrecord.DamagedRecord as damage:
        problems.append(
            f"{shard['file']}: {damage}" + (f" (id {expected[damage.index]['id']!r})" if _has(expected, damage) else "")
        )
    except OSError as error:
        problems.append(f"{shard['file']}: cannot be read: {error.strerror}")
    else:
        if count != shard["records"]:
            problems.append(f"{shard['file']}: {count} records, the manifest says {shard['records']}")
    if len(problems) > _PROBLEMS_PER_SHARD:
        more = len(problems) - _PROBLEMS_PER_SHARD
        problems = [*problems[:_PROBLEMS_PER_SHARD], f"{shard['file']}: … and {more} more problems"]
    return problems


def _has(expected: list[dict] | None, damage: tfrecord.DamagedRecord) -> bool:
    return expected is not None and damage.index < len(expected)


def _expected_rows(path: str, shard: dict) -> list[dict]:
    index = int(shard["file"].rsplit("-of-", 1)[0].rsplit("-", 1)[1])
    table = pq.read_table(
        path, columns=[*_EXPECTED, "position"], filters=[("split", "=", shard["split"]), ("shard", "=", index)]
    )
    return table.sort_by("position").to_pylist()


def _record_problems(offset: int, data: bytes, row: dict | None) -> Iterator[str]:
    """What is wrong with one record, as the end of a sentence that begins with its number."""
    try:
        record = codec.decode(data)
    except ValueError as error:
        yield f" at byte {offset}: {error}"
        return
    name = f" (id {record.id!r}) at byte {offset}"
    try:
        picture = images.inspect(record.image, images.ImageSettings(min_side=1, max_pixels=2**31))
    except Reject as reject:
        yield f"{name}: its image is {reject.reason}: {reject.detail}"
        return
    if not picture.verbatim:
        yield f"{name}: its image is not upright 8-bit grey or RGB"
    if row is None:
        return
    found = {
        "id": record.id,
        "group": record.group,
        "offset": offset,
        "length": len(data) + tfrecord.FRAME_BYTES,
        "expression": record.expression,
        "expression_probs": record.shares,
        "valence": record.valence,
        "arousal": record.arousal,
        "has_landmarks": record.landmarks is not None,
        "height": picture.height,
        "width": picture.width,
    }
    for field in _EXPECTED:
        if not np.array_equal(found[field], row[field], equal_nan=field in ("expression_probs", "valence", "arousal")):
            yield f"{name}: {field} is {found[field]!r}, records.parquet says {row[field]!r}"
