"""AffectNet as released in March 2021: an image and up to four `.npy` files a face.

    RAW/images/123.jpg
    RAW/annotations/123_exp.npy  123_val.npy  123_aro.npy  123_lnd.npy

or the same two folders in `RAW/train_set/` (split train) and `RAW/val_set/` (split test: AffectNet's
validation set is what papers report on). The same number in both is another face, so ids are
"123" in the first form and "train_set/123" in the second. Published copies store the numbers as
text, bytes, integers or floats, 0-d or in an array of one; all of these are read.

Mollahosseini, Hasani, Mahoor, "AffectNet: A Database for Facial Expression, Valence, and Arousal
Computing in the Wild", IEEE Transactions on Affective Computing, 2017.
"""

import re
from collections.abc import Iterator

from pipeline.records import EXPRESSIONS, Labels, Reject
from pipeline.sources import annotation, folders, npy
from pipeline.sources.base import Entry, Source

#: Kind of annotation file and its flag in `Entry.payload`.
KINDS = {"exp": 1, "val": 2, "aro": 4, "lnd": 8}
#: 136 doubles are 1,216 bytes with their header; what is far larger is no annotation.
MAX_NPY_BYTES = 2**20

_NAME = re.compile(r"(.+)_(exp|val|aro|lnd)\.npy", re.DOTALL)


class AffectNet(Source):
    """Images with `_exp`, `_val`, `_aro` and `_lnd` files beside them."""

    layout = "images/{id}.jpg|png and annotations/{id}_exp|_val|_aro|_lnd.npy, or both in train_set/ and val_set/"
    label_order = EXPRESSIONS

    def scan(self) -> Iterator[Entry]:
        return folders.scan(self.files, layout=self.layout, annotation=_annotation)

    def labels(self, entry: Entry) -> Labels:
        given, notes, landmarks = {}, [], ()
        for kind, path in _annotation_paths(entry).items():
            data = self.files.read(path, limit=MAX_NPY_BYTES)
            try:
                if kind == "lnd":
                    array, note = npy.read_array(data, max_elements=2**16)
                    landmarks = annotation.landmark_points(array)
                else:
                    given[kind], note = npy.read_scalar(data)
            except Reject as reject:
                raise Reject(reject.reason, f"{path!r}: {reject.detail}") from None
            notes.append(f"npy {kind} {note}")
        return annotation.checked_labels(
            self.order,
            expression=given.get("exp"),
            valence=given.get("val"),
            arousal=given.get("aro"),
            landmarks=landmarks,
            notes=notes,
            missing_labels=self.options.missing_labels,
        )

    def paths(self, entry: Entry) -> tuple[str, ...]:
        return super().paths(entry) + tuple(_annotation_paths(entry).values())


def _annotation(name: str) -> tuple[str, int] | None:
    match = _NAME.fullmatch(name)
    return (match[1], KINDS[match[2]]) if match else None


def _annotation_paths(entry: Entry) -> dict[str, str]:
    present = int(entry.payload or 0)
    return {kind: folders.annotation_path(entry.id, f"_{kind}.npy") for kind, flag in KINDS.items() if present & flag}
