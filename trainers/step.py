"""One step of training and one of validation, compiled, and everything that a step changes.

All sums over a batch are over the whole batch, also when several devices hold parts of it: each device computes the
same loss from totals that they have exchanged, and gradients are added up (`tf.distribute`).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from datasets import augmentation, labels
from trainers import losses, metrics
from trainers.config import TrainConfig

#: SGD's momentum.
MOMENTUM = 0.9
_BATCH_NORMALISATION = keras.layers.BatchNormalization
_LABELS = ("expression", "expression_probs", "valence", "arousal", "mask", "seeds")


class Learner:
    """A model in training: its optimizer, averaged weights and running sums.

    Attributes:
      model: the keras.Model.
      variables: every tf.Variable that a step changes, in an order that a run keeps within a phase.
    """

    def __init__(
        self,
        model: keras.Model,
        config: TrainConfig,
        *,
        strategy: tf.distribute.Strategy,
        float16: bool = False,
        class_weights: np.ndarray | None = None,
    ):
        """
        Args:
          model: all of whose weights are trainable; `begin_phase` comes next.
          config: of the run.
          strategy: that the model was made under; the default one for a single device.
          float16: whether the loss must be scaled.
          class_weights: float32 [8], applied here where batches are augmented on the device.
        """
        self.model, self._config, self._strategy, self._float16 = model, config, strategy, float16
        self._class_weights = class_weights
        self._replicas = strategy.num_replicas_in_sync
        # While a BatchNormalization is synchronised, its statistics are the whole batch's.
        self._normalisations = [layer for layer in model.layers if isinstance(layer, _BATCH_NORMALISATION)]
        for layer in self._normalisations:
            layer.synchronized = self._replicas > 1
        with strategy.scope():
            self._log_variances = {
                head: keras.Variable(0.0, name=f"log_variance_{head}")
                for head in (config.heads if config.weighting == "uncertainty" else ())
                if config.loss_weight(head)
            }
            self._averaged = [weight.value for weight in model.trainable_variables] if config.ema else []
            self._averages = [_variable(weight.numpy()) for weight in self._averaged]
            self._count = _variable(np.int64(0))
            self._sums = _variable(np.zeros(2 + len(config.heads) + metrics.size(config.heads)))
            # The first step whose loss or gradient was not finite, and what it was: loss, those of the heads, norm.
            self._bad_step = _variable(np.int64(-1))
            self._bad = _variable(np.zeros(2 + len(config.heads), np.float32))
        self._validate = tf.function(self._validation_step, jit_compile=config.xla)

    def begin_phase(self, trainable: Sequence[keras.Variable]) -> None:
        """Makes an optimizer for these weights, its own state zero, and forgets the one before."""
        with self._strategy.scope():
            self._trained = [*trainable, *self._log_variances.values()]
            self._decayed = [weight for weight in trainable if _decays(weight)]
            self.optimizer = self._make_optimizer()
            self.optimizer.build(self._trained)
        model = [weight.value for weight in self.model.variables]
        own = [*self._averages, self._count, self._sums, self._bad_step, self._bad]
        learned = [weight.value for weight in (*self._log_variances.values(), *self.optimizer.variables)]
        self.variables = [*model, *own, *learned]
        self._train = self._distributed(self._train_step)
        self._renormalise = tf.function(self._forward, jit_compile=self._config.xla)

    def train(self, batch: Mapping, rate: float) -> None:
        """One step.

        Args:
          batch: of `make_train`; only images, labels and seeds are used.
          rate: the learning rate.
        """
        wanted = {name: batch[name] for name in ("image", *_LABELS) if name in batch}
        self._train(wanted, tf.constant(rate, tf.float32))

    def scores(self) -> dict[str, float]:
        """loss, {head}_loss and the scores of `metrics.figures` over the steps since `restart_scores`."""
        sums, heads = self._sums.numpy(), self._config.heads
        steps, losses_sum = max(sums[0], 1.0), sums[1 : 2 + len(heads)]
        names = ["loss", *(f"{head}_loss" for head in heads)]
        means = {name: float(value / steps) for name, value in zip(names, losses_sum)}
        return means | metrics.figures(sums[2 + len(heads) :], heads)

    def restart_scores(self) -> None:
        """Begins the running sums anew."""
        self._sums.assign(tf.zeros_like(self._sums))

    def first_bad_step(self) -> tuple[int, dict[str, float]] | None:
        """The number of the first step, of this phase's `steps`, whose loss or gradient was not finite, and why."""
        step = int(self._bad_step.numpy())
        if step < 0:
            return None
        names = ["loss", *(f"{head}_loss" for head in self._config.heads), "gradient_norm"]
        return step, dict(zip(names, self._bad.numpy().tolist()))

    @property
    def steps(self) -> int:
        """Steps since the training began."""
        return int(self._count.numpy())

    @property
    def loss_scale(self) -> float | None:
        """That of float16, else None."""
        return float(self.optimizer.dynamic_scale.numpy()) if self._float16 else None

    @contextlib.contextmanager
    def averaged(self, batches: Callable[[], tf.data.Dataset], beat: Callable[[], None]) -> Iterator[None]:
        """Within the block the model has the averaged weights, if there are any.

        The moving statistics of batch normalisation belong to other weights: they are replaced by their means over
        `batches`, of training. Afterwards everything is as before, Dropout's seeds included.

        Args:
          batches: makes a dataset of a few training batches.
          beat: called after each of them.
        """
        if not self._averages:
            yield
            return
        before = [weight.value.numpy() for weight in self.model.variables]
        try:
            for weight, average in zip(self._averaged, self._averages):
                weight.assign(average.numpy())
            self._estimate_statistics(batches(), beat)
            yield
        finally:
            for weight, value in zip(self.model.variables, before):
                weight.value.assign(value)

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[keras.Model]:
        """Within the block the model is as it is to be saved: nothing in it knows of several devices."""
        synchronised = [layer.synchronized for layer in self._normalisations]
        for layer in self._normalisations:
            layer.synchronized = False
        try:
            yield self.model
        finally:
            for layer, value in zip(self._normalisations, synchronised):
                layer.synchronized = value

    def validate(self, batches: tf.data.Dataset, beat: Callable[[], None]) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the model as it is.

        Args:
          batches: of `Streams.evaluation`.
          beat: called after each batch.

        Returns:
          The scores, of `metrics.figures` with {head}_loss and loss, and the running sums of `metrics`. Losses are
          over all examples at once: mean cross-entropy of the targets, mean error, 1 - CCC; `loss` is their sum
          with the configured weights, also where training learns its own.
        """
        heads, sums = self._config.heads, 0.0
        for batch in batches:
            sums += self._validate(batch).numpy()
            beat()
        scores = metrics.figures(sums[2:], heads)
        for head in heads:
            if head == "expression":
                scores["expression_loss"] = float(sums[0] / max(sums[1], 1.0))
            else:
                parts = {"mse": scores[f"{head}_rmse"] ** 2, "mae": scores[f"{head}_mae"]}
                parts["ccc"] = 1 - scores[f"{head}_ccc"]
                scores[f"{head}_loss"] = sum(parts[part] for part in self._config.affect_loss.split("+"))
        scores["loss"] = sum(self._config.loss_weight(head) * scores[f"{head}_loss"] for head in heads)
        return scores, sums[2:]

    def _train_step(self, batch: dict, rate: tf.Tensor) -> None:
        config, batch = self._config, self._prepare(batch)
        trained = [weight.value for weight in self._trained]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            outputs = self.model(batch["image"], training=True)
            by_head = losses.head_losses(batch, outputs, config, self._total)
            weighted = {head: config.loss_weight(head) * loss for head, loss in by_head.items()}
            if self._log_variances:
                loss = losses.uncertainty_sum(weighted, self._log_variances, self._known(batch))
            else:
                loss = tf.add_n(list(weighted.values()))
            # Each device derives the sum of all devices' losses, all equal, with respect to its own part.
            scaled = (self.optimizer.scale_loss(loss) if self._float16 else loss) / self._replicas
        # A head that weighs nothing is in no sum.
        found = tape.gradient(scaled, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [self._total(gradient) for gradient in found]
        scale = tf.cast(self.optimizer.dynamic_scale, tf.float32) if self._float16 else 1.0
        norm = tf.linalg.global_norm(gradients) / scale
        if config.clip_norm:
            factor = config.clip_norm / tf.maximum(norm, config.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        gradients = self._regularise(gradients, scale)
        self.optimizer.learning_rate.assign(rate)
        # The optimizer adds up what the devices give it, and they all give the same.
        self.optimizer.apply([gradient / self._replicas for gradient in gradients], self._trained)
        self._average()
        self._account(batch, outputs, loss, by_head, norm)

    def _known(self, batch: dict) -> dict[str, tf.Tensor]:
        """1.0 for each head of which the batch, on all devices, has enough labels for a loss; 0.0 for another."""
        config, known = self._config, {}
        for head in self._log_variances:
            weights = batch["mask"][head]
            if head == "expression":
                _, weights = losses.expression_target(
                    batch, hard=config.targets == "hard", num_classes=config.num_classes
                )
            count = self._total(tf.reduce_sum(tf.cast(weights > 0, tf.float32)))
            enough = 2 if head != "expression" and config.affect_loss == "ccc" else 1
            known[head] = tf.cast(count >= enough, tf.float32)
        return known

    def _prepare(self, batch: dict) -> dict:
        if self._config.augment_place == "device":
            batch = augmentation.augment_batch(batch, self._config.augment, batch["seeds"])
            if self._class_weights is not None:
                batch = labels.apply_class_weights(batch, self._class_weights)
        return batch

    def _regularise(self, gradients: list, scale: tf.Tensor | float) -> list:
        """Adds the derivative of weight_decay × the squared weights; AdamW decays them by itself.

        Clipping comes before either: it bounds what the batch says, and leaves the decay as it was asked for.
        """
        if not self._config.weight_decay or self._config.optimizer == "adamw":
            return gradients
        decayed = {id(weight) for weight in self._decayed}
        pull = 2 * self._config.weight_decay * scale
        return [
            gradient + pull * weight.value if id(weight) in decayed else gradient
            for gradient, weight in zip(gradients, self._trained)
        ]

    def _average(self) -> None:
        """The first averages hold few steps: their decay rises to the configured one."""
        steps = tf.cast(self._count, tf.float32)
        decay = tf.minimum(self._config.ema, (1 + steps) / (10 + steps))
        for weight, average in zip(self._averaged, self._averages):
            average.assign(average + (1 - decay) * (weight - average))

    def _account(self, batch: dict, outputs: dict, loss: tf.Tensor, by_head: dict, norm: tf.Tensor) -> None:
        values = tf.stack([loss, *by_head.values()])
        if self._config.num_classes < metrics.CLASSES:  # a face that shows contempt has no label then
            known = batch["mask"]["expression"] * tf.cast(batch["expression"] != losses.CONTEMPT, tf.float32)
            batch = batch | {"mask": batch["mask"] | {"expression": known}}
        counts = self._total(metrics.batch_sums(batch, outputs, self._config.heads))
        self._sums.assign(self._sums + tf.concat([[1.0], tf.cast(values, tf.float64), counts], 0))
        # An infinite gradient is how float16 finds its loss scale: the optimizer leaves such a step out.
        checked = loss if self._float16 else loss + norm
        first = ~tf.math.is_finite(checked) & (self._bad_step < 0)
        self._bad_step.assign(tf.where(first, self._count, self._bad_step))
        self._bad.assign(tf.where(first, tf.concat([values, [norm]], 0), self._bad))
        self._count.assign(self._count + 1)

    def _validation_step(self, batch: dict) -> tf.Tensor:
        outputs = self.model(batch["image"], training=False)
        sums = [tf.zeros(2, tf.float64)]
        config = self._config
        if "expression" in config.heads:
            target, weights = losses.expression_target(
                batch, hard=config.targets == "hard", num_classes=config.num_classes
            )
            mean = losses.cross_entropy(
                target, outputs["expression"], weights, smoothing=config.label_smoothing,
                num_classes=config.num_classes,
            )  # fmt: skip
            known = tf.reduce_sum(tf.cast(weights > 0, tf.float64))
            sums = [tf.stack([tf.cast(mean, tf.float64) * known, known])]
        mask = batch["mask"] | {"expression": batch["label_known"]}
        return tf.concat([*sums, metrics.batch_sums(batch | {"mask": mask}, outputs, config.heads)], 0)

    def _forward(self, batch: dict) -> None:
        self.model(self._prepare(batch)["image"], training=True)

    def _estimate_statistics(self, batches: tf.data.Dataset, beat: Callable[[], None]) -> None:
        """The mean over batches of each batch's statistics, read off from what one update adds to zero."""
        moving = [
            (statistic.value, 1 - layer.momentum)
            for layer in self._normalisations
            if layer.trainable
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]
        sums, count = [0.0] * len(moving), 0
        for batch in batches:
            for statistic, _ in moving:
                statistic.assign(tf.zeros_like(statistic))
            self._renormalise({name: batch[name] for name in ("image", *_LABELS) if name in batch})
            sums = [total + statistic.numpy() / rate for total, (statistic, rate) in zip(sums, moving)]
            count += 1
            beat()
        for total, (statistic, _) in zip(sums, moving):
            statistic.assign(total / count)

    def _make_optimizer(self) -> keras.optimizers.Optimizer:
        config = self._config
        # The rate is set in each step.
        if config.optimizer == "adamw":
            optimizer = keras.optimizers.AdamW(1.0, weight_decay=config.weight_decay)
            optimizer.exclude_from_weight_decay(
                var_list=[weight for weight in self._trained if not any(weight is other for other in self._decayed)]
            )
        elif config.optimizer == "adam":
            optimizer = keras.optimizers.Adam(1.0)
        else:
            optimizer = keras.optimizers.SGD(1.0, momentum=MOMENTUM)
        return keras.optimizers.LossScaleOptimizer(optimizer) if self._float16 else optimizer

    def _distributed(self, step: Callable) -> Callable:
        if self._replicas == 1:
            return tf.function(step, jit_compile=self._config.xla)
        return tf.function(lambda *given: self._strategy.run(step, args=given), jit_compile=self._config.xla)

    def _total(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over all devices."""
        if self._replicas == 1:
            return value
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def _decays(weight: keras.Variable) -> bool:
    """Kernels decay; biases, and the scales and offsets of normalisation, do not."""
    return len(weight.shape) > 1


def _variable(value: np.ndarray) -> tf.Variable:
    """One that all devices assign the same to."""
    return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
