"""How a dataset appears: complete or not at all, by one run at a time.

The lock is the kernel's (flock): it ends with the process that holds it, however that dies.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator

from pipeline import staging, tfrecord
from pipeline.errors import EnvironmentFault, OutputBusyError
from pipeline.worker import describe_os_error

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_MARKER = "published.json"


def is_complete(dataset_dir: str) -> bool:
    """Whether a dataset directory is there; directories appear complete."""
    return os.path.exists(os.path.join(dataset_dir, "manifest.json"))


def digest(dataset_dir: str) -> str:
    """The dataset's digest: sha256 of its manifest, which holds the sha256 of every other published file."""
    return staging.file_digest(os.path.join(dataset_dir, "manifest.json"))


def prepare_folder(dataset_dir: str) -> None:
    """Makes the folder that the dataset appears in.

    Raises:
      EnvironmentFault: it cannot be made.
    """
    parent = os.path.dirname(dataset_dir)
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise describe_os_error(error, parent) from None


@contextlib.contextmanager
def lock(dataset_dir: str) -> Iterator[None]:
    """Holds the output for this process.

    Raises:
      OutputBusyError: another run holds it.
      EnvironmentFault: the folder cannot be written.
    """
    parent, version = os.path.split(dataset_dir)
    path = os.path.join(parent, f".{version}.lock")
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise describe_os_error(error, parent) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
            os.close(fd)
            raise OutputBusyError(
                f"another run ({holder or 'starting'}) is writing {dataset_dir}; wait for it, or give another --name"
            ) from None
        except OSError as error:
            os.close(fd)
            raise EnvironmentFault(
                f"{path}: cannot be locked ({error.strerror}); use a file system with flock"
            ) from None
        # The holder before us may have removed the file between our open and our lock.
        if os.path.exists(path) and os.stat(path).st_ino == os.fstat(fd).st_ino:
            break
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.unlink(path)
        os.close(fd)


def publish(where: staging.Staging, dataset_dir: str, key: str = "") -> None:
    """Puts `out/` in place, by one rename, or by exchange with an older dataset, and removes the staging directory.

    Args:
      where: holds the complete `out/`.
      dataset_dir: where it appears.
      key: of the run, for `recover`.
    """
    tfrecord.sync_folder(where.out)
    staging.write_json(os.path.join(where.folder, _MARKER), {"digest": digest(where.out), "key": key})
    _put_in_place(where, dataset_dir)
    where.remove()


def recover(where: staging.Staging, dataset_dir: str, key: str = "") -> bool:
    """Finishes what a run killed while publishing left half-way.

    Returns:
      Whether that run had this `key`, and its dataset is in place now.
    """
    marker = os.path.join(where.folder, _MARKER)
    if not os.path.exists(marker):
        return False
    promised = staging.read_json(marker)
    if is_complete(where.out) and digest(where.out) == promised["digest"]:
        _put_in_place(where, dataset_dir)
    where.remove()
    return promised["key"] == key and is_complete(dataset_dir) and digest(dataset_dir) == promised["digest"]


def _put_in_place(where: staging.Staging, dataset_dir: str) -> None:
    aside = os.path.join(where.folder, "old")
    if os.path.exists(dataset_dir) and not _exchange(where.out, dataset_dir):
        # No exchange here (macOS, some network file systems): for a moment the name is missing, and
        # `recover` closes the gap if the process dies in it.
        if os.path.exists(aside):
            shutil.rmtree(aside)
        os.rename(dataset_dir, aside)
    if not os.path.exists(dataset_dir):
        os.rename(where.out, dataset_dir)
    tfrecord.sync_folder(os.path.dirname(dataset_dir))


def _exchange(left: str, right: str) -> bool:
    """Exchanges two directories in one step (Linux renameat2); False where that is not to be had."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), right)
