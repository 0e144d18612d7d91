"""The report of an evaluation as PDF: its text, its figures and its faces on pages of A4."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from pipeline import report_plots
from trainers import evaluation_text
from trainers.evaluation_faces import Face

LINES_PER_PAGE = 76
#: The faces of a page, in inches: how far apart they begin, across and down, and their side; the rest is for the text.
_TILES_PER_ROW, _TILE_PITCH, _TILE_SIDE = 6, (1.35, 1.6), 1.15


def write(file: io.BufferedIOBase, metrics: Mapping, figures: Sequence[Figure], faces: Sequence[Face]) -> None:
    """Writes it; the same metrics and faces give the same bytes.

    Args:
      file: takes it.
      metrics: what `metrics.json` holds.
      figures: drawn, each a page.
      faces: with what the model says of them.
    """
    lines = list(evaluation_text.lines(metrics))
    style = report_plots.STYLE | {"pdf.fonttype": 42}
    # A date would differ.
    with matplotlib.rc_context(style), PdfPages(file, metadata={"CreationDate": None}) as pages:
        for first in range(0, len(lines), LINES_PER_PAGE):
            page = Figure(figsize=(8.3, 11.7))
            page.text(
                0.07, 0.95, "\n".join(lines[first : first + LINES_PER_PAGE]), family="monospace", fontsize=8, va="top",
                parse_math=False,
            )  # fmt: skip
            pages.savefig(page)
        for figure in figures:
            pages.savefig(figure)
        for kind, right in (("Mistakes, the most confident first", False), ("Right", True)):
            some = [face for face in faces if face.right == right]
            if some:
                pages.savefig(_grid(kind, some))


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
