"""Every figure against an independent value: scikit-learn, scipy, krippendorff, or a sum written out."""

import math

import krippendorff
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from benchmarks import metrics as independent
from pipeline.errors import UsageError
from pipeline.records import EXPRESSIONS
from trainers import intervals, protocols, scores, weighted


def drawn(count: int, seed: int = 0, classes=range(8), decimals: int | None = None):
    """Truth and probabilities of a model that is right more often than not; `decimals` makes equal scores."""
    random = np.random.default_rng(seed)
    truth = random.choice(list(classes), count)
    logits = random.normal(size=(count, 8)) + 1.5 * np.eye(8)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if decimals is not None:
        probabilities = np.round(probabilities, decimals)
    return truth, probabilities.astype(np.float32)


def test_classification_against_the_packages():
    truth, probabilities = drawn(500)
    predicted = probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    figures = scores.classification(truth, probabilities)
    assert list(figures)[: len(scores.CLASSIFICATION)] == list(scores.CLASSIFICATION)
    expected = {
        "accuracy": (truth == predicted).mean(),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted),
        "macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro"),
        "weighted_f1": sklearn.metrics.f1_score(truth, predicted, average="weighted"),
        "kappa": sklearn.metrics.cohen_kappa_score(truth, predicted),
        "alpha": krippendorff.alpha(np.stack([truth, predicted]), level_of_measurement="nominal"),
        "roc_auc": sklearn.metrics.roc_auc_score(
            truth, exact / exact.sum(1, keepdims=True), multi_class="ovr", average="macro"
        ),
        "pr_auc": sklearn.metrics.average_precision_score(np.eye(8)[truth], exact, average="macro"),
        "top2": sklearn.metrics.top_k_accuracy_score(truth, exact, k=2),
        "nll": sklearn.metrics.log_loss(truth, exact / exact.sum(1, keepdims=True)),
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-6), name
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(truth, predicted)
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert [figures[f"{name}/{expression}"] for expression in EXPRESSIONS] == pytest.approx(list(values))


def test_calibration_error_bin_by_bin():
    truth, probabilities = drawn(400)
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == truth
    error = 0.0
    for low in range(scores.BINS):
        inside = (confidence * 15 >= low) & (confidence * 15 < low + 1)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert scores.classification(truth, probabilities)["ece"] == pytest.approx(error)
    sure = np.eye(8, dtype=np.float32)[truth]
    assert scores.classification(truth, sure)["ece"] == 0
    assert scores.classification((truth + 1) % 8, sure)["ece"] == 1


def test_skew_normalised_weighs_classes_alike():
    counts = {0: 120, 1: 60, 2: 40, 5: 8}
    truth, probabilities = drawn(2000)
    rows = np.concatenate([np.flatnonzero(truth == index)[:count] for index, count in counts.items()])
    truth, probabilities = truth[rows], probabilities[rows]
    skew = scores.classification(truth, probabilities, skew_normalised=True)
    # Each class repeated up to 120 examples: the figures of a dataset without skew.
    repeated = np.repeat(np.arange(len(truth)), [120 // counts[index] for index in truth])
    even = scores.classification(truth[repeated], probabilities[repeated])
    for name in set(even) - {"alpha"}:  # which depends on the number of examples too
        assert skew[name] == pytest.approx(even[name]), name
    plain = scores.classification(truth, probabilities)
    assert skew["accuracy"] == pytest.approx(plain["balanced_accuracy"])
    assert all(skew[name] != pytest.approx(plain[name]) for name in ("roc_auc", "pr_auc", "nll", "kappa"))


def test_regression_against_the_packages():
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, 300)
    predicted = np.clip(0.6 * truth + random.normal(0.1, 0.2, 300), -1, 1)
    figures = scores.regression(truth, predicted)
    covariance = np.cov(truth, predicted, ddof=0)
    assert figures == pytest.approx(
        {
            "rmse": math.sqrt(sklearn.metrics.mean_squared_error(truth, predicted)),
            "mae": np.abs(truth - predicted).mean(),
            "r2": sklearn.metrics.r2_score(truth, predicted),
            "pearson": scipy.stats.pearsonr(truth, predicted).statistic,
            "ccc": 2 * covariance[0, 1] / (np.trace(covariance) + (truth.mean() - predicted.mean()) ** 2),
            "sagr": sum((t > 0) == (p > 0) for t, p in zip(truth, predicted)) / 300,
        }
    )


def test_ccc_of_known_cases():
    truth = np.array([-0.5, 0.0, 0.5])
    assert scores.ccc(truth, truth) == pytest.approx(1)
    assert scores.ccc(truth, -truth) == pytest.approx(-1)
    assert scores.ccc(truth, np.full(3, 0.2)) == 0
    # Pearson's 1 times the bias correction: variance 1/6 each, means 1 apart.
    assert scores.ccc(truth, truth + 1) == pytest.approx((2 / 6) / (2 / 6 + 1))
    assert math.isnan(scores.ccc(np.ones(3), np.ones(3)))
    assert math.isnan(scores.ccc(np.ones(1), np.zeros(1)))


def test_sign_of_zero_is_zero():
    assert scores.sagr(np.array([0, 0, 0.5, -0.5]), np.array([0, 0.1, 0.1, 0.1])) == 0.5


@pytest.mark.parametrize("constant", ["truth", "predicted", "both"])
def test_constant_regression(constant):
    values = np.linspace(-0.8, 0.8, 9)
    truth = np.full(9, 0.1) if constant != "predicted" else values
    predicted = np.full(9, 0.1) if constant != "truth" else values
    figures = scores.regression(truth, predicted)
    assert figures["mae"] == pytest.approx(np.abs(truth - predicted).mean())
    assert math.isnan(figures["pearson"])
    assert math.isnan(figures["r2"]) == (constant != "predicted")
    assert figures["ccc"] == 0 if constant != "both" else math.isnan(figures["ccc"])
    same(weighted.Regression(truth, predicted)(np.ones((9, 1))), figures)


def test_one_example():
    truth, probabilities = drawn(1)
    figures = scores.classification(truth, probabilities)
    right = float(probabilities[0].argmax() == truth[0])
    assert figures["accuracy"] == figures["balanced_accuracy"] == right
    assert math.isnan(figures["roc_auc"]) and math.isnan(figures["pr_auc"])
    assert figures["nll"] == pytest.approx(-math.log(probabilities[0, truth[0]]))
    same(weighted.Classification(truth, probabilities)(np.ones((1, 1))), figures)
    one = scores.regression(np.array([0.3]), np.array([-0.1]))
    assert one["rmse"] == one["mae"] == pytest.approx(0.4) and one["sagr"] == 0
    assert all(math.isnan(one[name]) for name in ("r2", "pearson", "ccc"))
    same(weighted.Regression(np.array([0.3]), np.array([-0.1]))(np.ones((1, 1))), one)


def test_constant_predictions():
    truth = np.array([0, 0, 1, 2])
    probabilities = np.tile(np.float32([0.5, 0.2, 0.1, 0.2, 0, 0, 0, 0]), (4, 1))
    figures = scores.classification(truth, probabilities)
    assert figures["accuracy"] == 0.5 and figures["balanced_accuracy"] == pytest.approx(1 / 3)
    assert figures["kappa"] == 0 and figures["roc_auc"] == 0.5
    # Random precision is the share of positives.
    assert figures["pr_auc"] == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    assert math.isnan(figures["precision/happy"]) and figures["recall/happy"] == figures["f1/happy"] == 0
    assert figures["top2"] == 0.75  # neutral, then happy: of two equal ones the first
    same(weighted.Classification(truth, probabilities)(np.ones((4, 1))), figures)


def test_all_of_one_class():
    truth, probabilities = np.full(5, 3), np.tile(np.eye(8, dtype=np.float32)[3], (5, 1))
    figures = scores.classification(truth, probabilities)
    assert figures["accuracy"] == figures["macro_f1"] == 1
    assert all(math.isnan(figures[name]) for name in ("kappa", "alpha", "roc_auc", "pr_auc"))
    same(weighted.Classification(truth, probabilities)(np.ones((5, 1))), figures)


def test_a_missing_class_has_no_figure_but_predicting_it_is_wrong():
    truth, probabilities = drawn(200, classes=[0, 1, 2])
    figures = scores.classification(truth, probabilities)
    assert {name.partition("/")[2] for name in figures} == {"", "neutral", "happy", "sad"}
    predicted = probabilities.argmax(1)
    assert set(predicted) > {0, 1, 2}
    assert figures["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(truth, predicted, labels=[0, 1, 2], average="macro")
    )
    assert figures["roc_auc"] == pytest.approx(
        np.mean([sklearn.metrics.roc_auc_score(truth == index, probabilities[:, index]) for index in (0, 1, 2)])
    )


CASES = {
    "more examples than scikit-learn is given at once": lambda: drawn(5000),
    "hundreds of equal scores": lambda: drawn(300, decimals=1),
    "a missing class": lambda: drawn(200, classes=[0, 0, 0, 1, 2]),
    "one class": lambda: drawn(20, classes=[3]),
    "one example": lambda: drawn(1),
    "constant predictions": lambda: (np.array([0, 0, 0, 1, 2]), np.tile(np.float32([0.4, 0.3, 0.3] + 5 * [0]), (5, 1))),
    "one class, always right": lambda: (np.full(5, 3), np.tile(np.eye(8, dtype=np.float32)[3], (5, 1))),
    "always wrong": lambda: (np.array([0, 0, 1]), np.eye(8, dtype=np.float32)[[1, 1, 0]]),
}


@pytest.mark.parametrize("skew_normalised", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_figure_against_an_independent_value(case, skew_normalised):
    truth, probabilities = CASES[case]()
    expected = independent.classification(truth, probabilities, skew_normalised=skew_normalised)
    assert len(expected) == len(scores.CLASSIFICATION) + len(scores.PER_CLASS) * len(np.unique(truth))
    figures = scores.classification(truth, probabilities, skew_normalised=skew_normalised)
    assert figures == pytest.approx(expected, abs=1e-9, nan_ok=True)
    forms, once = weighted.Classification(truth, probabilities), np.ones((len(truth), 1))
    same(forms(forms.skew_normalised(once) if skew_normalised else once), expected)


def same(figures: dict, expected: dict, column: int = 0) -> None:
    """A column of weighted figures is what `scores` says; a class without a figure there is NaN here."""
    assert set(expected) <= set(figures)
    for name, values in figures.items():
        assert values[column] == pytest.approx(expected.get(name, math.nan), abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("skew_normalised", [False, True])
def test_weighted_figures_are_those_of_the_repeated_examples(decimals, skew_normalised):
    """`decimals=1` makes hundreds of equal scores."""
    truth, probabilities = drawn(300, classes=[0, 0, 0, 1, 1, 2, 3, 4, 5, 6], decimals=decimals)
    counts = np.random.default_rng(1).multinomial(300, np.full(300, 1 / 300), size=4).T.astype(np.float64)
    counts[truth == 6, 2] = 0  # a resample that lacks a class
    counts[truth != 1, 3] = 0  # and one that lacks all others
    figures = weighted.Classification(truth, probabilities)
    given = figures.skew_normalised(counts) if skew_normalised else counts
    result = figures(given)
    for column in range(4):
        rows = np.repeat(np.arange(300), counts[:, column].astype(int))
        expected = scores.classification(truth[rows], probabilities[rows], skew_normalised=skew_normalised)
        same(result, expected, column)


def test_weighted_regression_is_that_of_the_repeated_examples():
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, 300).astype(np.float32)
    predicted = np.clip(0.6 * truth + random.normal(0.1, 0.2, 300), -1, 1).astype(np.float32)
    truth[:30] = 0
    counts = random.multinomial(300, np.full(300, 1 / 300), size=3).T.astype(np.float64)
    counts[1:, 2] = 0  # one example, some times
    counts[0, 2] = 1
    figures = weighted.Regression(truth, predicted)(counts)
    for column in range(3):
        rows = np.repeat(np.arange(300), counts[:, column].astype(int))
        same(figures, scores.regression(truth[rows], predicted[rows]), column)


def test_intervals_follow_from_seed_and_count_alone():
    truth, probabilities = drawn(300)
    figures = weighted.Classification(truth, probabilities)
    first = intervals.resampled(figures, 300, resamples=50, seed=3)
    again = intervals.resampled(figures, 300, resamples=50, seed=3)
    other = intervals.resampled(figures, 300, resamples=50, seed=4)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    assert not np.array_equal(first["accuracy"], other["accuracy"])
    # More examples than are weighted at once: no resample comes twice.
    values = np.random.default_rng(0).normal(size=5000)
    many = intervals.resampled(weighted.Regression(values, values**2), 5000, resamples=500, seed=3)
    assert len(np.unique(many["rmse"])) == 500
    more = intervals.resampled(figures, 300, resamples=60, seed=3)
    assert np.array_equal(more["accuracy"][:50], first["accuracy"])


def test_interval_of_a_share_is_the_binomial_one():
    random = np.random.default_rng(0)
    truth = np.zeros(2000, int)
    probabilities = np.eye(8, dtype=np.float32)[np.where(random.random(2000) < 0.7, 0, 1)]
    values = intervals.resampled(weighted.Classification(truth, probabilities), 2000, resamples=1000, seed=0)
    share = (probabilities.argmax(1) == 0).mean()
    low, high = intervals.interval(values["accuracy"])
    error = 1.96 * math.sqrt(share * (1 - share) / 2000)
    assert low == pytest.approx(share - error, abs=0.003) and high == pytest.approx(share + error, abs=0.003)
    assert intervals.interval(np.full(100, np.nan)) is None


def test_interval_covers_the_true_value_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        truth = random.normal(size=80)
        predicted = truth + random.normal(size=80)  # true Pearson: sqrt(1 / 2)
        values = intervals.resampled(weighted.Regression(truth, predicted), 80, resamples=200, seed=seed)
        low, high = intervals.interval(values["pearson"])
        covered += low <= math.sqrt(0.5) <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_protocols_count_what_they_say():
    truth = np.array([0, 1, 7, 7, -1])
    probabilities = np.zeros((5, 8), np.float32)
    probabilities[:, 0], probabilities[:, 1], probabilities[:, 7] = 0.1, 0.3, 0.6
    eight = protocols.view("eight", truth, probabilities)
    assert eight.truth.tolist() == [0, 1, 7, 7] and eight.probabilities.argmax(1).tolist() == [7] * 4
    assert eight.absent == ("sad", "surprise", "fear", "disgust", "anger") and eight.mapping == ()

    seven = protocols.view("seven", truth, probabilities)
    assert seven.rows.tolist() == [0, 1] and len(seven.classes) == 7
    assert seven.probabilities[0] == pytest.approx([0.25, 0.75, 0, 0, 0, 0, 0, 0])
    assert seven.mapping == ("contempt: masked in the prediction; 2 faces left out",)

    wrong = protocols.view("seven_contempt_wrong", truth, probabilities)
    assert wrong.rows.tolist() == [0, 1] and wrong.probabilities.argmax(1).tolist() == [7, 7]
    assert wrong.mapping == ("contempt: a prediction of it is wrong; 2 faces left out",)

    common = protocols.view(
        "common", truth, probabilities, model_classes=EXPRESSIONS[:7], data_classes=("happy", "contempt", "neutral")
    )
    assert common.classes == (0, 1) and common.rows.tolist() == [0, 1] and len(common.mapping) == 6
    untrained = protocols.view("eight", truth, probabilities, model_classes=EXPRESSIONS[:7])
    assert untrained.mapping == ("contempt: the model was not trained on it; its 2 faces count",)
    with pytest.raises(UsageError, match="must be one of eight, seven"):
        protocols.view("nine", truth, probabilities)


def test_masking_a_probability_is_masking_its_logit():
    logits = np.random.default_rng(0).normal(size=(50, 8))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    without = np.exp(logits[:, :7]) / np.exp(logits[:, :7]).sum(1, keepdims=True)
    assert protocols.mask(probabilities, (7,))[:, :7] == pytest.approx(without)
    assert protocols.mask(np.eye(8)[[7]], (7,))[0].tolist() == pytest.approx([1 / 7] * 7 + [0])
