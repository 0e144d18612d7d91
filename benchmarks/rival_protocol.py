"""What the rivals' processes share: answer each request with the time that it took. Standard library only."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator

BATCH_SIZE = 128
#: Batches before each measurement: what was made ahead while the others had their turn does not count.
WARM = 6


def serve(make: Callable[[str], Iterator]) -> None:
    """Answers requests on standard input until it ends.

    Args:
      make: a task ("decode" or "augment") to its endless batches.
    """
    streams: dict[str, Iterator] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["task"] not in streams:
            streams[request["task"]] = make(request["task"])
        stream = streams[request["task"]]
        for _ in range(WARM):
            next(stream)
        start, before = time.perf_counter(), _cpu()
        for _ in range(request["batches"]):
            next(stream)
        print(json.dumps({"seconds": time.perf_counter() - start, "cpu": _cpu() - before}), flush=True)


def _cpu() -> float:
    """Of this process and of the children that it has now, in seconds."""
    ticks = 0
    for pid in (os.getpid(), *_children(os.getpid())):
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found
