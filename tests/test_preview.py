"""The preview: a grid with a row for each face, whose first column is the stored face."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import preprocessing, preview
from datasets.augmentation import AugmentConfig
from pipeline import report_data
from pipeline.errors import DataError, UsageError


@pytest.fixture(scope="module")
def grid(sample_dataset) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(preview.draw_grid(sample_dataset, AugmentConfig(), image_size=64))))


def faces(grid: np.ndarray, row: int) -> list[np.ndarray]:
    top, step = 4 + row * 92, 68
    return [grid[top : top + 64, 4 + column * step :][:, :64] for column in range(1 + preview.VERSIONS)]


def test_rows_are_stored_faces_and_eight_others(grid, sample_dataset):
    chosen = list(report_data.sample_faces(report_data.load(sample_dataset), 1))
    assert grid.shape == (4 + 92 * len(chosen), 4 + 68 * 9, 3)
    for row, (_, [face]) in enumerate(chosen):
        stored, *versions = faces(grid, row)
        np.testing.assert_array_equal(stored, preprocessing.decode(face.record.image))
        assert len({version.tobytes() for version in versions}) == preview.VERSIONS
        # Still the same face: most pixels are those of the stored one, moved a little.
        assert all(np.abs(version.mean((0, 1)) - stored.mean((0, 1))).max() < 60 for version in versions)
    labels = grid[4 + 64 : 4 + 88]
    assert (labels < 128).any(axis=(0, 2)).sum() > 200


def test_labels_say_what_is_unknown():
    probs = np.zeros((2, 8), np.float32)
    probs[0, [1, 4]] = 0.75, 0.25
    values = {"valence": np.array([0.5, 0], np.float32), "arousal": np.array([-0.25, 0], np.float32)}
    batch = {"expression_probs": tf.constant(probs)} | {name: tf.constant(value) for name, value in values.items()}
    batch["mask"] = {name: tf.constant([1.0, 0.0]) for name in values}
    assert preview._labels(batch, 0) == ("happy 75% fear 25%", "v +0.50 a -0.25")
    assert preview._labels(batch, 1) == ("?", "v ? a ?")


def test_errors(sample_dataset, tmp_path):
    with pytest.raises(DataError):
        preview.draw_grid(tmp_path, AugmentConfig())
    for wrong in ({"per_class": 0}, {"image_size": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match="give 1 or more faces"):
            preview.draw_grid(sample_dataset, AugmentConfig(), **wrong)


def test_command(sample_dataset, tmp_path):
    """A wrong value is refused before TensorFlow is imported; a right one writes the picture."""
    command = [sys.executable, "-m", "datasets.preview", f"--dataset_dir={sample_dataset}"]
    output = tmp_path / "grid.png"
    for flag, message in (("rotation=-1", "rotation=-1.0 is"), ("rand_augment=2", "--rand_augment=2 is")):
        wrong = subprocess.run([*command, f"--output={output}", f"--{flag}"], capture_output=True, text=True)
        assert wrong.returncode == 1 and wrong.stderr.startswith(f"error: {message} not accepted"), wrong.stderr
    assert not output.exists()
    done = subprocess.run(
        [*command, f"--output={output}", "--image_size=48", "--mixup=0.2", "--rand_augment=1,0.5"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(output).size[0] == 4 + 52 * 9
