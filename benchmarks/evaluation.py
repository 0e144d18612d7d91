"""What an evaluation costs beside plain prediction: time, and memory of an added example, with the report and without.

    python -m benchmarks.evaluation

Drawn faces of 48 pixels, each under many names. Time without intervals and pages, with two untrained networks: what
an evaluation adds does not depend on the network, so the quicker one is the worst case; the goal is for both.
Memory with intervals, and a network of a quarter of the width: the highest during the evaluation above what the
process holds before it, with the model loaded and compiled, which differs by 15 MB from one process to the next. Each
run is a process of its own; of times the median of paired rounds counts, of memory the least. Exit codes: 0 all goals
are met, 1 one is not.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import measure

_SIZES, _TIMED = (1_000, 100_000), 10_000
#: How often what is compared takes turns.
_ROUNDS = {"seconds": 5, "memory": 3}
#: Names of each split, and the drawn faces behind them; no face is in two splits, so there is no leak to look into.
_SPLITS = {"train": (20_000, 100), "validation": (2_000, 50), "test": (_SIZES[1], 350)}
#: Backbone, width and image size of the networks that are timed.
_NETWORKS = (("mobilenet_v2", 1.0, 96), ("custom_cnn", 1.0, 48))
_NARROW = ("custom_cnn", 0.25, 48)
#: Time of evaluation above plain prediction, and bytes of an added example.
_MOST_TIME, _MOST_BYTES = 0.05, 100
#: What is run beside plain prediction.
_KINDS = {"evaluate": "without the", "report": "with the"}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_one(*sys.argv[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = _make(pathlib.Path(folder))
        seconds = {net: _rounds("seconds", ("predict", "evaluate"), work[net], _TIMED, 0) for net in _NETWORKS}
        peaks = [np.min(_rounds("memory", tuple(_KINDS), work[_NARROW], size, 1000), 0) for size in _SIZES]
    memory = dict(zip(_KINDS, np.transpose(peaks)))
    added = {what: (most - least) / (_SIZES[1] - _SIZES[0]) for what, (least, most) in memory.items()}
    shares = {network: np.median([both / plain - 1 for plain, both in rounds]) for network, rounds in seconds.items()}
    for what, peaks in memory.items():
        sizes = ", ".join(f"{size:,} examples {peak / 1e6:,.1f} MB" for size, peak in zip(_SIZES, peaks))
        print(f"memory that an evaluation takes, {_KINDS[what]} report: {sizes}")
        print(f"bytes of an added example: {added[what]:.0f} (goal ≤ {_MOST_BYTES})")
    for network, rounds in seconds.items():
        (name, _, size), (plain, evaluation) = network, np.median(rounds, 0)
        print(f"{_TIMED:,} examples, {name} at {size} pixels: prediction {plain:.1f} s, evaluation {evaluation:.1f} s")
        print(f"evaluation above plain prediction: {100 * shares[network]:.1f} % (goal ≤ {100 * _MOST_TIME:.0f} %)")
    sys.exit(int(not (max(added.values()) <= _MOST_BYTES and max(shares.values()) <= _MOST_TIME)))


def _make(folder: pathlib.Path) -> dict[tuple, str]:
    """A dataset of the largest size, and for each network a work directory as its training leaves it."""
    from datasets import sample_faces
    from pipeline import conversion, publishing
    from pipeline.settings import Settings
    from trainers import config, model

    sample_faces.write_dataset(folder / "raw", count=sum(faces for _, faces in _SPLITS.values()), seed=0, image_size=48)
    faces, raw = sorted((folder / "raw" / "images").iterdir()), folder / "names"
    raw.mkdir()
    with open(raw / "labels.csv", "w") as file:
        file.write("image,expression,valence,arousal,split\n")
        for split, (names, count) in _SPLITS.items():
            own, faces = faces[:count], faces[count:]
            for number in range(names):
                os.link(own[number % count], raw / f"{split}{number}.jpg")
                labels = f"{number % 8},{(number % 201 - 100) / 100},{(number % 99 - 49) / 50}"
                file.write(f"{split}{number}.jpg,{labels},{split}\n")
    dataset = conversion.convert(Settings("csv", str(raw), str(folder), "many")).dataset_dir
    about = {"folder": dataset, "name": "many", "digest": publishing.digest(dataset)}
    about |= {"train_split": "train", "validation_split": "validation"}
    made = {}
    for backbone, width, size in (_NARROW, *_NETWORKS):
        work = folder / f"{backbone}{width}"
        work.mkdir()
        settings = config.TrainConfig(
            data_dir=str(folder), name="many", backbone=backbone, width=width, image_size=size
        )
        (work / "config.json").write_text(config.to_json(settings))
        (work / "environment.json").write_text(json.dumps({"dataset": about}))
        model.build(settings).save(work / "best.keras")
        made[backbone, width, size] = str(work)
    return made


def _rounds(figure: str, kinds: Sequence[str], *arguments) -> list[list[float]]:
    return [[_run(kind, *arguments)[figure] for kind in kinds] for _ in range(_ROUNDS[figure])]


def _run(what: str, workdir: str, count: int, resamples: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.evaluation", what, workdir, str(count), str(resamples)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _one(what: str, workdir: str, count: str, resamples: str) -> dict:
    """Seconds from the loaded model to the last file, and the process's highest memory in bytes."""
    from datasets.input_pipeline import make_eval
    from trainers import evaluation, heap, subject

    chosen = subject.from_workdir(workdir, batch_size=64)
    folder, split, size = chosen.trained_on["folder"], f"test[:{count}]", chosen.predictor.image_size
    for batch in make_eval(folder, "test[:64]", batch_size=64, image_size=size).as_numpy_iterator():
        chosen.predictor(batch["image"])  # compiles
    heap.give_back()
    measure.forget_highest()
    before = measure.resident()
    start = time.perf_counter()
    if what == "predict":
        for batch in make_eval(folder, split, batch_size=64, image_size=size).as_numpy_iterator():
            chosen.predictor(batch["image"])
    else:
        options = evaluation.Options(resamples=int(resamples), report=what == "report")
        evaluation.evaluate(chosen, folder, split, os.path.join(workdir, "eval"), options)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": measure.highest_resident() - before}


if __name__ == "__main__":
    main()
