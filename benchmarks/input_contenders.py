"""The input pipeline and other ways to read and augment the same faces, each in its turn, round by round."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from benchmarks import environments, rivals
from benchmarks.rival_protocol import BATCH_SIZE, WARM
from pipeline import processes

SIZE = 224
DECODER = "simplejpeg, one thread (D)"
ALL_CORES = "simplejpeg, a thread a core"
#: A turn begins when all processes together took less than so many seconds of processor time in so many seconds.
QUIET_CPU, QUIET_SECONDS = 0.02, 0.25
#: Seconds after which that is given up.
LONGEST_WAIT = 60.0
#: Images of a turn of the decoder.
DECODED = 1_000
#: They differ by less than the machine does from turn to turn, so these turns follow at once when both had theirs.
AGAIN = ("ours, augmented, any order", "ours, augmented")
#: Batches of the default augmentation in other hands, in one round: they are slow.
SLOW_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one contender did in one round.

    Attributes:
      images: how many.
      seconds, cpu: on the clock, and of processors.
      decoder: D, images a second, just before and just after: their mean.
    """

    images: int
    seconds: float
    cpu: float
    decoder: float = math.nan

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds an image."""
        return 1e3 * self.cpu / self.images

    @property
    def relative(self) -> float:
        """The rate as a multiple of D, which goes up and down with the machine as the rate does."""
        return self.rate / self.decoder


Contender = Callable[[], Turn]


def stream(dataset, batches: int) -> Contender:
    """A tf.data pipeline that ends in batches of BATCH_SIZE."""
    iterator = iter(dataset)

    def turn() -> Turn:
        for _ in range(WARM):
            next(iterator)
        start, before = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(iterator)
        return Turn(batches * BATCH_SIZE, time.perf_counter() - start, time.process_time() - before)

    return turn


def single_thread(step: Callable[[bytes | str], object], inputs: list) -> Contender:
    """A loop in this thread."""

    def turn() -> Turn:
        start, before = time.perf_counter(), time.process_time()
        for value in inputs:
            step(value)
        return Turn(len(inputs), time.perf_counter() - start, time.process_time() - before)

    return turn


def decoding_threads(encoded: list[bytes], count: int) -> Contender:
    """What is left of a pipeline when all but the decoding is taken away: from memory, into batches used again."""
    import simplejpeg

    batches = [np.zeros((BATCH_SIZE, SIZE, SIZE, 3), np.uint8) for _ in range(count)]

    def decode(batch: np.ndarray) -> None:
        for data, pixels in zip(encoded, itertools.cycle(batch)):
            simplejpeg.decode_jpeg(data, "RGB", fastdct=True, buffer=pixels)

    def turn() -> Turn:
        threads = [threading.Thread(target=decode, args=(batch,)) for batch in batches]
        start, before = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Turn(count * len(encoded), time.perf_counter() - start, time.process_time() - before)

    return turn


def rival(process: rivals.Rival, task: str, batches: int) -> Contender:
    """Another library."""
    return lambda: Turn(batches * BATCH_SIZE, *process.run(task, batches))


def contenders(
    dataset_dir: pathlib.Path, input_dir: pathlib.Path, index: pathlib.Path, others: Mapping[str, rivals.Rival],
    batches: int,
) -> dict[str, Contender]:  # fmt: skip
    """All contenders by name, in the order of their turns."""
    import keras
    import tensorflow as tf

    from datasets.augmentation import AugmentConfig
    from datasets.input_pipeline import make_train

    def ours(augment: AugmentConfig | None, **options):
        return make_train(str(dataset_dir), batch_size=BATCH_SIZE, image_size=SIZE, augment=augment, **options)

    def mapped(layers: list):
        def apply(batch: dict) -> tf.Tensor:
            images = tf.cast(batch["image"], tf.float32)
            for layer in layers:
                images = layer(images, training=True)
            return images

        return ours(None).map(apply, len(os.sched_getaffinity(0))).prefetch(2)

    files = sorted(str(path) for path in (input_dir / "images").iterdir())[: BATCH_SIZE * 2]
    sys.path.append(environments.packages("grain"))  # for OpenCV
    many, few = batches, min(SLOW_BATCHES, batches)
    return {
        "DALI, decoded": rival(others["dali"], "decode", many),
        "ours, decoded": stream(ours(None), many),
        "Grain, decoded": rival(others["grain"], "decode", many),
        "ours, augmented": stream(ours(AugmentConfig()), many),
        "ours, augmented, any order": stream(ours(AugmentConfig(), deterministic=False), many),
        "Grain, augmented": rival(others["grain"], "augment", many),
        "DALI, augmented": rival(others["dali"], "augment", few),
        "keras-cv's layers": stream(mapped(_keras_cv_layers()), few),
        "Keras' layers": stream(mapped(_keras_layers(keras)), few),
        "cv2.imread and ImageDataGenerator, one core": single_thread(_image_data_generator(), files),
    }


def take_turns(
    dataset_dir: pathlib.Path, input_dir: pathlib.Path, work_dir: pathlib.Path, *, rounds: int, batches: int
) -> list[dict[str, Turn]]:
    """Every contender's turn in each round, between two of the decoder's; nothing of them runs on.

    A machine that others share is now faster, now slower, for seconds at a time, so D is measured beside each turn.
    """
    import simplejpeg

    index = rivals.write_index(dataset_dir, work_dir / "index")
    encoded = list(_encoded(index, DECODED))
    cores = len(os.sched_getaffinity(0))
    decoder = single_thread(lambda data: simplejpeg.decode_jpeg(data, "RGB"), encoded)
    taken = []
    with contextlib.ExitStack() as ending:
        others = {
            name: ending.enter_context(contextlib.closing(rivals.Rival(name, index))) for name in ("dali", "grain")
        }
        turns = {ALL_CORES: decoding_threads(encoded, cores)}
        turns |= contenders(dataset_dir, input_dir, index, others, batches)
        order = [*turns]
        after = order.index(AGAIN[0]) + 1
        order[after:after] = AGAIN
        for number in range(rounds):
            found, decoded = {name: [] for name in turns}, [_in_quiet(decoder)]
            for name in order:
                done = _in_quiet(turns[name])
                decoded.append(_in_quiet(decoder))
                found[name].append(dataclasses.replace(done, decoder=(decoded[-2].rate + decoded[-1].rate) / 2))
            taken.append({DECODER: _together(decoded)} | {name: _together(done) for name, done in found.items()})
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    shutil.rmtree(index)
    return taken


def _together(turns: list[Turn]) -> Turn:
    sums = (sum(getattr(turn, name) for turn in turns) for name in ("images", "seconds", "cpu"))
    return Turn(*sums, statistics.mean(turn.decoder for turn in turns))


def _in_quiet(turn: Contender) -> Turn:
    """A turn after the one before has made ahead what it makes ahead."""
    before, deadline = _cpu_seconds(), time.monotonic() + LONGEST_WAIT
    while True:
        time.sleep(QUIET_SECONDS)
        now = _cpu_seconds()
        if now - before < QUIET_CPU:
            return turn()
        if time.monotonic() > deadline:
            raise RuntimeError(f"a contender still works {LONGEST_WAIT:.0f} seconds after its turn")
        before = now


def _cpu_seconds() -> float:
    """Processor time of this process and of those below it."""
    ticks = 0
    for pid in processes.descendants(os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _encoded(index: pathlib.Path, count: int) -> Iterator[bytes]:
    paths = json.loads((index / "shards.json").read_text())
    for shard, offset, length in np.load(index / "images.npy")[:count].tolist():
        with open(paths[shard], "rb") as file:
            file.seek(offset)
            yield file.read(length)


def _keras_cv_layers() -> list:
    import keras_cv

    layers = keras_cv.layers
    return [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(15 / 360),
        layers.RandomZoom((-0.1, 0.1), (-0.1, 0.1)),
        layers.RandomTranslation((-0.1, 0.1), (-0.1, 0.1)),
        layers.RandomBrightness((-0.1, 0.1)),
        layers.RandomContrast((0, 255), 0.1),
    ]


def _keras_layers(keras) -> list:
    layers = keras.layers
    return [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(15 / 360),
        layers.RandomZoom(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomBrightness(0.1),
        layers.RandomContrast(0.1),
    ]


def _image_data_generator() -> Callable[[str], np.ndarray]:
    import cv2
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    cv2.setNumThreads(1)
    generator = ImageDataGenerator(
        horizontal_flip=True, rotation_range=15, zoom_range=0.1, width_shift_range=0.1, height_shift_range=0.1,
        brightness_range=(0.9, 1.1),
    )  # fmt: skip
    return lambda path: generator.random_transform(cv2.imread(path)[..., ::-1])
