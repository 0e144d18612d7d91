"""The TFDS package: every way in which TFDS opens, describes and builds a dataset. Imports TensorFlow."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import simple_parsing
import tensorflow_datasets as tfds
from tensorflow_datasets.scripts.cli import build

from datasets.affect_faces import AffectFacesConfig, Builder
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from pipeline.settings import Settings

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "datasets" / "affect_faces"
SPLITS = {"train": 96, "validation": 12, "test": 12}

OPEN_ALONE = """
import json, sys
for name in ("pipeline", "datasets", "trainers", "export"):
    sys.modules[name] = None  # an import of it fails from here on
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
batch = next(iter(builder.as_dataset(split="train").batch(8)))
print(json.dumps({
    "name": builder.info.full_name,
    "image": [batch["image"].dtype.name, list(batch["image"].shape)],
    "landmarks": list(batch["landmarks"].shape),
    "names": builder.info.features["expression"].names,
    "splits": {name: split.num_examples for name, split in builder.info.splits.items()},
}))
"""


def data_dir(dataset_dir: pathlib.Path) -> str:
    return str(dataset_dir.parents[2])


def read_json(path: pathlib.Path):
    return json.loads(path.read_text(encoding="utf-8"))


def tfds_build(*arguments: str) -> None:
    """`tfds build ARGUMENTS`, in this process, which has TensorFlow already."""
    simple_parsing.parse(build.Args, args=arguments).execute()


def shard_digests(dataset_dir: pathlib.Path) -> dict[str, str]:
    return {shard["file"]: shard["sha256"] for shard in read_json(dataset_dir / "manifest.json")["shards"]}


@pytest.fixture(scope="module")
def partly_labelled(sample_faces_dir, tmp_path_factory) -> pathlib.Path:
    """30 faces with a CSV: every third has no expression, the others no valence."""
    raw = tmp_path_factory.mktemp("partly_labelled")
    lines = ["image,expression,valence,arousal"]
    for index, image in enumerate(sorted((sample_faces_dir / "images").iterdir())[:30]):
        shutil.copy(image, raw)
        lines.append(f"{image.name},,0.25,-0.5" if index % 3 == 0 else f"{image.name},{EXPRESSIONS[index % 8]},,")
    (raw / "faces.csv").write_text("\n".join(lines) + "\n")
    return raw


# Opening


def test_opens_where_this_project_cannot_be_imported(sample_dataset, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-c", OPEN_ALONE, str(sample_dataset)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "name": "affect_faces/sample/1.0.0",
        "image": ["uint8", [8, 64, 64, 3]],
        "landmarks": [8, 68, 2],
        "names": list(EXPRESSIONS),
        "splits": SPLITS,
    }


def test_loads_by_a_name_that_no_config_lists(sample_dataset):
    assert "sample" not in Builder.builder_configs
    faces, info = tfds.load(
        "affect_faces/sample", data_dir=data_dir(sample_dataset), split="test", as_supervised=True, with_info=True
    )
    image, label = next(iter(faces))
    assert image.shape == (64, 64, 3) and image.dtype == "uint8" and label.dtype == "int64"
    assert len(list(faces)) == SPLITS["test"]
    assert info.full_name == "affect_faces/sample/1.0.0"
    assert {name: split.num_examples for name, split in info.splits.items()} == SPLITS


@pytest.mark.parametrize(
    ("split", "count"), [("train[:80%]", 77), ("train[80%:]", 19), ("train+validation", 108), ("train[10:20]", 10)]
)
def test_slices(sample_dataset, split, count):
    faces = tfds.load("affect_faces/sample", data_dir=data_dir(sample_dataset), split=split)
    assert len(faces) == count
    assert sum(1 for _ in faces) == count


def test_reads_every_record_as_records_parquet_says(sample_dataset):
    rows = pq.read_table(sample_dataset / "records.parquet").to_pylist()
    loaded = tfds.load("affect_faces/sample", data_dir=data_dir(sample_dataset))
    read = {
        example["id"].decode(): (split, example) for split, faces in loaded.items() for example in tfds.as_numpy(faces)
    }
    assert len(read) == len(rows) == sum(SPLITS.values())
    for row in rows:
        split, example = read[row["id"]]
        assert (split, example["group"].decode()) == (row["split"], row["group"])
        assert example["image"].shape == (row["height"], row["width"], 3)
        assert example["expression"] == row["expression"]
        np.testing.assert_array_equal(example["expression_probs"], np.float32(row["expression_probs"]))
        np.testing.assert_array_equal([example["valence"], example["arousal"]], [row["valence"], row["arousal"]])
        assert np.isfinite(example["landmarks"]).all() == row["has_landmarks"]


def test_import_is_light():
    """Neither importing the package nor making a builder imports TensorFlow or Beam."""
    script = (
        "import sys, datasets.affect_faces\n"
        "datasets.affect_faces.Builder(data_dir='nowhere').info.features\n"
        "print(*{'tensorflow', 'keras', 'apache_beam'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# Describing


def test_the_metadata_is_what_tfds_would_write(sample_dataset, tmp_path):
    """TFDS counts the records itself and writes its files; ours are the same JSON."""
    info = Builder(data_dir=tmp_path, config=AffectFacesConfig(name="sample")).info
    # Its default file name has one more brace pair than the one in dataset_info.json; it matches the same files.
    template = tfds.core.ShardedFileTemplate(
        data_dir=sample_dataset, dataset_name="affect_faces", filetype_suffix="tfrecord"
    )
    counted = tfds.folder_dataset.compute_split_info(filename_template=template)
    info.set_splits(tfds.core.SplitDict([split.replace(filename_template=None) for split in counted]))
    info.write_to_directory(tmp_path)

    ours, theirs = (read_json(folder / "dataset_info.json") for folder in (sample_dataset, tmp_path))
    for document in (ours, theirs):
        document["splits"].sort(key=lambda split: split["name"])
    assert ours == theirs
    assert read_json(sample_dataset / "features.json") == read_json(tmp_path / "features.json")
    assert (sample_dataset / "expression.labels.txt").read_bytes() == (tmp_path / "expression.labels.txt").read_bytes()


def test_the_catalogue_files_are_read():
    metadata = Builder.get_metadata()
    assert metadata.description.startswith("# affect_faces")
    assert metadata.citation.count("doi") == metadata.citation.count("@") == 4
    assert (
        set(metadata.tags) <= set(tfds.core.dataset_metadata.valid_tags())
        and "content.data-type.image" in metadata.tags
    )


def test_the_readme_lists_the_features():
    lines = (PACKAGE / "README.md").read_text(encoding="utf-8").splitlines()
    listed = " ".join(line.split("|")[1] for line in lines if line.startswith("| `"))
    assert set(listed.replace("`", "").replace(",", "").split()) == set(Builder(data_dir="nowhere").info.features)


# Building


def test_tfds_build_runs_the_same_job_once(sample_faces_dir, sample_dataset, tmp_path, capsys):
    command = [str(PACKAGE), f"--manual_dir={sample_faces_dir}", f"--data_dir={tmp_path}", "--num_shards=2"]
    tfds_build(*command)
    built = tmp_path / "affect_faces" / "affectnet" / "1.0.0"
    assert shard_digests(built) == shard_digests(sample_dataset)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and built not in path.parents]
    printed = capsys.readouterr().out
    assert f"open      {built}" in printed and "num_examples=96" in printed

    before = os.stat(built / "run.json").st_mtime_ns
    tfds_build(*command)  # it exists: used
    assert os.stat(built / "run.json").st_mtime_ns == before
    assert "num_examples=96" in capsys.readouterr().out

    tfds_build(*command, "--overwrite", "--max_examples_per_split=10", "--max_shard_size_mb=1")
    settings = read_json(built / "manifest.json")["settings"]
    assert (settings["num_shards"], settings["max_examples_per_split"], settings["shard_mb"]) == (2, 10, 1)
    faces = tfds.load("affect_faces", data_dir=tmp_path, split="train")
    assert sum(1 for _ in faces) == 10


def test_any_other_source_by_its_config(partly_labelled, tmp_path, capsys):
    config = {
        "name": "mine",
        "source": "csv",
        "splits": "train:1",
        "image_size": 32,
        "beam_options": "--direct_num_workers=1",
    }
    command = [
        str(PACKAGE),
        f"--manual_dir={partly_labelled}",
        f"--data_dir={tmp_path}",
        f"--config={json.dumps(config)}",
    ]
    tfds_build(*command, "--max_examples_per_split=0")
    assert "dry run" in capsys.readouterr().out
    assert not (tmp_path / "affect_faces" / "mine").exists()

    tfds_build(*command)
    faces, info = tfds.load("affect_faces/mine", data_dir=tmp_path, split="train", with_info=True)
    examples = list(tfds.as_numpy(faces))
    assert len(examples) == 30 and examples[0]["image"].shape == (32, 32, 3)
    assert sum(example["expression"] == -1 for example in examples) == 10
    assert sum(np.isnan(example["valence"]) for example in examples) == 20
    assert info.config_description == "mine, converted from the layout csv"

    table = tfds.as_dataframe(faces, info)
    assert len(table) == 30 and set(table.columns) == set(info.features)
    shown = table._repr_html_()
    assert shown.count("<img") == 30 and "(happy)" in shown

    matplotlib.use("Agg")
    figure = tfds.show_examples(faces, info, rows=2, cols=3)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert len(labels) == 6 and all(label.rpartition(" ")[2] in {f"({i})" for i in range(-1, 8)} for label in labels)


def test_overwriting_keeps_the_older_dataset_until_the_new_one_is_complete(sample_faces_dir, sample_dataset, tmp_path):
    shutil.copytree(sample_dataset, tmp_path / "affect_faces" / "sample" / "1.0.0")
    builder = Builder(data_dir=tmp_path, config=AffectFacesConfig(name="sample", source="csv"))
    overwrite = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
    with pytest.raises(DataError, match=r"\.csv"):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=sample_faces_dir, download_mode=overwrite)
        )
    assert len(list(builder.as_dataset(split="test"))) == SPLITS["test"]


def test_a_failing_conversion_says_why(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("no faces here")
    with pytest.raises(DataError, match="images/"):
        tfds_build(str(PACKAGE), f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'data'}")
    assert not (tmp_path / "data" / "affect_faces" / "affectnet" / "1.0.0").exists()


def test_without_faces_tfds_gives_the_instructions(tmp_path):
    with pytest.raises(AssertionError, match="annotations/"):
        tfds.load("affect_faces", data_dir=tmp_path)


# Configuring


def test_a_config_has_every_setting_that_tfds_does_not_ask_for():
    ours = {field.name for field in dataclasses.fields(AffectFacesConfig)}
    missing = {field.name for field in dataclasses.fields(Settings)} - ours
    assert missing == {"input_dir", "data_dir", "overwrite", "dry_run"}
    assert AffectFacesConfig(name="x").settings(input_dir="a", data_dir="b") == Settings("affectnet", "a", "b", "x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source": "celeba"}, "--source='celeba'.*affectnet"),
        ({"name": "a/b"}, "--name='a/b'"),
        ({"image_size": "96"}, "--image_size='96'.*int"),
        ({"holdout": "0.1"}, "--holdout='0.1'.*float"),
        ({"version": "2.0.0"}, r"version 2\.0\.0.*1\.0\.0"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_removed(fields, said):
    with pytest.raises(UsageError, match=said):
        Builder.builder_config_cls(**({"name": "mine"} | fields))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"download_mode": tfds.download.GenerateMode.UPDATE_DATASET_INFO}, "checksums"),
        ({"beam_options": "--runner=DirectRunner"}, '"beam_options"'),
        ({"beam_runner": "DirectRunner"}, '"beam_options"'),
    ],
)
def test_what_the_job_does_not_do_is_refused(sample_faces_dir, tmp_path, options, said):
    config = tfds.download.DownloadConfig(manual_dir=sample_faces_dir, **options)
    with pytest.raises(UsageError, match=said):
        Builder(data_dir=tmp_path).download_and_prepare(download_config=config)


def test_another_file_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match="tfrecord"):
        Builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(UsageError, match="tfrecord"):
        Builder(data_dir=tmp_path).download_and_prepare(file_format="riegeli")


class AffectFacesTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder."""

    DATASET_CLASS = Builder
    SPLITS = SPLITS

    @pytest.fixture(autouse=True, scope="class")
    def examples(self, request, sample_faces_dir):
        request.cls.EXAMPLE_DIR = sample_faces_dir
