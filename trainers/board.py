"""What TensorBoard shows of a training: scalars, a confusion matrix, one augmented batch."""

import io
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from pipeline.records import EXPRESSIONS

_SHOWN_FACES = 16


class Board:
    """Writes into a folder, or nothing when there is none.

    A run that goes on writes the same steps again; TensorBoard shows the later ones.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._writer = tf.summary.create_file_writer(str(folder)) if folder else tf.summary.create_noop_writer()
        self._shows = folder is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers under their names."""
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def faces(self, step: int, images: np.ndarray) -> None:
        """Some images, uint8 [B, H, W, 3], as the network saw them."""
        with self._writer.as_default(step):
            tf.summary.image("augmented_batch", images[:_SHOWN_FACES], max_outputs=_SHOWN_FACES)

    def confusion(self, step: int, counts: np.ndarray) -> None:
        """A confusion matrix, counts [8, 8], row: label, column: prediction."""
        if self._shows:
            with self._writer.as_default(step):
                tf.summary.image("confusion", _picture(counts)[None])

    def flush(self) -> None:
        """Everything is on disk."""
        self._writer.flush()


def _picture(counts: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: shares of each row as shades, counts as text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", title="validation")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(EXPRESSIONS)), EXPRESSIONS, rotation=45, ha="right")
    axes.set_yticks(range(len(EXPRESSIONS)), EXPRESSIONS)
    for (row, column), count in np.ndenumerate(counts):
        shade = "w" if shares[row, column] > 0.5 else "k"
        axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=shade)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return tf.io.decode_png(stream.getvalue(), channels=3).numpy()
