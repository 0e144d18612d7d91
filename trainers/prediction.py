"""What a model says of every example of a split, each once, whatever the size of the batches.

Every call has the same shape: the last batch is filled up, and what fills it is cut off again, because another shape
lets the libraries choose other kernels, which round otherwise.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from datasets import faults, labels, preprocessing
from datasets.input_pipeline import make_eval
from datasets.labels import HEADS
from datasets.selection import Selection
from pipeline.errors import DataError, InvariantError, UsageError
from pipeline.records import EXPRESSIONS

#: How far the sum of eight probabilities may be from 1: half precision leaves about this much.
_SUM_TOLERANCE = 5e-3
#: Pixels; conversion accepts nothing smaller.
_FILLING_SIDE = 16


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and predictions of N examples in published order.

    Attributes:
      truth: {head: [N]}: expression int8, -1 where the source gives none (votes without a majority are no truth);
        valence and arousal float32, NaN where unknown.
      outputs: {head: …} of the heads that the model has: expression float32 [N, 8], valence and arousal float32 [N].
    """

    truth: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def known(self, head: str) -> np.ndarray:
        """int [n], the rows whose label of `head` is known."""
        truth = self.truth[head]
        return np.flatnonzero(truth >= 0 if head == "expression" else np.isfinite(truth))


class Predictor:
    """A model and the shape that it is called with.

    Attributes:
      heads: those that it has, in the order of HEADS.
      batch_size: of every call.
      image_size: side of the images that it takes; None when it takes encoded images.
      parameters: numbers in its weights.
      calls, seconds: how often it was called and for how long, without the first call, which compiles.
    """

    def __init__(
        self, call: Callable, heads: Sequence[str], *, batch_size: int, image_size: int | None, parameters: int
    ):
        """
        Args:
          call: from a batch of images, uint8 [batch_size, S, S, 3] or encoded [batch_size], to a dict of outputs.

        Raises:
          UsageError: the batch size is below 1.
          DataError: the model has none of our heads.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be 1 or more")
        self.heads = tuple(head for head in HEADS if head in heads)
        if not self.heads:
            raise DataError(f"the model gives {', '.join(map(str, heads))}; at least one of {', '.join(HEADS)} is due")
        self.batch_size, self.image_size, self.parameters = batch_size, image_size, parameters
        self._call, self.calls, self.seconds = call, -1, 0.0

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of at most `batch_size` images: {head: float32 [n, …]}."""
        count = len(images)
        filled = images
        if self.image_size:
            filled = images[np.arange(self.batch_size) % count]
        elif count < self.batch_size:
            # A photograph is decoded as often as it stands there, so what fills up is small.
            small = tf.io.encode_png(tf.zeros([_FILLING_SIDE, _FILLING_SIDE, 3], tf.uint8)).numpy()
            filled = np.array([*images, *[small] * (self.batch_size - count)], object)
        start = time.perf_counter()
        outputs = self._call(tf.constant(filled))
        outputs = {head: np.atleast_1d(np.asarray(outputs[head], np.float32))[:count] for head in self.heads}
        self.calls += 1
        if self.calls:
            self.seconds += time.perf_counter() - start
        return outputs

    @property
    def images_per_second(self) -> float | None:
        """Of the calls after the first; None when there was but one."""
        return self.calls * self.batch_size / self.seconds if self.calls > 0 else None


def from_keras(model: keras.Model, *, batch_size: int) -> Predictor:
    """A predictor of a model of the form that `trainers.model.build` gives: a dict of outputs, images of one size."""
    run = tf.function(lambda images: model(images, training=False))
    outputs = model.output if isinstance(model.output, dict) else {}
    side = model.input_shape[1]
    return Predictor(run, list(outputs), batch_size=batch_size, image_size=side, parameters=model.count_params())


def from_saved_model(folder: str, *, batch_size: int) -> Predictor:
    """A predictor of an exported model; it decodes and resizes for itself.

    Raises:
      DataError: the folder holds no SavedModel, or one without the signature `serving_bytes`.
    """
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        raise DataError(f"{folder} holds no saved_model.pb; --model is a directory like WORKDIR/export/1")
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:  # TensorFlow's own errors, and whatever a damaged file makes of its parsers
        raise DataError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}; export it again") from None
    if "serving_bytes" not in loaded.signatures:
        raise DataError(
            f"{folder} has the signatures {', '.join(loaded.signatures) or 'none'}; serving_bytes is due, as "
            "`python -m export.export_model` writes it"
        )
    run = loaded.signatures["serving_bytes"]
    inputs = run.structured_input_signature[1]
    if [spec.dtype for spec in inputs.values()] != [tf.string]:
        taken = ", ".join(f"{name} ({spec.dtype.name})" for name, spec in inputs.items())
        raise DataError(f"{folder}: serving_bytes takes {taken or 'nothing'}; encoded images (string) alone are due")
    (argument,) = inputs
    parameters = sum(variable.shape.num_elements() for variable in run.variables)
    return Predictor(
        # The signature holds no reference to what it runs on.
        lambda images, loaded=loaded: run(**{argument: images}),
        list(run.structured_outputs), batch_size=batch_size, image_size=None, parameters=int(parameters),
    )  # fmt: skip


def predict(
    predictor: Predictor,
    selection: Selection,
    *,
    rows: np.ndarray | None = None,
    num_threads: int | None = None,
    on_batch: Callable[[list[str], dict, dict], None] = lambda ids, truth, outputs: None,
) -> Predictions:
    """Predicts a split, or some rows of it.

    Args:
      predictor: the model.
      selection: the split.
      rows: int [n], which of the examples; None is all.
      num_threads: decoding threads; None is one per core.
      on_batch: takes each batch in order: its ids, and truth and outputs as in Predictions.

    Raises:
      DataError: a record is damaged; or a prediction is not finite, or no probability, or out of range: names the
        first example.
      InvariantError: not every example came.
    """
    expression = selection.expression if rows is None else selection.expression[rows]
    count = len(expression)
    truth = {"expression": expression}
    truth |= {head: np.empty(count, np.float32) for head in ("valence", "arousal")}
    outputs = {
        head: np.empty((count, len(EXPRESSIONS)) if head == "expression" else count, np.float32)
        for head in predictor.heads
    }
    if predictor.image_size and rows is None:
        batches = make_eval(
            selection, batch_size=predictor.batch_size, image_size=predictor.image_size, num_threads=num_threads
        ).as_numpy_iterator()  # fmt: skip
    else:
        batches = _read(predictor, selection, np.arange(count) if rows is None else rows)
    first = 0
    with faults.explained():
        for batch in batches:
            ids = [identifier.decode() for identifier in batch["id"]]
            part = slice(first, first + len(ids))
            for head in ("valence", "arousal"):
                truth[head][part] = np.where(batch["mask"][head] > 0, batch[head], np.nan)
            for head, values in predictor(batch["image"]).items():
                outputs[head][part] = checked(head, values, ids)
            on_batch(ids, *({name: column[part] for name, column in columns.items()} for columns in (truth, outputs)))
            first += len(ids)
    if first != count:
        raise InvariantError(f"{first} of {count} examples came out of the input pipeline; please report it")
    return Predictions(truth, outputs)


def read_images(selection: Selection, rows: np.ndarray, size: int) -> tuple[list[str], np.ndarray]:
    """Ids and images, uint8 [n, size, size, 3], of some rows, as the model sees them."""
    columns = labels.parse(tf.constant(selection.read(rows)))
    images = [preprocessing.decode_and_resize(image, size).numpy() for image in columns["image"]]
    return [identifier.decode() for identifier in columns["id"].numpy()], np.stack(images)


def checked(head: str, values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """The outputs of a head, without a last axis of 1.

    Args:
      head: one of HEADS.
      values: float32; [N, 8] probabilities, or [N, 1] in [-1, 1].
      ids: N names, for errors.

    Raises:
      DataError: they are not what the head should give.
    """
    width = len(EXPRESSIONS) if head == "expression" else 1
    if values.shape != (len(ids), width):
        raise DataError(
            f"the model's {head} has shape {list(values.shape)} for {len(ids)} images; [{len(ids)}, {width}] is due"
            + (f": a probability each of {', '.join(EXPRESSIONS)}" if head == "expression" else "")
        )
    problems = {"is not finite": ~np.isfinite(values).all(1)}
    if head == "expression":
        problems["is no distribution"] = (values < 0).any(1) | (abs(values.sum(1) - 1) > _SUM_TOLERANCE)
    else:
        problems["lies outside [-1, 1]"] = (abs(values) > 1)[:, 0]
    for problem, bad in problems.items():
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"the model's {head} {problem} for {bad.sum()} of {len(ids)} examples, first {ids[row]!r}: "
                f"{values[row].tolist()}; the model is broken, or its training went wrong"
            )
    return values if head == "expression" else values[:, 0]


def _read(predictor: Predictor, selection: Selection, rows: np.ndarray) -> Iterator[dict]:
    """Batches of rows; images are encoded when the predictor takes them so."""
    for first in range(0, len(rows), predictor.batch_size):
        some = rows[first : first + predictor.batch_size]
        batch = tf.nest.map_structure(lambda column: column.numpy(), labels.parse(tf.constant(selection.read(some))))
        if predictor.image_size:
            batch["image"] = read_images(selection, some, predictor.image_size)[1]
        yield batch
