"""Does a SavedModel answer as the Keras model does? Asked in a fresh process that has TensorFlow alone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from datasets import preprocessing
from export.faces import Faces
from pipeline.errors import EnvironmentFault, InvariantError
from trainers import prediction

#: Of probabilities, valence and arousal. Graphs are compiled otherwise than Keras' calls, so the last bits differ.
TOLERANCE = 1e-5
_ANSWERS = Path(__file__).with_name("answers.py")
_SECONDS = 600


def check(model, folder: str | os.PathLike, faces: Faces) -> dict[str, float]:
    """Compares both signatures with the model on the same faces, in batches of one shape, on the CPU.

    Args:
      model: the keras.Model that was saved.
      folder: the SavedModel.
      faces: what to ask.

    Returns:
      the largest difference of each signature, and `load_seconds` of the fresh process.

    Raises:
      DataError: the model's outputs are not what its heads should give.
      InvariantError: the difference is above TOLERANCE, or the SavedModel does not load or answer.
      EnvironmentFault: it does not answer in time, or the temporary folder cannot be written.
    """
    # One size fits in one array: all faces of the commonest, repeated to a full batch.
    decoded = [preprocessing.decode(image).numpy() for image in faces.encoded]
    shapes = [pixels.shape for pixels in decoded]
    same = [place for place, shape in enumerate(shapes) if shape == max(shapes, key=shapes.count)]
    rows = np.resize(same, len(decoded))
    asked = {"serving_default": rows, "serving_bytes": np.arange(len(decoded))}

    with tf.device("CPU"):
        wanted = prediction.from_keras(model, batch_size=len(decoded))(faces.images)
    ids = [f"face {row}" for row in range(len(decoded))]
    wanted = {head: prediction.checked(head, values, ids) for head, values in wanted.items()}
    answers = _ask(folder, pixels=np.stack([decoded[row] for row in rows]), encoded=faces.encoded)
    differences = {}
    for signature, rows in asked.items():
        found = {head: prediction.checked(head, answers[f"{signature}/{head}"], ids) for head in wanted}
        # NumPy's maximum of anything with NaN is NaN.
        differences[signature] = float(
            np.max([np.abs(found[head] - values[rows]).max() for head, values in wanted.items()])
        )
    for signature, difference in differences.items():
        if not difference <= TOLERANCE:
            raise InvariantError(
                f"{signature} of the SavedModel differs from the Keras model by {difference:.2g} on {faces.source}, "
                f"more than {TOLERANCE:g}; nothing was published"
            )
    return differences | {"load_seconds": float(answers["seconds"])}


def _ask(folder: str | os.PathLike, *, pixels: np.ndarray, encoded: list[bytes]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as temporary:
        questions, answers = (os.path.join(temporary, name) for name in ("questions.npz", "answers.npz"))
        try:
            np.savez(
                questions, pixels=pixels, encoded=np.frombuffer(b"".join(encoded), np.uint8),
                lengths=np.array([len(image) for image in encoded]),
            )  # fmt: skip
        except OSError as error:
            raise EnvironmentFault(
                f"{temporary} cannot be written: {error.strerror}; free some space there, or set TMPDIR"
            ) from None
        command = [sys.executable, "-I", os.fspath(_ANSWERS), os.path.abspath(folder), questions, answers]
        try:
            done = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, errors="replace", timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(
                f"the SavedModel did not answer in a fresh process within {_SECONDS} seconds; nothing was published. "
                "Export again when the machine is less busy"
            ) from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise InvariantError(
                f"the SavedModel did not answer in a fresh process (exit {done.returncode}): "
                f"{lines[-1] if lines else 'it said nothing'}; nothing was published"
            )
        with np.load(answers) as columns:
            return dict(columns)
