"""What a user of TFDS would write for AffectNet's layout: two builders on TFDS's own writers.

    python -m benchmarks.tfds_builders --writer=generator --input_dir=RAW --data_dir=DATA
    python -m benchmarks.tfds_builders --writer=beam --input_dir=RAW --data_dir=DATA

Neither checks an image, hashes one, or says what it did with each. Both store the same features as
`pipeline.build_tfrecords`, in one split.
"""

import argparse
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from pipeline.records import EXPRESSIONS, LANDMARKS


def example(image: pathlib.Path) -> tuple[str, dict]:
    """Key and features of one face, as TFDS takes them."""
    prefix = str(image.parent.parent / "annotations" / image.stem)
    expression, valence, arousal = (float(np.load(f"{prefix}_{kind}.npy").item()) for kind in ("exp", "val", "aro"))
    return image.stem, {
        "image": str(image),
        "expression": int(expression),
        "expression_probs": np.eye(len(EXPRESSIONS), dtype=np.float32)[int(expression)],
        "valence": valence,
        "arousal": arousal,
        "landmarks": np.load(f"{prefix}_lnd.npy").reshape(LANDMARKS, 2).astype(np.float32),
        "id": image.stem,
        "group": image.stem,
    }


def _info(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetInfo:
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "expression": tfds.features.ClassLabel(names=EXPRESSIONS),
        "expression_probs": tfds.features.Tensor(shape=(len(EXPRESSIONS),), dtype=np.float32),
        "valence": np.float32,
        "arousal": np.float32,
        "landmarks": tfds.features.Tensor(shape=(LANDMARKS, 2), dtype=np.float32),
        "id": tfds.features.Text(),
        "group": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=builder, features=tfds.features.FeaturesDict(features))


class FacesByGenerator(tfds.core.GeneratorBasedBuilder):
    """One Python generator; TFDS shuffles and writes."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder that --input_dir names."

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager) -> dict:
        return {"train": self._generate_examples(pathlib.Path(dl_manager.manual_dir))}

    def _generate_examples(self, folder: pathlib.Path) -> Iterator[tuple[str, dict]]:
        for image in (folder / "images").iterdir():
            yield example(image)


class FacesByBeam(tfds.core.GeneratorBasedBuilder):
    """A Beam map over the paths; TFDS shuffles and writes with Beam."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder that --input_dir names."

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager) -> dict:
        return {"train": self._generate_examples(pathlib.Path(dl_manager.manual_dir))}

    def _generate_examples(self, folder: pathlib.Path):
        import apache_beam as beam

        images = sorted((folder / "images").iterdir())
        return beam.Create(images) | beam.Reshuffle() | beam.Map(example)


def main() -> None:
    """Parses flags and builds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writer", choices=("generator", "beam"), required=True)
    parser.add_argument("--input_dir", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--num_workers", type=int, default=len(os.sched_getaffinity(0)))
    flags = parser.parse_args()
    config = tfds.download.DownloadConfig(manual_dir=flags.input_dir, try_download_gcs=False)
    builder = FacesByGenerator
    if flags.writer == "beam":
        from apache_beam.options.pipeline_options import PipelineOptions

        builder = FacesByBeam
        config.beam_runner = "FnApiRunner"
        config.beam_options = PipelineOptions(
            [f"--direct_num_workers={flags.num_workers}", "--direct_running_mode=multi_processing"]
        )
    builder(data_dir=flags.data_dir).download_and_prepare(download_config=config)


if __name__ == "__main__":
    main()
