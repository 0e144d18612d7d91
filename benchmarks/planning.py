"""Listing and planning of generated rows, without any file: how far one machine goes.

    python -m benchmarks.planning --rows=1000000

Prints one JSON object: seconds in all, and the highest resident memory of this process in bytes.
"""

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import measure
from pipeline import listing, planning
from pipeline.records import EXPRESSIONS
from pipeline.settings import Settings
from pipeline.sources.base import Entry


def plan(count: int) -> planning.Plan:
    """Lists and plans `count` generated inputs, of which one in a hundred has the bytes of another."""
    table = listing.list_inputs(_entries(count))
    rng = np.random.default_rng(0)
    content = np.arange(count)
    content[rng.choice(count, count // 100, replace=False)] = rng.integers(count, size=count // 100)
    rows = planning.Rows(
        order=planning.order_keys(0, (id for chunk in table["id"].chunks for id in chunk.to_pylist())),
        content=content,
        group=np.arange(count),
        declared=np.full(count, -1, np.int8),
        expression=rng.integers(-1, len(EXPRESSIONS), count).astype(np.int8),
        size=rng.integers(5_000, 50_000, count),
        known=np.ones(count, bool),
        sentinel=np.zeros(count, bool),
    )
    return planning.plan(rows, planning.Policy(fractions=Settings("affectnet", "raw", "data", "name").split_fractions))


def _entries(count: int) -> Iterator[Entry]:
    for number in np.random.default_rng(1).permutation(count):
        yield Entry(f"{number}", f"images/{number}.jpg", payload="15")


def main() -> None:
    """Parses flags, plans, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    start = time.perf_counter()
    planned = plan(rows)
    seconds = time.perf_counter() - start
    memory = measure.highest_resident()
    print(json.dumps({"rows": rows, "seconds": seconds, "memory": memory, "shards": len(planned.shards)}))


if __name__ == "__main__":
    main()
