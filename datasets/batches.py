"""Rows of a selection to batches: what is read, decoded and done to them, as one graph of tf.data.

Python runs twice per batch: to draw its rows, and to read them, when it also decodes JPEGs that have `image_size`
already (with cache="decoded" to draw rows and to copy them); and it calls the compiled augmentation, if there is one
(`datasets.augmentation.ahead`). All else is TensorFlow's. Windows of 1,024 records are announced to the system, which
reads them ahead.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from datasets import faults, labels, preprocessing, python_calls
from datasets.ordering import Order
from datasets.selection import Selection
from pipeline import codec

_DECODED_AT_ONCE = 128
#: Batches whose rows are known before they are read.
_DRAWN_AHEAD = 8
#: No function here branches on a tensor; AutoGraph would take most of the time to the first batch to find that out.
_as_it_is = tf.autograph.experimental.do_not_convert


def make(
    selection: Selection,
    order: Order,
    *,
    start: tuple[int, int],
    epochs: int | None,
    batch_size: int,
    drop_remainder: bool,
    image_size: int,
    landmarks: bool,
    cache: str,
    threads: int,
    deterministic: bool,
    steps: Sequence[Callable[[dict], dict]],
    compiled: Callable[[], None] | None = None,
) -> tf.data.Dataset:
    """The part of `order` from `start` on, in batches that went through `steps`.

    The other arguments are those of `input_pipeline.make_train`, checked there; `threads` is its `num_threads`. `cache`
    is not "auto" any more, nor `threads` None. Before the second batch is read `compiled` is called, which waits for
    what the first one needs too: to read ahead would hold that up. (Not of one thread, which the first batch needs.)
    """
    if cache == "encoded":
        selection.keep_records()

    first = start[0] * order.length + start[1]
    stop = 2**62 if epochs is None else epochs * order.length
    total = -(-(stop - first) // batch_size)
    count = batch_size if drop_remainder else None

    def draw(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        if compiled and number == 1 and threads > 1:
            compiled()
        here, there = (min(first + (int(number) + after) * batch_size, stop) for after in (0, 1))
        if cache != "decoded":
            _announce(selection, order, here, there, first, stop)
        return order.examples(here, there)

    def examples(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, seeds = python_calls.call(draw, [number], (tf.int64, tf.int32))
        return tf.ensure_shape(rows, [count]), tf.ensure_shape(seeds, [count, 2])

    def read(rows: tf.Tensor, seeds: tf.Tensor) -> dict:
        records = tf.ensure_shape(python_calls.call(selection.read, [rows], tf.string), [count])
        return labels.parse(records, landmarks=landmarks) | {"seeds": seeds}

    as_they_are = selection.image_sizes == {(image_size, image_size)}

    def read_jpegs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # All are read, then all decoded: taking turns costs 6 % more.
        jpegs, rests = zip(*(codec.cut_image(record) for record in selection.read(rows)))
        return preprocessing.decode_jpegs(jpegs, image_size), np.array(rests, object)

    def read_and_decode(rows: tf.Tensor, seeds: tf.Tensor) -> dict:
        images, rests = python_calls.call(read_jpegs, [rows], (tf.uint8, tf.string))
        columns = labels.parse(tf.ensure_shape(rests, [count]), image=False, landmarks=landmarks)
        images = tf.ensure_shape(images, [count, image_size, image_size, 3])
        return columns | {"image": images, "seeds": seeds}

    def decode(example: dict) -> dict:
        image = preprocessing.decode(example["image"])
        if as_they_are:  # `resize` then has nothing to look at
            image = tf.ensure_shape(image, [image_size, image_size, 3])
        resized = tf.ensure_shape(preprocessing.resize(image, image_size), [image_size, image_size, 3])
        return example | {"image": resized, "stored_size": tf.shape(image)[:2]}

    def finish(batch: dict) -> dict:
        for step in steps:
            batch = step(batch)
        return batch

    dataset = tf.data.Dataset.range(total).map(_as_it_is(examples)).prefetch(_DRAWN_AHEAD)
    if cache == "decoded":
        take = _taker(_decoded(selection, image_size, landmarks, threads))
        dataset = dataset.map(_as_it_is(take), threads)
    elif as_they_are and selection.formats == {"jpeg"}:
        dataset = dataset.map(_as_it_is(read_and_decode), threads)
    else:
        dataset = dataset.map(_as_it_is(read))
        columns = {name: spec for name, spec in dataset.element_spec.items() if name not in ("image", "id")}
        dataset = dataset.map(_as_it_is(labels.pack)).prefetch(1).unbatch()
        dataset = dataset.map(_as_it_is(decode), threads).batch(batch_size, drop_remainder)
        dataset = dataset.map(_as_it_is(lambda batch: labels.unpack(batch, columns, image_size)))
    dataset = dataset.map(_as_it_is(finish), threads).prefetch(2)

    options = tf.data.Options()
    options.deterministic = deterministic
    # It would put one more prefetch at the end, whose buffer doubles each time that it was full and then ran empty, as
    # after each pause of the consumer, until half of the memory is taken.
    options.autotune.enabled = False
    # Each host reads its part already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = threads
    dataset = dataset.with_options(options)
    cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else total
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality))


def _announce(selection: Selection, order: Order, here: int, there: int, first: int, stop: int) -> None:
    """Announces what is due at the examples from `here` to before `there`, of a stream from `first` to `stop`.

    That is the window after each that begins among them, and at the start of the stream the one that it begins in.
    """
    before = order.window_at(here - 1) if here > first else order.window_at(here) - 1
    begun = range(before + 1, order.window_at(there - 1) + 1)
    last = order.window_at(stop - 1)
    for number in [*begun[: int(here == first)], *(number + 1 for number in begun)]:
        if number <= last:
            selection.announce(order.window(number)[1])


def _decoded(selection: Selection, image_size: int, landmarks: bool, threads: int) -> dict:
    """All columns of a selection as arrays [count, …], images resized.

    Raises:
      DataError: a record is damaged.
    """
    order = Order(selection.count, shuffle=False, length=selection.count)
    dataset = make(
        selection, order, start=(0, 0), epochs=1, batch_size=_DECODED_AT_ONCE, drop_remainder=False,
        image_size=image_size, landmarks=landmarks, cache="none", threads=threads, deterministic=True,
        steps=[without(["seeds"])],
    )  # fmt: skip
    columns = tf.nest.map_structure(
        lambda spec: np.empty([selection.count, *spec.shape[1:]], spec.dtype.as_numpy_dtype), dataset.element_spec
    )
    with faults.explained():
        for index, batch in enumerate(dataset.as_numpy_iterator()):
            for column, values in zip(tf.nest.flatten(columns), tf.nest.flatten(batch)):
                column[index * _DECODED_AT_ONCE :][: len(values)] = values
    return columns


def _taker(columns: dict) -> Callable[[tf.Tensor, tf.Tensor], dict]:
    """A function from rows and seeds to their batch of `columns`."""
    flat = tf.nest.flatten(columns)
    types = [tf.string if column.dtype == object else tf.as_dtype(column.dtype) for column in flat]

    def take(rows: tf.Tensor, seeds: tf.Tensor) -> dict:
        values = python_calls.call(lambda rows: [column[rows] for column in flat], [rows], types)
        shaped = [tf.ensure_shape(value, [rows.shape[0], *column.shape[1:]]) for value, column in zip(values, flat)]
        return tf.nest.pack_sequence_as(columns, shaped) | {"seeds": seeds}

    return take


def without(names: Sequence[str]) -> Callable[[dict], dict]:
    """A step that leaves columns out."""
    return lambda batch: {name: column for name, column in batch.items() if name not in names}
