"""The commands train and sweep: flags, recipes, bad input in one line, and what a signal or a kill does."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from pipeline.errors import UsageError
from trainers import train
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


def left_by(workdir) -> list[bytes]:
    state = max((workdir / "state").glob("*.state"))
    return [state.name.encode(), state.read_bytes(), (workdir / "history.csv").read_bytes()]


def test_killed_and_stopped_runs_come_to_the_same_bytes(sample_dataset, tmp_path):
    """SIGKILL and then SIGTERM, each at another step, in one directory; undisturbed in another."""
    options = ["--epochs=4", "--save_minutes=0.004", "--dropout=0.2"]
    killed = [*small(sample_dataset, tmp_path / "killed"), *options]
    for number, seconds in ((signal.SIGKILL, 0.7), (signal.SIGTERM, 0.2)):
        process = start(*killed)
        wait_for_work(process)
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert process.returncode == 143 and "stopped by SIGTERM and saved" in out, err
        assert any((tmp_path / "killed" / "state").glob("*.state"))
    code, out, err = run(*killed)
    assert code == 0 and "going on    after epoch" in out, err
    code, _, err = run(*small(sample_dataset, tmp_path / "undisturbed"), *options)
    assert code == 0, err
    assert left_by(tmp_path / "killed") == left_by(tmp_path / "undisturbed")


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
    """The second backbone's weights are a file that is not there."""
    _, name, _, *rest = small(sample_dataset, tmp_path / "sweep")
    arguments = [f"--data_dir={sample_dataset.parents[2]}", name, f"--workdir={tmp_path / 'sweep'}"]
    rest = [item for item in rest if not item.startswith(("--backbone", "--width"))]
    code, out, err = run(
        *arguments, *rest, "--recipes=strong,model_zoo", "--backbones=custom_cnn", "--epochs=1", "--noflip",
        f"--init={tmp_path / 'none.keras'}", module="trainers.sweep",
    )  # fmt: skip
    assert code == 1 and err.count("none.keras does not exist") == 2
    assert "strong-custom_cnn" in out and out.count("failed with exit code 1") == 2
