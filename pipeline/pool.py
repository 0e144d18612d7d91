"""Decoding processes: runs tasks in them, and tells a bad image from a bad machine when one dies.

A process that dies by a fault of its own (SIGSEGV, SIGABRT …) or hangs while it is at an image is
restarted, and that image is tried alone; only when it does so again is the image rejected. A process
that someone else killed (SIGKILL: usually out of memory) is restarted and its task repeated, and never
counts against an image: otherwise the result would depend on the machine.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

from pipeline.errors import EnvironmentFault, InvariantError
from pipeline.worker import BEACON, fault

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_LIVES = 5  # of one task, against kills from outside
_POLL_SECONDS = 0.5


class WorkerDied(Exception):
    """The process ended in the middle of a task: at which row's image, and by what."""

    def __init__(self, row: int, returncode: int, hung: bool):
        super().__init__(row, returncode, hung)
        self.row = row
        self.reason = "timeout" if hung else "decoder_crash" if -returncode in _CRASHES else ""
        self.returncode = returncode


class Worker:
    """One process and the pipe to it."""

    def __init__(self):
        with tempfile.TemporaryFile() as file:
            file.write(BEACON.pack(-1))
            file.flush()
            self._beacon = mmap.mmap(file.fileno(), BEACON.size)
            package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
            path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
            # Inherited: Ctrl-C reaches the whole group, and this process decides what it means.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.worker", str(file.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=(file.fileno(),),
                    env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def run(self, task: dict, timeout: float) -> dict:
        """The worker's answer.

        Raises:
          WorkerDied: it crashed, was killed, or stayed at one image for longer than `timeout` seconds.
        """
        BEACON.pack_into(self._beacon, 0, -1)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        answer, at, since = b"", -1, time.monotonic()
        while not answer.endswith(b"\n"):
            if select.select([self._process.stdout], [], [], _POLL_SECONDS)[0]:
                part = os.read(self._process.stdout.fileno(), 2**16)
                if not part:
                    self._process.wait()  # it may be on its way out, and how it ends is wanted
                    raise WorkerDied(self._at(), self.close(), hung=False)
                answer += part
            elif self._at() != at:
                at, since = self._at(), time.monotonic()
            elif at >= 0 and time.monotonic() - since > timeout:
                raise WorkerDied(at, self.close(), hung=True)
        return json.loads(answer)

    def kill(self) -> None:
        """Ends the process; from any thread: `run` in another one then says that it died."""
        self._process.kill()

    def close(self) -> int:
        """Ends the process and returns its exit code."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()

    def _at(self) -> int:
        return BEACON.unpack_from(self._beacon, 0)[0]


#: Processes between two tasks. The stages of a job share them: to start one takes half a second.
_idle: list[Worker] = []
_lock = threading.Lock()


def start_idle(count: int) -> None:
    """Starts processes ahead of their first task."""
    with _lock:
        _idle.extend(Worker() for _ in range(count - len(_idle)))


@dataclasses.dataclass
class Pool:
    """Up to `size` tasks at a time, each in a process of its own; a process is started when there is none idle."""

    size: int
    timeout: float

    def __post_init__(self):
        self._threads = concurrent.futures.ThreadPoolExecutor(self.size)
        self._busy: set[Worker] = set()
        self._closed = False

    def submit(self, task: dict) -> concurrent.futures.Future:
        """Runs one task; the future holds its answer, {} or a fault."""
        return self._threads.submit(self._run, task)

    def close(self) -> None:
        """Ends every process; tasks that run are lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with _lock:
            self._closed = True
            while _idle:
                _idle.pop().close()
            for worker in self._busy:
                worker.kill()

    def _run(self, task: dict) -> dict:
        condemned: dict[int, str] = {}  # rows of a chunk that are rejected unseen
        lives = _LIVES
        while lives:
            try:
                return self._try(task | {"condemned": condemned} if task["kind"] == "verify" else task)
            except WorkerDied as error:
                died = error
            again = (
                self._tried_alone(task, died.row) if task["kind"] == "verify" and died.reason and died.row >= 0 else ""
            )
            if again:
                condemned[died.row] = again
            else:
                lives -= 1
        if died.reason:
            return fault(InvariantError(f"a worker died {_LIVES} times ({died.reason}) in the {task['kind']} stage"))
        return fault(
            EnvironmentFault(
                f"a worker was killed {_LIVES} times (exit {died.returncode}), most likely for want of memory; "
                "use fewer --num_workers"
            )
        )

    def _tried_alone(self, task: dict, row: int) -> str:
        """How the worker dies at this row alone, or "" when it does not."""
        try:
            self._try({**task, "kind": "probe", "row": row})
        except WorkerDied as died:
            return died.reason
        return ""

    def _try(self, task: dict) -> dict:
        with _lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            worker = _idle.pop() if _idle else Worker()
            self._busy.add(worker)
        try:
            answer = worker.run(task, self.timeout)
        finally:
            with _lock:
                self._busy.remove(worker)
        with _lock:
            if self._closed:
                worker.close()
            else:
                _idle.append(worker)
        return answer
