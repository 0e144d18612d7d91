"""What lies behind the errors that TensorFlow raises while a stream is read."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from pipeline.errors import DataError, EnvironmentFault


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises our own error in place of TensorFlow's, where there is one: ours reach us as text within theirs.

    Raises:
      DataError: a record is damaged.
      EnvironmentFault: a disk is full or cannot be written, or a device has no memory left.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if found := re.search(r"DataError: (.*)", error.message):
            raise DataError(found[1]) from None
        if isinstance(error, tf.errors.PermissionDeniedError) or "No space left" in error.message:
            raise EnvironmentFault(f"a file cannot be written: {error.message[:200]}") from None
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise EnvironmentFault(
                f"no memory is left on the device; take a smaller --batch_size ({error.message[:200]})"
            ) from None
        raise
