"""Free memory, given back to the system: what one stage of a long job has freed does not add to what the next takes."""

import ctypes

import pyarrow as pa


def give_back() -> None:
    """Has Arrow and the C library return what they keep; where the C library is not glibc, Arrow alone."""
    pa.default_memory_pool().release_unused()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
