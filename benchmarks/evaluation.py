"""What an evaluation costs beside plain prediction: time, and memory of an added example, with the report and without.

    python -m benchmarks.evaluation

Drawn faces of 48 pixels, each file under many names. Time with an untrained custom_cnn, memory with a quarter of its
width. Each run is a process of its own; of several the least counts. Exit codes: 0 all goals are met, 1 one is not.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

_FACES, _SIZES, _TIMED, _RUNS = 500, (1_000, 100_000), 10_000, 3
#: Time of evaluation above plain prediction, and bytes of an added example.
_MOST_TIME, _MOST_BYTES = 0.05, 100
#: What is run beside plain prediction.
_KINDS = {"evaluate": "without the", "report": "with the"}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_one(*sys.argv[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        narrow, whole = _make(pathlib.Path(folder))
        memory, times = {}, {}
        for what in _KINDS:
            memory[what] = [_run(what, narrow, size)["memory"] for size in _SIZES]
        for what in ("predict", "evaluate") * _RUNS:
            times.setdefault(what, []).append(_run(what, whole, _TIMED, resamples=0)["seconds"])
    added = {what: (most - least) / (_SIZES[1] - _SIZES[0]) for what, (least, most) in memory.items()}
    share = min(times["evaluate"]) / min(times["predict"]) - 1
    for what, peaks in memory.items():
        sizes = ", ".join(f"{size:,} examples {peak / 1e6:,.1f} MB" for size, peak in zip(_SIZES, peaks))
        print(f"highest resident memory, {_KINDS[what]} report: {sizes}")
        print(f"bytes of an added example: {added[what]:.0f} (goal ≤ {_MOST_BYTES})")
    print(f"{_TIMED:,} examples, seconds:", {what: [round(one, 2) for one in all] for what, all in times.items()})
    print(f"evaluation above plain prediction: {100 * share:.1f} % (goal ≤ {100 * _MOST_TIME:.0f} %)")
    sys.exit(int(not (max(added.values()) <= _MOST_BYTES and share <= _MOST_TIME)))


def _make(folder: pathlib.Path) -> list[str]:
    """A dataset of the largest size, and work directories as trainings of two widths leave them."""
    from datasets import sample_faces
    from pipeline import conversion, publishing
    from pipeline.settings import Settings
    from trainers import config, model

    sample_faces.write_dataset(folder / "raw", count=_FACES, seed=0, image_size=48)
    faces, raw = sorted((folder / "raw" / "images").iterdir()), folder / "names"
    raw.mkdir()
    with open(raw / "labels.csv", "w") as file:
        file.write("image,expression,valence,arousal,split\n")
        for number in range(_SIZES[1]):
            os.link(faces[number % _FACES], raw / f"{number}.jpg")
            file.write(f"{number}.jpg,{number % 8},{(number % 201 - 100) / 100},{(number % 99 - 49) / 50},test\n")
    dataset = conversion.convert(Settings("csv", str(raw), str(folder), "many")).dataset_dir
    about = {"folder": dataset, "name": "many", "digest": publishing.digest(dataset)}
    about |= {"train_split": "test[:100]", "validation_split": "test[100:200]"}
    made = []
    for width in (0.25, 1.0):
        work = folder / f"work{width}"
        work.mkdir()
        settings = config.TrainConfig(
            data_dir=str(folder), name="many", backbone="custom_cnn", width=width, image_size=48
        )
        (work / "config.json").write_text(config.to_json(settings))
        (work / "environment.json").write_text(json.dumps({"dataset": about}))
        model.build(settings).save(work / "best.keras")
        made.append(str(work))
    return made


def _run(what: str, workdir: str, count: int, resamples: int = 1000) -> dict:
    command = [sys.executable, "-m", "benchmarks.evaluation", what, workdir, str(count), str(resamples)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _one(what: str, workdir: str, count: str, resamples: str) -> dict:
    """Seconds from the loaded model to the last file, and the process's highest memory in bytes."""
    from datasets.input_pipeline import make_eval
    from trainers import evaluation, subject

    chosen = subject.from_workdir(workdir, batch_size=64)
    folder, split = chosen.trained_on["folder"], f"test[:{count}]"
    for batch in make_eval(folder, "test[:64]", batch_size=64, image_size=48).as_numpy_iterator():
        chosen.predictor(batch["image"])  # compiles
    start = time.perf_counter()
    if what == "predict":
        for batch in make_eval(folder, split, batch_size=64, image_size=48).as_numpy_iterator():
            chosen.predictor(batch["image"])
    else:
        options = evaluation.Options(
            resamples=int(resamples), report=what == "report", allow_leak=True, allow_selection_split=True
        )
        evaluation.evaluate(chosen, folder, split, os.path.join(workdir, "eval"), options)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    main()
