"""Scores of each head from running sums: exact over any number of batches, whatever their sizes.

    sums = 0
    for batch in batches:
        sums += batch_sums(batch, model(batch["image"]), heads)
    scores = figures(sums.numpy(), heads)

An example counts where its mask is above 0, once, whatever its weight. The sums of a distributed or an interrupted
pass add up to those of an undisturbed one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipeline.records import EXPRESSIONS

CLASSES = len(EXPRESSIONS)
#: Of each of valence and arousal: count, label, prediction, their squares and product, |error|, equal signs.
_MOMENTS = 8


def size(heads: Sequence[str]) -> int:
    """How many running sums the heads need."""
    return sum(_size(head) for head in heads)


def batch_sums(batch: Mapping, outputs: Mapping, heads: Sequence[str]) -> tf.Tensor:
    """The sums of a batch, float64 [size(heads)].

    Args:
      batch: expression int32 [B], valence and arousal float32 [B], mask float32 [B] by head.
      outputs: expression float32 [B, 8], valence and arousal float32 [B, 1].
      heads: which ones to count.
    """
    sums = []
    for head in heads:
        known = tf.cast(batch["mask"][head] > 0, tf.float64)
        if head == "expression":
            actual = tf.one_hot(batch[head], CLASSES, dtype=tf.float64) * known[:, None]
            predicted = tf.one_hot(tf.argmax(outputs[head], -1), CLASSES, dtype=tf.float64)
            sums.append(tf.reshape(tf.matmul(actual, predicted, transpose_a=True), [-1]))
        else:
            label, predicted = tf.cast(batch[head], tf.float64), tf.cast(outputs[head][:, 0], tf.float64)
            equal = tf.cast(tf.sign(label) == tf.sign(predicted), tf.float64)
            columns = [tf.ones_like(label), label, predicted, label**2, predicted**2, label * predicted]
            columns += [tf.abs(label - predicted), equal]
            sums.append(tf.linalg.matvec(tf.stack(columns), known))
    return tf.concat(sums, 0)


def figures(sums: np.ndarray, heads: Sequence[str]) -> dict[str, float]:
    """The scores, NaN where nothing is known.

    Args:
      sums: float64 [size(heads)].
      heads: those that were counted.

    Returns:
      accuracy and macro_f1; then ccc, pearson, rmse, mae and sagr of valence and of arousal, as "valence_ccc". Last
      `score`: the mean of macro_f1 and the CCCs of the heads that are there.
    """
    found, summary = {}, []
    for head, part in _parts(sums, heads).items():
        if head == "expression":
            found |= _expression(part.reshape(CLASSES, CLASSES))
            summary.append(found["macro_f1"])
        else:
            found |= {f"{head}_{name}": value for name, value in _affect(part).items()}
            summary.append(found[f"{head}_ccc"])
    return found | {"score": float(np.mean(summary))}


def confusion(sums: np.ndarray, heads: Sequence[str]) -> np.ndarray:
    """Counts [8, 8], row: label, column: prediction."""
    return _parts(sums, heads)["expression"].reshape(CLASSES, CLASSES)


def _size(head: str) -> int:
    return CLASSES**2 if head == "expression" else _MOMENTS


def _parts(sums: np.ndarray, heads: Sequence[str]) -> dict[str, np.ndarray]:
    return dict(zip(heads, np.split(np.asarray(sums, np.float64), np.cumsum([_size(head) for head in heads])[:-1])))


def _expression(counts: np.ndarray) -> dict[str, float]:
    """F1 is averaged over the classes that have a label; one that is predicted only lowers the others' precision."""
    hits, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    present = labelled > 0
    if not present.any():
        return {"accuracy": float("nan"), "macro_f1": float("nan")}
    f1 = 2 * hits[present] / (labelled + predicted)[present]
    return {"accuracy": float(hits.sum() / counts.sum()), "macro_f1": float(f1.mean())}


def _affect(sums: np.ndarray) -> dict[str, float]:
    """Zero has a sign of its own: it agrees with zero alone. CCC and Pearson are 0 where a side does not vary."""
    count, label, predicted, label2, predicted2, product, error, equal = sums
    if count == 0:
        return dict.fromkeys(("ccc", "pearson", "rmse", "mae", "sagr"), float("nan"))
    mean_l, mean_p = label / count, predicted / count
    # Rounding may put a sum of squares a hair below the square of a sum.
    var_l, var_p = max(label2 / count - mean_l**2, 0.0), max(predicted2 / count - mean_p**2, 0.0)
    covariance = product / count - mean_l * mean_p
    spread, deviations = var_l + var_p + (mean_l - mean_p) ** 2, np.sqrt(var_l * var_p)
    squares = max((label2 - 2 * product + predicted2) / count, 0.0)
    return {
        "ccc": float(2 * covariance / spread) if spread > 0 else 0.0,
        "pearson": float(np.clip(covariance / deviations, -1, 1)) if deviations > 0 else 0.0,
        "rmse": float(np.sqrt(squares)),
        "mae": float(error / count),
        "sagr": float(equal / count),
    }
