"""Our figures against those of independent packages, on random predictions, and the time of their intervals.

    python -m benchmarks.metrics

Exit codes: 0 everything agrees and the intervals take under 30 s, 1 something does not.
"""

import math
import sys
import time

import krippendorff
import numpy as np
import scipy.stats
import sklearn.calibration
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

    differences = {}
    figures = {**scores.classification(truth, probabilities), **scores.regression(valence, predicted)}
    expected = {**_classification(truth, probabilities.astype(np.float64)), **_regression(valence, predicted)}
    for name in figures:
        differences[name] = abs(figures[name] - expected[name])
    # The bootstrap's own forms, on an example of its resamples.
    counts = np.bincount(random.integers(_EXAMPLES, size=_EXAMPLES), minlength=_EXAMPLES)
    rows, column = np.repeat(np.arange(_EXAMPLES), counts), counts[:, None].astype(np.float64)
    expected = {
        **_classification(truth[rows], probabilities[rows].astype(np.float64)),
        **_regression(valence[rows], predicted[rows]),
    }
    resampled = {
        **weighted.Classification(truth, probabilities)(column),
        **weighted.Regression(valence, predicted)(column),
    }
    for name in figures:
        differences[f"resampled {name}"] = abs(resampled[name][0] - expected[name])
    worst = max(differences, key=differences.get)
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
    sys.exit(int(not (differences[worst] < _TOLERANCE and seconds < _SECONDS)))


def _classification(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The figures of `scores.classification` by other means; every class has an example."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    exact = probabilities / probabilities.sum(1, keepdims=True)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(truth, predicted)
    binned = np.digitize(confidence, np.linspace(0, 1, scores.BINS + 1)[1:-1])
    # calibration_curve leaves empty bins out, and says only means.
    right, sure = sklearn.calibration.calibration_curve(truth == predicted, confidence, n_bins=scores.BINS)
    sizes = np.bincount(binned, minlength=scores.BINS)
    figures = {
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted),
        "macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro"),
        "weighted_f1": sklearn.metrics.f1_score(truth, predicted, average="weighted"),
        "kappa": sklearn.metrics.cohen_kappa_score(truth, predicted),
        "alpha": krippendorff.alpha(np.stack([truth, predicted]), level_of_measurement="nominal"),
        "roc_auc": sklearn.metrics.roc_auc_score(truth, exact, multi_class="ovr"),
        "pr_auc": sklearn.metrics.average_precision_score(np.eye(8)[truth], probabilities),
        "top2": sklearn.metrics.top_k_accuracy_score(truth, probabilities, k=2),
        "ece": np.average(np.abs(right - sure), weights=sizes[sizes > 0]),
        "nll": sklearn.metrics.log_loss(truth, exact),
    }
    for index, name in enumerate(EXPRESSIONS):
        positives, negatives = probabilities[truth == index, index], probabilities[truth != index, index]
        ranks = scipy.stats.mannwhitneyu(positives, negatives).statistic
        points = sklearn.metrics.precision_recall_curve(truth == index, probabilities[:, index])
        figures |= {
            f"precision/{name}": precision[index],
            f"recall/{name}": recall[index],
            f"f1/{name}": f1[index],
            f"roc_auc/{name}": ranks / (len(positives) * len(negatives)),
            f"pr_auc/{name}": -np.sum(np.diff(points[1]) * points[0][:-1]),
        }
    return figures


def _regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The figures of `scores.regression` by other means."""
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
