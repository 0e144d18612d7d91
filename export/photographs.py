"""Photographs as the model was trained on them: found, verified, turned upright, converted."""

import concurrent.futures
import contextlib
import dataclasses
import glob
import itertools
import os
from collections.abc import Iterator, Sequence

from pipeline import images
from pipeline.errors import DataError
from pipeline.files import InputFiles
from pipeline.images import ImageSettings
from pipeline.records import Reject

#: Names that a folder is searched for; what the files are is decided by their content.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One input.

    Attributes:
      path: as it was found.
      encoded: upright, JPEG or PNG, 8-bit grey or RGB; b"" when it cannot be used.
      error: "reason: detail", "" when there is none.
    """

    path: str
    encoded: bytes
    error: str = ""


def find(patterns: Sequence[str]) -> Iterator[str]:
    """The files that patterns name, in their order.

    Args:
      patterns: each a file; a folder, searched with its subfolders for SUFFIXES, names in order; or a pattern with *,
        ?, [...] and **.

    Raises:
      DataError: one of them names nothing.
    """
    found = []
    for pattern in map(os.path.expanduser, patterns):
        if os.path.lexists(pattern):
            names = _in_folder(pattern) if os.path.isdir(pattern) else iter([pattern])
        else:
            names = iter(sorted(name for name in glob.iglob(pattern, recursive=True) if not os.path.isdir(name)))
        first = next(names, None)
        if first is None:
            raise DataError(
                f"--images={pattern} names no image; give files, folders with {', '.join(SUFFIXES)}, or a quoted "
                "pattern such as 'faces/*.jpg'"
            )
        found += [[first], names]
    return itertools.chain.from_iterable(found)


def read(paths: Iterator[str], settings: ImageSettings, *, batch_size: int) -> Iterator[list[Photograph]]:
    """Photographs in batches; one batch is read ahead of the one that was asked for.

    Args:
      paths: of the files.
      settings: what is accepted, and how large it is kept.
      batch_size: photographs of a batch; the last may have fewer.
    """
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        ahead: list[concurrent.futures.Future] = []
        for batch in _batches(paths, batch_size):
            coming = [threads.submit(_read, path, settings) for path in batch]
            if ahead:
                yield [future.result() for future in ahead]
            ahead = coming
        if ahead:
            yield [future.result() for future in ahead]


def _read(path: str, settings: ImageSettings) -> Photograph:
    folder, name = os.path.split(os.path.realpath(path))  # a link may lead anywhere: its owner named it
    try:
        with contextlib.closing(InputFiles(folder)) as files:
            data = files.read(name)
        images.inspect(data, settings)
        return Photograph(path, images.store(data, settings))
    except Reject as reject:
        return Photograph(path, b"", f"{reject.reason}: {reject.detail}")
    except DataError:
        return Photograph(path, b"", f"io_error: the folder {folder} is gone, or closed to this user")
    except MemoryError:
        return Photograph(path, b"", "too_large: not enough memory to decode it")


def _in_folder(folder: str) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(path, name) for name in sorted(names) if name.lower().endswith(SUFFIXES))


def _batches(paths: Iterator[str], size: int) -> Iterator[list[str]]:
    batch = []
    for path in paths:
        batch.append(path)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
