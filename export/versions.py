"""The directory of exported versions: 1, 2, 3 …, each there complete or not at all, the highest one in use.

TensorFlow Serving watches such a directory, and reads no name that is not a number.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline import tfrecord
from pipeline.errors import DataError, OutputBusyError
from pipeline.worker import describe_os_error

_PARTIAL = ".partial"


@contextlib.contextmanager
def new_version(folder: str | os.PathLike) -> Iterator[tuple[Path, Path]]:
    """A directory to fill, which becomes the next version when the block ends without an exception.

    What a killed export left is removed.

    Args:
      folder: of the versions; made when missing.

    Yields:
      (the directory to fill, the name that it will have).

    Raises:
      OutputBusyError: another process is writing a version.
      EnvironmentFault: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputBusyError(f"another export is writing {folder}; wait for it") from None
            partial, final = folder / _PARTIAL, folder / str(max(numbers(folder), default=0) + 1)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial, final
                _sync(partial)
                partial.rename(final)
                tfrecord.sync_folder(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise describe_os_error(error, str(folder)) from None


def numbers(folder: str | os.PathLike) -> list[int]:
    """The versions in a directory, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def latest(folder: str | os.PathLike) -> Path:
    """The SavedModel that a path means: itself, the highest of the versions in it, or those of a work directory.

    Raises:
      DataError: there is none.
    """
    folder = Path(folder)
    for place in (folder, folder / "export"):
        versions = [place / str(number) for number in numbers(place)]
        for candidate in [place, *reversed(versions)]:
            if (candidate / "saved_model.pb").is_file():
                return candidate
    raise DataError(
        f"{folder} holds no SavedModel and no numbered versions of one; give what `python -m export.export_model` "
        "wrote, as in WORKDIR/export"
    )


def _sync(folder: Path) -> None:
    """Brings every file below a folder to the disk, then the names."""
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(path, name), "rb") as file:
                os.fsync(file.fileno())
        tfrecord.sync_folder(path)
