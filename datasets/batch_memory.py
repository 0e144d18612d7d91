"""Memory for batches of images, which is used again when nothing looks at a batch any more.

The system clears every page that it gives to a process, and takes back what large arrays leave: with a new array for
each batch, that is a twentieth of the decoding.
"""

import collections
import math
import weakref

import numpy as np

#: Bytes; of TensorFlow's own memory.
_ALIGNMENT = 64
#: Batches whose memory waits for the next ones, at most. As a stream runs, more are seldom let go at once.
_KEPT = 3

_free: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)


class _Loan:
    """What numpy sees as the owner of an array's memory: it lives as long as any view of the array."""

    def __init__(self, memory: np.ndarray):
        self.__array_interface__ = memory.__array_interface__
        # Not at the exit: there is no next batch then.
        weakref.finalize(self, _free.append, memory).atexit = False


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8, not set. TensorFlow takes over an array whose first byte lies so, without copying it.

    May be called by several threads.
    """
    size = math.prod(shape)
    try:
        while len(memory := _free.pop()) != size:
            pass
    except IndexError:
        memory = _new(size)
    return np.asarray(_Loan(memory)).reshape(shape)


def _new(size: int) -> np.ndarray:
    data = np.empty(size + _ALIGNMENT, np.uint8)
    first = -data.ctypes.data % _ALIGNMENT
    return data[first : first + size]
