"""Ending: at a signal, with everything that this process started."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ending_at_signals(advice: str, clean_up: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block, SIGTERM and Ctrl-C end the process at once, with exit code 143 or 130.

    Nothing needs to be unwound: the files are made to survive SIGKILL. Threads and processes of a
    runner may be anywhere, so they are not asked.

    Args:
      advice: the line to print.
      clean_up: called before the end.
    """

    def end(number: int, _frame) -> None:
        print(f"\nstopped by {signal.Signals(number).name}: {advice}", file=sys.stderr, flush=True)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        clean_up()
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, read from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
