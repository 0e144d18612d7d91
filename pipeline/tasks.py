"""The two units of parallel work: verify one chunk of the listing, write one shard.

Both are idempotent: they look for their own done-record first and leave one by an atomic rename last.
They run in the processes of `pipeline.worker` and see files only.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from pipeline import codec, images, listing, staging, tfrecord
from pipeline.errors import DataError, InvariantError
from pipeline.files import InputFiles
from pipeline.records import Reject
from pipeline.settings import Settings
from pipeline.sources import SOURCES
from pipeline.sources.base import Entry, Source

#: Says which row's image the decoder is at, and -1 when it is at none, so that a crash or hang has a name.
Beacon = Callable[[int], None]

#: Rejections that the machine may be to blame for: a rerun looks again, though the files are the same.
_MAY_PASS = {"io_error", "timeout"}
_WRITE_BATCH = 4096
#: Records between two requests to the disk.
_WRITE_BACK = 512
_WRITTEN = ("sha256", "unchanged", "expression", "shares", "valence", "arousal", "landmarks")
_NAMED = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".gif": "gif", ".bmp": "bmp", ".webp": "webp"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What every task of one run shares."""

    settings: Settings
    staging: staging.Staging

    @functools.cached_property
    def image_settings(self) -> images.ImageSettings:
        """What images are checked with; made once, since each image asks for it."""
        return self.settings.image_settings

    @contextlib.contextmanager
    def open_source(self) -> Iterator[Source]:
        """The source over the input directory, which is open within the block."""
        with contextlib.closing(InputFiles(self.settings.input_root)) as files:
            yield SOURCES[self.settings.source](files, self.settings.source_options)


def verify_chunk(job: Job, chunk: listing.Chunk, *, condemned: dict[int, str], beacon: Beacon) -> None:
    """Checks every input of a chunk and leaves one row for each.

    Args:
      job: what to verify with.
      chunk: which inputs.
      condemned: rows (within the chunk) whose decoder crashed or hung before, and the reason to give.
      beacon: told the row before its image is decoded.
    """
    with job.open_source() as source:
        entries = list(listing.entries(staging.read_table(job.staging.scan_path(chunk.index))))
        path = job.staging.verify_path(chunk.index, chunk.key)
        if os.path.exists(path):
            done = staging.read_table(path)
            reasons = set(done["reason"].unique().to_pylist())
            if _stamp(source, entries) == done.schema.metadata[b"stamp"] and not reasons & _MAY_PASS:
                return
            os.unlink(path)
        rows = [
            _verified(job, source, entry, row, condemned=condemned.get(row), beacon=beacon)
            for row, entry in enumerate(entries)
        ]
        table = pa.Table.from_pylist(rows, schema=staging.VERIFY_SCHEMA)
        staging.write_table(path, table.replace_schema_metadata({"stamp": _stamp(source, entries)}))


def probe(job: Job, chunk: listing.Chunk, row: int, *, beacon: Beacon) -> None:
    """Decodes one input alone: does the decoder crash or hang again?"""
    with job.open_source() as source:
        part = staging.read_table(job.staging.scan_path(chunk.index)).slice(row, 1)
        (entry,) = listing.entries(part)
        _verified(job, source, entry, row, condemned=None, beacon=beacon)


def _verified(
    job: Job, source: Source, entry: Entry, row_number: int, *, condemned: str | None, beacon: Beacon
) -> dict:
    row = {
        "stage": "", "reason": "", "detail": "", "sha256": None, "source_bytes": 0, "expression": -1, "shares": None,
        "valence": None, "arousal": None, "landmarks": None, "height": 0, "width": 0, "format": "", "verbatim": False,
        "unchanged": False, "known": False, "sentinel": False, "notes": [],
    }  # fmt: skip
    if entry.reason:
        return row | {"stage": "scan", "reason": entry.reason, "detail": entry.detail}
    try:
        raw = source.raw(entry)
        row |= {"sha256": hashlib.sha256(raw).digest(), "source_bytes": len(raw)}
        labels = source.labels(entry)
        encoded = source.encoded(entry, raw)
        if condemned:
            raise Reject(condemned, "the decoder did so twice, the second time on this image alone")
        beacon(row_number)
        picture = images.inspect(encoded, job.image_settings, box=source.box(entry))
        landmarks = images.map_landmarks(labels.landmarks, picture) if labels.landmarks else None
    except Reject as reject:
        return row | {"stage": "verify", "reason": reject.reason, "detail": reject.detail}
    finally:
        beacon(-1)
    notes = [*labels.notes, *picture.notes]
    named = _NAMED.get(os.path.splitext(entry.path)[1].lower())
    if named and not entry.codec and named != picture.format and encoded is raw:
        notes.append(f"{picture.format} named {os.path.splitext(entry.path)[1].lower()}")
    return row | {
        "expression": labels.expression,
        "shares": np.asarray(labels.shares, "<f4").tobytes(),
        "valence": labels.valence,
        "arousal": labels.arousal,
        "landmarks": None if landmarks is None else np.asarray(landmarks, "<f4").tobytes(),
        "height": picture.height,
        "width": picture.width,
        "format": picture.format if encoded is raw else "pixels",
        "verbatim": picture.verbatim and encoded is raw,
        "unchanged": picture.unchanged,
        "known": labels.known,
        "sentinel": any(note.startswith(("expression:", "valence_arousal:")) for note in labels.notes),
        "notes": notes,
    }


def _stamp(source: Source, entries: list[Entry]) -> bytes:
    """A digest of size and time of every file that these inputs are read from."""
    digest = hashlib.sha256()
    for entry in entries:
        if not entry.reason:
            for path in source.paths(entry):
                digest.update(repr((path, *source.files.stamp(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest().encode()


def write_shard(job: Job, shard: str, key: str, start: int, records: int) -> None:
    """Reads the images of one shard again and writes it, with its done-record.

    Raises:
      DataError: an image changed or vanished since it was verified; its chunk is verified anew by the rerun.
    """
    done = job.staging.write_path(shard, ".json")
    path = os.path.join(job.staging.out, shard)
    if os.path.exists(done) and os.path.exists(path) and staging.read_json(done)["key"] == key:
        return
    offsets = np.empty((records, 2), np.int64)
    offset, digest, payload_bytes = 0, hashlib.sha256(), 0
    with tfrecord.atomic_file(path) as file:
        for position, record in enumerate(_records(job, start, records)):
            framed = tfrecord.frame(record)
            offsets[position] = offset, len(framed)
            offset += len(framed)
            payload_bytes += len(record)
            digest.update(framed)
            file.write(framed)
            if position % _WRITE_BACK == _WRITE_BACK - 1:
                tfrecord.start_writing_back(file)
    staging.write_array(job.staging.write_path(shard, ".npy"), offsets)
    staging.write_json(
        done,
        {"key": key, "records": records, "bytes": offset, "record_bytes": payload_bytes, "sha256": digest.hexdigest()},
    )


def _records(job: Job, start: int, records: int) -> Iterator[bytes]:
    """The serialised examples of a range of the plan's order."""
    order = staging.read_array(job.staging.plan_path("order.npy"))
    chunks = [listing.Chunk(**chunk) for chunk in staging.read_json(job.staging.plan_path("chunks.json"))]
    starts = np.cumsum([0] + [chunk.rows for chunk in chunks])
    with job.open_source() as source:
        for low in range(start, start + records, _WRITE_BATCH):
            rows = np.asarray(order[low : min(low + _WRITE_BATCH, start + records)])
            owners = np.searchsorted(starts, rows, side="right") - 1
            batch: list = [None] * len(rows)
            for owner in np.unique(owners):
                chunk, places = chunks[owner], np.flatnonzero(owners == owner)
                # Mapped anew for each batch: what stays mapped counts as memory, and would grow with the dataset.
                scanned = staging.read_table(job.staging.scan_path(chunk.index))
                verified = staging.read_table(job.staging.verify_path(chunk.index, chunk.key), _WRITTEN)
                scanned, verified = (table.take(rows[places] - starts[owner]) for table in (scanned, verified))
                for place, entry, labels in zip(places, listing.entries(scanned), verified.to_pylist()):
                    batch[place] = (entry, labels, chunk)
            for entry, labels, chunk in batch:
                yield codec.encode(_record(job, source, entry, labels, chunk))


def _record(job: Job, source: Source, entry: Entry, labels: dict, chunk: listing.Chunk) -> codec.Record:
    try:
        raw = source.raw(entry)
    except Reject as reject:
        raise _changed(job, chunk, f"{entry.id!r} cannot be read any more ({reject.detail})") from None
    if hashlib.sha256(raw).digest() != labels["sha256"]:
        raise _changed(job, chunk, f"{entry.id!r} ({entry.path!r}) changed during the run")
    try:
        image = source.encoded(entry, raw)
        if not labels["unchanged"]:
            image = images.store(image, job.image_settings, box=source.box(entry))
    except Reject as reject:
        raise InvariantError(
            f"{entry.id!r} was verified and is now rejected: {reject.reason}, {reject.detail}"
        ) from None
    landmarks = labels["landmarks"]
    return codec.Record(
        image=image,
        expression=labels["expression"],
        shares=np.frombuffer(labels["shares"], "<f4"),
        valence=labels["valence"],
        arousal=labels["arousal"],
        landmarks=None if landmarks is None else np.frombuffer(landmarks, "<f4"),
        id=entry.id,
        group=entry.group or entry.id,
    )


def _changed(job: Job, chunk: listing.Chunk, message: str) -> DataError:
    # Without its done-record the rerun verifies this chunk anew. Another shard may have seen to it.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(job.staging.verify_path(chunk.index, chunk.key))
    return DataError(f"{message}; nothing is published. Run the same command again once the input is at rest")
