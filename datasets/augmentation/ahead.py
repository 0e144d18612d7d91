"""`passes.transform` for streams of tf.data, compiled beside what else their first batch needs."""

import contextlib
import functools
import threading

import numpy as np
import tensorflow as tf

from datasets import python_calls
from datasets.augmentation import passes


class Program:
    """One face after the other, on the processor.

    The thread that compiles it ends with that; a process that ends before waits for it. What TensorFlow cannot compile
    is not said in the thread, because it fails again where a batch is made.

    A stream calls the program through Python. Were it in the graph of the stream, TensorFlow would copy and optimise it
    whenever an iterator is made.
    """

    def __init__(self, shape: tuple[int, int, int, int]):
        """Starts the thread, which compiles for a batch of images of this shape, (B, H, W, 3)."""
        self._thread = threading.Thread(target=self._compile, args=[shape], name="compile_ahead")
        self._thread.start()

    def __call__(self, images: tf.Tensor, matrices: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        """As `passes.transform`, within a stream. With another number of images it is compiled when that comes."""
        made = python_calls.call(self._run, [images, matrices, deltas, factors], tf.uint8)
        return tf.ensure_shape(made, images.shape)

    def wait(self) -> None:
        """Returns when it is compiled. To be called within a `python_calls.call`."""
        python_calls.join(self._thread)

    def _compile(self, shape: tuple[int, int, int, int]) -> None:
        given = [(shape, tf.uint8), ([shape[0], 3, 3], tf.float32), *[(shape[:1], tf.float32)] * 2]
        with contextlib.suppress(tf.errors.OpError), tf.device("CPU"):
            passes.one_by_one(*(tf.zeros(*one) for one in given), tf.constant(0))

    def _run(self, *arrays: np.ndarray) -> np.ndarray:
        self.wait()
        try:
            with tf.device("CPU"):
                return np.asarray(passes.one_by_one(*map(_tensor, arrays), tf.constant(len(arrays[0]))))
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(error.message) from error  # which the stream raises as the former again


@functools.cache
def program(shape: tuple[int, int, int, int]) -> Program:
    """A Program, and the same again for the same shape (threads that ask at the same time may get two)."""
    return Program(shape)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor; not a copy where it lies as XLA needs it, as what comes from a stream does."""
    if array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % 64 == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)
