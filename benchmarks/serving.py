"""How fast an exported model answers, against the bare Keras model on decoded images, what loading it needs, and how
long exporting a ResNet50 takes.

    python -m benchmarks.serving [--backbone=mobilenet_v2] [--small] [--output=FILE]

The model has random weights; images are drawn faces, JPEGs of the model's own size unless --side says another. All
commands of a batch size take turns in one process, figures are medians. LiteRT and ONNX files take decoded, resized
images, and are there when their packages are. About five minutes on two cores; --small takes one, exports the same
backbone, and only shows that it works. Exit code 1: a goal was missed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

BATCHES = (1, 8, 64)
RATIO = 0.9
#: Of `python -m export.export_model`, from its start to its end.
EXPORT_SECONDS = 60

Calls = dict[str, Callable[[int], object]]


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=0, help="of the JPEGs in pixels; 0 is the model's own")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if flags.load:
        print(json.dumps(load(flags.load)))
        return
    figures = run(flags.backbone, side=flags.side, seconds=0.2 if flags.small else 5.0, turns=2 if flags.small else 5)
    figures["export"] = export(flags.backbone if flags.small else "resnet50")
    goals = goals_of(figures)
    for line in report(figures):
        print(line)
    for line, reached in goals.items():
        print(f"{line}: {'reached' if reached else 'NOT reached'}")
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(int(not flags.small and not all(goals.values())))


def run(backbone: str, *, side: int, seconds: float, turns: int) -> dict:
    """Exports a model and measures it.

    Args:
      backbone: a row of `trainers.backbones`.
      side: of the JPEGs in pixels; 0 is the model's own.
      seconds: that each command runs in all, for each batch size.
      turns: of each command, at each batch size.
    """
    import numpy as np
    import simplejpeg
    import tensorflow as tf

    from datasets import preprocessing, sample_faces
    from export import serving
    from trainers import model as models
    from trainers.config import TrainConfig

    config = TrainConfig(backbone=backbone)
    model, size = models.build(config), config.input_size
    side = side or size
    drawn = [sample_faces.draw_face(number, number % 8, 0.0, 0.3, side)[0] for number in range(max(BATCHES))]
    encoded = [simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95) for pixels in drawn]
    images = np.stack([preprocessing.decode_and_resize(image, size).numpy() for image in encoded])
    decoded = {batch: tf.constant(images[:batch]) for batch in BATCHES}
    texts = {batch: tf.constant(encoded[:batch]) for batch in BATCHES}
    figures = {
        "backbone": backbone, "image_size": size, "jpeg_side": side, "cores": len(os.sched_getaffinity(0)),
        "jpeg_bytes": statistics.mean(map(len, encoded)), "batches": {}, "latency_ms": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "saved_model"
        start = time.perf_counter()
        serving.save(model, folder)
        figures["save_seconds"] = time.perf_counter() - start
        signatures = tf.saved_model.load(str(folder)).signatures
        bare = tf.function(lambda batch: model(batch, training=False))
        calls: Calls = {
            "keras": lambda batch: bare(decoded[batch])["expression"].numpy(),
            "serving_bytes": lambda batch: signatures["serving_bytes"](image_bytes=texts[batch])["expression"].numpy(),
            "serving_default": lambda batch: signatures["serving_default"](images=decoded[batch])["expression"].numpy(),
        }
        small = _smaller_forms(model, images, pathlib.Path(temporary))
        calls |= {name: lambda batch, call=call: call(images[:batch]) for name, (call, _) in small.items()}
        for batch in BATCHES:
            times = _taking_turns(calls, batch, seconds, turns)
            figures["batches"][batch] = {name: batch / statistics.median(values) for name, values in times.items()}
            if batch == 1:
                figures["latency_ms"] = {name: _percentiles(values) for name, values in times.items()}
        command = [sys.executable, "-m", "benchmarks.serving", f"--load={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures["load"] = json.loads(done.stdout)
        figures["bytes"] = {"saved_model": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())}
        figures["bytes"] |= {name: bytes for name, (_, bytes) in small.items()}
    return figures


def export(backbone: str) -> dict:
    """How long `python -m export.export_model` takes, with drawn faces to check it, as its dataset is not there."""
    from trainers import model as models
    from trainers.config import TrainConfig
    from trainers.workdir import Workdir

    dataset = {"folder": "gone", "name": "drawn", "digest": "", "train_split": "train"}
    dataset |= {"validation_split": "validation", "examples": None}
    config = TrainConfig(backbone=backbone)
    with tempfile.TemporaryDirectory() as temporary:
        place = Workdir(pathlib.Path(temporary) / "work")
        place.begin(config, {"dataset": dataset, "versions": {}})
        place.save_best(models.build(config))
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "export.export_model", f"--workdir={place.folder}"], capture_output=True, check=True
        )
        return {"backbone": backbone, "seconds": time.perf_counter() - start}


def load(folder: str) -> dict:
    """Loading a SavedModel in this process: seconds, and MB after TensorFlow, the model, and an answer of 64 images."""
    import tensorflow as tf

    memory = [_resident()]
    start = time.perf_counter()
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    seconds = time.perf_counter() - start
    memory.append(_resident())
    size = 224  # resized to the model's own
    start = time.perf_counter()
    signature(images=tf.zeros([1, size, size, 3], tf.uint8))
    first = time.perf_counter() - start
    signature(images=tf.zeros([max(BATCHES), size, size, 3], tf.uint8))
    memory.append(_resident())
    return {"seconds": seconds, "first_answer_seconds": first, "mb": [round(bytes / 1e6) for bytes in memory]}


def report(figures: dict) -> list[str]:
    """The figures as lines of text."""
    lines = [
        f"{figures['backbone']} at {figures['image_size']} pixels; JPEGs of {figures['jpeg_side']} pixels and "
        f"{figures['jpeg_bytes'] / 1000:.1f} kB; {figures['cores']} cores",
        "",
        f"{'images/s':<18}" + "".join(f"{f'batch {batch}':>12}" for batch in figures["batches"])
        + f"{'p50 ms':>12}{'p95 ms':>10}{'p99 ms':>10}{'MB':>10}",
    ]  # fmt: skip
    for name in figures["batches"][1]:
        rates = "".join(f"{rates[name]:>12.1f}" for rates in figures["batches"].values())
        latency = "  " + "".join(f"{value:>10.2f}" for value in figures["latency_ms"][name])
        size = figures["bytes"].get("saved_model" if name.startswith("serving") else name)
        lines.append(f"{name:<18}{rates}{latency}" + (f"{size / 1e6:>10.1f}" if size else ""))
    loaded = figures["load"]
    before, after, busy = loaded["mb"]
    lines += [
        "",
        f"load {loaded['seconds']:.2f} s, first answer {loaded['first_answer_seconds']:.2f} s; memory {before} MB with "
        f"TensorFlow alone, {after} MB with the model, {busy} MB after an answer of {max(BATCHES)} images",
        f"saving takes {figures['save_seconds']:.1f} s",
    ]
    for batch in BATCHES[:-1]:  # the last has a goal
        rates = figures["batches"][batch]
        lines.append(f"serving_bytes / keras at batch {batch}: {rates['serving_bytes'] / rates['keras']:.2f}")
    return lines


def goals_of(figures: dict) -> dict[str, bool]:
    """Each goal as a line of text, and whether it was reached."""
    rates, exported = figures["batches"][max(BATCHES)], figures["export"]
    ratio = rates["serving_bytes"] / rates["keras"]
    return {
        f"serving_bytes / keras at batch {max(BATCHES)} {ratio:.2f}, goal at least {RATIO}": ratio >= RATIO,
        f"exporting {exported['backbone']} takes {exported['seconds']:.1f} s, goal below {EXPORT_SECONDS} s": (
            exported["seconds"] < EXPORT_SECONDS
        ),
    }


def _smaller_forms(model, images, folder: pathlib.Path) -> dict[str, tuple[Callable, int]]:
    """{name: (call, bytes)} of the forms whose packages are installed."""
    from export import converters
    from pipeline.errors import EnvironmentFault

    found = {}
    for kind in converters.FORMATS:
        try:
            converters.require([kind])
        except EnvironmentFault as error:
            print(f"without {kind}: {error}", file=sys.stderr)
            continue
        for form, path in converters.convert(model, folder, [kind], calibration=lambda: images):
            found[form.name] = form.start(path), path.stat().st_size
    return found


def _taking_turns(calls: Calls, batch: int, seconds: float, turns: int) -> dict[str, list[float]]:
    """Seconds of each call, by command."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(batch)  # compiles
        call(batch)
    for _ in range(turns):
        for name, call in calls.items():
            end = time.perf_counter() + seconds / turns
            while True:
                start = time.perf_counter()
                call(batch)
                now = time.perf_counter()
                times[name].append(now - start)
                if now >= end:
                    break
    return times


def _percentiles(seconds: list[float]) -> list[float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [1000 * cuts[index] for index in (49, 94, 98)]


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
