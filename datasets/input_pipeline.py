"""Batches for training and for evaluation, out of a published dataset.

    train = make_train("DATA/affect_faces/NAME/1.0.0", "train", batch_size=128, image_size=224, augment=AugmentConfig())
    valid = make_eval("affect_faces/NAME", "validation", data_dir="DATA", batch_size=128, image_size=224)

An element is a dict: image uint8 [B, S, S, 3] in RGB, and the columns of `datasets.labels.parse`: expression,
expression_probs, valence, arousal, mask (per head), id, and landmarks in pixels of `image` when asked for.

The stream is a function of (seed, epoch, row) alone: no thread count, process or restart changes it. Records are
shuffled while encoded; `datasets.ordering` says how, and why any place in the stream is found at once, and
`datasets.batches` how they become batches. The augmentation is compiled while the rest is set up
(`datasets.augmentation.ahead`).
"""

import functools
import math
import numbers
import os
from collections.abc import Sequence

import tensorflow as tf

from datasets import augmentation, batches, labels
from datasets.augmentation import ahead, geometry, passes
from datasets.ordering import Order
from datasets.selection import Selection
from pipeline.errors import UsageError

CACHES = ("none", "encoded", "decoded", "auto")
BALANCES = ("none", "weights", "resample")
PLACES = ("pipeline", "device")
MAX_IMAGE_SIZE = 4096
MAX_BATCH_SIZE = 65_536
#: `cache="auto"` takes at most this part of the memory that is free.
CACHE_MEMORY = 0.25


def make_train(
    dataset: str,
    split: str = "train",
    *,
    batch_size: int,
    image_size: int,
    augment: augmentation.AugmentConfig | None = None,
    place: str = "pipeline",
    seed: int = 0,
    epochs: int | None = None,
    start: tuple[int, int] = (0, 0),
    shuffle: bool = True,
    balance: str = "none",
    max_class_weight: float = labels.MAX_CLASS_WEIGHT,
    num_classes: int = 8,
    drop_remainder: bool = True,
    cache: str = "none",
    heads: Sequence[str] = (),
    landmarks: bool = False,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int | None = None,
    deterministic: bool = True,
    prefetch_to_device: bool = False,
    data_dir: str | None = None,
) -> tf.data.Dataset:
    """The training stream.

    Args:
      dataset: a dataset directory, or "affect_faces/NAME" in `data_dir`.
      split: as TFDS writes splits and slices: "train", "train[:80%]", "train+validation".
      batch_size: examples of a batch, on this host.
      image_size: side of the images in pixels.
      augment: what `datasets.augmentation` does to each batch; None is nothing.
      place: "pipeline" augments here, on the CPU. "device" leaves it to the training step, and so the class weights:
        elements then have `seeds`, int32 [B, 2], for `augmentation.augment_batch`; `labels.apply_class_weights` comes
        after it.
      seed: of the order and of every augmentation.
      epochs: the stream ends after this many, counted from epoch 0; None is never.
      start: (epoch, position) to begin at, position in examples of this host's epoch. What comes is exactly the rest
        of the stream; the time to it does not grow with the position. With drop_remainder, mixup or CutMix it must be
        the start of a batch of the whole stream.
      shuffle: False keeps the published order.
      balance: "weights" multiplies the expression's mask by the class weight of the target, at most
        `max_class_weight`, counted from the labels of `split` (of a whole split and eight classes, those of
        statistics.json); "resample" gives each class an equal part of the epoch.
      num_classes: 8, or 7, which gives contempt no weight and no part of the epoch.
      drop_remainder: True leaves out what does not fill the last batch of an epoch (with shuffle other examples in
        each, else always the last). False lets batches run on over the end of an epoch; only the stream's last may be
        smaller.
      cache: "encoded" keeps records, as they are first read; "decoded" keeps resized images (image_size² × 3 bytes
        each); "auto" takes the first of decoded, encoded and none that fits in a quarter of the free memory. Where it
        is "decoded", the whole split is decoded before this returns, and so before the first batch.
      heads: those of "expression", "valence", "arousal" that must have a known label in the split.
      landmarks: whether elements have them.
      host_index, host_count: each host of a job gets another part of each epoch, all of the same length; at most
        `host_count` - 1 examples are left out (with shuffle other ones in each epoch, else always the last).
      num_threads: decoding threads; None is one per core.
      deterministic: False lets batches, or examples that are resized, overtake each other.
      prefetch_to_device: whether batches are copied to the first accelerator ahead of time. They have no `id` then,
        because an accelerator holds no text.
      data_dir: of a TFDS name; None is TFDS's default.

    Raises:
      UsageError: an argument has a value that nothing accepts.
      DataError: the dataset is not published, damaged, or holds nothing to learn from, or a class has no example to
        weigh. A byte that was changed within a shard is found when it is read: here with cache="decoded", else while
        the stream is, as a `tf.errors.OpError` that `datasets.faults.explained` turns into a DataError.
    """
    _check_choice("place", place, PLACES)
    _check_choice("balance", balance, BALANCES)
    if balance == "resample" and not shuffle:
        raise UsageError("balance='resample' chooses and repeats examples: it needs shuffle=True")
    _check_range("seed", seed, 0, 2**63 - 1)
    _check_sizes(batch_size, image_size)
    if not max_class_weight > 0:
        raise UsageError(f"max_class_weight is {max_class_weight}; it must be above 0")
    _check_range("epochs", 1 if epochs is None else epochs, 1, 2**31)
    if augment is not None and augment.resamples:
        _check_range("image_size with augment", image_size, 2, geometry.LARGEST_SIDE)
    selection = Selection(dataset, split, data_dir)
    selection.check_labels([*heads, *["expression"] * (balance != "none")])
    classes = selection.classes(num_classes)
    weights = selection.class_weights(max_class_weight, num_classes) if balance == "weights" else None
    resampled = classes if balance == "resample" else None
    epoch_length = Order(selection.count, classes=resampled).epoch_length
    first, length = _part(epoch_length, host_index, host_count, equal=True)
    if drop_remainder:
        if batch_size > length:
            raise UsageError(
                f"batch_size is {batch_size}, but an epoch of {split!r} has {length} examples for each of {host_count} "
                "hosts, so no batch is ever full; take smaller batches or drop_remainder=False"
            )
        length -= length % batch_size
    order = Order(selection.count, seed, shuffle, resampled, first, length)
    mixes = augment is not None and bool(augment.mixup or augment.cutmix)
    _check_start(start, length, epochs, batch_size, drop_remainder=drop_remainder, mixes=mixes)

    reading = _checked_reading(selection, batch_size, image_size, cache, num_threads)
    accelerator = _first_accelerator() if prefetch_to_device else None

    steps, compiled = [], None
    if place == "pipeline" and augment is not None:
        # On the processor, whatever else there is.
        transform = functools.partial(passes.transform, at_once=False)
        if augment.resamples and not tf.config.functions_run_eagerly():  # then nothing is compiled
            ends = math.inf if epochs is None else epochs * length
            first_batch = min(batch_size, ends - start[0] * length - start[1])
            transform = ahead.program((first_batch, image_size, image_size, 3))
            compiled = transform.wait
        steps.append(lambda batch: augmentation.augment_batch(batch, augment, batch["seeds"], transform=transform))
    if place == "pipeline" and weights is not None:
        steps.append(lambda batch: labels.apply_class_weights(batch, weights))
    steps.append(batches.without(["seeds"] * (place == "pipeline") + ["id"] * prefetch_to_device))
    stream = batches.make(
        selection, order, start=start, epochs=epochs, drop_remainder=drop_remainder, landmarks=landmarks,
        deterministic=deterministic, steps=steps, compiled=compiled, **reading,
    )  # fmt: skip
    return stream.apply(tf.data.experimental.prefetch_to_device(accelerator)) if accelerator else stream


def make_eval(
    dataset: str | Selection,
    split: str = "",
    *,
    batch_size: int,
    image_size: int,
    cache: str = "none",
    heads: Sequence[str] = (),
    landmarks: bool = False,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int | None = None,
    data_dir: str | None = None,
) -> tf.data.Dataset:
    """Each example of a split once, as it is, in its published order, the last batch as large as it comes.

    Arguments and errors are those of `make_train`; the hosts' parts together are the whole split. `dataset` may also be
    a Selection, which is a split already.
    """
    _check_sizes(batch_size, image_size)
    selection = dataset if isinstance(dataset, Selection) else Selection(dataset, split, data_dir)
    selection.check_labels(heads)
    first, length = _part(selection.count, host_index, host_count, equal=False)
    return batches.make(
        selection, Order(selection.count, shuffle=False, first=first, length=length), start=(0, 0), epochs=1,
        drop_remainder=False, landmarks=landmarks, deterministic=True, steps=[batches.without(["seeds"])],
        **_checked_reading(selection, batch_size, image_size, cache, num_threads),
    )  # fmt: skip


def _check_sizes(batch_size: int, image_size: int) -> None:
    _check_range("batch_size", batch_size, 1, MAX_BATCH_SIZE)
    _check_range("image_size", image_size, 1, MAX_IMAGE_SIZE)


def _checked_reading(
    selection: Selection, batch_size: int, image_size: int, cache: str, num_threads: int | None
) -> dict:
    """Checks and settles cache="auto" and num_threads=None; the result is for `batches.make`."""
    threads = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
    _check_range("num_threads", threads, 1, 2**10)
    cache = _choose_cache(cache, selection, image_size)
    return {"batch_size": batch_size, "image_size": image_size, "cache": cache, "threads": threads}


def _part(count: int, host_index: int, host_count: int, *, equal: bool) -> tuple[int, int]:
    """The first example and the number of examples of a host."""
    _check_range("host_count", host_count, 1, count)
    _check_range("host_index", host_index, 0, host_count - 1)
    first, stop = (index * count // host_count for index in (host_index, host_index + 1))
    return first, count // host_count if equal else stop - first


def _check_start(
    start: tuple[int, int], length: int, epochs: int | None, batch_size: int, *, drop_remainder: bool, mixes: bool
) -> None:
    try:
        epoch, position = start
    except (TypeError, ValueError):
        raise UsageError(f"start is {start!r}; it must be two whole numbers, (epoch, position)") from None
    _check_range("start's epoch", epoch, 0, 2**31 if epochs is None else epochs - 1)
    _check_range("start's position", position, 0, length - 1)
    if drop_remainder and position % batch_size:
        raise UsageError(
            f"start's position is {position}; with drop_remainder it must be a multiple of the batch size {batch_size}"
        )
    if mixes and (examples := epoch * length + position) % batch_size:
        raise UsageError(
            f"start is {start}, after {examples} examples of the stream; mixup and CutMix mix the examples of a batch, "
            f"so it must be where one begins: after a multiple of the batch size {batch_size}"
        )


def _choose_cache(cache: str, selection: Selection, image_size: int) -> str:
    _check_choice("cache", cache, CACHES)
    if cache != "auto":
        return cache
    limit = CACHE_MEMORY * _free_memory()
    if selection.count * image_size**2 * 3 <= limit:
        return "decoded"
    return "encoded" if selection.record_bytes <= limit else "none"


def _free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if that is less."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    try:
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as current:
            return min(free, int(most.read()) - int(current.read()))
    except (OSError, ValueError):  # no control group, or one that says "max"
        return free


def _first_accelerator() -> str:
    for kind in ("TPU", "GPU"):
        for device in tf.config.list_logical_devices(kind):
            return device.name
    raise UsageError("prefetch_to_device: TensorFlow sees no accelerator; leave it False")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, numbers.Integral) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
