"""The same inputs and settings give the same bytes: a test for each thing that must not matter.

Killed and resumed runs are in test_kill.py.
"""

import os
import shutil

import pytest
from faces import convert, dataset_of, picture, published, run, write_face, write_faces

from pipeline import publishing

PROCESSES = "--direct_running_mode=multi_processing"
THREADS = "--direct_running_mode=multi_threading"
PORTABLE = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"
#: os.scandir and os.listdir give another order each time.
SHUFFLED = "shuffle"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """600 faces, two chunks, with an image of each kind of trouble, equal ones, and one that is transcoded."""
    root = write_faces(tmp_path_factory.mktemp("raw"), 600)
    write_face(root, "same", picture(3), exp=3)
    write_face(root, "cut", picture(700)[:-50], exp=1)
    write_face(root, "none", picture(701), exp=8, val=0.5, aro=0.5)
    write_face(root, "nothing", picture(702), exp=9)
    write_face(root, "lost", None, exp=1)
    shutil.copy(root / "images" / "1.jpg", root / "images" / "copy.png")
    write_face(root, "copy", None, exp=1)
    return root


FLAGS = {"num_shards": 2, "image_size": 40}


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    """What one process publishes."""
    data = tmp_path_factory.mktemp("data")
    convert(raw, data, **FLAGS)
    return published(data)


def assert_same(raw, data, expected, *, faults=(), env=None, **flags):
    """Runs the command and compares every byte; says the digest that the summary prints."""
    done = run(raw, data, faults=faults, env=env, **FLAGS | flags)
    assert done.returncode == 0, done.stderr
    assert published(data) == expected
    assert f"digest    {publishing.digest(str(dataset_of(data)))}" in done.stdout


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers(raw, expected, tmp_path, workers):
    convert(raw, tmp_path, num_workers=workers, **FLAGS)
    assert published(tmp_path) == expected


def test_beams_own_processes(raw, expected, tmp_path):
    assert_same(raw, tmp_path, expected, beam_options=PROCESSES, num_workers=2)


def test_the_portable_runner(raw, expected, tmp_path):
    assert_same(raw, tmp_path, expected, beam_options=PORTABLE, num_workers=2)


def test_the_order_of_listings_and_of_hashes(raw, expected, tmp_path):
    assert_same(raw, tmp_path, expected, faults=[{"at": "list:*", "do": SHUFFLED}], env={"PYTHONHASHSEED": "1"})


def test_where_the_input_lies_and_how_it_came_there(raw, expected, tmp_path):
    """Copied file by file in another order, with other times, below another name, by a link."""
    copy = tmp_path / "elsewhere" / "raw"
    for path in sorted(raw.glob("*/*"), key=lambda path: path.stat().st_ino, reverse=True):
        target = copy / path.relative_to(raw)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (tmp_path / "link").symlink_to(copy)
    convert(tmp_path / "link", tmp_path / "data", **FLAGS)
    assert published(tmp_path / "data") == expected


def test_hashes_time_zone_locale_umask_and_place(raw, expected, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    before = os.umask(0o077)
    try:
        assert_same(raw, tmp_path, expected, env={"PYTHONHASHSEED": "2", "TZ": "Asia/Kolkata", "LC_ALL": "C"})
    finally:
        os.umask(before)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", THREADS, PROCESSES, PORTABLE])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_of_it_together(raw, expected, tmp_path, options, workers):
    faults = [{"at": "list:*", "do": SHUFFLED}]
    assert_same(
        raw, tmp_path, expected, faults=faults, env={"PYTHONHASHSEED": str(workers)}, beam_options=options,
        num_workers=workers,
    )  # fmt: skip
