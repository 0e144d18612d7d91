"""The commands train and sweep: flags, recipes, bad input in one line, and what a signal or a kill does."""

import contextlib
import csv
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest
from absl import flags
from faces import convert

from datasets import sample_faces
from pipeline.errors import UsageError
from scripts import kill_training
from trainers import train, training
from trainers.config import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]


def start(*arguments: object, module: str = "trainers.train") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run(*arguments: object, **given) -> tuple[int, str, str]:
    process = start(*arguments, **given)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def parse(*arguments: str) -> TrainConfig:
    """The configuration of a command line, its flags defined as main does."""
    given = flags.FlagValues()
    with contextlib.ExitStack() as stack:
        patch = pytest.MonkeyPatch()
        stack.callback(patch.undo)
        patch.setattr(flags, "FLAGS", given)
        for name in ("DEFINE_integer", "DEFINE_float", "DEFINE_string", "DEFINE_bool", "DEFINE_list"):
            define = getattr(flags, name)
            patch.setattr(flags, name, lambda *a, define=define: define(*a, flag_values=given))
        train.define_config_flags()
        given(["train", *arguments])
        return train.config_from_flags()


def test_every_field_is_a_flag():
    config = parse(
        "--data_dir=D", "--heads=expression,arousal", "--width=0.5", "--backbone=mobilenet_v2", "--noflip", "--xla",
        "--phases=heads@0:1e-4,all@5", "--shared_units=64,32", "--loss_weights=2,1,0.5", "--rand_augment=2,0.5",
        "--epochs=7", "--monitor=score",
    )  # fmt: skip
    assert config == TrainConfig(
        data_dir="D", heads=("expression", "arousal"), width=0.5, backbone="mobilenet_v2", flip=False, xla=True,
        phases=("heads@0:1e-4", "all@5"), shared_units=(64, 32), loss_weights=(2.0, 1.0, 0.5), rand_augment="2,0.5",
        epochs=7, monitor="score",
    )  # fmt: skip
    assert parse("--shared_units=") == dataclasses.replace(TrainConfig(), shared_units=())


def test_a_flag_overrides_its_recipe():
    from trainers.recipes import recipe

    assert parse("--recipe=strong", "--epochs=3") == dataclasses.replace(recipe("strong"), epochs=3)
    assert parse("--recipe=classifier", "--backbone=xception") == recipe("classifier", backbone="xception")


def test_home_is_found():
    assert parse("--data_dir=~/data").data_dir == os.path.expanduser("~/data")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--recipe=best", "strong"),
        ("--backbone=alexnet", "custom_cnn"),
        ("--shared_units=many", "shared_units"),
        ("--heads=joy", "expression, valence, arousal"),
    ],
)
def test_bad_values_say_what_there_is(argument, message):
    with pytest.raises(UsageError, match=message):
        parse(argument)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe=best"], 1, "error: recipe 'best' does not exist; choose one of two_phase"),
        (
            ["--learning_rats=1"],
            1,
            "error: Unknown command line flag 'learning_rats'. Did you mean: learning_rate; the flags of "
            "this command are affect_loss, arousal_units,",
        ),
        (["--epochs=many"], 1, "error: flag --epochs=many: invalid literal for int()"),
        ([], 1, "error: --data_dir='' is not accepted"),
    ],
)
def test_bad_command_lines(tmp_path, arguments, code, message):
    found, _, err = run(f"--workdir={tmp_path / 'work'}", *arguments)
    assert found == code and message in err and "Traceback" not in err


def small(dataset, workdir) -> list[str]:
    return [
        f"--data_dir={dataset.parents[2]}", f"--name={dataset.parent.name}", f"--workdir={workdir}",
        "--backbone=custom_cnn", "--width=0.25", "--image_size=32", "--shared_units=16", "--batch_size=8",
        "--notensorboard",
    ]  # fmt: skip


def wait_for_work(process: subprocess.Popen) -> None:
    for line in process.stdout:
        if line.startswith("first step"):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_a_killed_run_comes_to_the_same_bytes(sample_dataset, tmp_path):
    """SIGKILL at a random moment of the work, which is saved every few steps; undisturbed in this process."""
    killed, undisturbed = (
        kill_training.Training(
            sample_dataset.parents[2], tmp_path / name, name="sample", changes=("--epochs=3", "--phases=")
        )
        for name in ("killed", "undisturbed")
    )
    moment = random.uniform(0.0, 0.3)
    assert killed.start(after_work=moment) == -signal.SIGKILL, killed.said
    assert killed.start() == 0, (moment, killed.said)
    training.train(parse(*undisturbed.flags[:2], *undisturbed.flags[3:]), undisturbed.workdir, say=lambda line: None)
    assert killed.results() == undisturbed.results(), moment


@pytest.mark.slow
def test_killed_again_and_again(sample_dataset, tmp_path):
    sample_faces.write_dataset(tmp_path / "raw", count=200, seed=0, image_size=48)
    convert(tmp_path / "raw", tmp_path / "data", name="faces")
    seed = random.randrange(2**32)
    tally = kill_training.kill_again_and_again(tmp_path / "data", tmp_path, times=5, seed=seed)
    assert tally.kills == 5 and not tally.problems, (seed, tally)


def test_a_training_that_nobody_watches_ends_as_any(sample_dataset, tmp_path):
    """`… | head -1`; and each line comes at once."""
    process = start(*small(sample_dataset, tmp_path / "work"), "--epochs=2", "--phases=heads@0")
    assert process.stdout.readline().startswith("device")
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert len((tmp_path / "work" / "history.csv").read_text().splitlines()) == 3


def test_a_sweep_hands_its_signal_on(sample_dataset, tmp_path):
    arguments = [flag for flag in small(sample_dataset, tmp_path / "sweep") if not flag.startswith("--backbone")]
    process = start(*arguments, "--recipes=strong", "--epochs=500", module="trainers.sweep")
    wait_for_work(process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM and saved" in out, err
    assert any((tmp_path / "sweep" / "strong-custom_cnn" / "state").glob("*.state"))


@pytest.mark.slow
def test_a_sweep_goes_on_when_one_fails(sample_dataset, tmp_path):
    """The first one's directory is that of another run."""
    sweep = tmp_path / "sweep"
    (sweep / "strong-custom_cnn").mkdir(parents=True)
    (sweep / "strong-custom_cnn" / "config.json").write_text("{")
    arguments = [flag for flag in small(sample_dataset, sweep) if not flag.startswith("--backbone")]
    code, out, err = run(
        *arguments, "--recipes=strong,model_zoo", "--backbones=custom_cnn", "--epochs=1", module="trainers.sweep"
    )
    assert code == 3 and "config.json is damaged" in err and "Traceback" not in err
    failed, trained = out.splitlines()[-2:]
    assert failed.split(None, 1) == ["strong-custom_cnn", "failed with exit code 3"]
    name, epoch, *figures = trained.split()
    assert (name, epoch) == ("model_zoo-custom_cnn", "0") and len(figures) == 6
    with open(sweep / name / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(figures[1]) == pytest.approx(float(row["val_accuracy"]), abs=1e-4)
