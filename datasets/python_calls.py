"""Python functions within streams of tf.data, and the end of a process that has such streams.

A stream works ahead in TensorFlow's threads. One that asks for Python while the interpreter is being taken down never
gets it, and TensorFlow, which waits for its threads, never ends. So before the interpreter goes, this waits until the
streams, of which nobody takes a batch any more, have filled their buffers and ask no more.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

#: Seconds that lie between two calls of a stream at most, and the same as a multiple of the longest call: what else it
#: does to a batch takes longer than to decode it.
_QUIET, _QUIET_CALLS = 0.2, 5
#: Seconds after which the process ends all the same; then it may hang.
_LONGEST = 60


class _Own(threading.local):
    """Of each thread: how long its call has waited so far, in seconds."""

    waited = 0.0


class _Calls:
    """What is running, when the last call ended, and how long the longest took."""

    def __init__(self):
        self._lock, self._running, self._ended, self._longest = threading.Lock(), 0, float("-inf"), 0.0
        self._own = _Own()

    def run(self, function: Callable, *inputs):
        with self._lock:
            self._running += 1
        start, self._own.waited = time.monotonic(), 0.0
        try:
            return function(*inputs)
        finally:
            with self._lock:
                self._running -= 1
                self._ended = time.monotonic()
                self._longest = max(self._longest, self._ended - start - self._own.waited)

    def join(self, thread: threading.Thread) -> None:
        start = time.monotonic()
        thread.join()
        self._own.waited += time.monotonic() - start

    def wait(self) -> None:
        """Returns when no call is running and none has come for a while."""
        last = time.monotonic() + _LONGEST
        while time.monotonic() < last:
            with self._lock:
                quiet = time.monotonic() - self._ended
                if not self._running and quiet > max(_QUIET, _QUIET_CALLS * self._longest):
                    return
            time.sleep(0.01)


_calls = _Calls()
atexit.register(_calls.wait)


def call(function: Callable, inputs: Sequence[tf.Tensor], types: tf.DType | Sequence[tf.DType]):
    """`tf.numpy_function` of a pure function.

    Stateless: under TensorFlow's op determinism, as in training on a CPU, a stream with a stateful function makes its
    batches one after the other, and only when they are asked for.
    """
    return tf.numpy_function(lambda *values: _calls.run(function, *values), inputs, types, stateful=False)


def join(thread: threading.Thread) -> None:
    """Waits, within a call, for a thread to end. How long that takes says nothing about the calls to come."""
    _calls.join(thread)
