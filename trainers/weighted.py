"""The figures of `scores` for many weightings of the same examples at once, for the bootstrap.

    figures = Classification(truth, probabilities)
    figures(counts)["accuracy"]        # counts [N, R]: how often each resample drew each example; float64 [R]

Column r of the result is what `scores` gives for the examples repeated as column r says; but a resample that is one
example over and over has no CCC, where `scores` gives 0: it says nothing of agreement. What depends on the
predictions alone (their order, their bins) is computed once. One column holds one resample, so that each step reads
memory in its order.
"""

import numpy as np

from pipeline.records import EXPRESSIONS
from trainers import scores

_CLASSES = len(EXPRESSIONS)
#: Examples whose one-hot cells are in memory together.
_BLOCK = 4096


class Classification:
    """The figures of `scores.classification`.

    Args:
      truth: int [N], indices into EXPRESSIONS.
      probabilities: [N, 8].
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray):
        self.truth = truth.astype(np.int8)
        self.classes = np.unique(truth)
        predicted, confidence = probabilities.argmax(1), probabilities.max(1).astype(np.float64)
        self._cell = (truth * _CLASSES + predicted).astype(np.int8)
        self._bin = scores.calibration_bin(confidence).astype(np.int8)
        self._gap = confidence - (predicted == truth)
        own = np.take_along_axis(probabilities, truth[:, None].astype(np.int64), 1)
        self._loss = _log_loss(own[:, 0])
        self._top2 = _in_top2(truth, own, probabilities)
        self._rankings = [_Ranking(truth == index, probabilities[:, index]) for index in self.classes]

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure as float64 [R], NaN as in `scores`.

        Args:
          weights: float64 [N, R], each column with a positive sum.
        """
        cells, bins, loss, top2 = self._sums(weights)
        total = weights.sum(0)
        confusion = cells.reshape(_CLASSES, _CLASSES, -1)
        truths, predictions, hits = confusion.sum(1), confusion.sum(0), np.einsum("kkr->kr", confusion)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, precision = hits / truths, hits / predictions
            f1 = np.where(truths > 0, 2 * hits / (truths + predictions), np.nan)
            chance = (truths * predictions).sum(0)
            agreement = (total * hits.sum(0) - chance) / (total**2 - chance)
            values = truths + predictions
            chance = 4 * total**2 - (values**2).sum(0)
            alpha = 1 - (2 * total - 1) * (2 * total - 2 * hits.sum(0)) / chance
            figures = {
                "accuracy": hits.sum(0) / total,
                "balanced_accuracy": _mean_of_known(recall),
                "macro_f1": _mean_of_known(f1),
                "weighted_f1": np.nansum(f1 * truths, 0) / total,
                # One class throughout: 0 / 0 up to rounding.
                "kappa": np.where(hits.max(0) >= total * (1 - 1e-12), np.nan, agreement),
                "alpha": np.where(hits.max(0) >= total * (1 - 1e-12), np.nan, alpha),
            }
            areas = np.array([ranking.areas(weights) for ranking in self._rankings])
            figures |= {"roc_auc": _mean_of_known(areas[:, 0]), "pr_auc": _mean_of_known(areas[:, 1])}
            figures |= {"top2": top2 / total, "ece": np.abs(bins).sum(0) / total, "nll": loss / total}
        columns = {"precision": precision[self.classes], "recall": recall[self.classes], "f1": f1[self.classes]}
        columns |= {"roc_auc": areas[:, 0], "pr_auc": areas[:, 1]}
        for name, rows in columns.items():
            for index, row in zip(self.classes, rows):
                # A class that a resample lacks has no figure in it.
                figures[f"{name}/{EXPRESSIONS[index]}"] = np.where(truths[index] > 0, row, np.nan)
        return figures

    def skew_normalised(self, weights: np.ndarray) -> np.ndarray:
        """The weights [N, R] scaled so that in each column every class that has any weighs alike; sums stay."""
        totals = np.stack([weights[self.truth == index].sum(0) for index in self.classes])
        share = totals.sum(0) / (totals > 0).sum(0)
        factors = np.zeros((_CLASSES, weights.shape[1]))
        factors[self.classes] = np.divide(share, totals, out=np.zeros_like(totals), where=totals > 0)
        return weights * factors[self.truth]

    def _sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weighted sums: confusion cells [64, R], calibration gaps by bin [15, R], log losses [R], top-2 hits [R]."""
        cells = np.zeros((_CLASSES**2, weights.shape[1]))
        bins = np.zeros((scores.BINS, weights.shape[1]))
        for first in range(0, len(weights), _BLOCK):
            block = slice(first, first + _BLOCK)
            cells += (np.arange(_CLASSES**2)[:, None] == self._cell[block]).astype(np.float64) @ weights[block]
            bins += ((np.arange(scores.BINS)[:, None] == self._bin[block]) * self._gap[block]) @ weights[block]
        return cells, bins, self._loss @ weights, self._top2.astype(np.float64) @ weights


class Regression:
    """The figures of `scores.regression`.

    Args:
      truth, predicted: [N].
    """

    def __init__(self, truth: np.ndarray, predicted: np.ndarray):
        truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
        self._difference = truth - predicted
        self._agrees = (np.sign(truth) == np.sign(predicted)).astype(np.float64)
        # About their means, so that sums of squares keep their digits.
        self._shift = truth.mean() - predicted.mean()
        self._truth, self._predicted = truth - truth.mean(), predicted - predicted.mean()

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure as float64 [R], NaN as in `scores`.

        Args:
          weights: float64 [N, R], each column with a positive sum.
        """
        total = weights.sum(0)
        mean_t, mean_p = self._truth @ weights / total, self._predicted @ weights / total
        var_t = np.maximum(self._truth**2 @ weights / total - mean_t**2, 0)
        var_p = np.maximum(self._predicted**2 @ weights / total - mean_p**2, 0)
        covariance = (self._truth * self._predicted) @ weights / total - mean_t * mean_p
        squares = self._difference**2 @ weights / total
        # Rounding leaves a little variance in a constant.
        known_t, known_p = (
            var > 1e-15 * np.mean(column**2) for var, column in ((var_t, self._truth), (var_p, self._predicted))
        )
        spread = var_t + var_p + (mean_t - mean_p + self._shift) ** 2
        several = (weights > 0).sum(0) > 1
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "rmse": np.sqrt(squares),
                "mae": np.abs(self._difference) @ weights / total,
                "r2": np.where(known_t, 1 - squares / var_t, np.nan),
                "pearson": np.where(known_t & known_p, covariance / np.sqrt(var_t * var_p), np.nan),
                "ccc": np.where(several & (spread > 0), 2 * covariance / spread, np.nan),
                "sagr": self._agrees @ weights / total,
            }


class _Ranking:
    """The examples in order of one class's probability, for the areas under its ROC and PR curves."""

    def __init__(self, positive: np.ndarray, score: np.ndarray):
        self._order = np.argsort(-score, kind="stable").astype(np.int32)
        ranked = score[self._order]
        # Equal scores are one threshold: where the group of each positive begins and ends.
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._positives = np.flatnonzero(positive[self._order]).astype(np.int32)
        group = np.searchsorted(ends, self._positives)
        self._first = np.append(0, ends + 1)[group].astype(np.int32)
        self._stop = (ends[group] + 1).astype(np.int32)
        self._first_positive = np.searchsorted(self._positives, self._first).astype(np.int32)
        self._stop_positive = np.searchsorted(self._positives, self._stop).astype(np.int32)

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Area under the ROC curve, and average precision: float64 [R] each; NaN without positives or negatives."""
        every = _running_sum(weights[self._order])
        own = weights[self._order[self._positives]]
        positive = _running_sum(own)
        positives, negatives = positive[-1], every[-1] - positive[-1]
        true, marked = positive[self._stop_positive], every[self._stop]
        false = marked - true
        false_before = every[self._first] - positive[self._first_positive]
        precision = np.divide(true, marked, out=np.zeros_like(true), where=marked > 0)
        roc = 1 - (own * (false + false_before)).sum(0) / (2 * positives * negatives)
        pr = (own * precision).sum(0) / positives
        known = (positives > 0) & (negatives > 1e-9 * every[-1])
        return np.where(known, roc, np.nan), np.where(known, pr, np.nan)


def _log_loss(own: np.ndarray) -> np.ndarray:
    """float64 [N]: -log of the true class's probability [N], which counts as 2.2e-16 at least, as in scikit-learn."""
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(own.astype(np.float64), epsilon, 1 - epsilon))


def _in_top2(truth: np.ndarray, own: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """bool [N]: fewer than two classes go before the true one, whose probability is `own` [N, 1]; of equally probable
    ones the first goes before."""
    ahead = (probabilities > own) | ((probabilities == own) & (np.arange(probabilities.shape[1]) < truth[:, None]))
    return ahead.sum(1) < 2


def _running_sum(rows: np.ndarray) -> np.ndarray:
    """[N + 1, R]: row n is the sum of the first n rows."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]))
    np.cumsum(rows, axis=0, out=sums[1:])
    return sums


def _mean_of_known(rows: np.ndarray) -> np.ndarray:
    """The mean over rows [K, R] without NaN; NaN where all are."""
    known = np.isfinite(rows)
    return np.divide(np.where(known, rows, 0).sum(0), known.sum(0))
