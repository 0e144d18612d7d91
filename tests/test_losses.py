"""Losses against their formulas in NumPy, and where labels are unknown, weighted, constant or few."""

import types

import numpy as np
import pytest
import tensorflow as tf

from trainers import losses

RNG = np.random.default_rng(0)


def numbers(*shape) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def shares(count: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(8), count).astype(np.float32)


def value_and_gradient(loss, predicted, *, compiled: bool = False):
    """Of a loss that is a function of predictions."""

    @tf.function(jit_compile=compiled)
    def both(predicted):
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            value = loss(predicted)
        return value, tape.gradient(value, predicted)

    value, gradient = both(tf.constant(predicted))
    return value.numpy(), gradient.numpy()


def config(**given):
    """The fields of a TrainConfig that losses read."""
    defaults = {
        "heads": ("expression", "valence", "arousal"), "num_classes": 8, "targets": "soft", "label_smoothing": 0.0,
        "affect_loss": "mse",
    }  # fmt: skip
    return types.SimpleNamespace(**defaults | given)


def batch_of(count: int = 6, **given) -> dict:
    mask = {head: np.ones(count, np.float32) for head in losses_heads()}
    labels = {"expression": np.arange(count, dtype=np.int32) % 8, "expression_probs": shares(count)}
    return labels | {"valence": numbers(count), "arousal": numbers(count), "mask": mask} | given


def losses_heads():
    return ("expression", "valence", "arousal")


def outputs_of(count: int = 6) -> dict:
    return {"expression": shares(count), "valence": numbers(count, 1), "arousal": numbers(count, 1)}


def test_mean_is_over_the_known():
    values, weights = np.float32([1, 2, 30]), np.float32([1, 3, 0])
    assert losses.masked_mean(values, weights).numpy() == pytest.approx((1 + 6) / 2)
    assert losses.masked_mean(values, np.zeros(3, np.float32)).numpy() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    target, predicted, weights = shares(5), shares(5), np.float32([1, 0, 2, 1, 0.5])
    smooth = (1 - smoothing) * target + smoothing / 8
    expected = (weights * -(smooth * np.log(predicted)).sum(-1)).sum() / 4
    assert losses.cross_entropy(target, predicted, weights, smoothing=smoothing).numpy() == pytest.approx(expected)


def test_cross_entropy_equals_keras():
    import keras

    target, predicted = shares(5), shares(5)
    expected = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(target, predicted)
    ours = losses.cross_entropy(target, predicted, np.ones(5, np.float32), smoothing=0.1)
    assert ours.numpy() == pytest.approx(expected.numpy(), rel=1e-5)


def test_certain_and_wrong_is_finite():
    wrong = np.eye(8, dtype=np.float32)[[1]]
    value, gradient = value_and_gradient(
        lambda p: losses.cross_entropy(np.eye(8, dtype=np.float32)[[0]], p, np.ones(1, np.float32)), wrong
    )
    assert 80 < value < 100 and np.isfinite(gradient).all()


def test_seven_classes():
    """Contempt's share goes; a face of nothing else is unknown."""
    probabilities = np.zeros((3, 8), np.float32)
    probabilities[0, 7], probabilities[1, [0, 7]], probabilities[2, 1] = 1, (0.25, 0.75), 1
    batch = batch_of(3, expression=np.int32([7, 7, 1]), expression_probs=probabilities)
    target, weights = losses.expression_target(batch, hard=False, num_classes=7)
    np.testing.assert_allclose(target, np.eye(8)[[7, 0, 1]] * [[0], [1], [1]])
    np.testing.assert_allclose(weights, [0, 0.25, 1])
    _, weights = losses.expression_target(batch, hard=True, num_classes=7)
    np.testing.assert_allclose(weights, [0, 0, 1])
    # Smoothing gives contempt nothing either: its probability of 0 costs nothing.
    without = np.float32([[1 / 7] * 7 + [0]])
    value = losses.cross_entropy(target[2:], without, weights[2:], smoothing=0.7, num_classes=7)
    assert value.numpy() == pytest.approx(np.log(7))


def test_hard_targets_are_one_hot():
    batch = batch_of(4)
    target, _ = losses.expression_target(batch, hard=True)
    np.testing.assert_array_equal(target, np.eye(8)[batch["expression"]])


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
def test_concordance(compiled):
    target, predicted, weights = numbers(40), numbers(40), RNG.integers(0, 3, 40).astype(np.float32)
    mean_t, mean_p = np.average(target, weights=weights), np.average(predicted, weights=weights)
    covariance = np.average((target - mean_t) * (predicted - mean_p), weights=weights)
    squares = (target - mean_t) ** 2 + (predicted - mean_p) ** 2
    expected = 1 - 2 * covariance / (np.average(squares, weights=weights) + (mean_t - mean_p) ** 2)
    value, gradient = value_and_gradient(
        lambda p: losses.concordance_loss(target, p, weights), predicted, compiled=compiled
    )
    assert value == pytest.approx(expected, abs=1e-4)
    assert not gradient[weights == 0].any() and gradient[weights > 0].all()


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("known", [0, 1, 2, 8])
def test_concordance_of_constants_is_finite(known, compiled):
    weights = np.float32([1] * known + [0] * (8 - known))
    constant = np.full(8, 0.5, np.float32)
    value, gradient = value_and_gradient(
        lambda p: losses.concordance_loss(constant, p, weights), constant, compiled=compiled
    )
    assert value == pytest.approx(1.0 if known >= 2 else 0.0) and np.isfinite(gradient).all()
    assert known >= 2 or not gradient.any()


def test_concordance_is_zero_where_equal():
    labels = numbers(30)
    assert losses.concordance_loss(labels, labels, np.ones(30, np.float32)).numpy() == pytest.approx(0, abs=1e-4)


def test_affect_losses():
    target, predicted, weights = numbers(9), numbers(9), np.ones(9, np.float32)
    mse, mae = ((target - predicted) ** 2).mean(), np.abs(target - predicted).mean()
    ccc = losses.concordance_loss(target, predicted, weights).numpy()
    for kind, expected in {"mse": mse, "mae": mae, "ccc": ccc, "ccc+mse": ccc + mse}.items():
        assert losses.affect_loss(kind, target, predicted, weights).numpy() == pytest.approx(expected, rel=1e-5), kind


@pytest.mark.parametrize("kind", ["mse", "mae", "ccc", "ccc+mse"])
def test_an_unknown_label_pulls_nothing(kind):
    """Whatever stands where a label is unknown, losses and gradients are the same."""
    outputs, seen = {name: tf.constant(value) for name, value in outputs_of().items()}, []
    for harmless in (0.0, 0.7):
        batch = batch_of()
        batch["expression_probs"] = shares_with(harmless)
        batch["valence"] = np.float32([harmless, 0.1, -0.3, 0.5, 0.2, harmless])
        batch["arousal"] = batch["valence"]
        batch["mask"] = dict.fromkeys(losses_heads(), np.float32([0, 1, 1, 1, 1, 0]))
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            found = losses.head_losses(batch, outputs, config(affect_loss=kind))
            loss = losses.fixed_sum(found, {"expression": 2.0, "valence": 1.0, "arousal": 0.5})
        gradients = tape.gradient(loss, outputs)
        seen.append([loss.numpy(), *(gradient.numpy() for gradient in gradients.values())])
        assert all(not gradient.numpy()[[0, 5]].any() for gradient in gradients.values())
    for one, other in zip(*seen):
        np.testing.assert_array_equal(one, other)


def shares_with(first: float) -> np.ndarray:
    """The same six rows but for the outer two."""
    rows = np.random.default_rng(5).dirichlet(np.ones(8), 6).astype(np.float32)
    rows[[0, 5]] = first
    return rows


@pytest.mark.parametrize("kind", ["mse", "mae", "ccc", "ccc+mse"])
def test_parts_of_a_batch_make_the_same_loss(kind):
    """`total` adds the parts up: here the second half's sums are known and added."""
    batch, outputs = batch_of(8), outputs_of(8)
    batch["mask"]["valence"][:3] = 0
    whole = losses.head_losses(batch, outputs, config(affect_loss=kind))
    halves = [
        tf.nest.map_structure(lambda x: x[:4], (batch, outputs)),
        tf.nest.map_structure(lambda x: x[4:], (batch, outputs)),
    ]
    # Both halves ask for the same totals in the same order, each needing those before it: repeat until all are known.
    known: list[float] = []
    while True:
        asked = []
        for part in halves:
            calls = []

            def total(value, calls=calls):
                calls.append(float(value))
                return tf.constant(known[len(calls) - 1] if len(calls) <= len(known) else 1.0)

            parts = losses.head_losses(*part, config(affect_loss=kind), total)
            asked.append(calls)
        if len(known) == len(asked[0]):
            break
        known.append(asked[0][len(known)] + asked[1][len(known)])
    for head in whole:
        assert parts[head].numpy() == pytest.approx(whole[head].numpy(), rel=1e-5)


def test_heads_can_be_off():
    found = losses.head_losses(batch_of(), outputs_of(), config(heads=("arousal",)))
    assert list(found) == ["arousal"]


def test_uncertainty():
    """The best log-variance of a regression is log L, of expression log 2L: there the gradient vanishes."""
    given = {"expression": tf.constant(0.8), "valence": tf.constant(0.3)}
    variances = {"expression": tf.Variable(np.float32(np.log(1.6))), "valence": tf.Variable(np.float32(np.log(0.3)))}
    with tf.GradientTape() as tape:
        value = losses.uncertainty_sum(given, variances, {"expression": 1.0, "valence": 1.0})
    assert value.numpy() == pytest.approx(0.5 + np.log(1.6) / 2 + 0.5 + np.log(0.3) / 2, rel=1e-5)
    for gradient in tape.gradient(value, variances).values():
        assert gradient.numpy() == pytest.approx(0, abs=1e-6)


def test_uncertainty_of_what_nobody_knows_stays():
    """A batch without a label of a head neither makes it surer nor costs anything."""
    variance = tf.Variable(0.7)
    with tf.GradientTape() as tape:
        value = losses.uncertainty_sum({"valence": tf.constant(0.0)}, {"valence": variance}, {"valence": 0.0})
    assert value.numpy() == 0 and tape.gradient(value, variance).numpy() == 0
