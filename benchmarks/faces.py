"""Faces for benchmarks: a thousand drawn ones, and as many distinct copies as asked for.

A copy differs from its face in a JPEG comment that holds its number: other bytes, another hash, and metadata
to be cut, as real files have. The annotation files are hard links to those of the drawn face.
"""

import itertools
import os
import pathlib
import shutil

from datasets import sample_faces

DRAWN = 1000
_KINDS = ("exp", "val", "aro", "lnd")


def make(work_dir: pathlib.Path, count: int) -> pathlib.Path:
    """A directory of `count` faces in AffectNet's flat layout; it is made once.

    Args:
      work_dir: on a disk; what an earlier call left there is used.
      count: how many faces. The same number is the same face in directories of other counts.
    """
    folder = work_dir / f"faces_{count}"
    if folder.exists():
        return folder
    drawn = work_dir / "drawn"
    sample_faces.write_dataset(drawn, count=DRAWN, seed=0, num_workers=os.cpu_count(), progress=True)
    originals = [
        (path.read_bytes(), [drawn / "annotations" / f"{path.stem}_{kind}.npy" for kind in _KINDS])
        for path in sorted((drawn / "images").iterdir())
    ]
    part = work_dir / f"faces_{count}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    (part / "annotations").mkdir()
    for number, (image, annotations) in zip(range(count), itertools.cycle(originals)):
        (part / "images" / f"{number}.jpg").write_bytes(_numbered(image, number))
        for kind, file in zip(_KINDS, annotations):
            os.link(file, part / "annotations" / f"{number}_{kind}.npy")
    part.rename(folder)
    return folder


def _numbered(image: bytes, number: int) -> bytes:
    """The JPEG with its number in a comment, behind the two bytes that every JPEG starts with."""
    text = f"benchmark face {number:08d}".encode()
    return image[:2] + b"\xff\xfe" + (2 + len(text)).to_bytes(2, "big") + text + image[2:]
