"""`pipeline.verify` finds whatever is changed after publishing, and names the shard and the record."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline import checking, tfrecord
from pipeline.errors import DataError


@pytest.fixture
def dataset(sample_dataset, tmp_path):
    return shutil.copytree(sample_dataset, tmp_path / "1.0.0")


def problems(dataset):
    return checking.check_dataset(str(dataset), workers=1).problems


def shard_of(dataset):
    return sorted(dataset.glob("*train.tfrecord-00001*"))[0]


def test_all_is_well(dataset):
    verdict = checking.check_dataset(str(dataset), workers=2)
    assert verdict.problems == ()
    assert verdict.records == 120
    assert verdict.shards == 6


def test_a_flipped_bit_is_found_and_the_record_named(dataset):
    shard = shard_of(dataset)
    with open(shard, "rb") as file:
        offset, record = list(tfrecord.read_records(file))[2]
    content = bytearray(shard.read_bytes())
    content[offset + 12 + len(record) // 2] ^= 4
    shard.write_bytes(content)
    found = problems(dataset)
    assert len(found) == 2
    assert f"{shard.name}: its sha256 is not the manifest's" in found[0]
    assert f"{shard.name}: record 2 at byte {offset}: its data fails the checksum (id " in found[1]


def test_a_shard_cut_at_a_record_boundary_is_found(dataset):
    shard = shard_of(dataset)
    with open(shard, "rb") as file:
        *_, (offset, _) = tfrecord.read_records(file)
    os.truncate(shard, offset)
    assert any(f"{shard.name}: " in p and "records, the manifest says" in p for p in problems(dataset))


def test_a_shard_with_a_record_twice_is_found(dataset):
    shard = shard_of(dataset)
    with open(shard, "rb") as file:
        (_, first), *_ = tfrecord.read_records(file)
    with open(shard, "ab") as file:
        file.write(tfrecord.frame(first))
    assert any(f"{shard.name}: " in p and "records, the manifest says" in p for p in problems(dataset))


def test_two_shards_that_changed_places_are_found_by_record(dataset):
    one, other = sorted(dataset.glob("*train.tfrecord*"))[:2]
    one_bytes = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_bytes)
    found = problems(dataset)
    assert any(one.name in p and "record 0" in p and "records.parquet says" in p for p in found)


def test_a_missing_shard_and_an_extra_one_are_named(dataset):
    shard = shard_of(dataset)
    shard.rename(dataset / "affect_faces-train.tfrecord-00002-of-00003")
    assert problems(dataset) == (
        "affect_faces-train.tfrecord-00002-of-00003: is not in the manifest; an extra file",
        f"{shard.name}: is missing",
    )


@pytest.mark.parametrize(
    "name", ["features.json", "dataset_info.json", "statistics.json", "records.parquet", "rejected.jsonl"]
)
def test_a_changed_table_is_named(dataset, name):
    with open(dataset / name, "ab") as file:
        file.write(b" ")
    assert problems(dataset) == (f"{name}: its sha256 is not the manifest's; it was changed after publishing",)


def test_a_consistent_forgery_of_the_labels_is_found(dataset):
    """Even when manifest and sha256 are made to agree, the record contradicts its row."""
    import hashlib

    from pipeline import codec

    shard = shard_of(dataset)
    with open(shard, "rb") as file:
        records = [codec.decode(data) for _, data in tfrecord.read_records(file)]
    object.__setattr__(records[1], "expression", (records[1].expression + 1) % 8)
    content = b"".join(tfrecord.frame(codec.encode(record)) for record in records)
    shard.write_bytes(content)
    manifest = json.loads((dataset / "manifest.json").read_text())
    (entry,) = (s for s in manifest["shards"] if s["file"] == shard.name)
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    found = problems(dataset)
    assert any(f"{shard.name}: record 1 (id {records[1].id!r})" in p and "expression is" in p for p in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("shards"), "field shards: it is missing"),
        (lambda m: m.update(format=2), "field format: 2 where this program reads 1"),
        (lambda m: m["shards"][0].update(records="8"), 'field shards[0].records: "8" where int is due'),
    ],
)
def test_a_broken_manifest_names_file_and_field(dataset, change, message):
    manifest = json.loads((dataset / "manifest.json").read_text())
    change(manifest)
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        problems(dataset)
    assert "manifest.json" in str(caught.value)
    assert message in str(caught.value)


def run(*args):
    return subprocess.run([sys.executable, "-m", "pipeline.verify", *args], capture_output=True, text=True)


def test_the_command_says_what_it_checked_and_how_it_ends(dataset, tmp_path):
    done = run(f"--dataset_dir={dataset}")
    assert done.returncode == 0, done.stderr
    assert "120 records in 6 shards" in done.stdout
    shard_of(dataset).unlink()
    failed = run(f"--dataset_dir={dataset}")
    assert failed.returncode == 3
    assert failed.stderr.startswith("error: 1 problems in ")
    nowhere = run(f"--dataset_dir={tmp_path}")
    assert nowhere.returncode == 3
    assert "manifest.json is missing; " in nowhere.stderr.splitlines()[0]
