"""The TFDS builder of `affect_faces`: describes the records, and runs the conversion job to make them.

    tfds build datasets/affect_faces --manual_dir=RAW --data_dir=DATA
    tfds build datasets/affect_faces --manual_dir=RAW --data_dir=DATA --config='{"name": "mine", "source": "csv"}'

is the same as `python -m pipeline.build_tfrecords --input_dir=RAW --data_dir=DATA` with --name=affectnet or
--name=mine: the job writes and publishes, TFDS writes nothing.
"""

import dataclasses
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pipeline import conversion, metadata, publishing, summary
from pipeline.errors import UsageError
from pipeline.records import EXPRESSIONS, LANDMARKS, VERSION
from pipeline.settings import Settings

_TFRECORD = tfds.core.FileFormat.TFRECORD


@dataclasses.dataclass(eq=False, kw_only=True)
class AffectFacesConfig(tfds.core.BuilderConfig):
    """How one dataset is made of raw faces: the fields of `pipeline.settings.Settings`, documented there.

    Where the faces are, where the dataset goes and whether it replaces another are TFDS's to say: `--manual_dir`,
    `--data_dir`, `--overwrite`.

    Raises:
      UsageError: with the field, what was received and what is accepted.
    """

    source: str = "affectnet"
    splits: str = Settings.splits
    holdout: float = Settings.holdout
    num_shards: int = Settings.num_shards
    shard_mb: int = Settings.shard_mb
    image_size: int = Settings.image_size
    seed: int = Settings.seed
    max_bad_fraction: float = Settings.max_bad_fraction
    on_leak: str = Settings.on_leak
    sentinels: str = Settings.sentinels
    label_order: str = Settings.label_order
    max_examples_per_split: int = Settings.max_examples_per_split
    num_workers: int = Settings.num_workers
    beam_options: str = Settings.beam_options
    min_side: int = Settings.min_side
    box_margin: float = Settings.box_margin
    missing_labels: str = Settings.missing_labels
    decode_timeout: float = Settings.decode_timeout

    def __post_init__(self):
        if self.version not in (None, VERSION):
            raise UsageError(f"version {self.version} cannot be made; this code makes {VERSION}: leave it out")
        # Checked here, because `tfds build --overwrite` removes the older dataset before it asks for the new one.
        self.settings(input_dir="unknown", data_dir="unknown")
        self.description = metadata.describe(self.name, self.source)

    def settings(self, **given: Any) -> Settings:
        """The conversion's settings; `given` holds those that are TFDS's to say, and may override a field."""
        names = {field.name for field in dataclasses.fields(Settings)} & set(vars(self))
        return Settings(**{name: getattr(self, name) for name in names} | given)


class Builder(tfds.core.dataset_builder.FileReaderBuilder):
    """Faces with expression, valence, arousal and landmarks; see the README.md beside this file."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [AffectFacesConfig(name="affectnet")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The raw faces, in the layout that the config's `source` names. `affectnet` expects AffectNet as its authors give
    it out (http://mohammadmahoor.com/affectnet/): images/{id}.jpg and annotations/{id}_exp.npy, _val.npy, _aro.npy,
    _lnd.npy, flat or in train_set/ and val_set/. `python -m pipeline.build_tfrecords --help` lists every layout.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        """As `pipeline.metadata` publishes it."""
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "expression": tfds.features.ClassLabel(names=EXPRESSIONS),
            "expression_probs": tfds.features.Tensor(shape=(len(EXPRESSIONS),), dtype=np.float32),
            "valence": tfds.features.Scalar(dtype=np.float32),
            "arousal": tfds.features.Scalar(dtype=np.float32),
            "landmarks": tfds.features.Tensor(shape=(LANDMARKS, 2), dtype=np.float32),
            "id": tfds.features.Text(),
            "group": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=metadata.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "expression"),
        )

    def download_and_prepare(
        self,
        *,
        download_dir: os.PathLike | str | None = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: tfds.core.FileFormat | str | None = None,
    ) -> None:
        """Converts the faces in `manual_dir`, unless the dataset is there.

        It takes the place of TFDS's own, which would have the records written to a directory of its choice and
        publish that.

        Args:
          download_dir: holds the default of `manual_dir`, `{download_dir}/manual`.
          download_config: `manual_dir`, `download_mode`, `num_shards`, `max_shard_size` and `max_examples_per_split`
            count; the last three go before the config's. 0 examples is a dry run: the input is verified and the
            summary printed.
          file_format: TFRECORD or None.

        Raises:
          PipelineError: as `pipeline.conversion.convert`; UsageError for what TFDS offers and the job does not do.
          AssertionError: TFDS's, with the instructions: there is nothing in `manual_dir`.
        """
        download_config = download_config or tfds.download.DownloadConfig()
        mode = download_config.download_mode
        if mode is tfds.download.GenerateMode.UPDATE_DATASET_INFO:
            raise UsageError("the metadata is part of the dataset's checksums; to change it, convert with --overwrite")
        if tfds.core.FileFormat.from_value(file_format or self.info.file_format) is not _TFRECORD:
            raise UsageError(f"the job writes {_TFRECORD.value} and no other format; leave the file format out")
        if not publishing.is_complete(self.data_dir) or mode.overwrite_dataset:
            manager = self._make_download_manager(download_dir=download_dir, download_config=download_config)
            self._download_and_prepare(manager, download_config)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        settings = self.builder_config.settings(
            input_dir=os.fspath(dl_manager.manual_dir),
            data_dir=os.fspath(self.data_dir_root),
            overwrite=download_config.download_mode.overwrite_dataset,
            **_given(download_config),
        )
        result = conversion.convert(settings, show_progress=True)
        print(summary.render(result))
        if result.dataset_dir:
            self.info.read_from_directory(result.dataset_dir)


def _given(download_config: tfds.download.DownloadConfig) -> dict[str, Any]:
    """The fields of Settings that TFDS has options for, as far as they were given."""
    if download_config.beam_options or download_config.beam_runner:
        raise UsageError(
            "the config says how Beam runs, not TFDS's options: "
            """--config='{"name": "mine", "beam_options": "--runner=FlinkRunner --parallelism=8"}'"""
        )
    given = {}
    if download_config.num_shards:
        given["num_shards"] = download_config.num_shards
    if download_config.max_shard_size != tfds.download.DownloadConfig.max_shard_size:
        given["shard_mb"] = max(1, download_config.max_shard_size // 10**6)
    if download_config.max_examples_per_split is not None:
        given["max_examples_per_split"] = download_config.max_examples_per_split
        given["dry_run"] = not download_config.max_examples_per_split
    return given
