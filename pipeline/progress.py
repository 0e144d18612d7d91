"""A progress bar over the done-records: it works with every runner, also where `run` blocks elsewhere."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from pipeline import listing, staging

_SECONDS = 0.5
#: Between two lines of a log, which keeps every one of them.
_LOG_SECONDS = 10.0


@contextlib.contextmanager
def shown(where: staging.Staging, chunks: list[listing.Chunk], *, writes: bool) -> Iterator[None]:
    """Shows a bar on standard error while the block runs: images verified, then images written.

    On a terminal the bar stays on its line; in a file a stage that takes longer is a line every _LOG_SECONDS.

    Args:
      where: the staging directory.
      chunks: of the listing.
      writes: whether a write stage follows.
    """
    if sys.stderr is None:
        yield
        return
    from tqdm import tqdm

    total = sum(chunk.rows for chunk in chunks)
    stop = threading.Event()
    look = {"file": sys.stderr, "mininterval": _SECONDS}
    if not sys.stderr.isatty():
        look = {"file": _Lines(), "mininterval": _LOG_SECONDS, "delay": _LOG_SECONDS, "ascii": True}

    def watch() -> None:
        bars = [("verify", lambda: _verified(where, chunks))]
        if writes:
            bars.append(("write", lambda: _written(where)))
        for name, done in bars:
            with tqdm(total=total, desc=name, unit=" images", **look) as bar:
                ended = False
                while not ended and bar.n < bar.total:
                    ended = stop.wait(_SECONDS)
                    count, expected = done()
                    if expected is not None:
                        bar.total = expected
                    bar.update(count - bar.n)
                if bar.n < bar.total:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Lines:
    """Standard error, for a bar: each time it is drawn is a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip():
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


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
