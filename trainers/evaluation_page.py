"""The report of an evaluation: `report.html`, which needs no network, and `report.pdf` with the same figures."""

import base64
import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from datasets.selection import Selection
from pipeline import report_plots
from pipeline.records import EXPRESSIONS
from trainers import evaluation_faces, evaluation_files, evaluation_plots, scoreboard, scores
from trainers.evaluation_faces import Face
from trainers.prediction import Predictions
from trainers.protocols import View
from trainers.subject import Subject

PAGE, PDF = "report.html", "report.pdf"
_LINES_PER_PAGE, _WIDTH = 76, 104
#: The faces of a page, in inches: how far apart they begin, across and down, and their side; the rest is for the text.
_TILES_PER_ROW, _TILE_PITCH, _TILE_SIDE = 6, (1.35, 1.6), 1.15
_HEADER = f"{'plain':>34}{'skew-norm.':>26}{'examples':>26}"


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
        _write_pdf(file, metrics, pictures.plots, pictures.faces)


def environment() -> jinja2.Environment:
    """The templates of this package, with those of `pipeline`."""
    here = Path(__file__)
    folders = [here.with_name("templates"), here.parents[1] / "pipeline" / "templates"]
    loaded = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    loaded.filters.update(
        number="{:,}".format, figure=shown, signed=_signed, size=_size, duration=_duration, image=png, drawing=drawing
    )
    return loaded


def heading(metrics: Mapping) -> str:
    """What was scored on what."""
    data, model = metrics["dataset"], metrics["model"]
    alone = f" of {metrics['only']} alone" if metrics["only"] else ""
    return f"{model['name']} on {data['name']} {data['split']}: {data['evaluated']:,} examples{alone}"


def remarks(metrics: Mapping) -> list[str]:
    """What a reader must know beside the scores, as lines of text: how the model answers, what it has seen."""
    guard = metrics["guard"]
    lines = [f"not scored: {reason}" for reason in metrics["unscored"].values()]
    if metrics["model"].get("tta_flip"):
        lines.append("each answer is the mean over the image and its mirror image")
    if guard["started_from"]:
        lines.append(f"started from the weights of {', '.join(guard['started_from'])}")
    if guard["checked"]:
        shared = {
            "were trained on": guard["shared_with_train"],
            "chose the checkpoint": guard["shared_with_validation"],
        }
        if guard["started_from"]:
            shared["were seen by a model that this one started from"] = guard["shared_with_ancestors"]
        found = ", ".join(f"{count:,} {what}" for what, count in shared.items())
        lines.append(f"leakage: of these images {found}; by {guard['method']}")
    else:
        lines.append(f"leakage: not checked: {guard['reason']}")
    if guard["allowed"]:
        lines.append(f"allowed by flag: {', '.join(guard['allowed'])}")
    return lines


def drawing(figure: Figure) -> str:
    """A figure as the data URI of an SVG image."""
    with matplotlib.rc_context(report_plots.STYLE):
        return report_plots.data_uri(figure)


def png(pixels: np.ndarray) -> str:
    """Pixels, uint8 [H, W, 3], as the data URI of a JPEG image."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def shown(value: float | None) -> str:
    """A figure as text; "–" when it is not defined."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


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


def _write_pdf(file: io.BufferedIOBase, metrics: Mapping, plots: Sequence[Plot], faces: Sequence[Face]) -> None:
    lines = list(_text(metrics))
    style = report_plots.STYLE | {"pdf.fonttype": 42}
    # Without a date the same metrics.json and faces give the same bytes.
    with matplotlib.rc_context(style), PdfPages(file, metadata={"CreationDate": None}) as pages:
        for first in range(0, len(lines), _LINES_PER_PAGE):
            page = Figure(figsize=(8.3, 11.7))
            page.text(
                0.07, 0.95, "\n".join(lines[first : first + _LINES_PER_PAGE]), family="monospace", fontsize=8, va="top",
                parse_math=False,
            )  # fmt: skip
            pages.savefig(page)
        for plot in plots:
            pages.savefig(plot.figure)
        for kind, right in (("Mistakes, the most confident first", False), ("Right", True)):
            some = [face for face in faces if face.right == right]
            if some:
                pages.savefig(_grid(kind, some))


def _text(metrics: Mapping):
    """The page's tables and remarks as lines of text."""
    model, speed = metrics["model"], metrics["speed"]
    origin = [model[name] for name in ("backbone", "recipe") if model.get(name)]
    size = [f"{model['parameters']:,} parameters", _size(model["bytes"])]
    rate = f"{speed['images_per_second']:.0f}" if speed["images_per_second"] else "–"
    yield from _wrapped(
        heading(metrics),
        f"dataset {metrics['dataset']['digest']}",
        f"model: {', '.join(origin + size)}, training {_duration(model['training_seconds'])}",
        f"{rate} images a second in batches of {speed['batch_size']}, {speed['device']}",
        f"intervals: {metrics['intervals']['resamples']:,} resamples, 95 %, seed {metrics['intervals']['seed']}",
        *remarks(metrics),
    )
    if "expression" in metrics["heads"]:
        for name, protocol in metrics["expression"]["protocols"].items():
            yield from ("", f"{name}: {protocol['title']}", *(f"  {line}" for line in protocol["mapping"]))
            if protocol["absent"]:
                yield f"  without an example, and so left out of every mean: {', '.join(protocol['absent'])}"
            yield _HEADER
            yield from _rows(protocol, scores.CLASSIFICATION)
        shown = metrics["expression"]["protocols"][metrics["protocol"]]
        yield from ("", f"classes, under the protocol {metrics['protocol']}", _HEADER)
        for name in (name for name in shown["classes"] if name not in shown["absent"]):
            titles = {f"{figure}/{name}": f"{name} {title}" for figure, title in scores.PER_CLASS.items()}
            yield from _rows(shown, titles)
    for head in ("valence", "arousal"):
        if head in metrics["heads"]:
            yield from ("", f"{head}: {metrics[head]['zeros']:,} examples are exactly 0")
            for figure, title in scores.REGRESSION.items():
                found = metrics[head]["figures"][figure]
                yield f"{title:<26}{_cell(found)}{found['examples']:>8,}"


def _rows(protocol: Mapping, titles: Mapping[str, str]):
    for figure, title in titles.items():
        plain, skew = protocol["plain"][figure], protocol["skew_normalised"][figure]
        yield f"{title:<26}{_cell(plain)}{_cell(skew)}{plain['examples']:>8,}"


def _wrapped(*lines: str):
    """Lines that fit a page; letters that its typeface may lack are shown by their number."""
    for line in lines:
        yield from textwrap.wrap(line.encode("cp1252", "backslashreplace").decode("cp1252"), _WIDTH)


def _cell(figure: Mapping) -> str:
    between = "" if figure["low"] is None else f" [{shown(figure['low'])}, {shown(figure['high'])}]"
    return f"{shown(figure['value']):>8}{between:<18}"


def _grid(title: str, faces: Sequence[Face]) -> Figure:
    """Faces with their texts, six a row; those with a heat map show it beside."""
    tiles = []
    for face in faces:
        tiles.append((face.image, face.predicted if face.right else f"{face.truth} →\n{face.predicted}"))
        if face.heat is not None:
            tiles.append((face.heat, "Grad-CAM"))
    rows = -(-len(tiles) // _TILES_PER_ROW)
    width, height = _TILES_PER_ROW * _TILE_PITCH[0] + 0.2, rows * _TILE_PITCH[1] + 0.5
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.15 / height, va="top")
    # One pair of axes, in inches: of its own for each tile they take more memory than all else of the page.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (image, text) in enumerate(tiles):
        row, column = divmod(index, _TILES_PER_ROW)
        left, bottom = column * _TILE_PITCH[0] + 0.2, height - 0.5 - (row + 1) * _TILE_PITCH[1] + 0.1
        axes.imshow(image, extent=(left, left + _TILE_SIDE, bottom, bottom + _TILE_SIDE))
        axes.text(left + _TILE_SIDE / 2, bottom + _TILE_SIDE + 0.04, text, fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    return figure


def _signed(value: float) -> str:
    return "–" if value != value else f"{value:+.3f}".replace("-", "−")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
