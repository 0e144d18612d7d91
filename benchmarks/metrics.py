"""Our figures against independent ones, of packages or by another way, on random predictions; the time of their
intervals.

    python -m benchmarks.metrics

Exit codes: 0 everything agrees and the intervals take under 30 s, 1 something does not.
"""

import math
import sys
import time

import krippendorff
import numpy as np
import scipy.stats
import sklearn.metrics

from pipeline.records import EXPRESSIONS
from trainers import intervals, protocols, scores, weighted

_EXAMPLES = 10_000
_TOLERANCE = 1e-6
_SECONDS = 30.0


def main() -> None:
    random = np.random.default_rng(0)
    # AffectNet's skew, and a model that is right more often than not.
    frequency = np.array([74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750])
    truth = random.choice(8, _EXAMPLES, p=frequency / frequency.sum())
    logits = random.normal(size=(_EXAMPLES, 8)) + 1.5 * np.eye(8)[truth]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    valence = random.uniform(-1, 1, _EXAMPLES).astype(np.float32)
    predicted = np.tanh(valence + random.normal(0.1, 0.4, _EXAMPLES)).astype(np.float32)

    # Of the examples, and by the bootstrap's own forms of one of its resamples.
    counts = np.bincount(random.integers(_EXAMPLES, size=_EXAMPLES), minlength=_EXAMPLES)
    rows, column = np.repeat(np.arange(_EXAMPLES), counts), counts[:, None].astype(np.float64)
    forms, differences = weighted.Classification(truth, probabilities), {}
    for skewed, kind in ((False, ""), (True, "skew-normalised ")):
        figures = scores.classification(truth, probabilities, skew_normalised=skewed)
        expected = classification(truth, probabilities, skew_normalised=skewed)
        resampled = forms(forms.skew_normalised(column) if skewed else column)
        repeated = classification(truth[rows], probabilities[rows], skew_normalised=skewed)
        for name in expected:
            differences[f"{kind}{name}"] = abs(figures[name] - expected[name])
            differences[f"resampled {kind}{name}"] = abs(resampled[name][0] - repeated[name])
    figures, expected = scores.regression(valence, predicted), regression(valence, predicted)
    resampled, repeated = weighted.Regression(valence, predicted)(column), regression(valence[rows], predicted[rows])
    for name in expected:
        differences[name] = abs(figures[name] - expected[name])
        differences[f"resampled {name}"] = abs(resampled[name][0] - repeated[name])
    # NaN is no agreement, and larger than any number.
    worst = max(differences, key=lambda name: (math.isnan(differences[name]), differences[name]))
    agree = all(difference < _TOLERANCE for difference in differences.values())
    print(f"{len(differences)} figures; the largest difference is {differences[worst]:.1e}, of {worst}")

    start = time.process_time()
    for name in protocols.PROTOCOLS:
        view = protocols.view(name, truth, probabilities)
        both = weighted.Classification(view.truth, view.probabilities)
        for weigh in (lambda weights: weights, both.skew_normalised):
            intervals.resampled(lambda weights: both(weigh(weights)), len(view.truth), resamples=1000, seed=0)  # noqa: B023
    for _ in ("valence", "arousal"):
        intervals.resampled(weighted.Regression(valence, predicted), _EXAMPLES, resamples=1000, seed=0)
    seconds = time.process_time() - start
    print(
        f"1,000 resamples of every figure, plain and skew-normalised, under four protocols: {seconds:.1f} s of one core"
    )
    sys.exit(int(not (agree and seconds < _SECONDS)))


def classification(truth: np.ndarray, probabilities: np.ndarray, *, skew_normalised: bool = False) -> dict[str, float]:
    """The figures of `scores.classification` by other means, with the same arguments."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1).astype(np.float64)
    present, counts = np.unique(truth, return_counts=True)
    weight = np.ones(len(truth))
    for index, count in zip(present, counts):
        weight[truth == index] = len(truth) / len(present) / count if skew_normalised else 1
    total, right = weight.sum(), truth == predicted
    accuracy = np.average(right, weights=weight)
    true, guessed = (np.bincount(column, weight, len(EXPRESSIONS)) for column in (truth, predicted))
    hits = np.bincount(truth[right], weight[right], len(EXPRESSIONS))
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / guessed, hits / true, 2 * hits / (true + guessed)
        chance = (true / total) @ (guessed / total)
        kappa = (accuracy - chance) / (1 - chance) if chance < 1 - 1e-12 else math.nan
    bins = np.digitize(confidence, np.linspace(0, 1, scores.BINS + 1)[1:-1])
    own = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    first_two = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    areas = {index: _areas(truth == index, probabilities[:, index], weight) for index in present}
    figures = {
        "accuracy": accuracy,
        "balanced_accuracy": recall[present].mean(),
        "macro_f1": f1[present].mean(),
        "weighted_f1": np.average(f1[present], weights=true[present]),
        "kappa": kappa,
        "alpha": _alpha(truth, predicted, weight),
        "roc_auc": np.mean([roc for roc, _ in areas.values()]),
        "pr_auc": np.mean([pr for _, pr in areas.values()]),
        "top2": np.average((first_two == truth[:, None]).any(1), weights=weight),
        "ece": sum(abs(weight[bins == one] @ (confidence - right)[bins == one]) for one in range(scores.BINS)) / total,
        "nll": -np.average(np.log(np.maximum(own, np.finfo(np.float64).eps)), weights=weight),
    }
    for index in present:
        values = (precision[index], recall[index], f1[index], *areas[index])
        figures |= {f"{kind}/{EXPRESSIONS[index]}": value for kind, value in zip(scores.PER_CLASS, values)}
    return figures


def _alpha(truth: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> float:
    """Krippendorff's: by his package, which takes no weights, or by its definition, one minus observed over expected
    disagreement."""
    if len(np.union1d(truth, predicted)) == 1:
        return math.nan
    if (weight == 1).all():
        return krippendorff.alpha(np.stack([truth, predicted]), level_of_measurement="nominal")
    values = np.bincount(truth, weight, len(EXPRESSIONS)) + np.bincount(predicted, weight, len(EXPRESSIONS))
    both = values.sum()
    expected = 1 - (values * (values - 1)).sum() / (both * (both - 1))
    return 1 - weight[truth != predicted].sum() / weight.sum() / expected


def _areas(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """ROC AUC as the share of pairs in the right order, ties by half; average precision from scikit-learn's curve."""
    if positive.all():
        return math.nan, math.nan
    order = np.argsort(score[~positive])
    others, below = score[~positive][order], np.append(0, np.cumsum(weight[~positive][order]))
    beaten = [below[np.searchsorted(others, score[positive], side)] for side in ("left", "right")]
    points = sklearn.metrics.precision_recall_curve(positive, score, sample_weight=weight)
    roc = weight[positive] @ np.mean(beaten, 0) / (weight[positive].sum() * below[-1])
    return roc, -np.sum(np.diff(points[1]) * points[0][:-1])


def regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The figures of `scores.regression` by other means; neither column is constant."""
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    pearson = scipy.stats.linregress(truth, predicted)
    bias = 2 / (
        truth.std() / predicted.std()
        + predicted.std() / truth.std()
        + (truth.mean() - predicted.mean()) ** 2 / (truth.std() * predicted.std())
    )
    return {
        "rmse": math.sqrt(sklearn.metrics.mean_squared_error(truth, predicted)),
        "mae": sklearn.metrics.mean_absolute_error(truth, predicted),
        "r2": sklearn.metrics.r2_score(truth, predicted),
        "pearson": pearson.rvalue,
        "ccc": pearson.rvalue * bias,  # Lin's other form
        "sagr": sklearn.metrics.accuracy_score(truth > 0, predicted > 0),
    }


if __name__ == "__main__":
    main()
