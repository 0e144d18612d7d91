"""The figures of an evaluation. Each function gives a Matplotlib figure, which the page shows and the PDF holds.

Classes have the colours of the dataset's report, colour-blind safe, and a line style each.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import sklearn.metrics
from matplotlib.figure import Figure

from pipeline.records import EXPRESSIONS
from pipeline.report_plots import COLOURS, INK, STYLE
from trainers import scores

#: Okabe and Ito's blue, vermillion, green, orange: for things that are not classes, such as models.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8f959c", "#a89f00")
DASHES = ("-", (0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), "-", (0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_GRID = {"color": INK, "alpha": 0.12, "linewidth": 0.6}
_MAX_ARROWS = 150
#: Points of a drawn curve: more than a screen shows.
_MAX_POINTS = 400


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws in the style of the reports."""

    def drawn(*arguments, **named) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **named)

    drawn.__doc__ = draw.__doc__
    return drawn


def plain(name: str) -> str:
    """A name as a label: Matplotlib takes dollars for mathematics, and hides what begins with an underscore."""
    return (" " * name.startswith("_") + name).replace("$", r"\$")


@styled
def training(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, and the scores on the validation split, over epochs.

    Args:
      history: the rows of `history.csv`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, names in (
        (loss, {"loss": "training", "val_loss": "validation"}),
        (score, {"val_accuracy": "accuracy", "val_macro_f1": "macro F1", "val_valence_ccc": "valence CCC",
                 "val_arousal_ccc": "arousal CCC"}),
    ):  # fmt: skip
        for index, (name, label) in enumerate(names.items()):
            if name in history[0]:
                axes.plot(
                    epochs, [row[name] for row in history], color=SERIES[index], linestyle=DASHES[index], label=label,
                    marker="o" if len(epochs) < 30 else "", markersize=3,
                )  # fmt: skip
        axes.grid(**_GRID)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    best = max((row for row in history if row.get("best", 0) > 0), key=lambda row: row["epoch"], default=None)
    if best:
        for axes in (loss, score):
            axes.axvline(best["epoch"], color=INK, alpha=0.4, linewidth=0.8)
        score.annotate(" best", (best["epoch"], score.get_ylim()[0]), fontsize=8)
    loss.set(ylabel="loss", title="Loss")
    score.set(ylabel="score", title="On the validation split")
    loss.legend()
    if score.get_legend_handles_labels()[0]:
        score.legend()
    return figure


@styled
def confusion(counts: np.ndarray, classes: Sequence[int]) -> Figure:
    """The confusion matrix twice: examples, and their share of the true class.

    Args:
      counts: int [8, 8], row the true class, column the predicted one.
      classes: the rows to show.
    """
    columns = [index for index in range(len(EXPRESSIONS)) if index in classes or counts[:, index].any()]
    counts = counts[np.ix_(classes, columns)]
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    height = 1.6 + 0.42 * len(classes)
    figure = Figure(figsize=(11, height), layout="constrained")
    for axes, title, texts in zip(
        figure.subplots(1, 2, sharey=True),
        ("Examples", "Share of the true class, %"),
        (np.char.mod("%d", counts), np.char.mod("%.0f", 100 * rates)),
    ):
        shades = axes.imshow(rates, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (row, column), text in np.ndenumerate(texts):
            axes.text(
                column, row, text, ha="center", va="center", fontsize=9,
                color="#101418" if rates[row, column] > 0.5 else "#ffffff",
            )  # fmt: skip
        axes.set_xticks(range(len(columns)), [EXPRESSIONS[index] for index in columns], rotation=35, ha="right")
        axes.set_yticks(range(len(classes)), [EXPRESSIONS[index] for index in classes])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(title=title, xlabel="predicted")
    figure.axes[0].set_ylabel("true")
    bar = figure.colorbar(shades, ax=figure.axes, shrink=0.8, pad=0.01, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


@styled
def curves(truth: np.ndarray, probabilities: np.ndarray) -> Figure:
    """ROC and precision-recall curves, each class that has examples against the rest."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    for index in np.unique(truth):
        positive, name = truth == index, EXPRESSIONS[index]
        line = {"color": COLOURS[name], "linestyle": DASHES[index], "linewidth": 1.6}
        false, true, _ = sklearn.metrics.roc_curve(positive, probabilities[:, index])
        area = sklearn.metrics.auc(false, true)
        roc.plot(*_thinned(false, true), label=f"{name}, {area:.2f}", **line)
        precision, recall, _ = sklearn.metrics.precision_recall_curve(positive, probabilities[:, index])
        area = sklearn.metrics.average_precision_score(positive, probabilities[:, index])
        pr.plot(*_thinned(recall, precision), label=f"{name}, {area:.2f}", drawstyle="steps-post", **line)
    roc.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, each class against the rest")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for axes in (roc, pr):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.grid(**_GRID)
        # Below, for there is no corner that some curve does not pass.
        axes.legend(title="area under it", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, fontsize=8)
    return figure


@styled
def reliability(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy against confidence, and how many examples have which confidence.

    Args:
      series: {name: (truth [N], probabilities [N, 8])}; one is drawn as bars, several as lines.
    """
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, scores.BINS + 1)
    for index, (name, (truth, probabilities)) in enumerate(series.items()):
        confidence = probabilities.max(1).astype(np.float64)
        inside = scores.calibration_bin(confidence)
        size = np.bincount(inside, minlength=scores.BINS)
        right = np.bincount(inside, probabilities.argmax(1) == truth, scores.BINS) / np.maximum(size, 1)
        sure = np.bincount(inside, confidence, scores.BINS) / np.maximum(size, 1)
        error = (size * abs(right - sure)).sum() / len(truth)
        some, colour = size > 0, SERIES[index % len(SERIES)]
        if len(series) == 1:
            diagram.bar(
                edges[:-1][some], right[some], 1 / scores.BINS, align="edge", color=colour, alpha=0.75, linewidth=0,
                label="accuracy",
            )  # fmt: skip
            diagram.plot(sure[some], right[some], "o", color=INK, markersize=4, label="mean confidence of the bin")
            diagram.set_title(f"Calibration: expected error {error:.3f}")
        else:
            diagram.plot(
                sure[some], right[some], color=colour, linestyle=DASHES[index % len(DASHES)], marker="o", markersize=4,
                label=f"{plain(name)}, {error:.3f}",
            )  # fmt: skip
            diagram.set_title("Calibration, and expected error")
        counts.stairs(size / size.sum(), edges, fill=len(series) == 1, color=colour, alpha=0.75)
    diagram.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8)
    diagram.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    diagram.grid(**_GRID)
    diagram.legend(loc="upper left", fontsize=8)
    counts.set(xlabel="confidence", ylabel="share")
    return figure


@styled
def confidences(truth: np.ndarray, probabilities: np.ndarray) -> Figure:
    """For each true class, how confident right and wrong predictions of its examples are."""
    classes = np.unique(truth)
    columns = min(4, len(classes))
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 1.9 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    edges = np.linspace(0, 1, 21)
    for axes, index in zip(panels, classes):
        of_class = truth == index
        axes.hist(
            [confidence[of_class & right], confidence[of_class & ~right]], edges, stacked=True, linewidth=0,
            color=(SERIES[0], SERIES[1]), label=("right", "wrong"),
        )  # fmt: skip
        axes.set_title(f"{EXPRESSIONS[index]} ({of_class.sum():,})", fontsize=9)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    for axes in panels[len(classes) :]:
        axes.set_visible(False)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("examples", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@styled
def agreement(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Predicted against true valence and arousal, as densities.

    Args:
      pairs: {head: (truth [N], predicted [N])}.
    """
    figure = Figure(figsize=(4.9 * len(pairs) + 0.5, 4.4), layout="constrained")
    edges = np.linspace(-1, 1, 41)
    for axes, (head, (truth, predicted)) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs.items()):
        counts, _, _ = np.histogram2d(predicted, truth, bins=(edges, edges))
        axes.set_facecolor(matplotlib.colormaps["cividis"](0))
        shades = axes.pcolormesh(
            edges, edges, np.ma.masked_equal(counts, 0), cmap="cividis", rasterized=True,
            norm=matplotlib.colors.LogNorm(0.5, max(counts.max(), 1)),
        )  # fmt: skip
        axes.plot([-1, 1], [-1, 1], color="white", linewidth=0.9, alpha=0.8)
        axes.set(
            aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xlabel=f"true {head}", ylabel=f"predicted {head}",
            title=f"{head}: CCC {scores.ccc(truth, predicted):.3f}, {len(truth):,} examples",
        )  # fmt: skip
        bar = figure.colorbar(shades, ax=axes, shrink=0.8, label="examples in a cell (log scale)")
        bar.minorticks_off()
        most = int(max(counts.max(), 1))
        bar.set_ticks(ticks := sorted({1, most}), labels=[f"{tick:,}" for tick in ticks])
        bar.outline.set_visible(False)
    return figure


@styled
def arrows(truth: np.ndarray, predicted: np.ndarray, expression: np.ndarray) -> Figure:
    """The plane of valence and arousal with an arrow from truth to prediction, for some of the examples.

    Args:
      truth, predicted: [N, 2].
      expression: int [N], -1 unknown, for the colour.
    """
    rows = np.random.default_rng(0).permutation(len(truth))[:_MAX_ARROWS]
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    plane = figure.add_subplot()
    for index in np.unique(expression[rows]):
        some = rows[expression[rows] == index]
        name = EXPRESSIONS[index] if index >= 0 else "unknown"
        start, step = truth[some], predicted[some] - truth[some]
        plane.quiver(
            *start.T, *step.T, angles="xy", scale_units="xy", scale=1, width=0.0028, headwidth=5, color=COLOURS[name],
            alpha=0.85,
        )  # fmt: skip
        plane.scatter(*start.T, s=14, color=COLOURS[name], edgecolors=INK, linewidths=0.3, label=name, zorder=3)
    plane.axhline(0, color=INK, linewidth=0.4, alpha=0.5)
    plane.axvline(0, color=INK, linewidth=0.4, alpha=0.5)
    plane.set(
        aspect="equal", xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xlabel="valence", ylabel="arousal",
        title=f"From truth (point) to prediction (arrowhead), {len(rows):,} of {len(truth):,} examples",
    )  # fmt: skip
    figure.legend(loc="outside right upper", title="true class", alignment="left")
    return figure


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= _MAX_POINTS:
        return x, y
    rows = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).astype(int))
    return x[rows], y[rows]
