"""The figures of the report: SVG images that depend on their data alone and read well on dark and light pages."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pipeline.records import EXPRESSIONS

#: Okabe and Ito's colour-blind safe set (https://jfly.uni-koeln.de/color/), but grey for black, which dark pages
#: hide, and a darker yellow, which light pages hide.
COLOURS = dict(
    zip(
        (*EXPRESSIONS, "unknown"),
        ("#8f959c", "#e69f00", "#0072b2", "#56b4e9", "#cc79a7", "#009e73", "#d55e00", "#a89f00", "#b9bec4"),
    )
)
_MARKERS = dict(zip(EXPRESSIONS, "osv^DXPd"))

#: Enough points to see a class; more would only paint over each other.
_MAX_POINTS = 1500

# Drawn in this colour, and replaced by the colour of the reader's theme.
INK = "#010203"
_THEME = "svg{color:#333b44}@media(prefers-color-scheme:dark){svg{color:#c8d0d9}}"
#: Of every figure, as `matplotlib.rc_context` takes it.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "affect_faces",
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def density(split: Mapping, edges: Sequence[float]) -> str:
    """The valence-arousal plane of one split with its two margins.

    Args:
      split: an entry of `splits` in `statistics.json`; its three histograms are drawn.
      edges: the 41 bin edges.

    Returns:
      A data URI of an SVG image.
    """
    counts = np.array(split["valence_arousal_histogram"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.7), layout="compressed")
        plane = figure.add_subplot()
        plane.set_facecolor(matplotlib.colormaps["cividis"](0))
        most = max(counts.max(), 1)
        shades = plane.pcolormesh(
            edges, edges, np.ma.masked_equal(counts, 0), cmap="cividis", norm=LogNorm(0.5, most), rasterized=True
        )
        plane.axhline(0, color="white", linewidth=0.5, alpha=0.5)
        plane.axvline(0, color="white", linewidth=0.5, alpha=0.5)
        _label_plane(plane)
        above = plane.inset_axes((0, 1.02, 1, 0.15), sharex=plane)
        above.stairs(split["valence_histogram"], edges, fill=True, color=COLOURS["surprise"])
        beside = plane.inset_axes((1.02, 0, 0.15, 1), sharey=plane)
        beside.stairs(split["arousal_histogram"], edges, orientation="horizontal", fill=True, color=COLOURS["surprise"])
        for margin in (above, beside):
            margin.axis("off")
        bar = figure.colorbar(
            shades, ax=plane, location="bottom", shrink=0.6, aspect=30, label="faces in a cell (log scale)"
        )
        bar.set_ticks(ticks := sorted({1, most}), labels=[f"{tick:,}" for tick in ticks], minor=False)
        bar.minorticks_off()
        bar.outline.set_visible(False)
        return data_uri(figure)


def circumplex(points: Mapping[str, np.ndarray]) -> str:
    """Where each class lies: its faces, its mean, and an ellipse of one standard deviation.

    Args:
      points: class name -> float array (n, 2) of valence and arousal, no NaN.

    Returns:
      A data URI of an SVG image.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.9), layout="compressed")
        plane = figure.add_subplot()
        for name, pairs in points.items():
            some = _subset(pairs, _MAX_POINTS // 4)
            plane.scatter(*some.T, s=6, color=COLOURS[name], alpha=0.35, linewidths=0, rasterized=True)
        for name, pairs in points.items():
            if len(pairs) > 2:
                plane.add_patch(_one_sigma(pairs, edgecolor=COLOURS[name]))
            plane.scatter(
                *pairs.mean(axis=0),
                s=70,
                color=COLOURS[name],
                marker=_MARKERS[name],
                edgecolors="#14181d",
                linewidths=0.8,
                zorder=3,
                label=f"{name} ({len(pairs):,})",
            )
        _cross(plane)
        _label_plane(plane)
        figure.legend(loc="outside right upper", title="mean of", alignment="left", labelspacing=0.8)
        return data_uri(figure)


def one_class(name: str, points: Mapping[str, np.ndarray]) -> str:
    """One class in its colour before all others in grey; `points` and the result as in `circumplex`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3, 2.3), layout="constrained")
        plane = figure.add_subplot()
        every = _subset(np.concatenate(list(points.values())), _MAX_POINTS)
        plane.scatter(*every.T, s=3, color=COLOURS["neutral"], alpha=0.35, linewidths=0, rasterized=True)
        some = _subset(points[name], _MAX_POINTS)
        plane.scatter(*some.T, s=5, color=COLOURS[name], alpha=0.7, linewidths=0, rasterized=True)
        _cross(plane)
        _label_plane(plane)
        return data_uri(figure)


def _label_plane(plane) -> None:
    plane.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="valence", ylabel="arousal")
    plane.set_xticks((-1, 0, 1))
    plane.set_yticks((-1, 0, 1))


def _cross(plane) -> None:
    plane.axhline(0, color=INK, linewidth=0.4, alpha=0.5)
    plane.axvline(0, color=INK, linewidth=0.4, alpha=0.5)


def _one_sigma(pairs: np.ndarray, edgecolor: str) -> Ellipse:
    variances, axes = np.linalg.eigh(np.cov(pairs.T))
    width, height = 2 * np.sqrt(np.maximum(variances, 0))
    angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
    return Ellipse(pairs.mean(axis=0), width, height, angle=angle, fill=False, edgecolor=edgecolor, linewidth=1.6)


def _subset(pairs: np.ndarray, most: int) -> np.ndarray:
    if len(pairs) <= most:
        return pairs
    return pairs[np.random.default_rng(0).choice(len(pairs), most, replace=False)]


def data_uri(figure: Figure) -> str:
    """A figure drawn with STYLE, as the data URI of an SVG image."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", dpi=160, transparent=False, facecolor="none", metadata={"Date": None, "Creator": None}
    )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = text.replace("<defs>", f"<style>{_THEME}</style><defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
