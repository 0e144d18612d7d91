"""The figures of an evaluation, each from the package that defines it: scikit-learn, or scipy for Pearson's.

Ours are those that these lack: CCC, SAGR, the expected calibration error, and Krippendorff's alpha, because the package
krippendorff takes no weights, and some kilobytes of memory an example. Tests hold every figure against a second way to
it, alpha against that package.

A figure that is not defined for the examples at hand is NaN, never a guess: each function says when. `weighted` has
the same figures for many weightings at once.
"""

import warnings
from collections.abc import Callable

import numpy as np
import scipy.stats
import sklearn.metrics

from pipeline.records import EXPRESSIONS

#: Bins of equal width of the expected calibration error.
BINS = 15
#: Examples that scikit-learn is given together where it takes some copies of all probabilities.
_BLOCK = 2**14

#: What each figure is called, in the order of the tables.
CLASSIFICATION = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "kappa": "Cohen's κ",
    "alpha": "Krippendorff's α",
    "roc_auc": "ROC AUC, macro",
    "pr_auc": "PR AUC, macro",
    "top2": "top-2 accuracy",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
}
PER_CLASS = {"precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC", "pr_auc": "PR AUC"}
REGRESSION = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "pearson": "Pearson r", "ccc": "CCC", "sagr": "SAGR"}
#: Of these a smaller one is the better one.
LOWER_IS_BETTER = ("ece", "nll", "rmse", "mae")


def classification(truth: np.ndarray, probabilities: np.ndarray, *, skew_normalised: bool = False) -> dict[str, float]:
    """The figures of CLASSIFICATION, and of PER_CLASS as "recall/happy".

    Means over classes are over those that have an example in `truth`; the others have no figure of their own. A
    prediction of such a class is wrong all the same. The predicted class is the most probable, of equal ones the first.

    NaN: precision of a class that is never predicted; ROC and PR AUC of a class that every example is of; kappa and
    alpha when truth and prediction are one and the same class throughout.

    Args:
      truth: int [N], indices into EXPRESSIONS, N ≥ 1.
      probabilities: [N, 8], rows sum to 1.
      skew_normalised: every class that has an example weighs alike, N / (classes × its examples) each (Jeni, Cohn and
        De La Torre, "Facing imbalanced data", ACII 2013).
    """
    predicted = probabilities.argmax(1)
    weight = np.ones(len(truth))
    present, examples = np.unique(truth, return_counts=True)
    if skew_normalised:
        weight = (len(truth) / (len(present) * examples))[np.searchsorted(present, truth)]

    # What comes in was checked where it was predicted; checking it again in every call takes longer than the figures.
    with warnings.catch_warnings(), sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore")  # of figures that are not defined; they are NaN here
        precision, recall, f1, weights = sklearn.metrics.precision_recall_fscore_support(
            truth, predicted, labels=present, sample_weight=weight, zero_division=0.0
        )
        confusion = sklearn.metrics.confusion_matrix(truth, predicted, sample_weight=weight)
        figures = {
            "accuracy": sklearn.metrics.accuracy_score(truth, predicted, sample_weight=weight),
            "balanced_accuracy": np.mean(recall),
            "macro_f1": np.mean(f1),
            "weighted_f1": np.average(f1, weights=weights),
            "kappa": _kappa(truth, predicted, weight),
            "alpha": alpha(confusion),
            "roc_auc": np.nan,
            "pr_auc": np.nan,
            "top2": _sum_of_blocks(_top2, truth, probabilities, weight) / weight.sum(),
            "ece": calibration_error(truth, probabilities, weight),
            "nll": _sum_of_blocks(_log_loss, truth, probabilities, weight) / weight.sum(),
        }
        columns = {
            "precision": np.where(np.isin(present, predicted), precision, np.nan),
            "recall": recall,
            "f1": f1,
            "roc_auc": np.full(len(present), np.nan),
            "pr_auc": np.full(len(present), np.nan),
        }
        if len(present) > 1:
            areas = [_areas(truth == index, probabilities[:, index], weight) for index in present]
            for name, column in zip(("roc_auc", "pr_auc"), zip(*areas)):
                columns[name], figures[name] = column, np.mean(column)
    for name, values in columns.items():
        figures |= {f"{name}/{EXPRESSIONS[index]}": value for index, value in zip(present, values)}
    return {name: float(value) for name, value in figures.items()}


def regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The figures of REGRESSION.

    NaN: R² when the truth is constant, Pearson when either is; both, and CCC, for fewer than two examples.

    Args:
      truth, predicted: [N], N ≥ 1.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    varies = np.ptp(truth) > 0
    return {
        "rmse": float(sklearn.metrics.root_mean_squared_error(truth, predicted)),
        "mae": float(sklearn.metrics.mean_absolute_error(truth, predicted)),
        "r2": float(sklearn.metrics.r2_score(truth, predicted)) if varies else np.nan,
        "pearson": float(scipy.stats.pearsonr(truth, predicted)[0]) if varies and np.ptp(predicted) > 0 else np.nan,
        "ccc": ccc(truth, predicted),
        "sagr": sagr(truth, predicted),
    }


def ccc(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation: 2 cov / (var + var + (difference of the means)²), with variances over N.

    A constant prediction of a truth that varies has CCC 0. It is NaN for fewer than two examples, and where both are
    the same constant. Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 1989.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if len(truth) < 2:
        return np.nan
    covariance = np.mean((truth - truth.mean()) * (predicted - predicted.mean()))
    spread = truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else np.nan


def sagr(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Sign agreement: the share of examples whose truth and prediction have one sign.

    The sign of zero is zero, as in the definition: a truth of exactly 0 agrees with a prediction of exactly 0 alone,
    which a network hardly ever makes. Reports name the number of such examples. Nicolaou, Gunes and Pantic,
    "Continuous prediction of spontaneous affect", IEEE TAC 2011; used by AffectNet.
    """
    return float(np.mean(np.sign(truth) == np.sign(predicted)))


def alpha(confusion: np.ndarray) -> float:
    """Krippendorff's alpha for nominal data: truth and prediction as two coders who leave nothing out.

    From the confusion matrix [K, K], which may be of weights. Krippendorff, "Content analysis", 2004.
    """
    pairs = confusion + confusion.T
    values = pairs.sum(0)
    count = values.sum()
    chance = count**2 - np.sum(np.square(values, dtype=np.float64))
    return float(1 - (count - 1) * (count - np.trace(pairs)) / chance) if chance > 0 else np.nan


def calibration_bin(confidence: np.ndarray) -> np.ndarray:
    """int [N]: which of BINS of equal width a confidence lies in; a boundary belongs to the bin above it."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> float:
    """Expected calibration error: over bins of confidence, the mean distance of confidence and accuracy.

    Guo et al., "On calibration of modern neural networks", ICML 2017.

    Args:
      truth, probabilities: as in `classification`.
      weight: [N], of each example.
    """
    confidence = probabilities.max(1).astype(np.float64)
    gap = weight * (confidence - (probabilities.argmax(1) == truth))
    return float(np.abs(np.bincount(calibration_bin(confidence), gap, BINS)).sum() / weight.sum())


def _areas(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """What scikit-learn's `roc_auc_score` and `average_precision_score` give, from one sort of the scores for both."""
    counts = sklearn.metrics.confusion_matrix_at_thresholds(positive, score, sample_weight=weight)
    _, false, _, true, _ = (np.append(0.0, count) for count in counts)
    precision = true[1:] / (true[1:] + false[1:])
    return np.trapezoid(true / true[-1], false / false[-1]), np.diff(true / true[-1]) @ precision


def _sum_of_blocks(figure: Callable, truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> float:
    """The sum of what `figure` says of some examples at a time."""
    blocks = [slice(first, first + _BLOCK) for first in range(0, len(truth), _BLOCK)]
    return sum(figure(truth[block], probabilities[block], weight[block]) for block in blocks)


def _top2(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> float:
    last = len(EXPRESSIONS) - 1
    # Of equally probable classes scikit-learn takes the last; seen from the other end that is the first, as above.
    return sklearn.metrics.top_k_accuracy_score(
        last - truth, probabilities[:, ::-1], k=2, labels=range(last + 1), sample_weight=weight, normalize=False
    )


def _log_loss(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> float:
    # Half precision leaves a probability a little above 1, which scikit-learn refuses.
    exact = np.clip(probabilities.astype(np.float64), 0, 1)
    return sklearn.metrics.log_loss(truth, exact, labels=range(len(EXPRESSIONS)), sample_weight=weight, normalize=False)


def _kappa(truth: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> float:
    if len(np.unique(truth)) == 1 and (truth == predicted).all():
        return np.nan
    return sklearn.metrics.cohen_kappa_score(truth, predicted, sample_weight=weight)
