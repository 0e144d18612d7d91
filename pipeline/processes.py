"""Ending: at a signal, with everything that this process started."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def ending_at_signals(advice: str, clean_up: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block, SIGTERM and Ctrl-C end the process at once, with exit code 143 or 130.

    Nothing needs to be unwound: the files are made to survive SIGKILL. Threads and processes of a
    runner may be anywhere, so they are not asked. A thread waits for the signal, since the main one may
    be in a library for long.

    Args:
      advice: the line to print.
      clean_up: called before the end.
    """
    receive, send = os.pipe()
    os.set_blocking(send, False)

    def wait() -> None:
        while number := os.read(receive, 1):
            if number[0] in _ENDING:
                _end(signal.Signals(number[0]), advice, clean_up)

    before = {number: signal.signal(number, lambda *_: None) for number in _ENDING}
    wakeup = signal.set_wakeup_fd(send)
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(send)
        thread.join()
        os.close(receive)


def _end(number: signal.Signals, advice: str, clean_up: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        os.write(2, f"\nstopped by {number.name}: {advice}\n".encode())
    # What other threads say about the end of their processes is of no interest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    clean_up()
    os._exit(128 + number)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, read from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            children.setdefault(_parent(int(name)), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_with(ancestor: int) -> None:
    """Ends this process when `ancestor` has ended, if it is one: the runners' own workers would live on.

    Does nothing where `ancestor` is no ancestor (a worker on another machine), and where there is no /proc.
    """
    pid = os.getpid()
    while pid and pid != ancestor:
        pid = _parent(pid)
    if not pid or pid == os.getpid():
        return

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            select.select([os.pidfd_open(ancestor)], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _parent(pid: int) -> int:
    """The process that started `pid` or took it over; 0 when there is none to be seen."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
