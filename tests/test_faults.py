"""What the job does when the input, the machine or another run is at fault: exit code, message, and what is left."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import stat
import subprocess
import time
import unicodedata

import numpy as np
import pytest
from faces import (
    command,
    convert,
    dataset_of,
    environment,
    error_of,
    folder_of,
    picture,
    published,
    rows_of,
    run,
    write_face,
    write_faces,
)

from pipeline.errors import DataError, EnvironmentFault, OutputBusyError

#: Sides, in pixels, of the JPEGs that something happens to.
CRASHES, HANGS, ODD = 52, 56, 60


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """24 good faces."""
    return write_faces(tmp_path_factory.mktemp("raw"), 24)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """24 good faces and one of an odd size."""
    root = write_faces(tmp_path_factory.mktemp("marked"), 24)
    write_face(root, "odd", picture(900, ODD), exp=1)
    return root


@pytest.fixture(scope="module")
def marked_files(marked, tmp_path_factory):
    """What an undisturbed conversion of `marked` publishes."""
    data = tmp_path_factory.mktemp("data")
    convert(marked, data)
    return published(data)


def test_a_decoder_that_crashes_or_hangs_costs_its_image_only(tmp_path):
    raw = write_faces(tmp_path / "raw", 24)
    write_face(raw, "bomb", picture(901, CRASHES), exp=1)
    write_face(raw, "loop", picture(902, HANGS), exp=1)
    faults = [{"at": f"decode:{CRASHES}", "do": "abort"}, {"at": f"decode:{HANGS}", "do": "hang"}]
    convert(raw, tmp_path / "data", faults=faults, decode_timeout=1.5, max_bad_fraction=0.1)
    rows = rows_of(tmp_path / "data")
    bad = {id: row["reason"] for id, row in rows.items() if row["status"] != "written"}
    assert bad == {"bomb": "decoder_crash", "loop": "timeout"}
    assert rows["bomb"]["detail"] == "the decoder did so twice, the second time on this image alone"


def test_a_decoder_that_crashes_once_costs_nothing(marked, marked_files, tmp_path):
    faults = [{"at": f"decode:{ODD}", "do": "abort", "once": str(tmp_path / "once")}]
    convert(marked, tmp_path / "data", faults=faults)
    assert (tmp_path / "once").exists()
    assert published(tmp_path / "data") == marked_files


def test_a_timeout_is_looked_at_again_by_the_next_run(marked, marked_files, tmp_path):
    with pytest.raises(DataError, match=r"^1 of 25 inputs are rejected, above --max_bad_fraction=0\.01; nothing is"):
        convert(marked, tmp_path, faults=[{"at": f"decode:{ODD}", "do": "hang"}], decode_timeout=1.5)
    convert(marked, tmp_path)
    assert published(tmp_path) == marked_files


def test_a_worker_killed_from_outside_changes_nothing(marked, marked_files, tmp_path):
    faults = [
        {"at": f"decode:{ODD}", "do": "kill", "once": str(tmp_path / "verifying")},
        {"at": "made:-00000-of-00001", "do": "kill", "once": str(tmp_path / "writing")},
    ]
    convert(marked, tmp_path / "data", faults=faults)
    assert (tmp_path / "verifying").exists() and (tmp_path / "writing").exists()
    assert published(tmp_path / "data") == marked_files


def test_workers_that_are_always_killed_are_the_machines_fault(marked, tmp_path):
    done = run(marked, tmp_path, faults=[{"at": f"decode:{ODD}", "do": "kill"}])
    assert done.returncode == 4
    assert error_of(done).startswith("a worker was killed 5 times (exit -9), most likely for want of memory; use fewer")
    assert not dataset_of(tmp_path).exists()


def replacing(raw, id):
    """A command that replaces the image of `id` by another one."""
    (raw / "other").write_bytes(picture(903))
    return f"mv {raw}/other {raw}/images/{id}.jpg"


@pytest.mark.parametrize("kind", ["changes", "vanishes"])
def test_an_image_that_changes_after_the_plan_stops_the_run_and_is_verified_anew_by_the_next(tmp_path, kind):
    raw = write_faces(tmp_path / "raw", 24)
    change = replacing(raw, 7) if kind == "changes" else f"rm {raw}/images/7.jpg {raw}/annotations/7_*"
    done = run(raw, tmp_path / "data", faults=[{"at": "made:plan.json", "do": f"sh:{change}"}])
    assert done.returncode == 3
    said = "'7' ('images/7.jpg') changed during the run" if kind == "changes" else "'7' cannot be read any more"
    assert error_of(done).startswith(said)
    assert error_of(done).endswith("nothing is published. Run the same command again once the input is at rest")
    assert not dataset_of(tmp_path / "data").exists()
    convert(raw, tmp_path / "data")
    convert(raw, tmp_path / "fresh")
    assert published(tmp_path / "data") == published(tmp_path / "fresh")
    assert len(rows_of(tmp_path / "data")) == (24 if kind == "changes" else 23)


def test_an_image_that_vanishes_before_it_is_verified_is_rejected(tmp_path):
    raw = write_faces(tmp_path / "raw", 24)
    faults = [{"at": "made:scan/00000.arrow", "do": f"sh:rm {raw}/images/7.jpg"}]
    done = run(raw, tmp_path / "data", faults=faults, max_bad_fraction=0.1)
    assert done.returncode == 0, done.stderr
    row = rows_of(tmp_path / "data")["7"]
    assert (row["status"], row["reason"], row["sha256"]) == ("rejected", "io_error", "")


def change_labels(raw):
    """Another expression for face 3, in a file of the same size and time."""
    path = raw / "annotations" / "3_exp.npy"
    before = path.stat()
    np.save(path, np.asanyarray(5))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_files(raw):
    """One face with another image and label, one with another label, under the same names."""
    write_face(raw, "8", picture(1001), exp=7)
    write_face(raw, "9", picture(9), aro=0.5)


def change_listing(raw):
    """One face more, one less."""
    write_face(raw, "1000", picture(1000), exp=2)
    (raw / "images" / "5.jpg").unlink()
    for path in (raw / "annotations").glob("5_*"):
        path.unlink()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """(raw, data_dir) of a run that was killed when all but the publication was done."""
    root = tmp_path_factory.mktemp("unfinished")
    raw = write_faces(root / "raw", 24)
    killed = run(raw, root / "data", num_shards=2, faults=[{"at": "made:out/manifest.json", "do": "kill_group"}])
    assert killed.returncode == -signal.SIGKILL
    return raw, root / "data"


@pytest.mark.parametrize(
    "change",
    [{"image_size": 24}, {"seed": 7}, {"splits": "train:0.5,test:0.5"}, change_labels, change_files, change_listing],
)
def test_an_unfinished_run_is_never_mixed_with_other_settings_or_inputs(unfinished, tmp_path, change):
    raw, data = unfinished[0], shutil.copytree(unfinished[1], tmp_path / "data")
    settings = {"num_shards": 2}
    if callable(change):
        raw = shutil.copytree(raw, tmp_path / "raw") if change is change_labels else raw
        change(raw)
    else:
        settings |= change
    convert(raw, data, **settings)
    convert(raw, tmp_path / "fresh", **settings)
    assert published(data) == published(tmp_path / "fresh")


def test_a_publication_that_was_cut_off_is_finished_and_not_taken_for_another_run(tmp_path):
    raw = write_faces(tmp_path / "raw", 24)
    killed = run(raw, tmp_path / "data", faults=[{"at": "made:published.json", "do": "kill_group"}])
    assert killed.returncode == -signal.SIGKILL
    assert not dataset_of(tmp_path / "data").exists()
    again = shutil.copytree(tmp_path / "data", tmp_path / "again")
    with pytest.raises(OutputBusyError, match="exists; --overwrite replaces it"):
        convert(raw, tmp_path / "data", seed=7)
    convert(raw, again)
    assert published(again) == published(tmp_path / "data")
    assert rows_of(again) == rows_of(tmp_path / "data")


def test_one_id_for_two_faces_stops_and_shows_both(tmp_path):
    raw = write_faces(tmp_path / "raw", 4)
    (raw / "images" / "2.png").write_bytes(picture(902))
    done = run(raw, tmp_path / "data")
    assert done.returncode == 3
    assert error_of(done) == "the id '2' stands for two different inputs; keep one of them:"
    assert "path='images/2.jpg'" in done.stderr and "path='images/2.png'" in done.stderr


LONG = "l" * 247  # with "_exp.npy" 255 bytes, the longest name that there is


def test_hostile_names_work_or_are_rejected_and_their_neighbours_are_unaffected(tmp_path):
    raw = write_faces(tmp_path / "raw", 10)
    names = [
        "with space",
        "new\nline",
        "quo\"te's",
        "back\\slash",
        "😀",
        "<script>",
        "a,b;c",
        "-rf",
        "%s{0}",
        "\u2028",
        LONG,
    ]
    for i, name in enumerate(names):
        write_face(raw, name, picture(500 + i), exp=i % 8)
    images = os.fsencode(raw / "images")
    write_face(raw, "Case", picture(600), exp=1)
    write_face(raw, "case", picture(601), exp=1)
    for form in ("NFC", "NFD"):
        write_face(raw, unicodedata.normalize(form, "é"), picture(602), exp=1)
    with open(images + b"/\xff\xfe.jpg", "wb") as file:
        file.write(picture(603))
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(picture(604))
    for name, target in {"out": outside, "loop": "loop.jpg", "zero": "/dev/zero", "inside": "0.jpg"}.items():
        write_face(raw, name, None, exp=1)
        (raw / "images" / f"{name}.jpg").symlink_to(target)
    write_face(raw, "pipe", None, exp=1)
    os.mkfifo(raw / "images" / "pipe.jpg")
    special = {"pipe": "unsafe_path"}
    with contextlib.suppress(PermissionError):  # only root may make one
        os.mknod(raw / "images" / "device.jpg", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        write_face(raw, "device", None, exp=1)
        special["device"] = "unsafe_path"
    convert(raw, tmp_path / "data", max_bad_fraction=0.5)
    rows = rows_of(tmp_path / "data")
    bad = {id: row["reason"] for id, row in rows.items() if row["status"] == "rejected"}
    assert bad == {
        "Case": "ambiguous_id", "case": "ambiguous_id", "é": "ambiguous_id", "e\u0301": "ambiguous_id",
        "images/\\xff\\xfe.jpg": "bad_name", "out": "unsafe_path", "loop": "unsafe_path", "zero": "unsafe_path",
        **special,
    }  # fmt: skip
    assert {id for id, row in rows.items() if row["status"] == "written"} == {*names, *map(str, range(10)), "inside"}
    with open(dataset_of(tmp_path / "data") / "rejected.jsonl", encoding="utf-8") as file:
        assert {json.loads(line)["id"]: json.loads(line)["reason"] for line in file} == bad


def test_a_csv_with_a_name_of_255_bytes_and_a_row_twice(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    name = "ü" * 125 + "x.jpg"
    assert len(name.encode()) == 255
    rows = [(f"{i}.jpg", i) for i in range(8)] + [(name, 8), ("3.jpg", 3)]
    for path, seed in rows:
        (raw / path).write_bytes(picture(seed))
    (raw / "labels.csv").write_text("image,expression\n" + "".join(f"{path},{seed % 8}\n" for path, seed in rows))
    convert(raw, tmp_path / "data", source="csv", max_bad_fraction=0.2)
    with open(dataset_of(tmp_path / "data") / "rejected.jsonl", encoding="utf-8") as file:
        (line,) = [json.loads(line) for line in file]
    assert (line["id"], line["reason"]) == ("3.jpg", "duplicate_row")
    (raw / "labels.csv").write_text("image,expression\n0.jpg,1\n0.jpg,2\n")
    with pytest.raises(DataError, match=r"the id '0.jpg' stands for two different inputs"):
        convert(raw, tmp_path / "data2", source="csv")


def quick(raw, data, tmp_path, **flags):
    """(exit code, first line of the error) of a run that is over in two seconds of work and never looks for Beam."""
    log = tmp_path / "beam"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(raw, data, faults=[{"at": "import:apache_beam", "do": f"log:{log}"}], **flags)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not log.exists()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    return done.returncode, error_of(done)


def test_an_input_that_is_missing_empty_or_another_layout_stops_at_once(raw, tmp_path):
    data = tmp_path / "data"
    assert quick(tmp_path / "none", data, tmp_path) == (
        3,
        f"--input_dir={tmp_path}/none cannot be opened: No such file or directory; "
        "give a directory that exists and is readable",
    )
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    code, said = quick(empty, data, tmp_path)
    assert code == 3
    assert said.startswith(f"annotations/ is missing in {empty}; that holds images; expected images/{{id}}.jpg|png and")
    (empty / "annotations").mkdir()
    code, said = quick(empty, data, tmp_path)
    assert (code, said.startswith(f"images/ and annotations/ in {empty} hold nothing; expected images")) == (3, True)
    code, said = quick(raw, data, tmp_path, source="csv")
    assert (code, said.startswith(f"{raw} holds annotations, images; expected labels.csv")) == (3, True)
    assert not dataset_of(data).exists()


def test_wrong_usage_says_what_is_accepted(raw, tmp_path):
    done = run(raw, tmp_path / "data", splits="train:0.5")
    assert done.returncode == 1
    assert error_of(done).startswith("--splits='train:0.5' is not accepted; give 'name:fraction,…' over train,")
    assert not (tmp_path / "data").exists()


def test_a_dataset_that_exists_and_an_output_that_cannot_be_made(raw, tmp_path):
    convert(raw, tmp_path / "a" / "b" / "data")
    place = dataset_of(tmp_path / "a" / "b" / "data")
    assert quick(raw, tmp_path / "a" / "b" / "data", tmp_path) == (
        6, f"{place} exists; --overwrite replaces it, another --name keeps both"
    )  # fmt: skip
    (tmp_path / "file").write_text("in the way")
    assert quick(raw, tmp_path / "file", tmp_path) == (
        4, f"{tmp_path}/file/affect_faces: Not a directory: a file is in the way; remove it, or name another directory"
    )  # fmt: skip


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str):
    """A file system of its own in memory at `folder`."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_read_only_output_is_refused_before_beam_is_imported(raw, tmp_path):
    with mounted(tmp_path / "ro", "ro,size=1m"):
        code, said = quick(raw, tmp_path / "ro" / "data", tmp_path)
        assert (code, said) == (4, f"{tmp_path}/ro/data: Read-only file system: the file system is read-only")
    with mounted(tmp_path / "ro", "size=1m"):
        folder_of(tmp_path / "ro").mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "ro"], check=True)
        code, said = quick(raw, tmp_path / "ro", tmp_path)
        assert (code, said.endswith(": Read-only file system: the file system is read-only")) == (4, True)


def test_a_disk_that_is_full_at_any_stage_stops_the_run_and_the_next_goes_on(tmp_path):
    """The disk grows from run to run, so that the run gets a little further each time."""
    raw = write_faces(tmp_path / "raw", 60)
    convert(raw, tmp_path / "fresh", num_shards=2)
    disk = tmp_path / "disk"
    full = 0
    with mounted(disk, "size=8k"):
        for kilobytes in (8, 130, 180, 230, 280, 330, 1000):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            try:
                convert(raw, disk, num_shards=2)
                break
            except EnvironmentFault as error:
                assert (
                    "No space left on device: the disk is full; free some space and run the same command again"
                    in (str(error).splitlines()[0])
                )
                assert not dataset_of(disk).exists()
                full += 1
        assert full >= 4  # without a place for the listing, the verified rows, the shards …
        assert published(disk) == published(tmp_path / "fresh")


@contextlib.contextmanager
def started(raw, data, *, faults=(), env=None, **flags):
    """A run in the background, in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        command(raw, data, **flags), env=environment(faults, **(env or {})), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def group_of(pgid):
    """The living processes of a process group."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(group) == pgid and state != "Z":
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def assert_gone(pgid, seconds):
    end = time.monotonic() + seconds
    while left := group_of(pgid):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def hanging(tmp_path):
    """Faults that keep a run in the verify stage, and the file that says that it is there."""
    return [
        {"at": "decode:*", "do": f"log:{tmp_path}/decoding"},
        {"at": "decode:*", "do": "hang"},
    ], tmp_path / "decoding"


def test_a_second_run_leaves_at_once_and_a_dead_one_is_taken_over(raw, tmp_path):
    faults, decoding = hanging(tmp_path)
    with started(raw, tmp_path / "data", faults=faults) as first:
        wait_for(decoding, first)
        assert quick(raw, tmp_path / "data", tmp_path) == (
            6,
            f"another run (process {first.pid} on {os.uname().nodename}) is writing {dataset_of(tmp_path / 'data')}; "
            "wait for it, or give another --name",
        )
    convert(raw, tmp_path / "data")
    convert(raw, tmp_path / "fresh")
    assert published(tmp_path / "data") == published(tmp_path / "fresh")


LOCAL, PROCESSES = "", "--direct_running_mode=multi_processing"
PORTABLE = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"


@pytest.mark.parametrize(
    ("number", "options", "dry_run"),
    [
        (signal.SIGTERM, LOCAL, True),
        (signal.SIGINT, LOCAL, False),
        (signal.SIGTERM, PROCESSES, False),
        (signal.SIGINT, PORTABLE, False),
        pytest.param(signal.SIGINT, PROCESSES, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, PORTABLE, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_and_every_process_of_it(raw, tmp_path, number, options, dry_run):
    faults, decoding = hanging(tmp_path)
    (tmp_path / "tmp").mkdir()
    with started(
        raw, tmp_path / "data", faults=faults, env={"TMPDIR": str(tmp_path / "tmp")}, beam_options=options,
        num_workers=2, dry_run=dry_run,
    ) as process:  # fmt: skip
        wait_for(decoding, process)
        sent = time.monotonic()
        # Ctrl-C reaches the whole group, SIGTERM the process that it is sent to.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
        process.wait(timeout=60)
        assert time.monotonic() - sent < 10
        assert process.returncode == 128 + number
        assert_gone(process.pid, 3)
        said = process.stderr.read()
    assert f"stopped by {number.name}: nothing is published; the same command goes on where this one stopped" in said
    if (number, options) != (signal.SIGINT, PROCESSES):  # Beam's own processes hear Ctrl-C too, and say so
        assert "Traceback" not in said
    assert not dataset_of(tmp_path / "data").exists()
    if dry_run:
        assert list((tmp_path / "tmp").glob("affect_faces_dry_run_*")) == []


@pytest.mark.parametrize("options", [LOCAL, PROCESSES])
def test_workers_end_when_the_run_is_killed_alone(raw, tmp_path, options):
    faults, decoding = hanging(tmp_path)
    with started(raw, tmp_path / "data", faults=faults, beam_options=options, num_workers=2) as process:
        wait_for(decoding, process)
        assert len(group_of(process.pid)) > 2
        process.kill()
        process.wait()
        assert_gone(process.pid, 5)


def test_a_missing_library_is_the_machines_fault(raw, tmp_path):
    done = run(raw, tmp_path, faults=[{"at": "import:apache_beam", "do": "fail"}])
    assert done.returncode == 4
    assert error_of(done).startswith("a library is missing or broken: apache_beam is not installed; install what")


def test_too_many_bad_inputs_end_the_command_with_3(tmp_path):
    raw = write_faces(tmp_path / "raw", 8)
    write_face(raw, "cut", picture(8)[:-100], exp=1)
    done = run(raw, tmp_path / "data")
    assert done.returncode == 3
    assert error_of(done).startswith("1 of 9 inputs are rejected, above --max_bad_fraction=0.01; nothing is published")
    assert "1 × truncated (the image ends before its pixels do), as 'cut': JPEG:" in done.stderr
    assert not dataset_of(tmp_path / "data").exists()


def test_a_leak_ends_the_command_with_3_and_is_named(tmp_path):
    raw = write_faces(tmp_path / "raw", 8, folder="train_set")
    write_faces(raw, 1, folder="val_set", start=100)
    write_face(raw, "5", picture(3), folder="val_set", exp=3)
    done = run(raw, tmp_path / "data")
    assert done.returncode == 3
    assert error_of(done).startswith("1 groups of byte-equal images stand in two splits that the source declares; --on")
    assert "train_set/3 (train) = val_set/5 (test)" in done.stderr
    assert not dataset_of(tmp_path / "data").exists()
