"""How fast the input pipeline is, and what it needs, against other ways to read and augment the same faces.

    python -m benchmarks.input_pipeline [--small] [--output=FILE]

224×224 JPEG faces of 20 kB in a dataset that this project converted. Everything is measured in this one run: in each
round every contender has its turn, ratios are taken within a round, and the table gives their median and range. D is
what one thread of simplejpeg decodes in a second, the same bytes, in the same round.

DALI and Grain run in processes and environments of their own, which are made when they are missing. Then, with those
gone: what a consumer can ask for, and how start and memory grow with the dataset. About half an hour on two cores;
--small takes three minutes and only shows that it works.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks import environments, faces, measure, rivals
from benchmarks.input_start import EPOCHS
from benchmarks.rival_protocol import BATCH_SIZE, WARM
from pipeline import processes
from pipeline.records import DATASET, VERSION

SIZE = 224
QUALITY = 97
#: A turn begins when all processes together took less than so many seconds of processor time in so many seconds.
QUIET_CPU, QUIET_SECONDS = 0.02, 0.25
#: Seconds after which that is given up.
LONGEST_WAIT = 60.0
#: Times that what a consumer can ask for, and the start on each dataset, are measured.
PASSES = 3
#: Seconds after which a batch is ready for certain.
READY = 0.3
#: Images of the default augmentation in other hands, in one round: they are slow.
SLOW_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      faces: in the dataset that is read.
      rounds: in which each contender has a turn.
      batches: of a turn.
      grown: examples and shards of the datasets whose start and memory are compared, smallest first, and whether the
        stream begins late in the last epoch.
    """

    faces: int = 20_000
    rounds: int = 5
    batches: int = 60
    grown: tuple[tuple[int, int, bool], ...] = (
        (1_000, 1, False), (100_000, 1, False), (100_000, 256, False), (100_000, 256, True),
    )  # fmt: skip


SMALL = Scale(faces=1_000, rounds=1, batches=4, grown=((1_000, 1, False), (1_000, 4, False), (1_000, 4, True)))


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


@dataclasses.dataclass(frozen=True)
class Start:
    """A training stream on one dataset, in a process of its own; of several times to the first batch the median.

    Attributes:
      examples, shards: of the dataset.
      place: (epoch, position) where the stream begins.
      first_batch: seconds from the imports to it.
      memory: MB after each epoch, the highest until then.
    """

    examples: int
    shards: int
    place: tuple[int, int]
    first_batch: float
    memory: tuple[float, ...]


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


def contenders(
    dataset_dir: pathlib.Path, input_dir: pathlib.Path, index: pathlib.Path, others: Mapping[str, rivals.Rival],
    scale: Scale,
) -> dict[str, Contender]:  # fmt: skip
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
        "DALI, decoded": rival(others["dali"], "decode", many),
        "DALI, augmented": rival(others["dali"], "augment", few),
        "Grain, decoded": rival(others["grain"], "decode", many),
        "Grain, augmented": rival(others["grain"], "augment", many),
    }


def take_turns(
    dataset_dir: pathlib.Path, input_dir: pathlib.Path, work_dir: pathlib.Path, scale: Scale
) -> list[dict[str, Turn]]:
    """Every contender's turn in each round; nothing of them runs on."""
    index = rivals.write_index(dataset_dir, work_dir / "index")
    rounds = []
    with contextlib.ExitStack() as ending:
        others = {
            name: ending.enter_context(contextlib.closing(rivals.Rival(name, index))) for name in ("dali", "grain")
        }
        turns = contenders(dataset_dir, input_dir, index, others, scale)
        for number in range(scale.rounds):
            rounds.append({name: _in_quiet(turn) for name, turn in turns.items()})
            print(f"round {number + 1} of {scale.rounds}", file=sys.stderr, flush=True)
    shutil.rmtree(index)
    return rounds


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


def highest_demand(dataset_dir: pathlib.Path, rate: float, batches: int) -> float:
    """The largest part of `rate`, in images a second, that a consumer can ask for and wait less than 1 % of its time.

    The consumer sleeps for a step, as one that waits for an accelerator does. The call takes a moment also when a batch
    is ready; what it takes beyond that is waiting. The median of several passes; 0 when it is below a half.
    """
    from datasets.augmentation import AugmentConfig
    from datasets.input_pipeline import make_train

    dataset = make_train(str(dataset_dir), batch_size=BATCH_SIZE, image_size=SIZE, augment=AugmentConfig())
    iterator = iter(dataset)
    for _ in range(WARM):
        next(iterator)
    ready = statistics.median(_asked(iterator, READY) for _ in range(WARM))
    return statistics.median(_demand(iterator, rate, batches, ready) for _ in range(PASSES))


def _asked(iterator: Iterator, pause: float) -> float:
    """Seconds that the call for a batch takes after a pause."""
    time.sleep(pause)
    before = time.perf_counter()
    next(iterator)
    return time.perf_counter() - before


def _demand(iterator: Iterator, rate: float, batches: int, ready: float) -> float:
    for demand in np.arange(1.0, 0.48, -0.02):
        step, waited = BATCH_SIZE / (rate * demand), 0.0
        for _ in range(WARM):
            next(iterator)
            time.sleep(step)
        start = time.perf_counter()
        for _ in range(batches):
            waited += max(_asked(iterator, step) - ready, 0.0)
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
        measure.run(command)
    return dataset_dir


def grow(work_dir: pathlib.Path, scale: Scale) -> list[Start]:
    """The start and the memory of training on datasets of several sizes, each time in a process of its own."""
    starts = []
    for count, shards, late in scale.grown:
        dataset_dir = convert(faces.make(work_dir, count), work_dir, shards=shards)
        place = (EPOCHS - 1, count * 3 // 4 // BATCH_SIZE * BATCH_SIZE) if late else (0, 0)
        command = [sys.executable, "-m", "benchmarks.input_start", f"--dataset_dir={dataset_dir}"]
        command += [f"--start_epoch={place[0]}", f"--start_position={place[1]}"]
        # Epochs of the large datasets take minutes.
        runs = [_measured(command), *(_measured([*command, "--first_batch_only"]) for _ in range(PASSES - 1))]
        memory = tuple(size / 1e6 for size in runs[0]["memory"])
        first_batch = statistics.median(run["first_batch"] for run in runs)
        starts.append(Start(count, shards, place, first_batch, memory))
    return starts


def _measured(command: list[str]) -> dict:
    """The JSON that a command prints; what it says otherwise is shown only when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def report(rounds: list[dict[str, Turn]], demand: float) -> str:
    """The tables of the turns."""
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
    lines += [
        "",
        f"a consumer that sleeps waits less than 1 % of its time up to {demand:.2f} of the augmented rate",
        "",
        "DALI fills what lies beyond the border with black and turns contrast about mid-grey; ours reflects the image",
        "there and turns contrast about the mean of each channel, as Grain does here.",
        "Ours decodes with libjpeg-turbo's fast integer transform; simplejpeg (D and Grain) and DALI take its accurate",
        "one, which costs a few per cent more.",
    ]
    return "\n".join(lines)


def report_growth(starts: Sequence[Start]) -> str:
    """The table of the starts, and what it comes to."""
    lines = [
        f"{'examples':>9} {'shards':>7} {'from epoch, position':>21} {'first batch s':>14}   "
        "highest MB until the end of each epoch"
    ]
    for start in starts:
        place, megabytes = f"{start.place[0]}, {start.place[1]:,}", "  ".join(f"{size:,.0f}" for size in start.memory)
        lines.append(f"{start.examples:>9,} {start.shards:>7} {place:>21} {start.first_batch:>14.2f}   {megabytes}")
    lines += ["", f"{'':<64} {'measured':>9}   goal"]

    def row(name: str, value: float, goal: float | None = None) -> None:
        judged = "" if goal is None else f"   ≤ {goal:<5} {'yes' if value <= goal else 'NO'}"
        lines.append(f"{name:<64} {value:>9.2f}{judged}")

    whole = [start for start in starts if start.place == (0, 0)]
    smallest, *_, largest = whole
    row("first batch, seconds after the imports, the slowest", max(start.first_batch for start in starts), 2.0)
    row("memory, GB, the highest", max(start.memory[-1] for start in starts) / 1e3, 1.5)
    # An epoch of the smallest is seven batches, which end before every buffer is full.
    grown = max(start.memory[-1] / start.memory[0] for start in whole if start.examples == largest.examples)
    row("memory of the largest datasets, after the last epoch / the first", grown, 1.05)
    row("first batch, largest dataset / smallest", largest.first_batch / smallest.first_batch)
    row("memory, largest dataset / smallest", largest.memory[-1] / smallest.memory[-1])
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
    rounds = take_turns(dataset_dir, input_dir, work_dir, scale)
    rate = statistics.median(turns["ours, augmented"].rate for turns in rounds)
    text = report(rounds, highest_demand(dataset_dir, rate, scale.batches))
    text += "\n\n" + report_growth(grow(work_dir, scale))
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
