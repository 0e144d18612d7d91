"""The job is killed at random moments and at the moments that matter, and gives the same bytes in the end."""

import os
import shutil
import signal

import pytest
from faces import convert, dataset_of, folder_of, published, run, write_faces

from scripts import kill_conversion


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """600 faces: two chunks."""
    return write_faces(tmp_path_factory.mktemp("raw"), 600)


def test_killed_at_random_moments(raw, tmp_path):
    tally = kill_conversion.kill_again_and_again(raw, tmp_path, times=5, seed=2)
    assert tally.problems == []
    assert tally.kills == 5


#: In the order in which a run makes them.
MOMENTS = (
    "scan/00001.arrow", "verify/00001-*.arrow", "plan/order.npy", "plan/plan.json", "-00001-of-00004",
    "-00001-of-00004.npy", "-00001-of-00004.json", "out/records.parquet", "out/manifest.json", "out/run.json",
    "published.json",
)  # fmt: skip


@pytest.mark.slow
def test_killed_after_each_kind_of_file(raw, tmp_path):
    """One dataset, each start killed a little later than the one before."""
    convert(raw, tmp_path / "fresh", num_shards=4)
    for moment in MOMENTS:
        done = run(raw, tmp_path / "data", num_shards=4, faults=[{"at": f"made:{moment}", "do": "kill_group"}])
        assert done.returncode == -signal.SIGKILL, (moment, done.stdout, done.stderr)
        assert not dataset_of(tmp_path / "data").exists()
    done = run(raw, tmp_path / "data", num_shards=4)
    assert done.returncode == 0, done.stderr
    assert "finished the publication that an earlier run was killed in" in done.stderr
    assert published(tmp_path / "data") == published(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["out/run.json", "published.json"])
def test_killed_while_replacing_an_older_dataset(raw, tmp_path, moment):
    convert(raw, tmp_path / "data", num_shards=2)
    old = published(tmp_path / "data")
    kill = [{"at": f"made:{moment}", "do": "kill_group"}]
    assert run(raw, tmp_path / "data", seed=1, overwrite=True, faults=kill).returncode == -signal.SIGKILL
    staged = shutil.copytree(dataset_of(tmp_path / "data"), tmp_path / "old" / "affect_faces" / "faces" / "1.0.0")
    assert published(tmp_path / "old") == old
    assert sorted(os.listdir(staged.parent)) == ["1.0.0"]
    assert run(raw, tmp_path / "data", seed=1, overwrite=True).returncode == 0
    convert(raw, tmp_path / "fresh", seed=1)
    assert published(tmp_path / "data") == published(tmp_path / "fresh")
    assert os.listdir(folder_of(tmp_path / "data")) == ["1.0.0"]
