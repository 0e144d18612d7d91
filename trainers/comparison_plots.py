"""The figures of a comparison, in the style of those of an evaluation; a model has one colour and line throughout."""

from collections.abc import Mapping, Sequence

import numpy as np
import sklearn.metrics
from matplotlib.figure import Figure

from pipeline.records import EXPRESSIONS
from pipeline.report_plots import INK
from trainers.evaluation_plots import DASHES, SERIES, plain, styled
from trainers.protocols import View

_GRID = {"color": INK, "alpha": 0.12, "linewidth": 0.6}


def _line(index: int) -> dict:
    return {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.6}


@styled
def figures(names: Sequence[str], rows: Sequence) -> Figure:
    """Each figure of each model with its interval.

    Args:
      names: of the models.
      rows: `comparison.Row`s.
    """
    figure = Figure(figsize=(8.5, 1.1 + len(rows) * (0.22 + 0.15 * len(names))), layout="constrained")
    axes = figure.add_subplot()
    step = 0.7 / len(names)
    for index, name in enumerate(names):
        for line, row in enumerate(rows):
            found = row.figures.get(name)
            if found and found["value"] is not None:
                height = line + step * (index - (len(names) - 1) / 2)
                if found["low"] is not None:
                    axes.plot([found["low"], found["high"]], [height] * 2, **_line(index) | {"linestyle": "-"})
                axes.plot(
                    found["value"], height, "osv^DXPd"[index % 8], color=SERIES[index % len(SERIES)], markersize=5,
                    label=plain(name) if line == 0 else None,
                )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="figure, with the middle 95 % of its resamples")
    axes.grid(axis="x", **_GRID)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled
def class_curves(views: Mapping[str, View], kind: str) -> Figure:
    """ROC ("roc") or precision-recall ("pr") curves of every class, the models over each other."""
    classes = np.unique(next(iter(views.values())).truth)
    columns = min(4, len(classes))
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(2.75 * columns, 2.75 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, expression in zip(panels, classes):
        for index, (name, view) in enumerate(views.items()):
            positive, score = view.truth == expression, view.probabilities[:, expression]
            if kind == "roc":
                x, y, _ = sklearn.metrics.roc_curve(positive, score)
                axes.plot(x, y, label=plain(name), **_line(index))
            else:
                y, x, _ = sklearn.metrics.precision_recall_curve(positive, score)
                axes.plot(x, y, label=plain(name), drawstyle="steps-post", **_line(index))
        axes.set_title(EXPRESSIONS[expression], fontsize=9)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
        axes.grid(**_GRID)
    for axes in panels[len(classes) :]:
        axes.set_visible(False)
    figure.supxlabel("false positive rate" if kind == "roc" else "recall", fontsize=9)
    figure.supylabel("true positive rate" if kind == "roc" else "precision", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@styled
def histories(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Validation loss and score over epochs, one line a model."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2), ("val_loss", "val_score"), ("Validation loss", "Validation score")
    ):
        for index, (name, history) in enumerate(rows.items()):
            some = [row for row in history if column in row]
            axes.plot([row["epoch"] for row in some], [row[column] for row in some], label=plain(name), **_line(index))
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(**_GRID)
    figure.axes[0].legend()
    return figure
