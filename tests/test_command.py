"""What every command does about its output, its errors and its progress, whatever it is connected to."""

import os
import subprocess
import sys

import pytest
from faces import environment

from pipeline import listing, progress, staging

SAY = "print('é … ' + chr(0xDCFF))"


def run(statement, **given):
    """A command that does `statement`."""
    code = f"import os; from pipeline import command, errors\ndef work():\n    {statement}\ncommand.run(work)"
    env = environment(**given.pop("env", {}))
    return subprocess.run([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, timeout=60, **given)


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("raise errors.DataError('two words')", 3, "error: two words\n"),
        ("import nowhere", 4, "error: a library is missing or broken: No module named 'nowhere'; install what req"),
        ("open('nowhere')", 4, "error: nowhere: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "error: stopped by Ctrl-C\n"),
        ("1 / 0", 5, "error: an unexpected error, please report it:\nTraceback"),
    ],
)
def test_an_error_is_a_message_and_an_exit_code(statement, code, said):
    done = run(statement)
    assert done.returncode == code
    assert done.stderr.decode().startswith(said)


def test_a_reader_that_has_read_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = run(SAY, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_work_goes_on_when_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    done = run("[command.say('line') for _ in range(3)]; raise errors.DataError('at the end')", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (3, b"error: at the end\n")


def test_output_that_cannot_be_written_is_the_environments_fault():
    with open("/dev/full", "wb") as full:
        done = run(SAY, stdout=full)
    assert done.returncode == 4
    assert done.stderr == b"error: what there is to say cannot be printed: No space left on device\n"


def test_no_output_at_all():
    script = "from pipeline import command; command.run(lambda: print(1))"
    shell = ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, script]
    done = subprocess.run(shell, env=environment(), stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_letters_that_the_terminal_lacks_are_shown_by_their_number():
    done = run(SAY, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xe9 \\u2026 \\udcff\n", b"")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("build_tfrecords", ["--source=csv", "--input_dir=~/none", "--data_dir=~/data", "--name=a"]),
        ("verify", ["--dataset_dir=~/none"]),
        ("report", ["--dataset_dir=~/none"]),
    ],
)
def test_the_home_directory_may_be_a_tilde(tmp_path, command, flags):
    done = subprocess.run(
        [sys.executable, "-m", f"pipeline.{command}", *flags],
        env=environment(HOME=str(tmp_path)), cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert f"{tmp_path}/none" in done.stderr
    assert not (tmp_path / "~").exists()


def test_progress_is_a_few_lines_in_a_log_and_none_when_it_is_short(tmp_path, capsys, monkeypatch):
    where = staging.Staging(str(tmp_path))
    where.create()
    chunks = [listing.Chunk(index, 5, "key") for index in range(2)]
    for seconds in (10.0, 0.0):
        monkeypatch.setattr(progress, "_LOG_SECONDS", seconds)
        with progress.shown(where, chunks, writes=True):
            for chunk in chunks:
                open(where.verify_path(chunk.index, chunk.key), "w").close()
            staging.write_json(where.plan_path("plan.json"), {"shards": [{"shard": "a", "records": 9}]})
            staging.write_json(where.write_path("a", ".json"), {})
        said = capsys.readouterr().err
        if seconds:
            assert said == ""
    assert "\r" not in said
    last = said.splitlines()[-1]
    assert last.startswith("write: 100%") and " 9/9 [" in last
    assert any(line.startswith("verify: 100%") and " 10/10 [" in line for line in said.splitlines())
