"""Runs a command and measures it with everything that it starts."""

import contextlib
import dataclasses
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence

from pipeline import processes

_SAMPLE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one run took.

    Attributes:
      wall: seconds from start to end, the interpreter's start included.
      cpu: seconds of user and system time, of the process and of all below it that were waited for.
      memory: highest sum of proportional set sizes over the process tree, in bytes; 0 when not observed.
      anonymous: the highest sum of the part of it that is not the page cache of mapped files; 0 when not observed.
    """

    wall: float
    cpu: float
    memory: int = 0
    anonymous: int = 0


def run(command: Sequence[str], *, observe_memory: bool = False) -> Figures:
    """Runs a command to its end; its output is shown only when it fails.

    Memory is the kernel's Pss (a shared page counts once, in shares), read ten times a second from
    /proc/PID/smaps_rollup of the process and its descendants. That takes time of its own: a run whose time
    matters is not observed.

    Raises:
      RuntimeError: the command failed; the message holds what it printed.
    """
    os.sync()  # what the run before left to write is not for this one to pay
    before, start = _children_cpu(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with _observed(process.pid) if observe_memory else contextlib.nullcontext((0, 0)) as peaks:
        printed, _ = process.communicate()
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{printed.decode(errors='replace')}")
    return Figures(wall, _children_cpu() - before, *peaks)


def highest_resident() -> int:
    """The most memory that this process has had since its program was started, or `forget_highest`, in bytes.

    Not getrusage's figure, which is at least what the process that started it had then.
    """
    return _memory("VmHWM")


def resident() -> int:
    """The memory that this process has now, in bytes."""
    return _memory("VmRSS")


def forget_highest() -> None:
    """From now on `highest_resident` is the most since now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _memory(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _observed(pid: int):
    """Yields a list [memory, anonymous] that holds the peaks at the end of the block."""
    peaks, stop = [0, 0], threading.Event()

    def watch() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            sizes = [_proportional(process) for process in (pid, *processes.descendants(pid))]
            for kind, total in enumerate(map(sum, zip(*sizes))):
                peaks[kind] = max(peaks[kind], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _proportional(pid: int) -> tuple[int, int]:
    """(Pss, Pss_Anon) of a process in bytes; (0, 0) when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith("Pss"))
    except OSError:
        return 0, 0
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("Pss", "Pss_Anon"))
