"""TFRecord files: framing, checksums, and files that appear complete or not at all.

A TFRecord is: length (8 bytes, little-endian), masked CRC-32C of the length, data, masked CRC-32C of
the data (tensorflow/core/lib/io/record_writer.cc).
"""

import contextlib
import ctypes
import functools
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

FRAME_BYTES = 16
_SYNC_FILE_RANGE_WRITE = 2
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")


class DamagedRecord(Exception):
    """A record that fails its checksums or is cut; `index` counts from 0, `offset` is in bytes."""

    def __init__(self, index: int, offset: int, problem: str):
        super().__init__(f"record {index} at byte {offset}: {problem}")
        self.index = index
        self.offset = offset


def masked_crc(data: bytes) -> int:
    """TensorFlow's masked CRC-32C of `data`."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """One record as it stands in the file."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _CRC.pack(masked_crc(length)), record, _CRC.pack(masked_crc(record))))


def read_records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the frame, record) and checks both checksums of each.

    Raises:
      DamagedRecord: at the first record that is cut or changed.
    """
    index, offset = 0, file.tell()
    file_bytes = os.fstat(file.fileno()).st_size
    while header := file.read(12):
        if len(header) < 12 or _CRC.unpack(header[8:])[0] != masked_crc(header[:8]):
            raise DamagedRecord(index, offset, "its length fails the checksum or is cut")
        length = _LENGTH.unpack(header[:8])[0]
        if length > file_bytes - offset - FRAME_BYTES:
            raise DamagedRecord(index, offset, f"it is cut: {length} bytes announced, the file has {file_bytes}")
        body = file.read(length + 4)
        record = body[:length]
        if _CRC.unpack(body[length:])[0] != masked_crc(record):
            raise DamagedRecord(index, offset, "its data fails the checksum")
        yield offset, record
        index, offset = index + 1, offset + FRAME_BYTES + length


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that appears at `path`, synced to disk, only when the block ends without an exception.

    The temporary name is hidden and holds the process id, so that two writers of the same bytes never
    meet; what a killed one leaves is removed with the staging directory.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def start_writing_back(file: BinaryIO) -> None:
    """Has the kernel write to the disk what the file holds so far, without waiting: its sync will be short."""
    file.flush()
    if hasattr(_libc(), "sync_file_range"):  # Linux; a hint only, so that no answer is wanted
        _libc().sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def sync_folder(folder: str | os.PathLike) -> None:
    """Makes the names in a folder survive a power failure."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
