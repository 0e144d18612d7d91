"""The loss of each head over the examples whose label is known, and their weighted sum.

Weights come from `datasets.labels`: 0 where a label is unknown, 1 where it is known, another number with class weights
or mixed labels. A mean is sum(weight × loss) / (number of examples with a weight above 0): Keras's convention for
sample weights, among the known. Dividing by the sum of weights instead would take from a rare class what its weight
gives it, in every batch that it fills alone.

Every sum over the batch goes through `total`, which adds up the parts of a distributed batch, so a loss is that of the
whole batch on any number of devices.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from pipeline.records import EXPRESSIONS

Total = Callable[[tf.Tensor], tf.Tensor]
CONTEMPT = EXPRESSIONS.index("contempt")
#: Added to a squared CCC denominator: two labels that are both constant have no concordance and no gradient.
_SMALLEST_SPREAD = 1e-6
_SMALLEST_PROBABILITY = 1e-37


def masked_mean(values: tf.Tensor, weights: tf.Tensor, total: Total = tf.identity) -> tf.Tensor:
    """sum(weights × values) / max(1, count of weights above 0), a scalar.

    Args:
      values: float32 [B], finite also where the weight is 0.
      weights: float32 [B], at least 0.
      total: adds a scalar up over all parts of the batch.
    """
    known = total(tf.reduce_sum(tf.cast(weights > 0, values.dtype)))
    return total(tf.reduce_sum(weights * values)) / tf.maximum(known, 1.0)


def expression_target(batch: Mapping, *, hard: bool, num_classes: int = 8) -> tuple[tf.Tensor, tf.Tensor]:
    """What the expression head shall give, and its weight.

    Args:
      batch: expression int32 [B], expression_probs float32 [B, 8], mask.
      hard: whether one-hot labels replace the shares.
      num_classes: 7 takes contempt's share away: the rest is normalised, and the weight of the example is multiplied
        by it, so a face that shows contempt alone is unknown.

    Returns:
      Targets float32 [B, 8] and weights float32 [B].
    """
    target = tf.one_hot(batch["expression"], len(EXPRESSIONS)) if hard else batch["expression_probs"]
    weights = batch["mask"]["expression"]
    if num_classes == len(EXPRESSIONS):
        return target, weights
    target = target * _without_contempt()
    rest = tf.reduce_sum(target, -1)
    return tf.math.divide_no_nan(target, rest[:, None]), weights * rest


def cross_entropy(
    target: tf.Tensor,
    probabilities: tf.Tensor,
    weights: tf.Tensor,
    *,
    smoothing: float = 0.0,
    num_classes: int = 8,
    total: Total = tf.identity,
) -> tf.Tensor:
    """Cross-entropy of shares [B, 8] against probabilities [B, 8], a scalar.

    Args:
      target, weights: as `expression_target` returns them.
      probabilities: float32, summing to 1. Below 1e-37 a probability counts as that, without a gradient.
      smoothing: this part of each target is spread evenly over the classes (https://arxiv.org/abs/1512.00567).
      num_classes: 7 is without contempt.
      total: as in `masked_mean`.
    """
    allowed = _without_contempt() if num_classes < len(EXPRESSIONS) else tf.ones(len(EXPRESSIONS))
    target = (1 - smoothing) * target + smoothing * allowed / num_classes
    logarithms = tf.math.log(tf.maximum(probabilities, _SMALLEST_PROBABILITY))
    return masked_mean(-tf.reduce_sum(target * logarithms, -1), weights, total)


def concordance_loss(
    target: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, total: Total = tf.identity
) -> tf.Tensor:
    """1 - CCC over the known examples of the batch, a scalar from 0 to 2.

    CCC = 2 cov(t, p) / (var t + var p + (mean t - mean p)²), with weighted moments. With fewer than two known examples
    the loss is 0 and has no gradient. Where nothing varies it is 1 and its gradient finite.

    Args:
      target, predicted: float32 [B] in [-1, 1].
      weights: float32 [B].
      total: as in `masked_mean`.

    Source: Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 45 (1989).
    """
    known = total(tf.reduce_sum(tf.cast(weights > 0, tf.float32)))
    mass = tf.maximum(total(tf.reduce_sum(weights)), 1e-12)

    def mean(values: tf.Tensor) -> tf.Tensor:
        return total(tf.reduce_sum(weights * values)) / mass

    mean_t, mean_p = mean(target), mean(predicted)
    from_t, from_p = target - mean_t, predicted - mean_p
    spread = mean(from_t**2) + mean(from_p**2) + (mean_t - mean_p) ** 2
    loss = 1 - 2 * mean(from_t * from_p) / (spread + _SMALLEST_SPREAD)
    return tf.where(known >= 2, loss, 0.0)


def affect_loss(
    kind: str, target: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, total: Total = tf.identity
) -> tf.Tensor:
    """The loss of valence or of arousal, a scalar.

    Args:
      kind: "mse", "mae", "ccc", or "ccc+mse", the sum of the two.
      target, predicted, weights, total: as in `concordance_loss`.
    """
    losses = {
        "mse": lambda: masked_mean((target - predicted) ** 2, weights, total),
        "mae": lambda: masked_mean(tf.abs(target - predicted), weights, total),
        "ccc": lambda: concordance_loss(target, predicted, weights, total),
    }
    return tf.add_n([losses[part]() for part in kind.split("+")])


def head_losses(batch: Mapping, outputs: Mapping, config, total: Total = tf.identity) -> dict[str, tf.Tensor]:
    """The loss of each head, scalars.

    Args:
      batch: labels of B examples, as `datasets.labels` has them.
      outputs: of the model: expression float32 [B, 8], valence and arousal float32 [B, 1].
      config: a `trainers.config.TrainConfig`.
      total: as in `masked_mean`.
    """
    losses = {}
    for head in config.heads:
        if head == "expression":
            target, weights = expression_target(batch, hard=config.targets == "hard", num_classes=config.num_classes)
            losses[head] = cross_entropy(
                target, outputs[head], weights, smoothing=config.label_smoothing, num_classes=config.num_classes,
                total=total,
            )  # fmt: skip
        else:
            losses[head] = affect_loss(config.affect_loss, batch[head], outputs[head][:, 0], batch["mask"][head], total)
    return losses


def fixed_sum(losses: Mapping, loss_weights: Mapping) -> tf.Tensor:
    """The losses times the weights of their heads, added up."""
    return tf.add_n([loss_weights[head] * loss for head, loss in losses.items()])


def uncertainty_sum(losses: Mapping, log_variances: Mapping, known: Mapping) -> tf.Tensor:
    """Losses weighted by learned uncertainty: exp(-s) L + s / 2 for expression, exp(-s) L / 2 + s / 2 for the others.

    Args:
      losses: scalars by head.
      log_variances: s of each head that counts, learned; another head adds nothing.
      known: by head, 1.0 where the batch has some label of it, else 0.0: a loss of 0 would say that all is certain.

    Source: Kendall, Gal, Cipolla, Multi-task learning using uncertainty to weigh losses
      (https://arxiv.org/abs/1705.07115).
    """
    terms = []
    for head, log_variance in log_variances.items():
        share = 1.0 if head == "expression" else 0.5
        terms.append(known[head] * (share * tf.exp(-log_variance) * losses[head] + log_variance / 2))
    return tf.add_n(terms)


def _without_contempt() -> tf.Tensor:
    return 1 - tf.one_hot(CONTEMPT, len(EXPRESSIONS))
