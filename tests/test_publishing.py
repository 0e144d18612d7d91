"""A dataset appears complete or not at all, by one run at a time, also when that run dies half-way."""

import multiprocessing
import os
import signal

import pytest

from pipeline import publishing, staging
from pipeline.errors import EnvironmentFault, OutputBusyError


def unfinished(tmp_path, content):
    """A staging directory whose `out` is complete, and where it is to appear."""
    dataset_dir = tmp_path / "name" / "1.0.0"
    where = staging.Staging(str(tmp_path / "name" / ".1.0.0.partial"))
    where.create()
    staging.write_json(os.path.join(where.out, "manifest.json"), content)
    return where, str(dataset_dir)


def content(dataset_dir):
    return staging.read_json(os.path.join(dataset_dir, "manifest.json"))


def test_it_appears_and_nothing_else_is_left(tmp_path):
    where, dataset_dir = unfinished(tmp_path, "new")
    publishing.publish(where, dataset_dir)
    assert content(dataset_dir) == "new"
    assert os.listdir(tmp_path / "name") == ["1.0.0"]


def test_it_replaces_an_older_one(tmp_path):
    publishing.publish(*unfinished(tmp_path, "old"))
    where, dataset_dir = unfinished(tmp_path, "new")
    publishing.publish(where, dataset_dir)
    assert content(dataset_dir) == "new"
    assert os.listdir(tmp_path / "name") == ["1.0.0"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(params=["exchange", "aside"])
def way(request, monkeypatch):
    """With and without RENAME_EXCHANGE, which not every file system has."""
    if request.param == "aside":
        monkeypatch.setattr(publishing, "_exchange", lambda left, right: False)
    return request.param


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_killed_between_any_two_steps_it_is_finished_by_the_next_start(tmp_path, monkeypatch, way, older, step):
    if older:
        publishing.publish(*unfinished(tmp_path, "old"))
    where, dataset_dir = unfinished(tmp_path, "new")
    left = [step]

    def counted(do):
        def run(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return do(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "rename", counted(os.rename))
        patch.setattr(publishing, "_exchange", counted(publishing._exchange))
        patch.setattr(staging.shutil, "rmtree", counted(staging.shutil.rmtree))
        patch.setattr(publishing.tfrecord, "sync_folder", counted(publishing.tfrecord.sync_folder))
        try:
            publishing.publish(where, dataset_dir)
        except Killed:
            pass
    where.sweep()
    finished = publishing.recover(where, dataset_dir)
    if os.path.exists(where.folder):  # killed before it promised anything: the run itself goes on
        assert not finished
        assert publishing.is_complete(dataset_dir) == older
        publishing.publish(where, dataset_dir)
    assert content(dataset_dir) == "new"
    assert os.listdir(tmp_path / "name") == ["1.0.0"]


def test_one_run_at_a_time_and_the_holder_is_named(tmp_path):
    dataset_dir = str(tmp_path / "1.0.0")
    busy = pytest.raises(OutputBusyError, match=f"process {os.getpid()} on ")
    with publishing.lock(dataset_dir), busy, publishing.lock(dataset_dir):
        pass
    with publishing.lock(dataset_dir):
        pass
    assert os.listdir(tmp_path) == []


def _hold(dataset_dir, held):
    with publishing.lock(dataset_dir):
        held.set()
        signal.pause()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    dataset_dir = str(tmp_path / "1.0.0")
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(dataset_dir, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(OutputBusyError), publishing.lock(dataset_dir):
        pass
    process.kill()
    process.join()
    with publishing.lock(dataset_dir):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_environments_fault(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="Not a directory"):
        publishing.prepare_folder(str(tmp_path / "file" / "name" / "1.0.0"))
