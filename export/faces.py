"""Faces that an export is checked with: encoded as they are stored, and decoded by the evaluation pipeline."""

import dataclasses
import os

import numpy as np
import simplejpeg
import tensorflow as tf

from datasets import faults, labels, preprocessing, sample_faces
from datasets.input_pipeline import make_eval
from datasets.selection import Selection
from pipeline.records import EXPRESSIONS

#: Sides of the drawn ones, in turn: smaller, larger, not square after the cut.
_DRAWN_SIDES = (48, 112, 224, 300)


@dataclasses.dataclass(frozen=True)
class Faces:
    """Some faces, twice.

    Attributes:
      encoded: JPEG or PNG, of any sizes.
      images: the same ones, uint8 [N, S, S, 3], as evaluation feeds them to the model.
      source: where they are from, for people.
    """

    encoded: list[bytes]
    images: np.ndarray
    source: str


def of_split(folder: str | os.PathLike, split: str, *, size: int, count: int) -> Faces:
    """The first `count` faces of a published split, or as many as there are, `size` pixels a side.

    Raises:
      DataError: a record is damaged.
    """
    selection = Selection(os.fspath(folder), split, None)
    rows = np.arange(min(count, selection.count))
    with faults.explained():
        batch = next(iter(make_eval(selection, batch_size=len(rows), image_size=size)))
    encoded = labels.parse(tf.constant(selection.read(rows)))["image"].numpy().tolist()
    return Faces(encoded, batch["image"].numpy(), f"{len(rows)} faces of {split}")


def drawn(*, size: int, count: int) -> Faces:
    """`count` faces drawn by code, in several sizes, `size` pixels a side once they are resized."""
    encoded = []
    for number in range(count):
        side = _DRAWN_SIDES[number % len(_DRAWN_SIDES)]
        pixels, _ = sample_faces.draw_face(number, number % len(EXPRESSIONS), 0.0, 0.3, side)
        encoded.append(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[number % 7 :]), 95))
    images = np.stack([preprocessing.decode_and_resize(image, size).numpy() for image in encoded])
    return Faces(encoded, images, f"{count} drawn faces")
