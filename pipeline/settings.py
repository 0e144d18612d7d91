"""What a conversion is asked to do: one frozen object that checks itself."""

import dataclasses
import math
import os
import re

from pipeline.errors import UsageError
from pipeline.files import is_utf8
from pipeline.images import ImageSettings
from pipeline.records import DATASET, VERSION, parse_label_order
from pipeline.sources import SOURCES, base

DEFAULT_SPLITS = "train:0.8,validation:0.1,test:0.1"
ON_LEAK = ("stop", "drop", "allow")
SENTINELS = ("keep", "drop")
MISSING_LABELS = ("mask", "reject")

#: Fields that never change a published byte: where, by whom, how fast, and whether at all.
_NOT_IN_THE_BYTES = (
    "input_dir", "data_dir", "max_bad_fraction", "num_workers", "overwrite", "dry_run", "beam_options",
    "decode_timeout",
)  # fmt: skip
#: Fields that decide what verification finds in one input.
_VERIFIED_WITH = ("source", "image_size", "label_order", "min_side", "box_margin", "missing_labels")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One conversion.

    Attributes:
      source: a name of `pipeline.sources.SOURCES`.
      input_dir: the raw faces; a directory, or the .zip that `ferplus` is published in.
      data_dir: the TFDS data directory; the dataset appears at `dataset_dir` below it.
      name: of the dataset (the TFDS config).
      splits: "name:fraction,…" for a source that declares none; "" is DEFAULT_SPLITS.
      holdout: fraction of a declared train split that becomes validation, when the source declares none.
      num_shards: shards per split; 0 chooses by `shard_mb`.
      shard_mb: largest shard aimed at, in MB of source images.
      image_size: images whose shorter side is longer are reduced to it; 0 keeps every size.
      seed: of the splits and of the order in them.
      max_bad_fraction: more rejected inputs than this fraction, and nothing is published.
      on_leak: equal bytes in two declared splits: "stop", "drop" (from train first, never from test) or "allow".
      sentinels: "keep" faces with AffectNet's sentinels with that head unknown, or "drop" them.
      label_order: name of `records.LABEL_ORDERS` or names by comma, for codes 0, 1, 2 …; "" is the source's own.
      max_examples_per_split: the first so many of each split's order; 0 is all.
      num_workers: processes that decode; 0 is one per core for an in-process runner, and one per Beam worker otherwise.
      overwrite: replace an existing dataset.
      dry_run: verify and plan, write nothing.
      beam_options: Beam's own options, as on its command lines.
      min_side: shorter images are rejected, in pixels.
      box_margin: margin around a face box, as a fraction of its longer side.
      missing_labels: "mask" or "reject" a face of whose label files some are missing.
      decode_timeout: seconds after which a decoder counts as hung.

    Raises:
      UsageError: with the field, what was received and what is accepted.
    """

    source: str
    input_dir: str
    data_dir: str
    name: str
    splits: str = ""
    holdout: float = 0.0
    num_shards: int = 0
    shard_mb: int = 128
    image_size: int = 0
    seed: int = 0
    max_bad_fraction: float = 0.01
    on_leak: str = "stop"
    sentinels: str = "keep"
    label_order: str = ""
    max_examples_per_split: int = 0
    num_workers: int = 0
    overwrite: bool = False
    dry_run: bool = False
    beam_options: str = ""
    min_side: int = 16
    box_margin: float = 0.1
    missing_labels: str = "mask"
    decode_timeout: float = 60.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            kinds = (int, float) if field.type is float else field.type
            self._require(isinstance(getattr(self, field.name), kinds), field.name, f"a {field.type.__name__}")
        self._require(self.source in SOURCES, "source", f"one of {', '.join(SOURCES)}")
        self._require(self.input_dir, "input_dir", "the directory of the raw faces")
        self._require(self.data_dir, "data_dir", "the directory that datasets are kept in")
        for field in ("input_dir", "data_dir"):
            self._require(
                "://" not in getattr(self, field), field, "a mounted file system: object stores have no atomic rename"
            )
        self._require(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.name)
            and not re.fullmatch(r"\d+\.\d+\.\d+", self.name),
            "name",
            "letters, digits, '_', '-', '.', and not a version number",
        )
        self._require(0 <= self.holdout < 1, "holdout", "a fraction from 0 to below 1")
        self._require(0 <= self.max_bad_fraction <= 1, "max_bad_fraction", "a fraction from 0 to 1")
        for field in ("num_shards", "image_size", "max_examples_per_split", "num_workers"):
            self._require(0 <= getattr(self, field) < 2**31, field, "a number from 0")
        for field in ("shard_mb", "min_side"):
            self._require(0 < getattr(self, field) < 2**31, field, "a number from 1")
        self._require(self.num_shards <= 99_999, "num_shards", "at most 99999")
        self._require(math.isfinite(self.box_margin) and self.box_margin >= 0, "box_margin", "a fraction from 0")
        self._require(self.decode_timeout > 0, "decode_timeout", "seconds above 0")
        for field, choices in (("on_leak", ON_LEAK), ("sentinels", SENTINELS), ("missing_labels", MISSING_LABELS)):
            self._require(getattr(self, field) in choices, field, f"one of {', '.join(choices)}")
        self.image_settings, self.split_fractions  # noqa: B018 - each raises when its fields contradict
        self._require(is_utf8(self.data_dir), "data_dir", "a name in UTF-8: Arrow opens no other")
        if self.label_order:
            codes = SOURCES[self.source].label_order
            self._require(codes, "label_order", f"no order: {self.source} has names where others have codes")
            try:
                parse_label_order(self.label_order)
            except ValueError as error:
                raise UsageError(f"--label_order: {error}") from None

    def _require(self, holds, field: str, accepted: str) -> None:
        if not holds:
            raise UsageError(f"--{field}={getattr(self, field)!r} is not accepted; give {accepted}")

    @property
    def split_fractions(self) -> tuple[tuple[str, float], ...]:
        """The splits as ((name, fraction), …), summing to 1."""
        accepted = f"'name:fraction,…' over {', '.join(base.SPLITS)}, summing to 1, as in {DEFAULT_SPLITS}"
        pairs = []
        for part in (self.splits or DEFAULT_SPLITS).split(","):
            name, _, fraction = part.strip().partition(":")
            try:
                pairs.append((name, float(fraction)))
            except ValueError:
                self._require(False, "splits", accepted)
        names = [name for name, _ in pairs]
        total = sum(fraction for _, fraction in pairs)
        well_formed = set(names) <= set(base.SPLITS) and len(set(names)) == len(names)
        self._require(well_formed and all(f > 0 for _, f in pairs) and abs(total - 1) < 1e-6, "splits", accepted)
        return tuple(pairs)

    @property
    def dataset_dir(self) -> str:
        """Where the dataset appears: DATA_DIR/affect_faces/NAME/1.0.0."""
        return os.path.join(self.data_dir, DATASET, self.name, VERSION)

    @property
    def image_settings(self) -> ImageSettings:
        """What `pipeline.images` needs."""
        return ImageSettings(min_side=self.min_side, image_size=self.image_size)

    @property
    def source_options(self) -> base.SourceOptions:
        """What a source needs."""
        order = parse_label_order(self.label_order) if self.label_order else ()
        return base.SourceOptions(
            label_order=order,
            box_margin=self.box_margin,
            missing_labels=self.missing_labels,
            archive=os.path.basename(self.input_dir) if os.path.isfile(self.input_dir) else "",
        )

    @property
    def input_root(self) -> str:
        """The directory that input paths are relative to: `input_dir`, or the folder of an archive."""
        return os.path.dirname(os.path.abspath(self.input_dir)) if os.path.isfile(self.input_dir) else self.input_dir

    def absolute(self) -> "Settings":
        """The same with absolute paths: a worker may have another working directory."""
        return dataclasses.replace(
            self, input_dir=os.path.abspath(self.input_dir), data_dir=os.path.abspath(self.data_dir)
        )

    def deciding_bytes(self) -> dict:
        """The fields that decide the published bytes; they stand in `manifest.json`."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _NOT_IN_THE_BYTES}

    def verified_with(self) -> dict:
        """The fields that decide what verification finds in one input."""
        return {field: getattr(self, field) for field in _VERIFIED_WITH}
