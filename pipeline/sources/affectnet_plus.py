"""AffectNet+: an image and one JSON file a face, with soft labels.

    RAW/train_set/images/123.jpg            RAW/validation_set/images/123.jpg
    RAW/train_set/annotations/123.json      RAW/validation_set/annotations/123.json

RAW is the release's `human_annotated/`; its `no_human_annotated/` holds `images/` and `annotations/`
without a split and is another RAW. The object in a file, every field of which may be missing or null:

    {"human-label": 0 to 10, "soft-label": [8 numbers], "subset": 0 easy, 1 challenging, 2 difficult,
     "meta-data": {"valence": …, "arousal": …, "landmark-68": [136 numbers x, y, x, y …], …}}

The soft label is stored normalised to 1, also when there is no human label. Age, gender, race, pose
and the 29 landmarks are not read.

Fard, Hosseini, Sweeny, Mahoor, "AffectNet+: A Database for Enhancing Facial Expression Recognition
with Soft-Labels", arXiv:2410.22506, 2024. The paper does not print a file; the field names and forms
above are those that published readers of the release use.
"""

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.records import EXPRESSIONS, Labels, Reject
from pipeline.sources import annotation, folders
from pipeline.sources.base import Entry, Source

#: A file has about 5 kB.
MAX_JSON_BYTES = 2**20
SUBSETS = {0: "easy", 1: "challenging", 2: "difficult"}


class AffectNetPlus(Source):
    """Images with a JSON file of hard label, soft label and metadata beside them."""

    layout = (
        "images/{id}.jpg|png and annotations/{id}.json, or both in train_set/ and validation_set/ (human_annotated/)"
    )
    label_order = EXPRESSIONS

    def scan(self) -> Iterator[Entry]:
        return folders.scan(self.files, layout=self.layout, annotation=_annotation)

    def labels(self, entry: Entry) -> Labels:
        path = folders.annotation_path(entry.id, ".json")
        data = self.files.read(path, limit=MAX_JSON_BYTES)
        try:
            # As floats: an integer of a million digits is infinite, not slow.
            fields = json.loads(data, parse_int=float)
        except (ValueError, RecursionError) as error:
            raise Reject("bad_json", f"{path!r}: {error}") from None
        if not isinstance(fields, dict) or not fields.keys() & {"human-label", "soft-label", "meta-data"}:
            raise Reject("bad_json", f"{path!r} is no object with human-label, soft-label or meta-data")
        metadata = fields.get("meta-data") or {}
        if not isinstance(metadata, dict):
            raise Reject("bad_json", f"{path!r}: meta-data is no object")
        return annotation.checked_labels(
            self.order,
            expression=_number(fields, "human-label"),
            valence=_number(metadata, "valence"),
            arousal=_number(metadata, "arousal"),
            shares=_shares(fields.get("soft-label"), self.order),
            landmarks=_landmarks(metadata.get("landmark-68")),
            notes=_subset_notes(fields.get("subset")),
            missing_labels=self.options.missing_labels,
        )

    def paths(self, entry: Entry) -> tuple[str, ...]:
        return (*super().paths(entry), folders.annotation_path(entry.id, ".json"))


def _annotation(name: str) -> tuple[str, int] | None:
    return (name.removesuffix(".json"), 1) if name.endswith(".json") else None


def _number(fields: dict, name: str) -> float | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, float):
        raise Reject("bad_json", f"{name} is {value!r:.80}, not a number")
    return value


def _shares(soft: object, order: Sequence[str]) -> tuple[float, ...]:
    """The soft label normalised and in the order of EXPRESSIONS; () when there is none or it is all zero."""
    if soft is None or soft == []:
        return ()
    if not isinstance(soft, list) or len(soft) != len(order) or not all(isinstance(value, float) for value in soft):
        raise Reject("bad_json", f"soft-label is {soft!r:.80}, not {len(order)} numbers")
    total = sum(soft)
    if not math.isfinite(total):
        raise Reject("non_finite", f"soft-label is {soft!r}")
    if min(soft) < 0:
        raise Reject("bad_json", f"soft-label is {soft!r}: a negative share")
    if total == 0:
        return ()
    shares = dict(zip(order, soft, strict=True))
    return tuple(shares.get(name, 0.0) / total for name in EXPRESSIONS)


def _landmarks(points: object) -> tuple[float, ...]:
    if points is None or points == []:
        return ()
    if isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points):
        points = [value for point in points for value in point]
    if not isinstance(points, list) or not all(isinstance(value, float) for value in points):
        raise Reject("bad_landmarks", f"landmark-68 is {points!r:.80}, not 136 numbers or 68 pairs")
    return annotation.landmark_points(np.array(points))


def _subset_notes(subset: object) -> tuple[str, ...]:
    if subset is None:
        return ()
    name = SUBSETS.get(subset, "other") if isinstance(subset, float) else "other"
    return (f"subset:{name}",)
