"""How fast the input pipeline is, and what it needs, against other ways to read and augment the same faces.

    python -m benchmarks.input_pipeline [--small] [--output=FILE]

224×224 JPEG faces of 20 kB in a dataset that this project converted. Everything is measured in this one run: in each
round every contender has its turn, ratios are taken within a round, and the table gives their median and range. D is
what one thread of simplejpeg decodes in a second, the same bytes, in the same round.

DALI and Grain run in processes and environments of their own, which are made when they are missing. About fifteen
minutes on two cores; --small takes two and only shows that it works.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import environments, faces, rivals
from benchmarks.rival_protocol import BATCH_SIZE, WARM
from pipeline.records import DATASET, VERSION

SIZE = 224
QUALITY = 97
#: Seconds before each turn.
PAUSE = 1.0
#: Images of the default augmentation in other hands, in one round: they are slow.
SLOW_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      faces: in the dataset that is read.
      rounds: in which each contender has a turn.
      batches: of a turn.
      grown: examples and shards of the datasets whose start and memory are compared.
    """

    faces: int = 20_000
    rounds: int = 7
    batches: int = 60
    grown: tuple[tuple[int, int], ...] = ((1_000, 1), (100_000, 1), (100_000, 256))


SMALL = Scale(faces=1_000, rounds=1, batches=4, grown=((1_000, 1), (1_000, 4)))


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one contender did in one round."""

    images: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds an image."""
        return 1e3 * self.cpu / self.images


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


def rival(process: rivals.Rival, task: str, batches: int) -> Contender:
    """Another library."""
    return lambda: Turn(batches * BATCH_SIZE, *process.run(task, batches))


def contenders(dataset_dir: pathlib.Path, input_dir: pathlib.Path, work_dir: pathlib.Path, scale: Scale) -> dict:
    """All contenders by name, in the order of their turns."""
    import keras
    import simplejpeg
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

    index = rivals.write_index(dataset_dir, work_dir / "index")
    dali, grain = (rivals.Rival(name, index) for name in ("dali", "grain"))
    encoded = list(_encoded(index, 2_000))
    files = sorted(str(path) for path in (input_dir / "images").iterdir())[: BATCH_SIZE * 2]
    sys.path.append(environments.packages("grain"))  # for OpenCV
    many, few = scale.batches, min(SLOW_BATCHES, scale.batches)
    return {
        "simplejpeg, one thread (D)": single_thread(lambda data: simplejpeg.decode_jpeg(data, "RGB"), encoded),
        "ours, decoded": stream(ours(None), many),
        "ours, augmented": stream(ours(AugmentConfig()), many),
        "ours, augmented, any order": stream(ours(AugmentConfig(), deterministic=False), many),
        "keras-cv's layers": stream(mapped(_keras_cv_layers()), few),
        "Keras' layers": stream(mapped(_keras_layers(keras)), few),
        "cv2.imread and ImageDataGenerator, one core": single_thread(_image_data_generator(), files),
        "DALI, decoded": rival(dali, "decode", many),
        "DALI, augmented": rival(dali, "augment", few),
        "Grain, decoded": rival(grain, "decode", many),
        "Grain, augmented": rival(grain, "augment", many),
    }


def _in_quiet(turn: Contender) -> Turn:
    """A turn after a pause, in which the one before makes ahead what it makes ahead."""
    time.sleep(PAUSE)
    return turn()


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


def highest_demand(dataset_dir: pathlib.Path, rate: float, batches: int) -> float:
    """The largest part of `rate`, in images a second, that a consumer can ask for and wait less than 1 % of its time.

    The consumer sleeps for a step, as one that waits for an accelerator does.
    """
    from datasets.augmentation import AugmentConfig
    from datasets.input_pipeline import make_train

    dataset = make_train(str(dataset_dir), batch_size=BATCH_SIZE, image_size=SIZE, augment=AugmentConfig())
    iterator = iter(dataset)
    for demand in np.arange(1.0, 0.0, -0.02):
        step, waited = BATCH_SIZE / (rate * demand), 0.0
        for _ in range(WARM):
            next(iterator)
            time.sleep(step)
        start = time.perf_counter()
        for _ in range(batches):
            before = time.perf_counter()
            next(iterator)
            waited += time.perf_counter() - before
            time.sleep(step)
        if waited < 0.01 * (time.perf_counter() - start):
            return float(demand)
    return 0.0


def convert(input_dir: pathlib.Path, work_dir: pathlib.Path, *, shards: int = 0) -> pathlib.Path:
    """The dataset of a folder of faces, all of them in "train"; it is made once."""
    name = f"{input_dir.name}_{shards}" if shards else input_dir.name
    dataset_dir = work_dir / "data" / DATASET / name / VERSION
    if not dataset_dir.exists():
        flags = {"source": "affectnet", "input_dir": input_dir, "data_dir": work_dir / "data", "name": name}
        flags |= {"splits": "train:1"} | ({"num_shards": shards} if shards else {})
        command = [sys.executable, "-m", "pipeline.build_tfrecords", *(f"--{key}={flags[key]}" for key in flags)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dataset_dir


def grow(work_dir: pathlib.Path, scale: Scale) -> list[str]:
    """The start and the memory of training on datasets of several sizes, each in a process of its own."""
    lines = [f"{'examples':>9} {'shards':>7} {'first batch s':>14}   MB after each of three epochs"]
    for count, shards in scale.grown:
        dataset_dir = convert(faces.make(work_dir, count), work_dir, shards=shards)
        command = [sys.executable, "-m", "benchmarks.input_start", f"--dataset_dir={dataset_dir}"]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        megabytes = "  ".join(f"{size / 1e6:,.0f}" for size in measured["memory"])
        lines.append(f"{count:>9,} {shards:>7} {measured['first_batch']:>14.2f}   {megabytes}")
    return lines


def report(rounds: list[dict[str, Turn]], demand: float) -> str:
    """The tables."""
    lines = [f"{'':<46} {'images/s':>9} {'CPU ms/image':>13}   median of {len(rounds)} rounds"]
    for name in rounds[0]:
        rate, cpu = (statistics.median(getattr(turns[name], key) for turns in rounds) for key in ("rate", "cpu_ms"))
        lines.append(f"{name:<46} {rate:>9,.0f} {cpu:>13.3f}")
    cores = len(os.sched_getaffinity(0))
    decoder, *_ = rounds[0]
    lines += ["", f"{'ratio':<64} {'median':>7} {'range':>15}   goal"]

    def row(name: str, ratio: Callable[[dict[str, Turn]], float], goal: float) -> None:
        values = sorted(map(ratio, rounds))
        middle = statistics.median(values)
        reached = "yes" if middle >= goal else "NO"
        lines.append(f"{name:<64} {middle:>7.2f} {values[0]:>7.2f}–{values[-1]:<7.2f}   ≥ {goal:<5} {reached}")

    def rate(turns: dict[str, Turn], *names: str) -> float:
        return max(turns[name].rate for name in names)

    row("decoded / (cores × D)", lambda t: rate(t, "ours, decoded") / (cores * rate(t, decoder)), 0.90)
    row("augmented / (cores × D)", lambda t: rate(t, "ours, augmented") / (cores * rate(t, decoder)), 0.38)
    for name, goal in (("keras-cv's layers", 10), ("Keras' layers", 8)):
        row(f"augmented / {name}", lambda t, name=name: rate(t, "ours, augmented") / rate(t, name), goal)
    name = "cv2.imread and ImageDataGenerator, one core"
    row(f"augmented, per core / {name}", lambda t: rate(t, "ours, augmented") / cores / rate(t, name), 5)
    for task, goal in (("decoded", 1.0), ("augmented", 1.6)):
        others = [f"{library}, {task}" for library in ("DALI", "Grain")]
        row(
            f"{task} / the better of DALI and Grain",
            lambda t, task=task, others=others: rate(t, f"ours, {task}") / rate(t, *others),
            goal,
        )
    row(
        "augmented in order / in any",
        lambda t: rate(t, "ours, augmented") / rate(t, "ours, augmented, any order"),
        0.95,
    )
    lines += ["", f"a consumer that sleeps waits less than 1 % of its time up to {demand:.2f} of the augmented rate"]
    return "\n".join(lines)


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the tables, besides standard output")
    parser.add_argument(
        "--work_dir", type=pathlib.Path, default=pathlib.Path(".cache/benchmark"),
        help="on a disk, with 8 GB free; what is made there is used again",
    )  # fmt: skip
    flags = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    scale = SMALL if flags.small else Scale()
    work_dir = flags.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    for name in environments.ENVIRONMENTS:
        environments.make(name)
    input_dir = faces.make(work_dir, scale.faces, quality=QUALITY)
    dataset_dir = convert(input_dir, work_dir)
    turns = contenders(dataset_dir, input_dir, work_dir, scale)
    rounds = []
    for number in range(scale.rounds):
        rounds.append({name: _in_quiet(turn) for name, turn in turns.items()})
        print(f"round {number + 1} of {scale.rounds}", file=sys.stderr, flush=True)
    rate = statistics.median(turns["ours, augmented"].rate for turns in rounds)
    text = report(rounds, highest_demand(dataset_dir, rate, scale.batches))
    text += "\n\n" + "\n".join(grow(work_dir, scale))
    shutil.rmtree(work_dir / "index")
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
