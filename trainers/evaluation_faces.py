"""Faces that an evaluation shows: the surest mistakes, some that are right, and what they were judged by."""

import dataclasses
from collections.abc import Sequence

import keras
import matplotlib
import numpy as np

from datasets.selection import Selection
from pipeline.records import EXPRESSIONS
from trainers import prediction, saliency
from trainers.prediction import Predictions
from trainers.protocols import View

#: Faces of each kind, and those of them that Grad-CAM is run for.
SHOWN, EXPLAINED = 24, 8
#: Side of the images that are shown of a model that takes any size.
_SIDE = 96


@dataclasses.dataclass(frozen=True)
class Face:
    """One example that is shown.

    Attributes:
      id: of the record.
      image: uint8 [S, S, 3], as the model saw it.
      truth, predicted: what it is and what it was taken for, as text.
      right: whether they agree.
      heat: uint8 [S, S, 3], the image under its Grad-CAM map; None when there is none.
    """

    id: str
    image: np.ndarray
    truth: str
    predicted: str
    right: bool
    heat: np.ndarray | None = None


def by_expression(selection: Selection, rows: np.ndarray | None, view: View, model: keras.Model | None) -> list[Face]:
    """The most confident mistakes first, then right ones drawn at random.

    Args:
      selection: what was evaluated.
      rows: those of the selection that were evaluated; None is all.
      view: what its protocol counts.
      model: for Grad-CAM of the first EXPLAINED of each kind; None leaves it out.
    """
    faces = []
    for right, some in zip((False, True), _mistakes_and_hits(view)):
        if not len(some):
            continue
        truth, probabilities = view.truth[some], view.probabilities[some]
        predicted, confidence = probabilities.argmax(1), probabilities.max(1)
        ids, images = _read(selection, rows, view.rows[some], model.input_shape[1] if model else _SIDE)
        heats = [None] * len(some)
        if model:
            explained = slice(0, EXPLAINED)
            maps = saliency.grad_cam(model, images[explained], predicted[explained])
            heats[explained] = [under(image, heat) for image, heat in zip(images, maps)]
        faces += [
            Face(
                id=ids[index], image=images[index], truth=EXPRESSIONS[truth[index]], right=right, heat=heats[index],
                predicted=f"{EXPRESSIONS[predicted[index]]} {100 * confidence[index]:.0f} %",
            )
            for index in range(len(some))
        ]  # fmt: skip
    return faces


def by_affect(selection: Selection, rows: np.ndarray | None, predictions: Predictions, side: int | None) -> list[Face]:
    """Of a model without expressions: the largest errors of valence and arousal together."""
    heads = [head for head in ("valence", "arousal") if head in predictions.outputs]
    some = _largest_errors(predictions, heads)
    ids, images = _read(selection, rows, some, side or _SIDE)

    def text(columns: dict, row: int) -> str:
        return " ".join(f"{head[0]} {columns[head][row]:+.2f}" for head in heads)

    return [
        Face(
            id=id,
            image=image,
            truth=text(predictions.truth, row),
            predicted=text(predictions.outputs, row),
            right=False,
        )
        for id, image, row in zip(ids, images, some)
    ]


def _mistakes_and_hits(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Those that are shown, as rows of the view. What is as long as the view is gone when this returns."""
    confidence = view.probabilities.max(1)
    wrong = view.probabilities.argmax(1) != view.truth
    mistakes = np.flatnonzero(wrong)[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    return mistakes.copy(), np.random.default_rng(0).permutation(np.flatnonzero(~wrong))[:SHOWN].copy()


def _largest_errors(predictions: Predictions, heads: Sequence[str]) -> np.ndarray:
    errors = np.stack([abs(predictions.outputs[head] - predictions.truth[head]) for head in heads])
    known = np.flatnonzero(np.isfinite(errors).any(0))
    total = np.nansum(errors[:, known], 0)
    return known[np.argsort(-total, kind="stable")][:SHOWN].copy()


def _read(selection: Selection, rows: np.ndarray | None, some: np.ndarray, side: int) -> tuple[list[str], np.ndarray]:
    """Ids and images of some of what was evaluated."""
    return prediction.read_images(selection, some if rows is None else rows[some], side)


def under(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image, uint8 [S, S, 3], under a map [S, S] in [0, 1]: what speaks most is yellow, what does not stays grey."""
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    colours = 255 * matplotlib.colormaps["inferno"](heat)[..., :3]
    part = 0.65 * heat[..., None]
    return ((1 - part) * grey + part * colours).astype(np.uint8)
