"""Trains several recipes and backbones in turn, each in a process of its own.

    python -m trainers.sweep --data_dir=DATA --name=NAME --workdir=SWEEP --recipes=top50,strong --backbones=resnet50

Each combination has the work directory SWEEP/RECIPE-BACKBONE and is trained as `trainers.train` trains it; the other
flags go to all. A process of its own gives all memory back at its end. When one fails the others are trained all the
same; a table of the best epochs comes last, and the exit code is that of the first failure. The same command goes on
where a sweep ended. SIGTERM and Ctrl-C let the training at work save itself, and end the sweep with 143 or 130.
"""

import csv
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time

from absl import flags

from pipeline import command
from pipeline.errors import UsageError
from trainers import train
from trainers.backbones import BACKBONES
from trainers.config import TrainConfig
from trainers.recipes import RECIPES

#: Seconds that a training has to save itself, once it was told to end.
_GRACE = 10.0
_SHOWN = ("loss", "accuracy", "macro_f1", "valence_ccc", "arousal_ccc", "score")


@dataclasses.dataclass(frozen=True)
class _Run:
    """One combination: its work directory and the exit code of its process."""

    folder: pathlib.Path
    code: int


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("workdir", None, "Directory that the runs' directories are made in.", required=True)
    flags.DEFINE_list("recipes", None, f"Of {', '.join(RECIPES)}.", required=True)
    flags.DEFINE_list("backbones", [], f"Of {', '.join(BACKBONES)}; empty is each recipe's own.")
    train.define_config_flags()
    command.run(_sweep)


def _sweep() -> None:
    given = flags.FLAGS
    for name in ("recipe", "backbone"):
        if given[name].value is not None:
            raise UsageError(f"--{name} is not accepted; give --{name}s=A,B")
    combinations = [(recipe, backbone) for recipe in given.recipes for backbone in given.backbones or [None]]
    configs = [train.config_from_flags(*combination) for combination in combinations]  # all are checked first
    shared = [
        f"--{field.name}={_as_flag(given[field.name].value)}"
        for field in dataclasses.fields(TrainConfig)
        if given[field.name].value is not None
    ]
    runs, heard = [], []
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda number, _: heard.append(number))
    for number, ((recipe, _), config) in enumerate(zip(combinations, configs), 1):
        folder = pathlib.Path(given.workdir).expanduser() / f"{recipe}-{config.backbone}"
        command.say(f"--- {number} of {len(configs)}: {folder}")
        arguments = [*shared, f"--recipe={recipe}", f"--backbone={config.backbone}", f"--workdir={folder}"]
        code = _exit_code([sys.executable, "-m", "trainers.train", *arguments], heard)
        if heard:
            raise SystemExit(128 + heard[0])
        runs.append(_Run(folder, code))
        if code in (130, 143):  # the user's signal is meant for all
            break
    _print_table(runs)
    if failed := [run.code for run in runs if run.code]:
        raise SystemExit(failed[0])


def _exit_code(arguments: list[str], heard: list[int]) -> int:
    """That of a process, 128 + N when signal N ended it. A signal that comes to be heard is passed on.

    The process has a session of its own: Ctrl-C in a terminal would reach it twice, and the second one means at once.
    """
    process = subprocess.Popen(arguments, start_new_session=True)
    while process.poll() is None and not heard:
        time.sleep(0.1)
    if heard:
        process.send_signal(heard[0])
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _as_flag(value) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _print_table(runs: list[_Run]) -> None:
    width = max(len(run.folder.name) for run in runs)
    command.say(f"{'best epoch, validation':<{width}}  epoch" + "".join(f"{name:>13}" for name in _SHOWN))
    for run in runs:
        if run.code:
            command.say(f"{run.folder.name:<{width}}  failed with exit code {run.code}")
            continue
        row = _best_row(run.folder)
        figures = [f"{float(row[f'val_{name}']):>13.4f}" if f"val_{name}" in row else f"{'-':>13}" for name in _SHOWN]
        command.say(f"{run.folder.name:<{width}}  {row['epoch']:>5}" + "".join(figures))


def _best_row(folder: pathlib.Path) -> dict[str, str]:
    """The row of history.csv that best.keras is of."""
    with open(folder / "history.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["best"] == "1"][-1]


if __name__ == "__main__":
    main()
