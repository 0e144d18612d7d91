"""The yardstick: the same conversion as two plain loops over forked processes, without Beam.

    python -m benchmarks.plain_loop --input_dir=RAW --output_dir=OUT

Pass 1 reads, hashes and checks every face, pass 2 reads it again in the order of the plan, compares the hash
and writes the record, with the functions of this project. The shards are the very bytes that
`pipeline.build_tfrecords` writes. What is left out is what a plain loop leaves out: a restart after a kill,
records of what was done, any other metadata, hanging decoders, fsync.
"""

import argparse
import hashlib
import multiprocessing
import os
import time
from typing import NamedTuple

import numpy as np

from pipeline import codec, images, label_order, plan_stage, planning, staging, tfrecord
from pipeline.files import InputFiles
from pipeline.images import ImageSettings
from pipeline.records import Reject
from pipeline.settings import Settings
from pipeline.sources.affectnet import AffectNet
from pipeline.sources.base import Entry, Source, SourceOptions


class Row(NamedTuple):
    """A verified face."""

    sha256: bytes
    size: int
    expression: int
    shares: tuple[float, ...]
    valence: float
    arousal: float
    known: bool
    landmarks: np.ndarray | None


_CHUNK = 1024
_IMAGES = ImageSettings()


def convert(input_dir: str, output_dir: str, *, num_workers: int) -> None:
    """Converts faces in AffectNet's layout to shards."""
    source = AffectNet(InputFiles(input_dir), SourceOptions())
    entries = sorted((entry for entry in source.scan() if not entry.reason), key=lambda entry: entry.id)
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    context = multiprocessing.get_context("fork")  # the workers inherit what was read and imported
    with context.Pool(num_workers, _hold, (source,)) as pool:
        rows = [row for part in pool.imap(_verify, chunks) for row in part]
    good = [(entry, row) for entry, row in zip(entries, rows) if not isinstance(row, str)]
    print(f"{len(entries)} faces, {len(entries) - len(good)} rejected")

    plan = _plan(good, Settings("affectnet", input_dir, output_dir, "loop"))
    os.makedirs(output_dir)
    with context.Pool(num_workers, _hold, (source, good, plan.order, output_dir)) as pool:
        for name, digest in pool.imap_unordered(_write, plan.shards):
            print(name, digest)


def _hold(*values) -> None:
    global _held
    _held = values


def _verify(entries: list[Entry]) -> list[Row | str]:
    (source,) = _held
    return [_verified(source, entry) for entry in entries]


def _verified(source: Source, entry: Entry) -> Row | str:
    """The row, or the reason why there is none."""
    try:
        raw = source.raw(entry)
        digest = hashlib.sha256(raw).digest()
        labels = source.labels(entry)
        picture = images.inspect(raw, _IMAGES)
        landmarks = images.map_landmarks(labels.landmarks, picture) if labels.landmarks else None
    except Reject as reject:
        return reject.reason
    return Row(
        digest, len(raw), labels.expression, labels.shares, labels.valence, labels.arousal, labels.known, landmarks
    )


def _plan(good: list[tuple[Entry, Row]], settings: Settings) -> planning.Plan:
    ids = [entry.id for entry, _ in good]
    rows = [row for _, row in good]
    content: dict[bytes, int] = {}
    expression = np.array([row.expression for row in rows], np.int8)
    label_order.check(expression, np.array([row.valence for row in rows], np.float32), AffectNet.label_order)
    planned = planning.Rows(
        order=planning.order_keys(settings.seed, ids),
        content=np.array([content.setdefault(row.sha256, len(content)) for row in rows]),
        group=np.arange(len(good)),
        declared=np.full(len(good), -1, np.int8),
        expression=expression,
        size=np.array([row.size for row in rows]),
        known=np.array([row.known for row in rows]),
        sentinel=np.zeros(len(good), bool),
    )
    return planning.plan(planned, plan_stage.make_policy(settings))


def _write(shard: planning.Shard) -> tuple[str, str]:
    source, good, order, output_dir = _held
    name = staging.shard_name(shard.split, shard.index, shard.count)
    digest = hashlib.sha256()
    with open(os.path.join(output_dir, name), "wb") as file:
        for index in order[shard.start : shard.start + shard.records].tolist():
            framed = tfrecord.frame(codec.encode(_record(source, *good[index])))
            digest.update(framed)
            file.write(framed)
    return name, digest.hexdigest()


def _record(source: Source, entry: Entry, row: Row) -> codec.Record:
    raw = source.raw(entry)
    if hashlib.sha256(raw).digest() != row.sha256:
        raise SystemExit(f"{entry.id} changed")
    return codec.Record(
        image=images.store(raw, _IMAGES),
        expression=row.expression,
        shares=np.array(row.shares, np.float32),
        valence=row.valence,
        arousal=row.arousal,
        landmarks=row.landmarks,
        id=entry.id,
        group=entry.id,
    )


def main() -> None:
    """Parses flags and converts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input_dir", required=True)
    parser.add_argument("--output_dir", required=True, help="a directory that does not exist")
    parser.add_argument("--num_workers", type=int, default=len(os.sched_getaffinity(0)))
    flags = parser.parse_args()
    start = time.perf_counter()
    convert(flags.input_dir, flags.output_dir, num_workers=flags.num_workers)
    print(f"{time.perf_counter() - start:.2f} seconds")


if __name__ == "__main__":
    main()
