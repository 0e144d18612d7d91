"""The input directory, opened so that nothing in it can block, leave it, or fill the memory.

Every byte of input goes through `InputFiles.read` or `InputFiles.lines`. A file is opened without
blocking and without following links; a link is followed only when its target lies inside the input.
"""

import dataclasses
import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.errors import DataError
from pipeline.records import Reject

#: No annotation or face image is larger; a larger file is rejected before it is read.
MAX_FILE_BYTES = 256 * 2**20
#: An index line may hold a whole image as text (fer2013.csv: about 9 kB); an endless line is cut here.
MAX_LINE_BYTES = 2**20

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ZIP_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One name in a folder. `kind` is "file", "folder", or the rejection reason `bad_name` or `unsafe_path`."""

    name: str
    kind: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of an index file, without its line end. `reason` is set when it cannot be used."""

    number: int
    offset: int
    data: bytes
    reason: str = ""


def printable(name: str) -> str:
    """A name that is valid UTF-8: bytes that are not become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a name as the system gave it is UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def lines(file: BinaryIO) -> Iterator[Line]:
    """Streams the lines of an open index file; a byte order mark is dropped, CRLF is a line end.

    A line longer than MAX_LINE_BYTES comes back once, empty, with the reason `bad_row`.
    """
    offset, number, too_long = 0, 0, False
    while line := file.readline(MAX_LINE_BYTES):
        start, offset = offset, offset + len(line)
        complete = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
        if too_long:
            too_long = not complete
            continue
        if start == 0 and line.startswith(_BYTE_ORDER_MARK):
            start, line = len(_BYTE_ORDER_MARK), line[len(_BYTE_ORDER_MARK) :]
        number += 1
        if complete:
            yield Line(number, start, line.rstrip(b"\r\n"))
        else:
            too_long = True
            yield Line(number, start, b"", "bad_row")


class InputFiles:
    """Reads files below `root` by relative path.

    `seen` maps each path read to (bytes, mtime in ns), as it was when it was open.
    """

    def __init__(self, root: str | os.PathLike):
        """
        Raises:
          DataError: `root` is no readable directory.
        """
        self.root = os.path.realpath(root)
        self.seen: dict[str, tuple[int, int]] = {}
        self._safe_folders: dict[str, bool] = {}
        try:
            self._root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(
                f"--input_dir={os.fspath(root)} cannot be opened: {error.strerror}; "
                "give a directory that exists and is readable"
            ) from None

    def close(self) -> None:
        """Closes the directory; the instance is of no use afterwards."""
        os.close(self._root_fd)

    def has_folder(self, folder: str) -> bool:
        """Whether `folder` is a directory inside the input."""
        return os.path.isdir(os.path.join(self.root, folder)) and self._inside(folder)

    def has_file(self, path: str) -> bool:
        """Whether `path` is a regular file inside the input."""
        return os.path.isfile(os.path.join(self.root, path)) and self._inside(path)

    def items(self, folder: str = "") -> Iterator[Item]:
        """The names in one folder, in the order of the file system; hidden names (".…") are left out.

        Raises:
          DataError: the folder is missing, unreadable, or a link out of the input.
        """
        if folder and not self._inside(folder):
            raise DataError(
                f"{printable(folder)} is a link that leaves --input_dir={self.root}; "
                "give the directory that it points to"
            )
        try:
            entries = os.scandir(os.path.join(self.root, folder))
        except OSError as error:
            path = os.path.join(self.root, folder)
            raise DataError(f"{printable(path)} cannot be listed: {error.strerror}") from None
        with entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield self._item(folder, entry)

    def _item(self, folder: str, entry: os.DirEntry) -> Item:
        if not is_utf8(entry.name):
            return Item(entry.name, "bad_name", f"{printable(entry.name)!r} is not UTF-8")
        if entry.is_symlink() and not self._inside(os.path.join(folder, entry.name)):
            return Item(entry.name, "unsafe_path", "a link that leaves the input directory, is broken, or is a loop")
        if entry.is_dir():
            return Item(entry.name, "folder")
        if entry.is_file():
            return Item(entry.name, "file")
        return Item(entry.name, "unsafe_path", "neither a regular file nor a folder")

    def check_path(self, path: str) -> str:
        """A path that an index file names, normalised.

        Raises:
          Reject: `unsafe_path` when it is absolute, has "..", or leaves the input through a link;
            `bad_name` when it is not UTF-8.
        """
        if not is_utf8(path):
            raise Reject("bad_name", f"{printable(path)!r} is not UTF-8")
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise Reject("unsafe_path", f"{path!r} is absolute or leaves the input directory")
        return "/".join(part for part in parts if part not in ("", "."))

    def read(self, path: str, offset: int = 0, length: int = -1, codec: str = "", limit: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of a file, of a part of it, or of a zip member.

        Args:
          path: relative to the root.
          offset, length: the part; length -1 is to the end.
          codec: "" or "zip" (a member whose local header is at `offset` and whose stored bytes are `length`).
          limit: more bytes than this are not read.

        Raises:
          Reject: `io_error`, `unsafe_path`, `too_large`, or `corrupt` for a damaged zip member.
        """
        fd = self._open(path)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Reject("unsafe_path", f"{path!r} is not a regular file")
            self.seen[path] = (status.st_size, status.st_mtime_ns)
            if codec == "zip":
                return self._zip_member(fd, path, offset, length, limit)
            size = status.st_size - offset if length < 0 else length
            if size > limit:
                raise Reject("too_large", f"{path!r} has {size} bytes, above the limit of {limit}")
            data = _read_exactly(fd, offset, size)
        except OSError as error:
            raise Reject("io_error", f"{path!r}: {error.strerror}") from None
        finally:
            os.close(fd)
        if length >= 0 and len(data) != length:
            raise Reject("io_error", f"{path!r}: {len(data)} bytes at offset {offset} where {length} were listed")
        return data

    def lines(self, path: str) -> Iterator[Line]:
        """Streams the lines of an index file, as the function `lines` does.

        Raises:
          DataError: the file is missing, unreadable or not a regular file.
        """
        with self.open(path) as file:
            yield from lines(file)

    def open(self, path: str) -> BinaryIO:
        """An index file or archive, opened as safely as the rest; the caller closes it.

        Raises:
          DataError: the file is missing, unreadable or not a regular file.
        """
        try:
            fd = self._open(path)
        except Reject as reject:
            raise DataError(f"{os.path.join(self.root, path)} cannot be read: {reject.detail}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DataError(f"{os.path.join(self.root, path)} cannot be read: it is not a regular file")
        return open(fd, "rb", buffering=2**20)

    def stamp(self, path: str) -> tuple[int, int]:
        """(bytes, mtime in ns) of a file as it was read, or as it is now; (-1, -1) when it cannot be seen."""
        if path in self.seen:
            return self.seen[path]
        try:
            status = os.stat(path, dir_fd=self._root_fd)
        except OSError:
            return -1, -1
        return status.st_size, status.st_mtime_ns

    def _open(self, path: str) -> int:
        if not self._folder_is_safe(os.path.dirname(path)):
            raise Reject("unsafe_path", f"{path!r} leaves the input directory through a link")
        try:
            return os.open(path, _OPEN | os.O_NOFOLLOW, dir_fd=self._root_fd)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise Reject("io_error", f"{path!r}: {error.strerror}") from None
        if not self._inside(path):
            raise Reject("unsafe_path", f"{path!r} is a link that leaves the input directory")
        try:
            return os.open(os.path.realpath(os.path.join(self.root, path)), _OPEN | os.O_NOFOLLOW)
        except OSError as error:
            raise Reject("io_error", f"{path!r}: {error.strerror}") from None

    def _folder_is_safe(self, folder: str) -> bool:
        if folder not in self._safe_folders:
            self._safe_folders[folder] = self._inside(folder)
        return self._safe_folders[folder]

    def _inside(self, path: str) -> bool:
        try:
            real = os.path.realpath(os.path.join(self.root, path), strict=True)
        except OSError as error:
            return error.errno == errno.ENOENT and not os.path.islink(os.path.join(self.root, path))
        return real == self.root or real.startswith(self.root.rstrip("/") + "/")

    @staticmethod
    def _zip_member(fd: int, path: str, offset: int, length: int, limit: int) -> bytes:
        header = _read_exactly(fd, offset, _ZIP_LOCAL_HEADER.size)
        if len(header) < _ZIP_LOCAL_HEADER.size:
            raise Reject("corrupt", f"{path!r}: no zip member at offset {offset}")
        magic, _, flags, method, _, _, crc, _, size, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)
        if magic != b"PK\x03\x04" or flags & 1 or method not in (0, 8):
            raise Reject("corrupt", f"{path!r}: no readable zip member at offset {offset}")
        if length > limit:
            raise Reject("too_large", f"{path!r}: a zip member of {length} bytes, above the limit of {limit}")
        data = _read_exactly(fd, offset + _ZIP_LOCAL_HEADER.size + name_length + extra_length, length)
        if method == 8:
            inflater = zlib.decompressobj(-15)
            try:
                data = inflater.decompress(data, limit)
            except zlib.error as error:
                raise Reject("corrupt", f"{path!r}: zip member at offset {offset}: {error}") from None
            if inflater.unconsumed_tail:
                raise Reject("too_large", f"{path!r}: a zip member inflates to more than {limit} bytes")
            if not inflater.eof:
                raise Reject("corrupt", f"{path!r}: zip member at offset {offset} ends early")
        if not flags & 8 and (len(data) != size or zlib.crc32(data) != crc):
            raise Reject("corrupt", f"{path!r}: zip member at offset {offset} fails its checksum")
        return data


def _read_exactly(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
