"""The plan stage: verified rows in, `plan/` out. Reads small columns, writes arrays; decides nothing itself."""

import collections
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import label_order, listing, planning, staging
from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS, REJECTION_REASONS
from pipeline.settings import Settings
from pipeline.sources import SOURCES
from pipeline.sources.base import SPLITS
from pipeline.tasks import Job

_EXAMPLES = 3
REJECTED = -1
#: AffectNet's validation set: 500 faces a class, contempt 499.
_AFFECTNET_VALIDATION = (500,) * 7 + (499,)


def make_plan(job: Job, chunks: list[listing.Chunk]) -> list[dict]:
    """Plans and returns the write tasks, one a shard.

    Raises:
      DataError: too many inputs were rejected, the labels look permuted, a leak, nothing to write.
      UsageError: flags that contradict what the source declares.
    """
    settings, where = job.settings, job.staging
    columns = _read(where, chunks)
    reasons = columns["reason"].to_numpy(zero_copy_only=False)
    usable = np.flatnonzero(reasons == "")
    _check_bad_fraction(columns, reasons, settings.max_bad_fraction)
    kept = columns.take(usable)
    expression = kept["expression"].to_numpy()
    if not settings.label_order:
        label_order.check(expression, kept["valence"].to_numpy(), SOURCES[settings.source].label_order)

    rows = planning.Rows(
        order=planning.order_keys(settings.seed, _strings(kept["id"])),
        content=_codes(kept["sha256"]),
        group=_group_codes(kept["group"]),
        declared=_declared(kept["split"]),
        expression=expression,
        size=kept["source_bytes"].to_numpy(),
        known=kept["known"].to_numpy(zero_copy_only=False),
        sentinel=kept["sentinel"].to_numpy(zero_copy_only=False),
    )
    plan = planning.plan(rows, make_policy(settings), kept["id"])

    outcome = np.full(len(reasons), REJECTED, np.int8)
    outcome[usable] = plan.outcome
    split = np.full(len(reasons), -1, np.int8)
    split[usable] = plan.split
    order = usable[plan.order]
    for name, array in (("outcome", outcome), ("split", split), ("order", order)):
        staging.write_array(where.plan_path(f"{name}.npy"), array)
    staging.write_json(where.plan_path("chunks.json"), [vars(chunk) for chunk in chunks])
    tasks = _write_tasks(job, chunks, plan.shards, order)
    staging.write_json(
        where.plan_path("plan.json"),
        {
            "shards": tasks,
            "warnings": _warnings(settings, expression, rows),
            "duplicates": _duplicates(plan.duplicates, kept["id"]),
            "leaks": _leaks(plan, rows, kept["id"], settings.on_leak),
        },
    )
    return tasks


def make_policy(settings: Settings) -> planning.Policy:
    """The part of the settings that planning depends on."""
    return planning.Policy(
        fractions=settings.split_fractions,
        splits_given=bool(settings.splits),
        holdout=settings.holdout,
        num_shards=settings.num_shards,
        shard_mb=settings.shard_mb,
        on_leak=settings.on_leak,
        sentinels=settings.sentinels,
        max_examples_per_split=settings.max_examples_per_split,
    )


def _read(where: staging.Staging, chunks: list[listing.Chunk]) -> pa.Table:
    scanned = ("id", "split", "group")
    verified = ("reason", "detail", "sha256", "source_bytes", "expression", "valence", "known", "sentinel")
    parts = []
    for chunk in chunks:
        part = staging.read_table(where.scan_path(chunk.index), scanned)
        rows = staging.read_table(where.verify_path(chunk.index, chunk.key), verified)
        for name in verified:
            part = part.append_column(name, rows[name])
        # Copied: what stays mapped counts as memory, neighbouring columns included.
        parts.append(part.take(pa.array(np.arange(chunk.rows))))
    return pa.concat_tables(parts)


def _check_bad_fraction(columns: pa.Table, reasons: np.ndarray, limit: float) -> None:
    rejected = np.flatnonzero(reasons != "")
    if len(rejected) <= limit * len(reasons):
        return
    lines = [
        f"{len(rejected)} of {len(reasons)} inputs are rejected, above --max_bad_fraction={limit}; nothing is "
        "published. Mend the input, or raise the flag if this is known"
    ]
    for reason, count in collections.Counter(reasons[rejected]).most_common():
        examples = columns.take(np.flatnonzero(reasons == reason)[:_EXAMPLES])
        shown = "; ".join(
            f"{i!r}: {d}" if d else repr(i) for i, d in zip(_strings(examples["id"]), _strings(examples["detail"]))
        )
        lines.append(f"  {count} × {reason} ({REJECTION_REASONS[reason]}), as {shown}")
    raise DataError("\n".join(lines))


def _strings(column: pa.ChunkedArray):
    for chunk in column.chunks:
        yield from chunk.to_pylist()


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _group_codes(column: pa.ChunkedArray) -> np.ndarray:
    codes = _codes(column)
    alone = pc.equal(column, "").to_numpy()
    codes[alone] = len(codes) + np.flatnonzero(alone)
    return codes


def _declared(column: pa.ChunkedArray) -> np.ndarray:
    declared = np.full(len(column), -1, np.int8)
    for index, name in enumerate(SPLITS):
        declared[pc.equal(column, name).to_numpy()] = index
    if (declared >= 0).any() and (declared < 0).any():
        raise DataError(
            f"{(declared < 0).sum()} inputs declare no split and {(declared >= 0).sum()} do; declare all or none"
        )
    return declared


def _write_tasks(
    job: Job, chunks: list[listing.Chunk], shards: tuple[planning.Shard, ...], order: np.ndarray
) -> list[dict]:
    basis = hashlib.sha256(staging.settings_digest(job.settings.deciding_bytes()).encode())
    for chunk in chunks:
        verified = staging.read_table(job.staging.verify_path(chunk.index, chunk.key))
        basis.update(chunk.key.encode() + verified.schema.metadata[b"stamp"])
    tasks = []
    for shard in shards:
        key = basis.copy()
        key.update(order[shard.start : shard.start + shard.records].tobytes())
        name = staging.shard_name(shard.split, shard.index, shard.count)
        tasks.append(
            {
                "kind": "write",
                "shard": name,
                "split": shard.split,
                "key": key.hexdigest(),
                "start": shard.start,
                "records": shard.records,
            }
        )
    return tasks


def _warnings(settings: Settings, expression: np.ndarray, rows: planning.Rows) -> list[str]:
    counts = tuple(np.bincount(expression[expression >= 0], minlength=len(EXPRESSIONS)))
    if settings.source == "affectnet" and counts == _AFFECTNET_VALIDATION and (rows.declared < 0).all():
        return [
            "these are 500 faces a class (contempt 499): AffectNet's validation set. A model trained on them "
            "must not be scored against AffectNet's validation set"
        ]
    return []


def _duplicates(groups: tuple[np.ndarray, ...], ids: pa.ChunkedArray) -> dict:
    examples = [ids.take(group[:20]).to_pylist() for group in groups[:20]]
    return {"groups": len(groups), "images": sum(map(len, groups)), "examples": examples}


def _leaks(plan: planning.Plan, rows: planning.Rows, ids: pa.ChunkedArray, policy: str) -> dict:
    examples = [
        [{"id": i, "split": SPLITS[s]} for i, s in zip(ids.take(group[:20]).to_pylist(), rows.declared[group[:20]])]
        for group in plan.leaks[:20]
    ]
    return {
        "policy": policy,
        "groups": len(plan.leaks),
        "images": sum(map(len, plan.leaks)),
        "dropped": int((plan.outcome == planning.OUTCOMES.index(planning.LEAK)).sum()),
        "examples": examples,
    }
