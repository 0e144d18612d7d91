"""The page of a comparison: one HTML file that needs no network."""

import os
from collections.abc import Sequence

from trainers import comparison, comparison_plots, evaluation_files, evaluation_plots
from trainers.comparison import Entry, Row
from trainers.evaluation_page import Plot, environment

#: Figures that the chart shows; the others have other units.
_CHARTED = ("accuracy", "macro_f1", "kappa", "roc_auc", "pr_auc", "ccc", "pearson", "sagr")


def write(
    path: str, entries: Sequence[Entry], rows: Sequence[Row], *, protocol: str, resamples: int, seed: int
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file; it appears complete or not at all.
      entries: what is compared.
      rows: `comparison.compare` of them.
      protocol, resamples, seed: that it was called with.

    Raises:
      EnvironmentFault: it cannot be written.
    """
    plots = _plots(entries, rows, protocol)
    page = environment().get_template("comparison.html").render(
        entries=entries, rows=rows, plots=plots, protocol=protocol, resamples=resamples, seed=seed,
        notes=comparison.notes(entries, rows, protocol), only=entries[0].metrics["only"],
        title=comparison.protocols.PROTOCOLS[protocol], data=entries[0].metrics["dataset"],
        pairs=[(a.name, b.name) for i, a in enumerate(entries) for b in entries[i + 1 :]],
    )  # fmt: skip
    folder, name = os.path.split(path)
    with evaluation_files.output_file(folder, name) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def _plots(entries: Sequence[Entry], rows: Sequence[Row], protocol: str) -> list[Plot]:
    names = [entry.name for entry in entries]
    charted = [row for row in rows if row.key.split("/")[1] in _CHARTED]
    plots = [Plot("figures", "Figures with their intervals", comparison_plots.figures(names, charted))]
    if any(row.key.startswith("expression/") for row in rows):
        views = comparison.views(entries, protocol)
        if len({int(label) for label in next(iter(views.values())).truth}) > 1:
            plots.append(Plot("curves", "ROC curves by class", comparison_plots.class_curves(views, "roc")))
            plots.append(Plot("curves", "Precision-recall curves by class", comparison_plots.class_curves(views, "pr")))
        series = {name: (view.truth, view.probabilities) for name, view in views.items()}
        plots.append(Plot("curves", "Accuracy against confidence", evaluation_plots.reliability(series)))
    histories = {entry.name: entry.history for entry in entries if entry.history}
    if histories:
        plots.append(
            Plot("training", "Validation loss and score over the epochs", comparison_plots.histories(histories))
        )
    return plots
