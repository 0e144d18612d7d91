"""Streaming scores against scikit-learn and NumPy over all examples at once."""

import functools

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from trainers import metrics

HEADS = ("expression", "valence", "arousal")


def examples(count: int = 200, seed: int = 0) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    labels = {head: rng.uniform(-1, 1, count).astype(np.float32) for head in HEADS[1:]}
    labels["valence"][:20] = 0
    labels["expression"] = rng.integers(0, 8, count).astype(np.int32)
    labels["mask"] = {head: rng.integers(0, 2, count) * rng.uniform(0.1, 5, count) for head in HEADS}
    outputs = {"expression": rng.dirichlet(np.ones(8), count)}
    outputs |= {head: np.tanh(labels[head][:, None] + rng.normal(0, 0.5, (count, 1))) for head in HEADS[1:]}
    return labels, tf.nest.map_structure(lambda column: column.astype(np.float32), outputs)


def take(rows: np.ndarray, column: np.ndarray) -> np.ndarray:
    return column[rows]


def scores(labels, outputs, heads=HEADS, pieces=(200,)) -> dict:
    sums, start = np.zeros(metrics.size(heads)), 0
    for piece in pieces:
        rows = np.arange(start, start + piece)
        sums += metrics.batch_sums(
            *tf.nest.map_structure(functools.partial(take, rows), (labels, outputs)), heads
        ).numpy()
        start += piece
    return metrics.figures(sums, heads)


def test_against_libraries():
    labels, outputs = examples()
    found = scores(labels, outputs)
    known = {head: labels["mask"][head] > 0 for head in HEADS}
    true, guess = labels["expression"][known["expression"]], outputs["expression"].argmax(-1)[known["expression"]]
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, guess))
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(true, guess, average="macro"))
    for head in HEADS[1:]:
        t, p = labels[head][known[head]].astype(float), outputs[head][known[head], 0].astype(float)
        ccc = 2 * np.cov(t, p, ddof=0)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
        assert found[f"{head}_ccc"] == pytest.approx(ccc)
        assert found[f"{head}_pearson"] == pytest.approx(np.corrcoef(t, p)[0, 1])
        assert found[f"{head}_rmse"] == pytest.approx(np.sqrt(((t - p) ** 2).mean()))
        assert found[f"{head}_mae"] == pytest.approx(np.abs(t - p).mean())
        assert found[f"{head}_sagr"] == pytest.approx((np.sign(t) == np.sign(p)).mean())
    assert found["score"] == pytest.approx(np.mean([found["macro_f1"], found["valence_ccc"], found["arousal_ccc"]]))


def test_pieces_make_the_same_scores():
    labels, outputs = examples()
    whole = scores(labels, outputs)
    for name, value in scores(labels, outputs, pieces=(64, 64, 64, 8)).items():
        assert value == pytest.approx(whole[name], rel=1e-12), name


def test_what_is_masked_does_not_count():
    labels, outputs = examples()
    whole = scores(labels, outputs)
    for head in HEADS:
        labels[head][labels["mask"][head] == 0] = 1
    assert scores(labels, outputs) == whole


def test_macro_f1_is_over_the_classes_that_are_there():
    labels, outputs = examples()
    labels["expression"] %= 3
    known = labels["mask"]["expression"] > 0
    expected = sklearn.metrics.f1_score(
        labels["expression"][known], outputs["expression"].argmax(-1)[known], average="macro", labels=[0, 1, 2]
    )
    assert scores(labels, outputs)["macro_f1"] == pytest.approx(expected)


def test_nothing_known_is_nan():
    labels, outputs = examples()
    labels["mask"] = {head: np.zeros(200) for head in HEADS}
    assert all(np.isnan(value) for value in scores(labels, outputs).values())


def test_constants_have_no_concordance():
    labels, outputs = examples()
    labels["valence"][:], outputs["valence"][:] = 0.3, 0.3
    found = scores(labels, outputs)
    assert found["valence_ccc"] == found["valence_pearson"] == 0
    assert found["valence_rmse"] == pytest.approx(0, abs=1e-7)


def test_confusion_has_labels_in_rows():
    labels, outputs = examples(1)
    labels["expression"][:], labels["mask"]["expression"][:] = 2, 0.5
    outputs["expression"] = np.eye(8, dtype=np.float32)[[5]]
    counts = metrics.confusion(metrics.batch_sums(labels, outputs, HEADS).numpy(), HEADS)
    assert counts[2, 5] == counts.sum() == 1


def test_heads_can_be_off():
    labels, outputs = examples()
    found = scores(labels, outputs, heads=("arousal",))
    assert found["score"] == found["arousal_ccc"] and "accuracy" not in found and "valence_ccc" not in found
