"""A process that decodes: one task a line on standard input, one answer a line on standard output.

Images are decoded here and not in the runner's process, so that a decoder that crashes or hangs costs
one image and not the job, and so that all cores work. It ends when its parent does, however that dies.

    python -m pipeline.worker BEACON_FD      (started by pipeline.pool)
"""

import contextlib
import errno
import functools
import json
import mmap
import os
import queue
import struct
import sys
import threading
import traceback

from pipeline import listing, staging, tasks
from pipeline.errors import EnvironmentFault, InvariantError, PipelineError
from pipeline.settings import Settings

BEACON = struct.Struct("<q")


def main() -> None:
    """Serves tasks until the parent closes the pipe."""
    beacon_map = mmap.mmap(int(sys.argv[1]), BEACON.size)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # a library that prints must not answer for us
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(waiting,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the parent ended while we worked
        while True:
            task = json.loads(waiting.get())
            answers.write(json.dumps(_run(task, functools.partial(BEACON.pack_into, beacon_map, 0))) + "\n")
    os._exit(0)


def _listen(waiting: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        waiting.put(line)
    os._exit(0)  # the parent is gone or done; whatever runs now is of no use to anyone


def _run(task: dict, beacon: tasks.Beacon) -> dict:
    """Runs one task; the answer is {} or a fault."""
    try:
        job = tasks.Job(Settings(**task["settings"]), staging.Staging(task["staging"]))
        if task["kind"] == "write":
            tasks.write_shard(job, task["shard"], task["key"], task["start"], task["records"])
            return {}
        chunk = listing.Chunk(**task["chunk"])
        if task["kind"] == "probe":
            tasks.probe(job, chunk, task["row"], beacon=beacon)
        else:
            condemned = {int(row): reason for row, reason in task["condemned"].items()}
            tasks.verify_chunk(job, chunk, condemned=condemned, beacon=beacon)
        return {}
    except Exception as error:
        return fault(error, task["staging"])


def fault(error: Exception, output: str = "") -> dict:
    """An error as a row that can cross a process or a Beam stage.

    Args:
      error: what was raised.
      output: the directory that was written to. Reading the input raises Reject, so an OSError is about this.
    """
    if isinstance(error, MemoryError):
        error = EnvironmentFault("not enough memory; use fewer --num_workers")
    elif isinstance(error, OSError):
        error = describe_os_error(error, output)
    elif not isinstance(error, PipelineError):
        trace = "".join(traceback.format_exception(error))
        error = InvariantError(f"an unexpected error, please report it:\n{trace}")
    return {"fault": error.exit_code, "message": str(error)}


def describe_os_error(error: OSError, output: str) -> EnvironmentFault:
    """What an OSError while writing means to the user."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again, it continues",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, it continues",
        errno.EACCES: "no permission; make it writable for this user",
        errno.EPERM: "no permission; make it writable for this user",
        errno.EROFS: "the file system is read-only",
        errno.EEXIST: "a file is in the way; remove it, or name another directory",
        errno.ENOTDIR: "a file is in the way; remove it, or name another directory",
    }.get(error.errno, "the file system failed")
    return EnvironmentFault(f"{error.filename or output}: {error.strerror or error}: {advice}")


if __name__ == "__main__":
    main()
