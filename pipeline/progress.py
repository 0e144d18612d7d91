"""A progress bar over the done-records: it works with every runner, also where `run` blocks elsewhere."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from pipeline import listing, staging

_SECONDS = 0.5


@contextlib.contextmanager
def shown(where: staging.Staging, chunks: list[listing.Chunk], *, writes: bool) -> Iterator[None]:
    """Shows a bar on standard error while the block runs: images verified, then images written.

    Args:
      where: the staging directory.
      chunks: of the listing.
      writes: whether a write stage follows.
    """
    from tqdm import tqdm

    total = sum(chunk.rows for chunk in chunks)
    stop = threading.Event()

    def watch() -> None:
        bars = [("verify", lambda: _verified(where, chunks))]
        if writes:
            bars.append(("write", lambda: _written(where)))
        for name, done in bars:
            with tqdm(total=total, desc=name, unit=" images", file=sys.stderr, mininterval=_SECONDS, leave=True) as bar:
                while not stop.is_set():
                    count, expected = done()
                    if expected is not None:
                        bar.total = expected
                    bar.update(count - bar.n)
                    if bar.n == bar.total or stop.wait(_SECONDS):
                        break

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _verified(where: staging.Staging, chunks: list[listing.Chunk]) -> tuple[int, int | None]:
    done = set(os.listdir(os.path.join(where.folder, "verify")))
    paths = (os.path.basename(where.verify_path(chunk.index, chunk.key)) for chunk in chunks)
    return sum(chunk.rows for chunk, path in zip(chunks, paths) if path in done), None


def _written(where: staging.Staging) -> tuple[int, int | None]:
    plan = where.plan_path("plan.json")
    if not os.path.exists(plan):
        return 0, None
    shards = staging.read_json(plan)["shards"]
    done = set(os.listdir(os.path.join(where.folder, "write")))
    written = sum(shard["records"] for shard in shards if f"{shard['shard']}.json" in done)
    return written, sum(shard["records"] for shard in shards)
