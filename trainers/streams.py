"""The batches of a training run, and what is known of its splits before the first one."""

import os

import numpy as np
import tensorflow as tf

from datasets.input_pipeline import make_eval, make_train
from datasets.ordering import Order
from datasets.selection import Selection
from pipeline import publishing
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from trainers.config import TrainConfig


class Streams:
    """The splits that a configuration names.

    Attributes:
      digest: of the dataset.
      train, validation: the `Selection`s.
      steps: of an epoch.
      class_weights: float32 [8] when they are on, else None.
      notes: what the user should know of the data, sentences.
    """

    def __init__(self, config: TrainConfig):
        """
        Raises:
          UsageError: a split is not there, a batch is larger than it, or training and validation share examples.
          DataError: the dataset is damaged, or a head has no label in a split.
        """
        self._config, self.notes = config, []
        self.train = self._select(config.train_split)
        self.validation = self._select(config.validation_split)
        self.digest = publishing.digest(self.train.folder)
        self.class_weights = self._class_weights() if config.balance == "weights" else None
        self._classes_known = self.validation.classes(config.num_classes) >= 0
        if "expression" in config.heads and not self._classes_known.any():
            raise DataError(
                f"no face of {config.validation_split!r} has an expression label, only shares of votes at best; "
                "choose the best epoch on another --validation_split"
            )
        classes = self.train.classes(config.num_classes) if config.balance == "resample" else None
        self.steps = Order(self.train.count, classes=classes).epoch_length // config.batch_size
        if not self.steps:
            raise UsageError(
                f"batch_size is {config.batch_size}, but an epoch of {config.train_split!r} is shorter than that; "
                "give a smaller --batch_size"
            )
        if shared := self._shared_rows():
            raise UsageError(
                f"{shared} examples are both in {config.train_split!r} and in {config.validation_split!r}, so the best "
                "epoch would be chosen on faces that were learned; give splits or slices that share none"
            )

    def training(self, start: tuple[int, int] = (0, 0), *, prefetch_to_device: bool = False) -> tf.data.Dataset:
        """Batches from (epoch, step) to the end of the last epoch; at the very end there is none."""
        epoch, step = start if start[1] < self.steps else (start[0] + 1, 0)
        if epoch == self._config.epochs:
            return self._make_train(epochs=epoch, cache="none").take(0)
        return self._make_train(
            start=(epoch, step), epochs=self._config.epochs, cache=self._config.cache,
            prefetch_to_device=prefetch_to_device,
        )  # fmt: skip

    def excerpt(self, epoch: int, step: int, count: int) -> tf.data.Dataset:
        """The `count` batches of the training stream from a step of one epoch on, or those until the epoch's end."""
        return self._make_train(start=(epoch, step), epochs=epoch + 1, cache="none").take(count)

    def evaluation(self) -> tf.data.Dataset:
        """The validation split in full batches; what fills the last one is masked in every head.

        "label_known" float32 [B] is 1 where the source itself gives the expression: where votes have no majority,
        shares are learned from, but nobody says what a right answer is.
        """
        size = self._config.batch_size
        batches = make_eval(
            self._config.dataset_dir, self._config.validation_split, batch_size=size,
            image_size=self._config.input_size, cache=self._config.cache, heads=self._config.heads,
            num_threads=self._config.num_threads or None,
        )  # fmt: skip
        known = tf.data.Dataset.from_tensor_slices(self._classes_known.astype(np.float32)).batch(size)

        def fill(batch: dict, known: tf.Tensor) -> dict:
            columns = {name: column for name, column in batch.items() if name != "id"} | {"label_known": known}
            missing = size - tf.shape(known)[0]

            def pad(column: tf.Tensor) -> tf.Tensor:
                padded = tf.pad(column, [[0, missing]] + [[0, 0]] * (len(column.shape) - 1))
                return tf.ensure_shape(padded, [size, *column.shape[1:]])

            return tf.nest.map_structure(pad, columns)

        return tf.data.Dataset.zip(batches, known).map(fill).prefetch(2)

    def _shared_rows(self) -> int:
        """How many examples are in both selections."""
        if not set(self.train.splits) & set(self.validation.splits):
            return 0
        train, validation = (selection.column("id").to_pylist() for selection in (self.train, self.validation))
        return len(set(train) & set(validation))

    def _make_train(self, *, epochs: int, cache: str, start: tuple[int, int] = (0, 0), **given) -> tf.data.Dataset:
        config = self._config
        return make_train(
            config.dataset_dir, config.train_split, batch_size=config.batch_size, image_size=config.input_size,
            augment=config.augment, place=config.augment_place, seed=config.seed, epochs=epochs,
            start=(start[0], start[1] * config.batch_size), balance=config.balance,
            max_class_weight=config.max_class_weight, num_classes=config.num_classes, cache=cache, heads=config.heads,
            num_threads=config.num_threads or None, **given,
        )  # fmt: skip

    def _select(self, split: str) -> Selection:
        try:
            selection = Selection(self._config.dataset_dir, split, None)
        except UsageError as error:
            if split != self._config.validation_split:
                raise
            raise UsageError(
                f"{error}; without a validation split nothing can be chosen: convert with --holdout=0.1, which makes "
                "one, or give --validation_split (and --train_split without it)"
            ) from None
        selection.check_labels(self._config.heads)
        return selection

    def _class_weights(self) -> np.ndarray:
        """
        Raises:
          DataError: a class has no example.
        """
        weights = self.train.class_weights(self._config.max_class_weight, self._config.num_classes)
        counted = range(self._config.num_classes)
        free = self.train.class_weights(np.inf, self._config.num_classes)
        capped = [f"{EXPRESSIONS[index]} {free[index]:.1f}" for index in counted if free[index] > weights[index]]
        if capped:
            self.notes.append(f"class weights capped at {self._config.max_class_weight:g}: {', '.join(capped)}")
        return weights


def describe(config: TrainConfig, streams: Streams) -> dict:
    """The dataset as environment.json records it."""
    return {
        "folder": os.path.abspath(config.dataset_dir),
        "name": config.name,
        "digest": streams.digest,
        "train_split": config.train_split,
        "validation_split": config.validation_split,
        "examples": {"train": streams.train.count, "validation": streams.validation.count},
    }
