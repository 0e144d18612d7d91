"""Predictions to scores: every figure of every head under every protocol, with its interval and its examples."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.records import EXPRESSIONS
from trainers import intervals, protocols, scores, weighted


def expression(
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    model_classes: Sequence[str],
    data_classes: Sequence[str],
    resamples: int,
    seed: int,
) -> dict:
    """All protocols, as `metrics.json` holds them; one that counts no example is left out.

    Args:
      truth: int [N], -1 unknown.
      probabilities: float32 [N, 8].
      model_classes, data_classes: as in `protocols.view`.
      resamples, seed: of the intervals; 0 resamples is none.
    """
    classes = {"model_classes": model_classes, "data_classes": data_classes}
    found, scored = {}, {}
    for name in protocols.PROTOCOLS:
        # A protocol's copies are gone before the next one makes its own.
        if protocols.counted(name, truth, **classes).any():
            view = protocols.view(name, truth, probabilities, **classes)
            counts = view.classes, view.masked
            if counts not in scored:
                scored[counts] = _scores(view, resamples, seed)
            found[name] = _about(view) | scored[counts]
            del view
    return found


def affect(truth: np.ndarray, predicted: np.ndarray, *, resamples: int, seed: int) -> dict:
    """Valence or arousal, as `metrics.json` holds it; labels are known, N ≥ 1."""
    figures = scores.regression(truth, predicted)
    examples = dict.fromkeys(figures, len(truth))
    return {
        "examples": len(truth),
        "zeros": int((truth == 0).sum()),
        "figures": _table(figures, weighted.Regression(truth, predicted), examples, resamples, seed),
    }


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts int [8, 8]: row the true class, column the predicted one."""
    size = len(EXPRESSIONS)
    return np.bincount(truth.astype(np.int64) * size + predicted, minlength=size**2).reshape(size, size)


def figure(value: float, resampled: np.ndarray | None, examples: int) -> dict:
    """A figure with its interval and its examples, as `metrics.json` holds it; None stands for what is not defined."""
    low, high = (None if resampled is None else intervals.interval(resampled)) or (None, None)
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high, "examples": examples}


def _about(view: protocols.View) -> dict:
    return {
        "title": protocols.PROTOCOLS[view.name],
        "classes": [EXPRESSIONS[index] for index in view.classes],
        "absent": list(view.absent),
        "mapping": list(view.mapping),
        "examples": len(view.rows),
    }


def _scores(view: protocols.View, resamples: int, seed: int) -> dict[str, dict]:
    forms = weighted.Classification(view.truth, view.probabilities)
    predicted = view.probabilities.argmax(1).astype(np.int8)
    found = {}
    for kind, weigh in (("plain", lambda weights: weights), ("skew_normalised", forms.skew_normalised)):
        figures = scores.classification(view.truth, view.probabilities, skew_normalised=kind == "skew_normalised")
        found[kind] = _table(
            figures,
            lambda weights, weigh=weigh: forms(weigh(weights)),
            {figure: _examples(figure, view.truth, predicted) for figure in figures},
            resamples,
            seed,
        )
    return found


def _examples(name: str, truth: np.ndarray, predicted: np.ndarray) -> int:
    """The number beside a figure: examples; of a class's precision, what was predicted to be of it; of its other
    figures, its own examples, although F1 also counts what was taken for it, and ROC and PR AUC all others."""
    kind, _, expression = name.partition("/")
    if not expression:
        return len(truth)
    return int(((predicted if kind == "precision" else truth) == EXPRESSIONS.index(expression)).sum())


def _table(
    figures: dict[str, float], forms: Callable, examples: dict[str, int], resamples: int, seed: int
) -> dict[str, dict]:
    count = next(iter(examples.values()))
    values = intervals.resampled(forms, count, resamples=resamples, seed=seed) if count > 1 else {}
    return {name: figure(value, values.get(name), examples[name]) for name, value in figures.items()}
