"""The job on good and bad faces: every input is accounted for, and every flag does what it says."""

import json
import math
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import simplejpeg
from faces import (
    SIDE,
    convert,
    dataset_of,
    picture,
    plan,
    published,
    records_of,
    rows_of,
    run,
    settings_for,
    write_face,
    write_faces,
)

from pipeline import images, plan_stage, planning, processes, publishing, summary, tfrecord
from pipeline.errors import DataError, OutputBusyError, UsageError
from pipeline.records import EXPRESSIONS, LABEL_ORDERS

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """40 good faces, five of each expression."""
    return write_faces(tmp_path_factory.mktemp("raw"), 40)


@pytest.fixture(scope="module")
def raw_splits(tmp_path_factory):
    """32 faces in train_set and 8 in val_set."""
    root = write_faces(tmp_path_factory.mktemp("raw_splits"), 32, folder="train_set")
    return write_faces(root, 8, folder="val_set", start=32)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """(raw, data_dir, result): 30 good faces and one of each kind of trouble, converted."""
    raw, data = tmp_path_factory.mktemp("mixed_raw"), tmp_path_factory.mktemp("mixed_data")
    write_faces(raw, 30)
    write_face(raw, "cut", picture(100)[:-200], exp=1, val=0.5, aro=0.1)
    write_face(raw, "empty", b"", exp=1)
    write_face(raw, "alone", picture(101))
    write_face(raw, "lost", None, exp=1)
    write_face(raw, "far", picture(102), exp=1, lnd=np.full(136, 900.0))
    write_face(raw, "wild", picture(103), exp=1, val=1.5, aro=0.0)
    write_face(raw, "none", picture(104), exp=8, val=0.25, aro=-0.5)
    write_face(raw, "nothing", picture(105), exp=10, val=-2, aro=-2)
    write_face(raw, "same", picture(0), exp=0, val=0.0)
    (raw / "images" / "notes.txt").write_text("no image")
    return raw, data, convert(raw, data, max_bad_fraction=0.5, num_shards=2)


REJECTED = {
    "alone": "missing_annotation", "cut": "truncated", "empty": "empty", "far": "bad_landmarks",
    "images/notes.txt": "unknown_file", "lost": "missing_image", "wild": "out_of_range",
}  # fmt: skip


def test_inputs_are_written_rejected_or_filtered(mixed):
    counts = mixed[2].statistics
    assert (counts["inputs"], counts["written"], counts["rejected"], counts["filtered"]) == (40, 32, 7, 1)
    assert counts["rejected_by_reason"] == dict.fromkeys(REJECTED.values(), 1)
    assert counts["filtered_by_reason"] == {"no_label": 1}
    assert sum(split["examples"] for split in counts["splits"].values()) == 32
    assert counts["census"]["expression:8 none"] == counts["census"]["expression:10 no_face"] == 1
    assert counts["census"]["valence_arousal:-2"] == 1
    assert counts["duplicates"] == {"groups": 1, "images": 2, "examples": [["0", "same"]]}
    assert counts["formats"] == {"jpeg": 32}
    assert counts["image_sizes"] == {f"{SIDE}x{SIDE}": 32}
    assert json.loads((dataset_of(mixed[1]) / "statistics.json").read_text()) == counts


def test_every_rejected_input_is_a_line(mixed):
    with open(dataset_of(mixed[1]) / "rejected.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert {line["id"]: line["reason"] for line in lines} == REJECTED
    assert [line["id"] for line in lines] == sorted(REJECTED)
    assert all(list(line) == ["id", "source", "stage", "reason", "detail", "bytes", "sha256"] for line in lines)
    by_id = {line["id"]: line for line in lines}
    assert (by_id["cut"]["stage"], by_id["lost"]["stage"]) == ("verify", "scan")
    assert by_id["cut"]["bytes"] == len(picture(100)) - 200
    assert by_id["wild"]["source"] == "images/wild.jpg"
    assert by_id["wild"]["detail"] == "valence is 1.5, outside [-1, 1] and not -2"
    assert by_id["lost"]["sha256"] == ""


def test_every_input_is_a_row_and_every_record_is_where_its_row_says(mixed):
    data, rows = mixed[1], rows_of(mixed[1])
    assert len(rows) == 40
    assert {id for id, row in rows.items() if row["status"] == "rejected"} == set(REJECTED)
    assert (rows["nothing"]["status"], rows["nothing"]["reason"]) == ("filtered", "no_label")
    assert (rows["none"]["expression"], rows["none"]["valence"]) == (-1, 0.25)
    assert rows["none"]["expression_probs"] == [0] * 8
    assert rows["same"]["split"] == rows["0"]["split"]
    for split in SPLITS:
        where = [row for row in rows.values() if row["split"] == split]
        assert {row["status"] for row in where} == {"written"}
        where.sort(key=lambda row: (row["shard"], row["position"]))
        records = list(records_of(data, split))
        for row, record in zip(where, records, strict=True):
            assert (row["id"], row["group"], row["expression"]) == (record.id, record.group, record.expression)
            assert (math.isnan(row["arousal"]) and math.isnan(record.arousal)) or row["arousal"] == record.arousal
            assert row["has_landmarks"] == (record.landmarks is not None)
            assert row["expression_probs"] == record.shares.tolist()
            assert images.inspect(record.image, images.ImageSettings()).width == row["width"] == SIDE
            (shard,) = dataset_of(data).glob(f"affect_faces-{split}.tfrecord-{row['shard']:05d}-of-*")
            with open(shard, "rb") as file:
                file.seek(row["offset"])
                framed = file.read(row["length"])
            assert len(framed) == row["length"] and record.image in framed
            assert framed == tfrecord.frame(framed[12:-4])
    assert {(row["shard"], row["offset"], row["height"]) for row in rows.values() if row["status"] == "rejected"} == {
        (-1, -1, 0)
    }


def test_the_summary_tells_all_of_it(mixed):
    text = summary.render(mixed[2])
    for line in ("inputs            40", "written           32", "rejected           7", "filtered           1"):
        assert line in text
    assert "1 truncated: the image ends before its pixels do" in text
    assert "1 no_label: no head has a label" in text
    assert "2 inputs are byte-equal to another, in 1 groups" in text
    assert text.endswith(f"open      {dataset_of(mixed[1])}")


def test_no_path_of_the_machine_is_published_and_times_stay_in_one_file(mixed):
    raw, data, _ = mixed
    for path in dataset_of(data).iterdir():
        content = path.read_bytes()
        assert str(raw).encode() not in content and str(data).encode() not in content, path.name
    run = json.loads((dataset_of(data) / "run.json").read_text())
    assert run["started"].endswith("Z")
    assert set(run["seconds"]) >= {"scan", "verify", "plan", "write", "publish", "total"}
    assert run["host"] == os.uname().nodename


def test_a_dry_run_counts_the_same_and_writes_nothing(mixed, tmp_path, monkeypatch):
    raw, _, result = mixed
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    dry = convert(raw, tmp_path / "data", max_bad_fraction=0.5, num_shards=2, dry_run=True)
    assert os.listdir(tmp_path) == ["tmp"]
    assert os.listdir(tmp_path / "tmp") == []
    assert (dry.dataset_dir, dry.digest) == ("", "")
    for split in result.statistics["splits"].values():
        split.pop("bytes", None)
    assert {"format": 1} | dry.statistics == result.statistics
    assert "would be: this was a dry run" in summary.render(dry)


def counts_of(statistics):
    return {name: split["examples"] for name, split in statistics["splits"].items()}


@pytest.mark.parametrize(
    ("flags", "examples"),
    [
        ({"splits": "train:0.4,test:0.6"}, {"train": 16, "test": 24}),
        ({"splits": "test:1"}, {"test": 40}),
        ({"splits": "test:1", "max_examples_per_split": 7}, {"test": 7}),
    ],
)
def test_splits_of_a_source_that_declares_none(raw, flags, examples):
    statistics = plan(raw, **flags)
    assert counts_of(statistics) == examples
    assert statistics["filtered_by_reason"] == ({"max_examples": 33} if "max_examples_per_split" in flags else {})


def test_splits_that_the_source_declares_are_kept(raw_splits):
    assert counts_of(plan(raw_splits)) == {"train": 32, "test": 8}
    assert counts_of(plan(raw_splits, holdout=0.25)) == {"train": 24, "validation": 8, "test": 8}
    with pytest.raises(UsageError, match="--splits is for a source that declares no splits"):
        plan(raw_splits, splits="train:1")


def test_a_holdout_needs_a_declared_split(raw):
    with pytest.raises(UsageError, match="--holdout is for a source that declares a train split"):
        plan(raw, holdout=0.1)


def test_shards_by_number_and_by_size(raw, tmp_path):
    statistics = plan(raw, num_shards=3, splits="train:0.6,test:0.4")
    assert {name: split["shards"] for name, split in statistics["splits"].items()} == {"train": 3, "test": 3}
    noise = np.random.default_rng(0)
    for i in range(6):
        pixels = noise.integers(0, 256, (500, 500, 3), np.uint8)
        write_face(tmp_path, str(i), simplejpeg.encode_jpeg(pixels, 95, colorsubsampling="444"), exp=i)
    size = plan(tmp_path, splits="train:1", shard_mb=1)["splits"]["train"]
    assert size["source_bytes"] > 2_000_000
    assert size["shards"] == math.ceil(size["source_bytes"] / 1e6)
    assert plan(tmp_path, splits="train:1")["splits"]["train"]["shards"] == 1


def test_the_seed_gives_another_order_and_nothing_else(raw, tmp_path):
    order = {}
    for seed in (0, 1):
        convert(raw, tmp_path / str(seed), seed=seed, splits="train:1")
        order[seed] = [record.id for record in records_of(tmp_path / str(seed), "train")]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


def test_images_are_reduced_and_their_landmarks_with_them(raw, tmp_path):
    convert(raw, tmp_path, image_size=24, splits="train:1", max_examples_per_split=4)
    for record in records_of(tmp_path, "train"):
        picture = images.inspect(record.image, images.ImageSettings())
        assert (picture.width, picture.height) == (24, 24)
        assert record.landmarks.max() < 24
    row = next(row for row in rows_of(tmp_path).values() if row["status"] == "written")
    assert (row["width"], row["height"], row["verbatim"], row["format"]) == (24, 24, False, "jpeg")


def test_small_images_are_rejected(raw):
    with pytest.raises(DataError) as caught:
        plan(raw, min_side=SIDE + 1)
    first, second = str(caught.value).splitlines()
    assert first.startswith("40 of 40 inputs are rejected, above --max_bad_fraction=0.01; nothing is published")
    assert second.startswith("  40 × too_small (a side is shorter than --min_side), as '0': 48×48 pixels")
    with pytest.raises(DataError, match=r"^no face is left to write"):
        plan(raw, min_side=SIDE + 1, max_bad_fraction=1.0)


def test_sentinels_and_missing_labels_by_policy(tmp_path):
    write_faces(tmp_path, 10)
    write_face(tmp_path, "none", picture(50), exp=8, val=0.25, aro=-0.5)
    write_face(tmp_path, "few", picture(51), exp=3)
    kept = plan(tmp_path)
    assert (kept["written"], kept["filtered"], kept["rejected"]) == (12, 0, 0)
    dropped = plan(tmp_path, sentinels="drop", missing_labels="reject", max_bad_fraction=0.5)
    assert dropped["filtered_by_reason"] == {}
    assert dropped["rejected_by_reason"] == {"missing_labels": 2}
    assert plan(tmp_path, sentinels="drop")["filtered_by_reason"] == {"sentinel": 1}


def test_codes_in_another_order_stop_and_the_flag_sets_it(tmp_path):
    raw = write_faces(tmp_path / "raw", 49, order=LABEL_ORDERS["fer2013"])
    with pytest.raises(DataError) as caught:
        plan(raw)
    first = str(caught.value).splitlines()[0]
    assert first.startswith("valence contradicts the label order neutral,happy,sad")
    assert "Give --label_order=fer2013 if the codes are in that order" in first
    classes = plan(raw, label_order="fer2013", splits="train:1")["splits"]["train"]["classes"]
    assert classes == dict.fromkeys(EXPRESSIONS, 7) | {"contempt": 0, "unknown": 0}
    convert(raw, tmp_path / "data", label_order="fer2013", splits="train:1")
    assert all(
        row["expression"] == EXPRESSIONS.index("anger")
        for id, row in rows_of(tmp_path / "data").items()
        if int(id) % 7 == 0
    )
    insisted = plan(raw, label_order="affectnet", splits="train:1")
    assert insisted["splits"]["train"]["classes"]["neutral"] == 7


LEAK = "1 groups of byte-equal images stand in two splits that the source declares; --on_leak=drop drops"


def test_equal_bytes_in_two_declared_splits(raw_splits, tmp_path):
    raw = shutil.copytree(raw_splits, tmp_path / "raw")
    write_face(raw, "900", picture(35), folder="train_set", exp=3)
    with pytest.raises(DataError) as caught:
        plan(raw)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(LEAK)
    assert lines[1:] == ["  train_set/900 (train) = val_set/35 (test)"]
    dropped = plan(raw, on_leak="drop")
    assert counts_of(dropped) == {"train": 32, "test": 8}
    assert dropped["filtered_by_reason"] == {"leak": 1}
    ids = [{"id": "train_set/900", "split": "train"}, {"id": "val_set/35", "split": "test"}]
    found = {"groups": 1, "images": 2, "examples": [ids]}
    assert dropped["leaks"] == found | {"policy": "drop", "dropped": 1}
    allowed = plan(raw, on_leak="allow")
    assert counts_of(allowed) == {"train": 33, "test": 8}
    assert allowed["leaks"] == found | {"policy": "allow", "dropped": 0}


def test_an_existing_dataset_is_replaced_only_when_asked(raw, tmp_path):
    convert(raw, tmp_path)
    first = published(tmp_path)
    with pytest.raises(OutputBusyError, match="exists; --overwrite replaces it, another --name keeps both"):
        convert(raw, tmp_path, seed=1)
    assert published(tmp_path) == first
    convert(raw, tmp_path, seed=1, overwrite=True)
    assert published(tmp_path) != first
    convert(raw, tmp_path, overwrite=True)
    assert published(tmp_path) == first


def test_a_dataset_that_is_replaced_is_there_after_each_renaming(raw, tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    if not publishing._exchange(str(tmp_path / "one"), str(tmp_path / "other")):
        pytest.skip("this file system cannot exchange two directories")
    convert(raw, tmp_path)
    rename, there = os.rename, []

    def rename_and_look(source, target):
        rename(source, target)
        there.append((dataset_of(tmp_path) / "manifest.json").exists())

    monkeypatch.setattr(os, "rename", rename_and_look)
    convert(raw, tmp_path, seed=1, overwrite=True)
    assert there and all(there)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_dataset_of_ours_is_not_replaced_either(raw, tmp_path, kind):
    place = dataset_of(tmp_path)
    place.parent.mkdir(parents=True)
    if kind == "folder":
        place.mkdir()
        (place / "dataset_info.json").write_text("{}")
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to("nowhere")
    for overwrite in (False, True):
        with pytest.raises(OutputBusyError, match="exists and is no dataset of ours; move it away, or give another"):
            convert(raw, tmp_path, overwrite=overwrite)
    assert os.listdir(place.parent) == ["1.0.0"]
    assert place.is_dir() == (kind == "folder") and place.is_symlink() == (kind == "link")


def test_faces_inside_the_dataset_are_not_destroyed_with_it(raw, tmp_path):
    convert(raw, tmp_path)
    inside = shutil.copytree(raw, dataset_of(tmp_path) / "raw")
    with pytest.raises(UsageError, match=r"lies in .*, the dataset itself; give another --name"):
        convert(inside, tmp_path, overwrite=True)
    assert len(os.listdir(inside / "images")) == 40


def test_a_warning_for_affectnets_validation_set_in_a_flat_folder():
    """Its class counts cannot be reached with few faces: the plan stage is asked with the counts alone."""
    expression = np.repeat(np.arange(8, dtype=np.int8), (500,) * 7 + (499,))
    rows = planning.Rows(*[np.full(len(expression), -1, np.int8)] * 8)
    settings = settings_for(pathlib.Path("raw"), pathlib.Path("data"))
    (warning,) = plan_stage._warnings(settings, expression, rows)
    assert "must not be scored against AffectNet's validation set" in warning
    assert plan_stage._warnings(settings, expression[1:], rows) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--direct_num_workers=many", "argument --direct_num_workers: invalid int value: 'many'"),
        ("--direct_running_mode=fast", "invalid choice: 'fast'"),
        ("--direct_runing_mode=multi_processing", "FnApiRunner has no option --direct_runing_mode"),
        ("--runner=Nonsense", "Nonsense"),
        ("--runner='FlinkRunner", "No closing quotation"),
    ],
)
def test_beam_options_that_beam_would_ignore_or_choke_on(raw, tmp_path, options, problem, capfd):
    with pytest.raises(UsageError) as caught:
        convert(raw, tmp_path, beam_options=options)
    first = str(caught.value).splitlines()[0]
    assert first.startswith("--beam_options=")
    assert problem in first
    assert "usage:" not in capfd.readouterr().err
    with pytest.raises(UsageError, match="say the same thing"):
        convert(raw, tmp_path, beam_options="--direct_running_mode=multi_threading --direct_num_workers=2")


def test_settings_that_contradict_each_other(raw, tmp_path):
    with pytest.raises(UsageError, match="--image_size=8 is not accepted; give 0 or at least --min_side=16"):
        settings_for(raw, tmp_path, image_size=8)


def test_processes_end_with_the_job_and_threads_do_the_same_work(raw, tmp_path):
    one = convert(raw, tmp_path / "1")
    assert [pid for pid in processes.descendants(os.getpid()) if "worker" in command_of(pid)] == []
    assert (
        convert(raw, tmp_path / "2", num_workers=2, beam_options="--direct_running_mode=multi_threading").digest
        == one.digest
    )
    assert [pid for pid in processes.descendants(os.getpid()) if "worker" in command_of(pid)] == []


def command_of(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def test_no_process_of_the_job_imports_tensorflow(raw, tmp_path):
    """Neither the driver, nor Beam's own processes, nor the decoding ones even look for it."""
    log = tmp_path / "imports"
    log.touch()
    faults = [{"at": f"import:{name}", "do": f"log:{log}"} for name in ("tensorflow", "keras", "apache_beam")]
    done = run(raw, tmp_path / "data", faults=faults, beam_options="--direct_running_mode=multi_processing")
    assert done.returncode == 0, done.stderr
    assert "written           40" in done.stdout
    assert set(log.read_text().split()) == {"apache_beam"}
