"""Faces for benchmarks: a thousand drawn ones, and as many distinct copies as asked for.

A copy has its number in its lowest rows of pixels: other bytes and another hash, in a plain JPEG without metadata
as image libraries write it. The annotation files are hard links to those of the drawn face.
"""

import itertools
import os
import pathlib
import shutil

import numpy as np
import simplejpeg

from datasets import sample_faces

DRAWN = 1000
_KINDS = ("exp", "val", "aro", "lnd")


def make(work_dir: pathlib.Path, count: int, *, quality: int = 90) -> pathlib.Path:
    """A directory of `count` faces in AffectNet's flat layout; it is made once.

    Args:
      work_dir: on a disk; what an earlier call left there is used.
      count: how many faces. The same number is the same face in directories of other counts.
      quality: of the JPEGs; 90 makes 12 kB of a face, 97 makes 20 kB.
    """
    name = f"faces_{count}" if quality == 90 else f"faces_{count}_quality_{quality}"
    folder = work_dir / name
    if folder.exists():
        return folder
    drawn = work_dir / "drawn"
    sample_faces.write_dataset(drawn, count=DRAWN, seed=0, num_workers=os.cpu_count(), progress=True)
    originals = [
        (
            simplejpeg.decode_jpeg(path.read_bytes()),
            [drawn / "annotations" / f"{path.stem}_{kind}.npy" for kind in _KINDS],
        )
        for path in sorted((drawn / "images").iterdir())
    ]
    part = work_dir / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    (part / "annotations").mkdir()
    for number, (image, annotations) in zip(range(count), itertools.cycle(originals)):
        (part / "images" / f"{number}.jpg").write_bytes(_numbered(image, number, quality))
        for kind, file in zip(_KINDS, annotations):
            os.link(file, part / "annotations" / f"{number}_{kind}.npy")
    part.rename(folder)
    return folder


def _numbered(pixels: np.ndarray, number: int, quality: int) -> bytes:
    """The face as a JPEG, with its number as two rows of 16 black and white squares at the lower edge."""
    bits = np.unpackbits(np.array([number], ">u4").view(np.uint8)).reshape(2, 16) * np.uint8(255)
    squares = np.kron(bits, np.ones((4, 4), np.uint8))
    pixels = pixels.copy()
    pixels[-8:, :64] = squares[..., np.newaxis]
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")
