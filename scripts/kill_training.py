"""Kills a training at random moments, again and again, and compares what comes out in the end.

    python scripts/kill_training.py --times=20

A small network is trained once undisturbed on drawn faces. Then the same command is started and killed with SIGKILL
at a random moment of its work, in steps, validations and saves alike; one in ten while it starts up. The next start
goes on where it was, until one gets through: that is a round. After each round the last state (every weight, moment,
average, seed and sum), the weights of best.keras and history.csv must be the undisturbed ones byte for byte.
Rounds follow until there were so many kills.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Everything that a state must hold is on; a save after every few steps.
OPTIONS = (
    "--backbone=custom_cnn", "--width=0.25", "--image_size=32", "--shared_units=16", "--batch_size=16", "--epochs=6",
    "--phases=heads@0,all@2:3e-3", "--dropout=0.2", "--ema=0.9", "--weighting=uncertainty", "--optimizer=adamw",
    "--weight_decay=0.01", "--mixup=0.2", "--schedule=cosine", "--monitor=score", "--plateau_patience=1",
    "--save_minutes=0.01", "--notensorboard",
)  # fmt: skip
_WHILE_STARTING = 0.1


@dataclasses.dataclass
class Tally:
    """What happened.

    Attributes:
      kills: how many processes were killed.
      rounds: how many trainings came to their end after kills, each compared.
      moments: kills by what the process was about: "starting", "working", "saving" (a file was half written).
      problems: one line each; empty when all is well.
    """

    kills: int = 0
    rounds: int = 0
    moments: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)


class Training:
    """One work directory, trained in as many starts as it takes; `changes` are flags that override OPTIONS."""

    def __init__(
        self, data_dir: pathlib.Path, workdir: pathlib.Path, *, name: str = "faces", changes: tuple[str, ...] = ()
    ):
        self.workdir = workdir
        self.flags = [f"--data_dir={data_dir}", f"--name={name}", f"--workdir={workdir}", *OPTIONS, *changes]
        self._command = [sys.executable, "-m", "trainers.train", *self.flags]

    def start(self, *, after_start: float | None = None, after_work: float | None = None) -> int:
        """Runs the command; kills it so many seconds after its start or its first step; returns its exit code."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            self._command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.said, self.work_began = [], None
        began = time.monotonic()

        def listen() -> None:
            for line in process.stdout:
                self.said.append(line)
                if line.startswith("first step"):
                    self.work_began = time.monotonic()

        listener = threading.Thread(target=listen)
        listener.start()
        while process.poll() is None:
            now = time.monotonic()
            started = after_start is not None and now - began > after_start
            worked = after_work is not None and self.work_began is not None and now - self.work_began > after_work
            if started or worked:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        listener.join()
        self.seconds = time.monotonic() - began
        self.seconds_at_work = time.monotonic() - (self.work_began or time.monotonic())
        return process.returncode

    @property
    def half_written(self) -> bool:
        """Whether the killed process left a file that it was writing."""
        return any(self.workdir.glob(".*.*.*")) or any((self.workdir / "state").glob(".*.*.*"))

    def results(self) -> dict[str, str]:
        """sha256 of what must not depend on kills."""
        state = max((self.workdir / "state").glob("*.state"))
        with zipfile.ZipFile(self.workdir / "best.keras") as archive:  # its other parts hold a date
            best = archive.read("model.weights.h5")
        contents = {state.name: state.read_bytes(), "best.keras": best}
        contents["history.csv"] = (self.workdir / "history.csv").read_bytes()
        return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def kill_again_and_again(data_dir: pathlib.Path, work: pathlib.Path, *, times: int, seed: int = 0) -> Tally:
    """Trains undisturbed, then with kills.

    Args:
      data_dir: holds the dataset "faces".
      work: an empty directory.
      times: how many kills.
      seed: of the moments.
    """
    chance, tally = random.Random(seed), Tally()
    undisturbed = Training(data_dir, work / "undisturbed")
    if undisturbed.start() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{''.join(undisturbed.said)}")
    expected = undisturbed.results()
    starting, working = undisturbed.seconds - undisturbed.seconds_at_work, undisturbed.seconds_at_work
    while tally.kills < times and not tally.problems:
        training = Training(data_dir, work / f"round{tally.rounds}")
        while True:
            moment = {}
            if tally.kills < times and chance.random() < _WHILE_STARTING:
                moment = {"after_start": chance.uniform(0, starting)}
            elif tally.kills < times:
                # Half of the work: a run that goes on has less to do.
                moment = {"after_work": chance.uniform(0, working / 2)}
            code = training.start(**moment)
            if code != -signal.SIGKILL:
                break
            tally.kills += 1
            about = "working" if training.work_began else "starting"
            tally.moments["saving" if training.half_written else about] += 1
        if code != 0:
            tally.problems.append(f"exit {code}: {''.join(training.said)[-2000:]}")
            break
        found = training.results()
        tally.problems += [f"{name} differs" for name in expected if found.get(name) != expected[name]]
        tally.rounds += 1
    return tally


def main(argv: list[str]) -> int:
    """Parses flags, kills, and says what happened; returns the exit code."""
    del argv
    sys.path.insert(0, str(ROOT))
    from datasets import sample_faces
    from pipeline import conversion
    from pipeline.settings import Settings

    with tempfile.TemporaryDirectory(prefix="kill_training_") as folder:
        raw, data = pathlib.Path(folder) / "raw", pathlib.Path(folder) / "data"
        sample_faces.write_dataset(raw, count=flags.FLAGS.faces, seed=0, image_size=48)
        conversion.convert(Settings("affectnet", str(raw), str(data), "faces", num_shards=2))
        tally = kill_again_and_again(data, pathlib.Path(folder), times=flags.FLAGS.times, seed=flags.FLAGS.seed)
    moments = ", ".join(f"{name} {count}" for name, count in tally.moments.items())
    print(f"{tally.kills} kills ({moments}) in {tally.rounds} rounds")
    for problem in tally.problems:
        print(f"PROBLEM: {problem}")
    if not tally.problems:
        print("every round came to the undisturbed weights, state and history")
    return 1 if tally.problems else 0


def _define_flags() -> None:
    flags.DEFINE_integer("times", 20, "How many kills.", lower_bound=1)
    flags.DEFINE_integer("faces", 400, "How many faces are drawn.", lower_bound=100)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
