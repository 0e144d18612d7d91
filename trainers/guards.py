"""What ends a training from outside: a signal, or that nothing moves any more."""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

from pipeline.errors import EnvironmentFault

_ENDING = (signal.SIGTERM, signal.SIGINT)
#: Seconds that a step may take after a signal, before the process ends without saving.
GRACE = 8.0


class Signal:
    """Which signal has asked for the end: `number`, 0 before one has."""

    number = 0


@contextlib.contextmanager
def listening(grace: float = GRACE) -> Iterator[Signal]:
    """Within the block SIGTERM and Ctrl-C are noted, for the loop to save and end.

    A loop that has not ended after `grace` seconds, because a library holds it, is ended by a thread: what was saved
    last stays. A second signal ends at once. Outside the main thread nothing is noted.
    """
    heard = Signal()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    receive, send = os.pipe()
    os.set_blocking(send, False)

    def wait() -> None:
        while number := os.read(receive, 1):
            if number[0] in _ENDING:
                heard.number = number[0]
                again, _, _ = select.select([receive], [], [], grace)
                if not again or os.read(receive, 1):
                    print(f"\nstopped by {signal.Signals(heard.number).name} without saving", file=sys.stderr)
                    os._exit(128 + heard.number)
                return

    before = {number: signal.signal(number, lambda *_: None) for number in _ENDING}
    wakeup = signal.set_wakeup_fd(send)
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(send)
        thread.join()
        os.close(receive)


class Watchdog:
    """Ends the process when `beat` was not called for some minutes, and says where every thread stands."""

    def __init__(self, minutes: float):
        self._minutes, self._last, self._done = minutes, time.monotonic(), threading.Event()

    def beat(self) -> None:
        """The training moves."""
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self._minutes:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._minutes * 6)):
            if time.monotonic() - self._last > self._minutes * 60:
                faulthandler.dump_traceback(sys.stderr)
                print(
                    f"error: no step in {self._minutes:g} minutes (--stall_minutes); above is where each thread "
                    "stands; the same command goes on from the last saved state",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EnvironmentFault.exit_code)
