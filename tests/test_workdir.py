"""States that are whole or not taken, one run at a time, and what ends a run from outside."""

import contextlib
import dataclasses
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline.errors import DataError, EnvironmentFault, OutputBusyError, UsageError
from trainers.config import TrainConfig
from trainers.workdir import Workdir

ENVIRONMENT = {"dataset": {"digest": "a1"}, "precision": "float32", "versions": {"keras": "3"}}
ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(0.1), np.zeros((0, 2), np.int64)]


def made(folder) -> Workdir:
    """A directory that a run has held."""
    place = Workdir(folder)
    with place.locked():
        return place


def begun(folder) -> Workdir:
    """A directory that a run has left a state in."""
    place = made(folder)
    place.begin(TrainConfig(data_dir="D", name="n", seed=1), ENVIRONMENT)
    place.save_state(1, {"epoch": 1}, ARRAYS)
    return place


def test_state_comes_back(tmp_path):
    place = made(tmp_path / "new" / "run")
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
        made(tmp_path / name).save_state(1, {"epoch": 1}, ARRAYS)
    assert (tmp_path / "a/state/000000001.state").read_bytes() == (tmp_path / "b/state/000000001.state").read_bytes()


def test_the_newest_two_states_are_kept(tmp_path):
    place = made(tmp_path)
    for number in (5, 999, 1000):
        place.save_state(number, {"epoch": number}, ARRAYS)
    assert sorted(path.name for path in place.states.glob("*.state")) == ["000000999.state", "000001000.state"]
    assert place.load_state()[0] == {"epoch": 1000}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_state_is_not_used(tmp_path, damage):
    place = made(tmp_path)
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
    place = begun(tmp_path)
    left = [place.states / ".000000004.state.99", tmp_path / ".best.99.keras", tmp_path / ".history.csv.99"]
    for path in left:
        path.write_bytes(b"part")
    with place.locked():
        assert not any(path.exists() for path in left)


def test_another_configuration_is_refused(tmp_path):
    place, config = begun(tmp_path), TrainConfig(data_dir="D", name="n", seed=1)
    place.check(dataclasses.replace(config, save_minutes=1.0, data_dir="elsewhere"), "a1")
    with pytest.raises(UsageError, match=r"seed: 1 -> 2; batch_size|batch_size: 32 -> 8; seed: 1 -> 2"):
        place.check(dataclasses.replace(config, seed=2, batch_size=8), "a1")
    with pytest.raises(DataError, match="a1 -> b2"):
        place.check(config, "b2")
    with pytest.warns(UserWarning, match="keras 3 -> 4"):
        place.begin(config, ENVIRONMENT | {"versions": {"keras": "4"}})
    with pytest.raises(UsageError, match="begun in float32, and --precision=auto is mixed_bfloat16 on this device"):
        place.begin(config, ENVIRONMENT | {"precision": "mixed_bfloat16"})


def test_a_run_that_learned_nothing_binds_nobody(tmp_path):
    place, config = made(tmp_path), TrainConfig(data_dir="D", name="n", batch_size=4096)
    place.begin(config, ENVIRONMENT)
    smaller = dataclasses.replace(config, batch_size=8)
    with place.locked():
        place.check(smaller, "b2")
        place.begin(smaller, ENVIRONMENT)
    assert '"batch_size": 8' in place.config.read_text()


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "bytes", "of another program"])
def test_a_damaged_record_is_named(tmp_path, name, damage):
    place = begun(tmp_path)
    text = {"cut": b'{"seed": ', "bytes": b"\xff", "of another program": b'{"vocabulary": 3}'}.get(damage)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=rf"{name} is (missing|damaged \(.*); put it back") as caught:
        place.check(TrainConfig(data_dir="D", name="n", seed=1), "a1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, '{"vocabulary": 3}'])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, config):
    mine = [tmp_path / name for name in ("thesis.txt", ".a.b.c", ".config.json.swp", ".best.old.keras")]
    for path in mine:
        path.write_text("mine")
    (tmp_path / ".venv.3.11").mkdir()
    if config:
        mine.append(tmp_path / "config.json")
        mine[-1].write_text(config)
    before = sorted(tmp_path.iterdir())
    said = "config.json is damaged" if config else r"holds .*but no config\.json"
    with pytest.raises((DataError, UsageError), match=said), Workdir(tmp_path).locked():
        pass
    assert sorted(tmp_path.iterdir()) == before


def test_hidden_files_of_the_user_stay(tmp_path):
    place = begun(tmp_path)
    (tmp_path / ".venv.3.11").mkdir()
    (tmp_path / ".best.1.keras").mkdir()
    (tmp_path / ".notes.2026.txt").write_text("mine")
    with place.locked():
        assert {".venv.3.11", ".best.1.keras", ".notes.2026.txt"} <= {path.name for path in tmp_path.iterdir()}


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 1,000 bytes. No fixture: what pytest says of a test may go to a file, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_is_the_environments_fault(tmp_path):
    import keras

    place = made(tmp_path)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    for name, write in {
        "000000001.state": lambda: place.save_state(1, {}, [np.zeros(4096)]),
        "best.keras": lambda: place.save_best(model),
        "history.csv": lambda: place.write_history([{"a": "x" * 2000}]),
    }.items():
        with pytest.raises(EnvironmentFault, match=f"{tmp_path}.*/{name}: "), full_disk():
            write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    assert [path.name for path in place.states.iterdir()] == [".lock"]


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
