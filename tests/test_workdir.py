"""States that are whole or not taken, one run at a time, and what ends a run from outside."""

import dataclasses
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline.errors import DataError, EnvironmentFault, OutputBusyError, UsageError
from trainers.config import TrainConfig
from trainers.workdir import Workdir

ENVIRONMENT = {"dataset": {"digest": "a1"}, "versions": {"keras": "3"}}
ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(0.1), np.zeros((0, 2), np.int64)]


def test_state_comes_back(tmp_path):
    place = Workdir(tmp_path / "new" / "run")
    assert place.load_state() is None
    values = {"epoch": 3, "rows": [{"loss": 0.1 + 0.2}]}
    place.save_state(7, values, ARRAYS)
    found, arrays = place.load_state()
    assert found == values
    for array, expected in zip(arrays, ARRAYS, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype and array.shape == expected.shape


def test_same_state_same_bytes(tmp_path):
    for name in "ab":
        Workdir(tmp_path / name).save_state(1, {"epoch": 1}, ARRAYS)
    assert (tmp_path / "a/state/000000001.state").read_bytes() == (tmp_path / "b/state/000000001.state").read_bytes()


def test_the_newest_two_states_are_kept(tmp_path):
    place = Workdir(tmp_path)
    for number in (5, 999, 1000):
        place.save_state(number, {"epoch": number}, ARRAYS)
    assert sorted(path.name for path in place.states.iterdir()) == ["000000999.state", "000001000.state"]
    assert place.load_state()[0] == {"epoch": 1000}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_state_is_not_used(tmp_path, damage):
    place = Workdir(tmp_path)
    for number in (1, 2):
        place.save_state(number, {"epoch": number}, ARRAYS)
    newest = place.states / "000000002.state"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": data, "cut": data[:-9], "empty": b""}[damage])
    with pytest.warns(UserWarning, match="000000002.state is damaged"):
        assert place.load_state()[0] == {"epoch": 1}
    (place.states / "000000001.state").write_bytes(b"")
    with pytest.raises(DataError, match=r"000000001\.state is damaged.*begin anew"):
        place.load_state()


def test_one_run_at_a_time(tmp_path):
    with Workdir(tmp_path).locked(), pytest.raises(OutputBusyError, match="--workdir"), Workdir(tmp_path).locked():
        pass
    with Workdir(tmp_path).locked():
        pass


def test_what_a_killed_run_left_is_removed(tmp_path):
    place = Workdir(tmp_path)
    left = [place.states / ".000000004.state.99", tmp_path / ".best.99.keras", tmp_path / ".history.csv.99"]
    for path in left:
        path.write_bytes(b"part")
    with place.locked():
        assert not any(path.exists() for path in left)


def test_another_configuration_is_refused(tmp_path):
    place, config = Workdir(tmp_path), TrainConfig(data_dir="D", name="n", seed=1)
    place.check(config, "a1")
    place.begin(config, ENVIRONMENT)
    place.check(dataclasses.replace(config, save_minutes=1.0, data_dir="elsewhere"), "a1")
    with pytest.raises(UsageError, match=r"seed: 1 -> 2; batch_size|batch_size: 32 -> 8; seed: 1 -> 2"):
        place.check(dataclasses.replace(config, seed=2, batch_size=8), "a1")
    with pytest.raises(DataError, match="a1 -> b2"):
        place.check(config, "b2")
    with pytest.warns(UserWarning, match="keras 3 -> 4"):
        place.begin(config, ENVIRONMENT | {"versions": {"keras": "4"}})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt but no config\.json"):
        Workdir(tmp_path).check(TrainConfig(), "a1")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="file"):
        Workdir(tmp_path / "file" / "run")


def test_history_has_the_columns_of_its_rows(tmp_path):
    place = Workdir(tmp_path)
    place.write_history([])
    assert place.history.read_text() == ""
    place.write_history([{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1 / 3}])
    assert place.history.read_text() == f"epoch,loss\n0,0.1\n1,{1 / 3!r}\n"


def run_guarded(body: str, *, kill: int = 0) -> tuple[int, str]:
    """A process that says "ready" within the guards, then runs `body`; (exit code, what it said on stderr)."""
    script = f"""
import sys, time
from trainers import guards
with guards.listening(grace=0.5) as heard, guards.Watchdog(0.02) as watchdog:
    print("ready", flush=True)
{body}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    if kill:
        process.send_signal(kill)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def test_a_stalled_run_ends_and_says_where_it_stood():
    code, said = run_guarded("    time.sleep(60)")
    assert code == 4 and "no step in 0.02 minutes" in said and 'File "<string>", line 6' in said


def test_a_run_that_moves_goes_on():
    code, said = run_guarded("    for _ in range(20): time.sleep(0.1); watchdog.beat()")
    assert (code, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(number):
    code, _ = run_guarded("    while not heard.number: time.sleep(0.01); watchdog.beat()\n    sys.exit(7)", kill=number)
    assert code == 7


def test_a_loop_that_does_not_end_is_ended():
    began = time.monotonic()
    code, said = run_guarded("    while True: time.sleep(0.01); watchdog.beat()", kill=signal.SIGTERM)
    assert code == 143 and "SIGTERM without saving" in said and time.monotonic() - began < 10
