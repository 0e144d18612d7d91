"""The report of an evaluation: `report.html`, which needs no network, and `report.pdf` with the same figures."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from datasets.selection import Selection
from pipeline import report_plots
from pipeline.records import EXPRESSIONS
from trainers import (
    evaluation_faces,
    evaluation_files,
    evaluation_pdf,
    evaluation_plots,
    evaluation_text,
    scoreboard,
    scores,
)
from trainers.evaluation_faces import Face
from trainers.prediction import Predictions
from trainers.protocols import View
from trainers.subject import Subject

PAGE, PDF = "report.html", "report.pdf"


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with its place in the report.

    Attributes:
      section: the id of its section.
      caption: what it shows, also for those who cannot see it.
      figure: drawn.
    """

    section: str
    caption: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What the report shows beside its tables."""

    plots: Sequence[Plot]
    faces: Sequence[Face]


def draw(
    predictions: Predictions, view: View | None, subject: Subject, selection: Selection, rows: np.ndarray | None
) -> Pictures:
    """Draws the figures and finds the faces, which hold nothing of what they are made from.

    Args:
      predictions: of what was evaluated.
      view: what the shown protocol counts; None without expressions.
      subject: the model.
      selection: the dataset's split.
      rows: those of the selection that `predictions` are of; None is all.
    """
    plots = _plots(predictions, view, subject.history)
    if view is not None:
        return Pictures(plots, evaluation_faces.by_expression(selection, rows, view, subject.keras))
    size = subject.predictor.image_size
    return Pictures(plots, evaluation_faces.by_affect(selection, rows, predictions, size))


def write(folder: str, metrics: Mapping, pictures: Pictures) -> None:
    """Writes both reports into the folder of an evaluation; `metrics` is what `metrics.json` holds."""
    with evaluation_files.output_file(folder, PAGE) as file:
        file.write(_html(metrics, pictures.plots, pictures.faces).encode("utf-8", "backslashreplace"))
    with evaluation_files.output_file(folder, PDF) as file:
        evaluation_pdf.write(file, metrics, [plot.figure for plot in pictures.plots], pictures.faces)


def environment() -> jinja2.Environment:
    """The templates of this package, with those of `pipeline`."""
    here = Path(__file__)
    folders = [here.with_name("templates"), here.parents[1] / "pipeline" / "templates"]
    loaded = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    loaded.filters.update(
        number="{:,}".format,
        figure=evaluation_text.shown,
        signed=evaluation_text.signed,
        size=evaluation_text.size,
        duration=evaluation_text.duration,
        image=png,
        drawing=drawing,
    )
    return loaded


def drawing(figure: Figure) -> str:
    """A figure as the data URI of an SVG image."""
    with matplotlib.rc_context(report_plots.STYLE):
        return report_plots.data_uri(figure)


def png(pixels: np.ndarray) -> str:
    """Pixels, uint8 [H, W, 3], as the data URI of a JPEG image."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _plots(predictions: Predictions, view: View | None, history: Sequence[Mapping]) -> list[Plot]:
    plots = []
    if history:
        plots.append(Plot("training", "Loss and validation scores over the epochs", evaluation_plots.training(history)))
    if view is not None:
        truth, probabilities = view.truth, view.probabilities
        counts = scoreboard.confusion(truth, probabilities.argmax(1))
        present = [index for index in view.classes if counts[index].any()]
        plots.append(
            Plot("confusion", "Confusion matrix, counts and rates", evaluation_plots.confusion(counts, present))
        )
        if len(present) > 1:
            plots.append(
                Plot("curves", "ROC and precision-recall curves", evaluation_plots.curves(truth, probabilities))
            )
        plots.append(
            Plot(
                "confidence", "Accuracy against confidence",
                evaluation_plots.reliability({"": (truth, probabilities)}),
            )
        )  # fmt: skip
        plots.append(
            Plot("confidence", "Confidence of right and wrong predictions by class",
                 evaluation_plots.confidences(truth, probabilities))
        )  # fmt: skip
    pairs = {}
    for head in ("valence", "arousal"):
        if head in predictions.outputs and len(known := predictions.known(head)):
            pairs[head] = (predictions.truth[head][known], predictions.outputs[head][known])
    if pairs:
        plots.append(Plot("affect", f"Predicted against true {' and '.join(pairs)}", evaluation_plots.agreement(pairs)))
    if len(pairs) == 2 and len(known := np.intersect1d(*map(predictions.known, pairs))):
        truth, outputs = (
            np.stack([columns[head][known] for head in pairs], 1)
            for columns in (predictions.truth, predictions.outputs)
        )
        plots.append(
            Plot(
                "affect", "The plane of valence and arousal, arrows from truth to prediction",
                evaluation_plots.arrows(truth, outputs, predictions.truth["expression"][known]),
            )
        )  # fmt: skip
    return plots


def _html(metrics: Mapping, plots: Sequence[Plot], faces: Sequence[Face]) -> str:
    return environment().get_template("evaluation.html").render(
        metrics=metrics,
        plots=plots,
        faces=faces,
        explained=any(face.heat is not None for face in faces),
        classification=scores.CLASSIFICATION,
        per_class=scores.PER_CLASS,
        regression=scores.REGRESSION,
        expressions=EXPRESSIONS,
        colours=report_plots.COLOURS,
    )  # fmt: skip
