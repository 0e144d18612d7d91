"""Counts of a dataset, summed chunk by chunk: what `statistics.json` and the summary say."""

import collections

import numpy as np
import pyarrow as pa

from pipeline import listing, planning, staging
from pipeline.plan_stage import REJECTED
from pipeline.records import EXPRESSIONS
from pipeline.sources.base import SPLITS
from pipeline.tasks import Job

BINS = 40
_EDGES = np.linspace(-1.0, 1.0, BINS + 1)
_COUNTED = ("expression", "shares", "valence", "arousal", "landmarks", "source_bytes")
_KNOWN = ("expression", "expression_probs", "valence", "arousal", "landmarks")


class _Moments:
    """Mean, deviation and range of values in [-1, 1], mergeable."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf
        self.histogram = np.zeros(BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        values = values[~np.isnan(values)].astype(np.float64)
        if len(values):
            self.count += len(values)
            self.total += values.sum()
            self.squares += np.square(values).sum()
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
            self.histogram += np.histogram(values, _EDGES)[0]

    def as_dict(self) -> dict | None:
        if not self.count:
            return None
        mean = self.total / self.count
        deviation = np.sqrt(max(self.squares / self.count - mean * mean, 0.0))
        return {"mean": mean, "std": float(deviation), "min": float(self.low), "max": float(self.high)}


class _Split:
    """What is counted of one split."""

    def __init__(self):
        self.classes = np.zeros(len(EXPRESSIONS) + 1, np.int64)  # the last is unknown
        self.known = np.zeros(len(_KNOWN), np.int64)
        self.source_bytes = 0
        self.valence, self.arousal = _Moments(), _Moments()
        self.plane = np.zeros((BINS, BINS), np.int64)

    def add(self, rows: pa.Table) -> None:
        expression = rows["expression"].to_numpy()
        valence, arousal = rows["valence"].to_numpy(), rows["arousal"].to_numpy()
        shares = np.frombuffer(b"".join(rows["shares"].to_pylist()), "<f4").reshape(len(expression), -1)
        self.classes += np.bincount(expression % len(self.classes), minlength=len(self.classes))
        self.known += (
            (expression >= 0).sum(), shares.any(axis=1).sum(), (~np.isnan(valence)).sum(), (~np.isnan(arousal)).sum(),
            rows.num_rows - rows["landmarks"].null_count,
        )  # fmt: skip
        self.source_bytes += int(rows["source_bytes"].to_numpy().sum())
        self.valence.add(valence)
        self.arousal.add(arousal)
        both = ~np.isnan(valence) & ~np.isnan(arousal)
        self.plane += np.histogram2d(arousal[both], valence[both], (_EDGES, _EDGES))[0].astype(np.int64)

    def as_dict(self) -> dict:
        counts = self.classes[:-1]
        present = np.count_nonzero(counts)
        weights = {
            name: float(counts.sum() / (present * count)) if count else None for name, count in zip(EXPRESSIONS, counts)
        }
        return {
            "examples": int(self.classes.sum()),
            "classes": dict(zip((*EXPRESSIONS, "unknown"), self.classes.tolist())),
            "known": dict(zip(_KNOWN, self.known.tolist())),
            "class_weights": weights,
            "source_bytes": self.source_bytes,
            "valence": self.valence.as_dict(),
            "arousal": self.arousal.as_dict(),
            "valence_histogram": self.valence.histogram.tolist(),
            "arousal_histogram": self.arousal.histogram.tolist(),
            "valence_arousal_histogram": self.plane.tolist(),
        }


def count(job: Job) -> dict:
    """Sums up what was verified and planned; shards need not be written yet.

    Returns:
      `statistics.json` but for its format and the bytes of the shards, which only writing tells. Class weights are
      n / (classes present * n of the class), scikit-learn's "balanced".
    """
    where = job.staging
    outcome = staging.read_array(where.plan_path("outcome.npy"))
    split = staging.read_array(where.plan_path("split.npy"))
    plan = staging.read_json(where.plan_path("plan.json"))

    splits = {name: _Split() for name in SPLITS}
    tallies = {name: collections.Counter() for name in ("rejected", "filtered", "census", "sizes", "formats", "stored")}
    start = 0
    for _, rows in listing.batches(where):
        here = slice(start, start + rows.num_rows)
        start += rows.num_rows
        _tally(rows, outcome[here], tallies)
        for index, name in enumerate(SPLITS):
            if (members := np.flatnonzero(split[here] == index)).size:
                splits[name].add(rows.select(_COUNTED).take(members))

    shards = collections.Counter(shard["split"] for shard in plan["shards"])
    return {
        "inputs": start,
        "written": int((outcome == 0).sum()),
        "rejected": int((outcome == REJECTED).sum()),
        "filtered": int((outcome > 0).sum()),
        "splits": {name: splits[name].as_dict() | {"shards": shards[name]} for name in SPLITS if shards[name]},
        "histogram_edges": _EDGES.tolist(),
        "rejected_by_reason": _by_count(tallies["rejected"]),
        "filtered_by_reason": _by_count(tallies["filtered"]),
        "census": _by_count(tallies["census"]),
        "image_sizes": _by_count(tallies["sizes"]),
        "formats": _by_count(tallies["formats"]),
        "verbatim": tallies["stored"][True],
        "transcoded": tallies["stored"][False],
        "duplicates": plan["duplicates"],
        "leaks": plan["leaks"],
        "warnings": plan["warnings"],
    }


def _by_count(tally: collections.Counter) -> dict[str, int]:
    return dict(sorted(tally.items(), key=lambda item: (-item[1], item[0])))


def _tally(rows: pa.Table, outcome: np.ndarray, tallies: dict[str, collections.Counter]) -> None:
    tallies["rejected"].update(reason for reason in rows["reason"].to_pylist() if reason)
    tallies["filtered"].update(planning.OUTCOMES[code] for code in outcome if code > 0)
    tallies["census"].update(rows["notes"].combine_chunks().flatten().to_pylist())
    written = rows.filter(pa.array(outcome == 0))
    tallies["sizes"].update(f"{w}x{h}" for w, h in zip(written["width"].to_pylist(), written["height"].to_pylist()))
    tallies["formats"].update(written["format"].to_pylist())
    tallies["stored"].update(written["verbatim"].to_pylist())
