"""The yardsticks of the benchmarks do the work that they are measured by."""

import json
import pathlib
import subprocess
import sys

import pytest
import simplejpeg

from benchmarks import faces, plain_loop
from pipeline import conversion, images
from pipeline.settings import Settings

ROOT = pathlib.Path(__file__).parents[1]


def test_the_plain_loop_writes_the_published_shards(sample_faces_dir, tmp_path):
    command = [sys.executable, "-m", plain_loop.__name__, f"--input_dir={sample_faces_dir}"]
    subprocess.run([*command, f"--output_dir={tmp_path / 'loop'}"], cwd=ROOT, check=True)
    settings = Settings("affectnet", str(sample_faces_dir), str(tmp_path / "data"), "bench")
    published = pathlib.Path(conversion.convert(settings).dataset_dir)
    shards = sorted(path.name for path in published.glob("*.tfrecord-*"))
    assert len(shards) == 3
    assert sorted(path.name for path in (tmp_path / "loop").iterdir()) == shards
    for name in shards:
        assert (tmp_path / "loop" / name).read_bytes() == (published / name).read_bytes()


def test_planning_counts_its_own_time_and_memory():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.planning", "--rows=2000"], cwd=ROOT, capture_output=True, check=True
    )
    measured = json.loads(done.stdout)
    assert measured["rows"] == 2000 and measured["seconds"] > 0 and measured["memory"] > 10e6


@pytest.fixture
def drawn(sample_faces_dir, monkeypatch):
    """Stands for the thousand faces, which take half a minute to draw."""

    def link(folder, **_):
        folder.symlink_to(sample_faces_dir)

    monkeypatch.setattr(faces.sample_faces, "write_dataset", link)


def test_numbered_faces_all_differ_and_are_plain(drawn, tmp_path):
    made = faces.make(tmp_path, 130)
    files = [path.read_bytes() for path in (made / "images").iterdir()]
    pixels = {simplejpeg.decode_jpeg(data).tobytes() for data in files}
    assert len(pixels) == 130 == len(files)
    assert all(images.inspect(data, images.ImageSettings()).unchanged for data in files)
    assert len(list((made / "annotations").iterdir())) == 4 * 130
