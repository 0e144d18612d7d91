"""How long a training step takes, and how much of it is waiting for a batch.

    python -m benchmarks.training

For MobileNetV2 at 96 and 224 pixels, on drawn faces of 224 pixels, with the default augmentation:

- `resident`: the same batch again and again, nothing to be read;
- `real`: batches of the real pipeline, and which share of the time the loop waited in asking for one (goal: at most
  1 %);
- `pipeline`: the batches alone.

Where pipeline and step share the cores, as on a CPU, neither can hide behind the other. `predicted` is then the speed
of the real run over the resident one that their CPU times allow: resident / max(resident, (step + pipeline) / cores).
On an accelerator the step's own work costs no CPU time, and the prediction is 1 as long as the pipeline keeps up.

Then milliseconds per step of each precision, with and without XLA; on a CPU only float32 and bfloat16, without.
"""

import dataclasses
import itertools
import os
import pathlib
import statistics
import time
from collections.abc import Iterator

from absl import app, flags, logging

SIZES = (96, 224)
#: (backbone, pixels, batch) whose step is timed in each precision.
STEPS_OF = (("custom_cnn", 48, 128), ("mobilenet_v2", 96, 32))
_WARM_UP = 5
#: Steps between two looks at the scores, as in `trainers.training`, whose import would bring TensorFlow.
LOOK = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step or batch: seconds on the clock, of all processors together, and of waiting for a batch."""

    wall: float
    cpu: float
    waited: float = 0.0


def dataset(work_dir: pathlib.Path, count: int) -> pathlib.Path:
    """The data directory of drawn faces, 224 pixels; made once."""
    from benchmarks import faces
    from pipeline import conversion
    from pipeline.settings import Settings

    data = work_dir / f"training_{count}"
    if not data.exists():
        raw = faces.make(work_dir, count)
        conversion.convert(Settings("affectnet", str(raw), str(data), "faces", splits="train:0.9,validation:0.1"))
    return data


def configuration(data: pathlib.Path, backbone: str, image_size: int, batch_size: int, **given):
    """A TrainConfig; the cache is off, so that a batch costs what it costs on a large dataset."""
    from trainers.config import TrainConfig

    return TrainConfig(
        data_dir=str(data), name="faces", backbone=backbone, image_size=image_size, batch_size=batch_size,
        cache="none", epochs=10_000, **given,
    )  # fmt: skip


def learner_of(config):
    """(Learner, Streams) as `trainers.training` makes them."""
    import keras

    from trainers import devices, model, streams
    from trainers.step import Learner

    keras.backend.clear_session()
    place, data = devices.prepare(config), streams.Streams(config)
    network = model.build(dataclasses.replace(config, precision=place.precision))
    learner = Learner(network, config, strategy=place.strategy, float16=place.precision == "mixed_float16")
    learner.begin_phase(network.trainable_variables)
    return learner, data, place


def cost_of_steps(learner, batches: Iterator, steps: int) -> Cost:
    """The mean over `steps` steps, after a few that compile and fill queues."""
    waited = 0.0
    for index in range(_WARM_UP + steps):
        if index == _WARM_UP:
            learner.scores()  # waits for the device
            wall, cpu, waited = time.perf_counter(), time.process_time(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        learner.train(batch, 1e-3)
        if index % LOOK == 0:
            learner.scores()  # as training does: an accelerator must not fall behind without being waited for
    learner.scores()
    return Cost((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps, waited / steps)


def cost_of_batches(batches: Iterator, count: int) -> Cost:
    """The mean over `count` batches alone."""
    for _ in range(_WARM_UP):
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def compare_with_resident(data: pathlib.Path, image_size: int, steps: int, rounds: int) -> None:
    """Prints a line; resident, real and pipeline take turns, medians count."""
    learner, streams, place = learner_of(configuration(data, "mobilenet_v2", image_size, 32))
    found: dict[str, list[Cost]] = {"resident": [], "real": [], "pipeline": []}
    stream = streams.training(prefetch_to_device=place.gpu)
    kept = next(iter(stream))
    for _ in range(rounds):
        found["resident"].append(cost_of_steps(learner, itertools.repeat(kept), steps))
        found["real"].append(cost_of_steps(learner, iter(stream), steps))
        found["pipeline"].append(cost_of_batches(iter(stream), steps))
    median = {
        name: Cost(*(statistics.median(values) for values in zip(*map(dataclasses.astuple, costs))))
        for name, costs in found.items()
    }
    resident, real, pipeline = median["resident"], median["real"], median["pipeline"]
    cores = len(os.sched_getaffinity(0))
    predicted = resident.wall / max(resident.wall, (resident.cpu + pipeline.cpu) / cores)
    reached = real.waited <= 0.01 * real.wall
    print(
        f"{image_size:>6}{1000 * resident.wall:>12.1f}{1000 * real.wall:>8.1f}{1000 * pipeline.wall:>10.1f}"
        f"{real.waited / real.wall:>9.2%}{resident.wall / real.wall:>8.3f}{predicted:>11.3f}"
        f"{1000 * resident.cpu:>12.1f}{1000 * pipeline.cpu:>14.1f}   {'yes' if reached else 'NO'}",
        flush=True,
    )


def compare_precisions(data: pathlib.Path, backbone: str, image_size: int, batch_size: int, steps: int) -> None:
    """Prints a line for each precision, with and without XLA."""
    import tensorflow as tf

    gpu = bool(tf.config.list_physical_devices("GPU"))
    for precision in ("float32", "mixed_bfloat16", *["mixed_float16"] * gpu):
        for xla in (False, True) if gpu else (False,):
            config = configuration(data, backbone, image_size, batch_size, precision=precision, xla=xla)
            learner, streams, place = learner_of(config)
            batch = next(iter(streams.training(prefetch_to_device=place.gpu)))
            cost = cost_of_steps(learner, itertools.repeat(batch), steps)
            name = f"{backbone} {image_size} pixels, batch {batch_size}"
            print(f"{name:<40}{precision:<16}{'XLA' if xla else '':<5}{1000 * cost.wall:>9.1f} ms", flush=True)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    data = dataset(pathlib.Path(given.work_dir), given.faces)
    print(
        "pixels  resident ms    real  pipeline   waited   ratio  predicted  step cpu ms  batch cpu ms   reached",
        flush=True,
    )
    for size in SIZES:
        compare_with_resident(data, size, given.steps, given.rounds)
    print()
    for backbone, size, batch in STEPS_OF:
        compare_precisions(data, backbone, size, batch, given.steps)


def _define_flags() -> None:
    flags.DEFINE_string("work_dir", ".cache/benchmark", "Where the faces are kept.")
    flags.DEFINE_integer("faces", 4000, "How many faces.", lower_bound=1000)
    flags.DEFINE_integer("steps", 30, "Steps of each measurement.", lower_bound=1)
    flags.DEFINE_integer("rounds", 3, "Turns that the runs take.", lower_bound=1)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
