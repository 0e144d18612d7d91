"""Splits and shards: a pure function of small rows, without I/O.

Rows come sorted by id. The order of everything is by sha256(seed, id), so it depends on the inputs
and the seed alone: a global shuffle that never changes.
"""

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS, FILTER_REASONS
from pipeline.sources.base import SPLITS

_STRATA = len(EXPRESSIONS) + 1  # one more for the unknown expression
_TRAIN, _VALIDATION, _TEST = range(3)
_EXAMPLES = 20
#: 0.29 × 100 is 28.999999999999996.
_ROUNDING = 1e-9
#: Without --num_shards, a split is cut into at least this many shards as soon as each has this many examples,
#: so that several workers and readers have something to do.
_FEW_SHARDS, _FEW_EXAMPLES = 8, 250

WRITTEN, NO_LABEL, SENTINEL, LEAK, MAX_EXAMPLES = "", "no_label", "sentinel", "leak", "max_examples"
OUTCOMES = (WRITTEN, NO_LABEL, SENTINEL, LEAK, MAX_EXAMPLES)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What planning knows of the usable inputs; arrays of one length, in id order.

    Attributes:
      order: uint64, from sha256(seed, id).
      content: int64, equal where the bytes are equal.
      group: int64, equal where the group is equal.
      declared: int8, index into SPLITS, or -1.
      expression: int8, 0 to 7, or -1.
      size: int64, bytes of the source image.
      known: bool, some head has a label.
      sentinel: bool, AffectNet could not label it.
    """

    order: np.ndarray
    content: np.ndarray
    group: np.ndarray
    declared: np.ndarray
    expression: np.ndarray
    size: np.ndarray
    known: np.ndarray
    sentinel: np.ndarray


@dataclasses.dataclass(frozen=True)
class Policy:
    """The settings that a plan depends on; as in `Settings`, which documents them."""

    fractions: tuple[tuple[str, float], ...]
    splits_given: bool = False
    holdout: float = 0.0
    num_shards: int = 0
    shard_mb: int = 128
    on_leak: str = "stop"
    sentinels: str = "keep"
    max_examples_per_split: int = 0


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard: its split, its place in the split, and its rows as a range of `Plan.order`."""

    split: str
    index: int
    count: int
    start: int
    records: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where each row goes.

    Attributes:
      outcome: int8, index into OUTCOMES; 0 is written, every other is why it is filtered.
      split: int8, index into SPLITS; -1 when filtered.
      order: int64, the written rows in the order in which they stand in the shards.
      shards: tuple of Shard, in the order of `order`.
      duplicates, leaks: groups of row indices with equal bytes; leaks span declared splits.
    """

    outcome: np.ndarray
    split: np.ndarray
    order: np.ndarray
    shards: tuple[Shard, ...]
    duplicates: tuple[np.ndarray, ...]
    leaks: tuple[np.ndarray, ...]


def order_keys(seed: int, ids: Iterable[str]) -> np.ndarray:
    """uint64 keys: the first eight bytes of sha256("SEED\\0ID")."""
    start = hashlib.sha256(f"{seed}\0".encode())
    digests = bytearray()
    for text in ids:
        digest = start.copy()
        digest.update(text.encode())
        digests += digest.digest()[:8]
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


def plan(rows: Rows, policy: Policy, names: Sequence[str] | None = None) -> Plan:
    """Decides split, shard and position of every row.

    Args:
      rows: the usable inputs.
      policy: the settings.
      names: ids by row, for messages; row numbers stand in for them.

    Raises:
      DataError: equal bytes in two declared splits and `on_leak="stop"`, or nothing is left to write.
      UsageError: `splits` or `holdout` contradict what the source declares.
    """
    outcome = np.zeros(len(rows.order), np.int8)
    outcome[~rows.known] = OUTCOMES.index(NO_LABEL)
    if policy.sentinels == "drop":
        outcome[rows.sentinel] = OUTCOMES.index(SENTINEL)

    duplicates = equal_groups(rows.content)
    declared = bool((rows.declared >= 0).any())
    leaks = [group for group in duplicates if _is_leak(rows, group[outcome[group] == 0])]
    if leaks and policy.on_leak == "stop":
        raise DataError(_leak_message(leaks, rows, names))
    if policy.on_leak == "drop":
        for group in leaks:
            kept = rows.declared[group[outcome[group] == 0]].max()  # SPLITS is in the order in which copies are kept
            outcome[group[(outcome[group] == 0) & (rows.declared[group] < kept)]] = OUTCOMES.index(LEAK)

    split = _assign_splits(rows, policy, np.flatnonzero(outcome == 0), declared)
    order, shards = [], []
    for index, name in enumerate(SPLITS):
        members = np.flatnonzero(split == index)
        members = members[np.argsort(rows.order[members], kind="stable")]
        if policy.max_examples_per_split:
            dropped = members[policy.max_examples_per_split :]
            outcome[dropped], split[dropped] = OUTCOMES.index(MAX_EXAMPLES), -1
            members = members[: policy.max_examples_per_split]
        shards += _cut_shards(name, len(members), int(rows.size[members].sum()), sum(map(len, order)), policy)
        order.append(members)
    if not shards:
        counts = collections.Counter(OUTCOMES[code] for code in outcome)
        filtered = ", ".join(f"{count} × {reason} ({FILTER_REASONS[reason]})" for reason, count in counts.most_common())
        raise DataError(
            f"no face is left to write: {filtered or 'every input was rejected; a lower --max_bad_fraction says why'}"
        )
    return Plan(outcome, split, np.concatenate(order), tuple(shards), tuple(duplicates), tuple(leaks))


def equal_groups(codes: np.ndarray) -> list[np.ndarray]:
    """The groups of two and more row indices with equal codes, by their first row."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=codes[order][:1] - 1))
    sizes = np.diff(starts, append=len(codes))
    groups = [order[start : start + size] for start, size in zip(starts[sizes > 1], sizes[sizes > 1])]
    return sorted(groups, key=lambda group: group[0])


def _is_leak(rows: Rows, group: np.ndarray) -> bool:
    declared = rows.declared[group]
    return len(np.unique(declared[declared >= 0])) > 1


def _leak_message(leaks: list[np.ndarray], rows: Rows, names: Sequence[str] | None) -> str:
    lines = [
        f"{len(leaks)} groups of byte-equal images stand in two splits that the source declares; "
        "--on_leak=drop drops the copy in train first, then in validation, never in test; --on_leak=allow keeps all"
    ]
    for group in leaks[:_EXAMPLES]:
        members = (f"{names[row] if names is not None else row} ({SPLITS[rows.declared[row]]})" for row in group)
        lines.append("  " + " = ".join(members))
    if len(leaks) > _EXAMPLES:
        lines.append(f"  … and {len(leaks) - _EXAMPLES} more")
    return "\n".join(lines)


def _assign_splits(rows: Rows, policy: Policy, members: np.ndarray, declared: bool) -> np.ndarray:
    split = np.full(len(rows.order), -1, np.int8)
    if not declared:
        if policy.holdout:
            raise UsageError(
                "--holdout is for a source that declares a train split; this one declares none: use --splits"
            )
        targets = [(SPLITS.index(name), fraction) for name, fraction in policy.fractions]
        split[members] = _stratify(rows, members, targets)
        return split
    if policy.splits_given:
        raise UsageError(
            "--splits is for a source that declares no splits, and this one does; --holdout=0.1 carves a validation"
        )
    split[members] = rows.declared[members]
    if policy.holdout:
        if (rows.declared == _VALIDATION).any():
            raise UsageError(
                "--holdout carves a validation split, and this source declares one already; leave the flag out"
            )
        train = members[split[members] == _TRAIN]
        split[train] = _stratify(rows, train, [(_TRAIN, 1 - policy.holdout), (_VALIDATION, policy.holdout)])
    return split


def _stratify(rows: Rows, members: np.ndarray, targets: list[tuple[int, float]]) -> np.ndarray:
    """A split for each member. Units fill the splits of their commonest class, each exact to one unit.

    What a class has left over goes to the splits that rounding has cost most so far: small classes would else all
    round to the same side, and leave a split empty.
    """
    unit = _units(rows, members)
    first = np.full(unit.max() + 1 if len(unit) else 0, len(rows.order), np.int64)
    np.minimum.at(first, unit, members)  # the smallest id: rows are sorted by it
    sizes = np.bincount(unit, minlength=len(first))
    votes = np.zeros((len(first), _STRATA), np.int32)
    np.add.at(votes, (unit, rows.expression[members] % _STRATA), 1)
    stratum = votes.argmax(axis=1)

    target_splits = np.array([split for split, _ in targets], np.int8)
    fractions = np.array([fraction for _, fraction in targets])
    owed = np.zeros(len(targets))
    unit_split = np.empty(len(first), np.int8)
    for value in range(_STRATA):
        units = np.flatnonzero(stratum == value)
        units = units[np.lexsort((first[units], rows.order[first[units]]))]
        due = fractions * sizes[units].sum()
        counts = np.floor(due + _ROUNDING)
        left = sizes[units].sum() - int(counts.sum())
        counts[np.argsort(counts - due - owed, kind="stable")[:left]] += 1
        owed += due - counts
        middles = np.cumsum(sizes[units]) - sizes[units] / 2
        unit_split[units] = target_splits[np.searchsorted(np.cumsum(counts)[:-1], middles, side="right")]
    return unit_split[unit]


def _units(rows: Rows, members: np.ndarray) -> np.ndarray:
    """Codes 0, 1, 2 … of the connected components of equal group or equal bytes, one for each member."""
    edges = [
        np.stack((group[:-1], group[1:]))
        for codes in (rows.group[members], rows.content[members])
        for group in equal_groups(codes)
    ]
    if not edges:
        return np.arange(len(members))
    from scipy import sparse  # half a second to import, and most datasets need none of it

    left, right = np.concatenate(edges, axis=1)
    graph = sparse.coo_array((np.ones(len(left), bool), (left, right)), shape=(len(members), len(members)))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _cut_shards(split: str, examples: int, size: int, start: int, policy: Policy) -> list[Shard]:
    if not examples:
        return []
    count = policy.num_shards or max(
        math.ceil(size / (policy.shard_mb * 1e6)), min(_FEW_SHARDS, examples // _FEW_EXAMPLES)
    )
    count = max(1, min(count, examples, 99_999))
    edges = [examples * i // count for i in range(count + 1)]
    return [Shard(split, i, count, start + low, high - low) for i, (low, high) in enumerate(itertools.pairwise(edges))]
