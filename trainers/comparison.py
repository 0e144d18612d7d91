"""Several evaluations of the same examples side by side: who is better, and where nobody can say.

The bootstrap is paired: every model meets the same resamples, so the interval of a difference is that of the
resampled differences. A model is better in a figure when that interval leaves zero out; the winner of a figure is
better than every other. Intervals are of single differences, 95 % each: of twenty figures in which two models do not
differ, one may seem to.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.labels import HEADS
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from trainers import evaluation_files as files
from trainers import intervals, protocols, scoreboard, scores, weighted
from trainers.prediction import Predictions

ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One evaluation of the comparison.

    Attributes:
      name: unique among them.
      metrics: its `metrics.json`; None for the ensemble.
      predictions: what it predicted.
      classes: that its model was trained on.
      history: rows of its training's `history.csv`; () when there is none.
    """

    name: str
    metrics: Mapping | None
    predictions: Predictions
    classes: tuple[str, ...]
    history: tuple[Mapping[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of all entries.

    Attributes:
      key: such as "expression/macro_f1" or "valence/ccc".
      title: what it is called.
      examples: how many it is of.
      figures: {name: {"value", "low", "high"}} of the entries that have it.
      winner: the name of the entry that is better than all others; "" when there is none.
      differences: {(first, second): (difference, low, high)}, first minus second; low and high may be None.
    """

    key: str
    title: str
    examples: int
    figures: Mapping[str, Mapping]
    winner: str
    differences: Mapping[tuple[str, str], tuple]


def load(folders: Sequence[str], *, ensemble: bool) -> list[Entry]:
    """Reads evaluations.

    Args:
      folders: that `trainers.evaluate` wrote, or work directories, whose `eval` is meant.
      ensemble: whether to add one whose predictions are the means of all.

    Raises:
      UsageError: fewer than two.
      DataError: one is damaged, or they are not of the same examples and heads.
    """
    if len(folders) < 2:
        raise UsageError("--evaluations takes two or more folders, with commas between them: A,B,C")
    entries, ids = [], None
    for folder in folders:
        if not os.path.isfile(os.path.join(folder, files.METRICS)):
            folder = os.path.join(folder, "eval")
        metrics = files.read_metrics(folder)
        found, predictions = files.read_predictions(folder, metrics["predictions_sha256"])
        if ids is not None and (
            found != ids
            or metrics["dataset"]["digest"] != entries[0].metrics["dataset"]["digest"]
            or not _same_truth(entries[0].predictions, predictions)
        ):
            raise DataError(
                f"{folder} is an evaluation of other examples ({_named(metrics)}) than {folders[0]} "
                f"({_named(entries[0].metrics)}); evaluate both on the same split of the same dataset"
            )
        ids = found
        name = _unique(metrics["model"]["name"], [entry.name for entry in entries])
        history = _history(folder, metrics["model"]["path"])
        entries.append(Entry(name, metrics, predictions, tuple(metrics["model"]["classes"]), history))
    if ensemble:
        entries.append(_ensemble(entries))
    return entries


def compare(entries: Sequence[Entry], *, protocol: str, resamples: int, seed: int) -> list[Row]:
    """Every figure that two or more of the entries have.

    Args:
      entries: of the same examples.
      protocol: for the expressions; classes in common are those of all models.
      resamples, seed: of the intervals.

    Raises:
      UsageError: the protocol is unknown or counts no example.
      DataError: no head is common to two of them.
    """
    if protocol not in protocols.PROTOCOLS:
        raise UsageError(f"--protocol={protocol} is not accepted; give one of {', '.join(protocols.PROTOCOLS)}")
    rows = []
    for head in ("expression", "valence", "arousal"):
        some = [entry for entry in entries if head in entry.predictions.outputs]
        if len(some) < 2 or not len(some[0].predictions.known(head)):
            continue
        tables, values, examples = {}, {}, 0
        counted = views(entries, protocol) if head == "expression" else {}
        for entry in some:
            truth, figures, forms = _forms(entry, head, counted.get(entry.name))
            examples = len(truth)
            # One example drawn again is the same one: it says nothing of others.
            drawn = resamples if examples > 1 else 0
            values[entry.name] = intervals.resampled(forms, examples, resamples=drawn, seed=seed)
            tables[entry.name] = figures
        titles = scores.CLASSIFICATION if head == "expression" else scores.REGRESSION
        rows += [
            _row(
                f"{head}/{figure}",
                title if head == "expression" else f"{head} {title}",
                figure,
                tables,
                values,
                examples,
            )
            for figure, title in titles.items()
        ]
    if not rows:
        raise DataError("no head is predicted by two of the models and labelled in the dataset: nothing to compare")
    return rows


def views(entries: Sequence[Entry], protocol: str) -> dict[str, protocols.View]:
    """What the protocol counts of each entry that predicts expressions.

    Raises:
      UsageError: the protocol counts no example.
    """
    some = [entry for entry in entries if "expression" in entry.predictions.outputs]
    shared = [name for name in EXPRESSIONS if all(name in entry.classes for entry in some)]
    found = {
        entry.name: protocols.view(
            protocol, entry.predictions.truth["expression"], entry.predictions.outputs["expression"],
            model_classes=shared if protocol == "common" else entry.classes,
            data_classes=entries[0].metrics["dataset"]["classes"],
        )
        for entry in some
    }  # fmt: skip
    if any(not len(view.rows) for view in found.values()):
        raise UsageError(f"--protocol={protocol} counts no example here; give one of {', '.join(protocols.PROTOCOLS)}")
    return found


def notes(entries: Sequence[Entry], rows: Sequence[Row], protocol: str) -> list[str]:
    """What the figures count, in words: the examples, and what the protocol did with which class of which model.

    Args:
      entries: what is compared.
      rows: `compare` of them, under `protocol`.
    """
    lines = []
    if only := entries[0].metrics["only"]:
        lines.append(f"all examples are of {only}: figures over classes say little")
    if any(row.key.startswith("expression/") for row in rows):
        counted, said = views(entries, protocol), {}
        for name, view in counted.items():
            for line in view.mapping:
                said.setdefault(line, []).append(name)
        for line, names in said.items():
            lines.append(line if len(names) == len(counted) else f"{', '.join(names)}: {line}")
        if absent := next(iter(counted.values())).absent:
            lines.append(f"without an example, and so left out of every mean: {', '.join(absent)}")
    return lines


def _forms(entry: Entry, head: str, view: protocols.View | None):
    if view is not None:
        return (
            view.truth,
            scores.classification(view.truth, view.probabilities),
            weighted.Classification(view.truth, view.probabilities),
        )
    known = entry.predictions.known(head)
    truth, predicted = entry.predictions.truth[head][known], entry.predictions.outputs[head][known]
    return truth, scores.regression(truth, predicted), weighted.Regression(truth, predicted)


def _row(key: str, title: str, figure: str, tables: Mapping, values: Mapping, examples: int) -> Row:
    sign = -1 if figure in scores.LOWER_IS_BETTER else 1
    figures = {
        name: scoreboard.figure(table[figure], values[name].get(figure), examples) for name, table in tables.items()
    }
    differences, better = {}, {name: set() for name in tables}
    for first in tables:
        for second in tables:
            if first == second:
                continue
            difference = tables[first][figure] - tables[second][figure]
            resampled = values[first][figure] - values[second][figure] if figure in values[first] else np.array([])
            low, high = intervals.interval(resampled) or (None, None)
            differences[first, second] = (difference, low, high)
            if low is not None and (low > 0 if sign > 0 else high < 0):
                better[first].add(second)
    winner = next((name for name, worse in better.items() if len(worse) == len(tables) - 1), "")
    return Row(key, title, examples, figures, winner, differences)


def _ensemble(entries: Sequence[Entry]) -> Entry:
    heads = [head for head in HEADS if all(head in entry.predictions.outputs for entry in entries)]
    if not heads:
        raise DataError("--ensemble: no head is predicted by all of the models")
    means = {
        head: np.mean([entry.predictions.outputs[head] for entry in entries], 0, dtype=np.float64).astype(np.float32)
        for head in heads
    }
    classes = tuple(name for name in entries[0].classes if any(name in entry.classes for entry in entries))
    return Entry(ENSEMBLE, None, Predictions(entries[0].predictions.truth, means), classes)


def _same_truth(first: Predictions, second: Predictions) -> bool:
    return all(np.array_equal(first.truth[head], second.truth[head], equal_nan=True) for head in first.truth)


def _named(metrics: Mapping) -> str:
    data = metrics["dataset"]
    return f"{data['evaluated']:,} of {data['name']} {data['split']}, digest {data['digest'][:12]}"


def _unique(name: str, taken: Sequence[str]) -> str:
    number = 2
    unique = name
    while unique in (*taken, ENSEMBLE):
        unique, number = f"{name} ({number})", number + 1
    return unique


def _history(folder: str, model: str) -> tuple[Mapping[str, float], ...]:
    """Of the training that the model lies in, or where that is gone, of the one that its evaluation lies in."""
    workdir = os.path.dirname(os.path.abspath(model))
    if not model.endswith(".keras"):  # WORKDIR/export/NUMBER
        workdir = os.path.dirname(workdir)
    places = (workdir, os.path.dirname(os.path.abspath(folder)))
    return next(filter(None, (files.read_history(os.path.join(place, "history.csv")) for place in places)), ())
