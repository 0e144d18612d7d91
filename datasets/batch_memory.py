"""Memory for batches of images, which is used again when nothing looks at a batch any more.

The system clears every page that it gives to a process, and takes back what large arrays leave: with a new array for
each batch, that is a twentieth of the decoding.
"""

import collections
import math

import numpy as np

#: Bytes; of TensorFlow's own memory.
_ALIGNMENT = 64
#: Bytes that wait for the next batches, at most: 13 batches of 128 images of 224 pixels. Larger ones are never kept.
_KEPT = 1 << 28


class _Memory:
    """Bytes whose first one is aligned; compared by identity, which arrays are not."""

    def __init__(self, size: int):
        data = np.empty(size + _ALIGNMENT, np.uint8)
        first = -data.ctypes.data % _ALIGNMENT
        self.data = data[first : first + size]


class _Pool:
    """Memory that waits.

    Without a lock, because a loan may end in the middle of anything, also of these functions: each single operation on
    the deque is whole, and between two of them others may come.
    """

    def __init__(self, largest: int):
        self._largest = largest
        #: The longest here first.
        self.free: collections.deque[_Memory] = collections.deque()

    def take(self, size: int) -> _Memory:
        for memory in self.free.copy():
            if len(memory.data) == size:
                try:
                    self.free.remove(memory)
                except ValueError:  # another thread was quicker
                    continue
                return memory
        return _Memory(size)

    def keep(self, memory: _Memory) -> None:
        if len(memory.data) > self._largest:
            return
        self.free.append(memory)
        while sum(len(memory.data) for memory in self.free.copy()) > self._largest:
            try:
                self.free.popleft()
            except IndexError:  # other threads have thrown all of it away
                return


class _Loan:
    """What numpy sees as the owner of an array's memory: it lives as long as any view of the array.

    It may end while the interpreter is taken down, when this module's names are gone: `__del__` uses none of them.
    """

    def __init__(self, pool: _Pool, memory: _Memory):
        self._pool, self._memory = pool, memory
        self.__array_interface__ = memory.data.__array_interface__

    def __del__(self):
        self._pool.keep(self._memory)


_pool = _Pool(_KEPT)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8, not set. TensorFlow takes over an array whose first byte lies so, without copying it.

    May be called by several threads.
    """
    return np.asarray(_Loan(_pool, _pool.take(math.prod(shape)))).reshape(shape)
