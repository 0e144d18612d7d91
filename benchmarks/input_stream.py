"""Our stream alone: what a consumer can ask for, and how its start and memory grow with the dataset."""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import faces, measure
from benchmarks.input_contenders import SIZE
from benchmarks.input_start import EPOCHS
from benchmarks.rival_protocol import BATCH_SIZE, WARM
from pipeline.records import DATASET, VERSION

#: Times that what a consumer can ask for, and the start on each dataset, are measured.
PASSES = 3
#: Seconds after which a batch is ready for certain.
READY = 0.3


@dataclasses.dataclass(frozen=True)
class Start:
    """A training stream on one dataset, in a process of its own; of several times to the first batch the median.

    Attributes:
      examples, shards: of the dataset.
      place: (epoch, position) where the stream begins.
      first_batch: seconds from the imports to it.
      highest, mean: MB in each epoch.
    """

    examples: int
    shards: int
    place: tuple[int, int]
    first_batch: float
    highest: tuple[float, ...]
    mean: tuple[float, ...]


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


def grow(work_dir: pathlib.Path, datasets: Sequence[tuple[int, int, bool]]) -> list[Start]:
    """The start and the memory of training on datasets of several sizes, each time in a process of its own.

    Args:
      work_dir: where the datasets are, or are made.
      datasets: of each the examples, the shards, and whether the stream begins late in the last epoch.
    """
    starts = []
    for count, shards, late in datasets:
        dataset_dir = convert(faces.make(work_dir, count), work_dir, shards=shards)
        place = (EPOCHS - 1, count * 3 // 4 // BATCH_SIZE * BATCH_SIZE) if late else (0, 0)
        command = [sys.executable, "-m", "benchmarks.input_start", f"--dataset_dir={dataset_dir}"]
        command += [f"--start_epoch={place[0]}", f"--start_position={place[1]}"]
        # Epochs of the large datasets take minutes.
        runs = [_measured(command), *(_measured([*command, "--first_batch_only"]) for _ in range(PASSES - 1))]
        memory = (tuple(size / 1e6 for size in runs[0][name]) for name in ("highest", "mean"))
        starts.append(Start(count, shards, place, statistics.median(run["first_batch"] for run in runs), *memory))
    return starts


def _measured(command: list[str]) -> dict:
    """The JSON that a command prints; what it says otherwise is shown only when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)
