"""A whole training on drawn faces: what it leaves, what stops it, and that it goes on where it was."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from faces import ROOT, dataset_of, settings_for, write_faces

from datasets import sample_faces
from datasets.input_pipeline import make_eval, make_train
from datasets.selection import Selection
from pipeline import publishing
from pipeline.errors import DataError, OutputBusyError, UsageError
from trainers import devices, metrics, step, streams, training
from trainers import model as models
from trainers.config import HEADS, TrainConfig, from_json, to_json
from trainers.workdir import Workdir

STEPS = 6  # of an epoch: 96 faces


def small(dataset, **given) -> TrainConfig:
    """The smallest network at its smallest size."""
    defaults = {
        "data_dir": str(dataset.parents[2]), "name": dataset.parent.name, "backbone": "custom_cnn", "width": 0.25,
        "image_size": 32, "shared_units": (16,), "batch_size": 16, "epochs": 1, "tensorboard": False,
    }  # fmt: skip
    return TrainConfig(**defaults | given)


def rows_of(workdir) -> list[dict[str, str]]:
    with open(workdir / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def state_of(workdir) -> bytes:
    """The newest state."""
    return max((workdir / "state").glob("*.state")).read_bytes()


def weights_of(workdir) -> list[bytes]:
    return [array.tobytes() for array in models.load(workdir).get_weights()]


def convert(raw, data_dir, **changes) -> None:
    """Converts in a process of its own, as a user would before training."""
    settings = dataclasses.asdict(settings_for(raw, data_dir, **changes))
    kept = ("source", "input_dir", "data_dir", "name", *changes)
    flags = [f"--{name}={settings[name]}" for name in kept]
    subprocess.run([sys.executable, "-m", "pipeline.build_tfrecords", *flags], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def config(sample_dataset) -> TrainConfig:
    """With everything that a state must hold: phases, averages, learned loss weights, Dropout, patience."""
    return small(
        sample_dataset, epochs=3, phases=("heads@0", "all@1:3e-3"), ema=0.9, weighting="uncertainty", dropout=0.2,
        plateau_patience=1, affect_loss="ccc+mse", mixup=0.2, clip_norm=1.0, optimizer="adamw", weight_decay=0.01,
        schedule="cosine", warmup_epochs=0.5, monitor="score", tensorboard=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """(work directory, lines that were said) of an undisturbed run."""
    workdir, said = tmp_path_factory.mktemp("run") / "work", []
    training.train(config, workdir, say=said.append)
    return workdir, said


def test_what_a_run_leaves(run, config, sample_dataset):
    workdir, _ = run
    assert {path.name for path in workdir.iterdir()} == {
        "best.keras", "config.json", "environment.json", "history.csv", "logs", "state",
    }  # fmt: skip
    assert from_json((workdir / "config.json").read_text()) == config
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["dataset"]["digest"] == publishing.digest(str(sample_dataset))
    assert environment["dataset"]["examples"] == {"train": 96, "validation": 12}
    assert environment["heads"] == list(HEADS) and environment["class_names"][0] == "neutral"
    assert environment["parameters"] == models.load(workdir).count_params()


def test_history(run):
    rows = rows_of(run[0])
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "6"), ("1", "12"), ("2", "18")]
    scores = ["loss", *(f"{head}_loss" for head in HEADS), "accuracy", "macro_f1", "score"]
    scores += [f"{head}_{name}" for head in HEADS[1:] for name in ("ccc", "pearson", "rmse", "sagr")]
    assert set(scores) | {f"val_{name}" for name in scores} < set(rows[0])
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert not {"time", "seconds", "wall"} & set(rows[0])
    # Half a cosine in each phase, the second from a rate of its own.
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == pytest.approx(0.25e-3) and rates[2] < rates[1] < 3e-3


def test_best_model_is_that_of_its_row(run, config):
    """Scored again from the file, in batches of another size, it has the figures of the best epoch."""
    workdir, _ = run
    best = [row for row in rows_of(workdir) if row["best"] == "1"][-1]
    assert float(best["val_score"]) == max(float(row["val_score"]) for row in rows_of(workdir))
    model, sums = models.load(workdir), 0
    assert {name: tuple(output.shape) for name, output in model.output.items()} == {
        "expression": (None, 8), "valence": (None, 1), "arousal": (None, 1),
    }  # fmt: skip
    for batch in streams.Streams(dataclasses.replace(config, batch_size=5)).evaluation():
        batch["mask"]["expression"] = batch["label_known"]
        sums += metrics.batch_sums(batch, model(batch["image"]), HEADS).numpy()
    for name, value in metrics.figures(sums, HEADS).items():
        assert value == pytest.approx(float(best[f"val_{name}"]), abs=1e-5), name


def test_first_lines(run):
    said = run[1]
    assert [line.split()[0] for line in said[:7]] == [
        "device", "parameters", "examples", "steps", "memory", "first", "time",
    ]  # fmt: skip
    assert re.fullmatch(r"time +[0-9]+ ms a step, about [0-9]+ min of steps to go", said[6])
    assert "CPU" in said[0] and "float32" in said[0] and "96 in train, 12 in validation" in said[2]
    assert "6 an epoch, 3 epochs, batches of 16" in said[3] and "MB of weights" in said[4]
    heads = keras.models.load_model(run[0] / "best.keras")
    models.set_trainable(heads, "heads")
    trained = sum(weight.numpy().size for weight in heads.trainable_variables)
    assert f"{heads.count_params():,}, of which {trained:,} learn in this phase (heads)" in said[1]


def test_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "logs"), size_guidance={"tensors": 0}).Reload()
    tags = set(events.Tags()["tensors"])
    assert {"validation/score", "validation/loss", "confusion", "augmented_batch", "train/learning_rate"} <= tags
    assert {"train/accuracy", "train/macro_f1", "train/valence_pearson", "train/arousal_rmse"} <= tags
    assert [event.step for event in events.Tensors("train/loss")] == [6, 12, 18]
    assert [event.step for event in events.Tensors("validation/score")] == [6, 12, 18]
    faces = tf.make_ndarray(events.Tensors("augmented_batch")[0].tensor_proto)
    assert faces[0].decode() == "32" and len(faces) == 2 + 16


def test_a_finished_run_stays_as_it_is(run, config):
    before, history, said = state_of(run[0]), run[0] / "history.csv", []
    rows = history.read_bytes()
    history.write_bytes(rows[:100])  # as a kill after the last state leaves it
    training.train(config, run[0], say=said.append)
    assert said[-1].startswith("nothing is left to do") and state_of(run[0]) == before
    assert history.read_bytes() == rows


def test_a_start_that_failed_can_be_begun_otherwise(sample_dataset, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        training.train(small(sample_dataset, init=str(tmp_path / "none.keras")), tmp_path / "work")
    training.train(small(sample_dataset, phases=("heads@0",)), tmp_path / "work", say=lambda line: None)
    assert from_json((tmp_path / "work" / "config.json").read_text()).init == ""


class Crash(Exception):
    """As if the process had died."""


def crash_at(line: str):
    def say(said: str) -> None:
        if said.startswith(line):
            raise Crash

    return say


def test_a_run_that_died_comes_to_the_same_bytes(run, config, tmp_path):
    """It dies at the end of an epoch, before that is saved; then when the next phase has begun; each step is saved."""
    config = dataclasses.replace(config, save_minutes=0.0, tensorboard=False)
    for line in ("epoch    0", "phase"):
        with pytest.raises(Crash):
            training.train(config, tmp_path, say=crash_at(line))
    assert "000000005.state" in {path.name for path in (tmp_path / "state").iterdir()}
    said = []
    training.train(config, tmp_path, say=said.append)
    assert "going on    after epoch 0, step 5" in said
    assert state_of(tmp_path) == state_of(run[0]) and weights_of(tmp_path) == weights_of(run[0])
    assert (tmp_path / "history.csv").read_bytes() == (run[0] / "history.csv").read_bytes()


def test_after_the_last_step_the_stream_is_as_before(config):
    """A run that was stopped in its last validation goes on there, on several devices too, which need the elements."""
    data = streams.Streams(config)
    ended = data.training((config.epochs - 1, STEPS))
    assert ended.element_spec == data.training().element_spec and not list(ended)


def test_a_loss_scale_below_one_is_said_once(sample_dataset, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(step.Learner, "loss_scale", property(lambda learner: 0.5))
    config = small(sample_dataset, precision="mixed_float16", phases=("heads@0",), epochs=2)
    training.train(config, tmp_path / "work", say=said.append)
    (line,) = [line for line in said if line.startswith("loss scale")]
    assert "0.5: float16 overflows" in line and "--precision=mixed_bfloat16 or float32" in line
    assert json.loads((tmp_path / "work" / "environment.json").read_text())["precision"] == "mixed_float16"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([], "float32"), ([(6, 1)], "float32"), ([(7, 5)], "mixed_float16"), ([(9, 0)], "mixed_bfloat16"),
     ([(9, 0), (7, 0)], "mixed_float16")],
)  # fmt: skip
def test_auto_is_what_the_weakest_gpu_is_fast_in(monkeypatch, capabilities, precision):
    found = [{"compute_capability": capability} for capability in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(found))))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: found[gpu])
    assert devices._precision("auto") == precision and devices._precision("float32") == "float32"


def test_the_bar_shows_the_scores_of_each_head(sample_dataset, tmp_path, capsys):
    config = small(sample_dataset, phases=("heads@0",))
    training.train(config, tmp_path / "work", say=lambda line: None, show_progress=True)
    shown = capsys.readouterr().err
    for name in ("accuracy", "F1", "V CCC", "A CCC", " r ", "RMSE", "SAGR"):
        assert name in shown, shown


@pytest.mark.slow
def test_compiled_by_xla_it_goes_on_to_the_same_bytes_too(config, tmp_path):
    config = dataclasses.replace(config, xla=True, tensorboard=False)
    training.train(config, tmp_path / "undisturbed", say=lambda line: None)
    with pytest.raises(Crash):
        training.train(config, tmp_path / "died", say=crash_at("phase"))
    training.train(config, tmp_path / "died", say=lambda line: None)
    assert state_of(tmp_path / "died") == state_of(tmp_path / "undisturbed")


def test_batches_are_made_ahead_where_operations_are_deterministic(config, monkeypatch):
    """As they are in training on a CPU; an epoch is one window here."""
    tf.config.experimental.enable_op_determinism()
    read, windows = Selection.read, []
    monkeypatch.setattr(Selection, "read", lambda self, rows: windows.append(len(rows)) or read(self, rows))
    batches = iter(streams.Streams(dataclasses.replace(config, cache="none")).training())
    next(batches)
    time.sleep(1)
    assert len(windows) > 1


def test_a_damaged_state_costs_an_epoch_only(run, config, tmp_path):
    shutil.copytree(run[0], tmp_path / "work")
    newest = max((tmp_path / "work" / "state").glob("*.state"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    (tmp_path / "work" / "history.csv").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        training.train(config, tmp_path / "work", say=lambda line: None)
    assert state_of(tmp_path / "work") == state_of(run[0])
    assert (tmp_path / "work" / "history.csv").read_bytes() == (run[0] / "history.csv").read_bytes()


def test_plateau_and_early_stopping(sample_dataset, tmp_path):
    """A rate that moves nothing makes no epoch better than the first; only frozen statistics stay as well."""
    config = small(
        sample_dataset, epochs=9, early_stopping=7, plateau_patience=2, learning_rate=1e-12, min_learning_rate=2e-13,
        phases=("heads@0",),
    )  # fmt: skip
    training.train(config, tmp_path, say=lambda line: None)
    assert [row["best"] for row in rows_of(tmp_path)] == ["1"] + ["0"] * 7
    rates = [float(row["learning_rate"]) for row in rows_of(tmp_path)]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 5e-13, 5e-13, 2.5e-13, 2.5e-13, 2e-13], rel=1e-6, abs=0)


def test_a_loss_that_is_not_finite_stops(sample_dataset, tmp_path):
    config = small(sample_dataset, learning_rate=1e30, optimizer="sgd", batch_size=12, save_minutes=0.0)
    with pytest.raises(DataError, match="not finite") as caught:
        training.train(config, tmp_path, say=lambda line: None)
    message = str(caught.value)
    step = int(message.split("in step ")[1].split()[0])
    batches = make_train(
        str(sample_dataset), "train", batch_size=12, image_size=32, epochs=1, start=(0, 12 * step)
    ).as_numpy_iterator()
    assert message.endswith(": " + ", ".join(id.decode() for id in next(batches)["id"]))
    assert step > 0 and "expression_loss" in message and "gradient_norm" in message and "loss scale none" in message
    # The states are from before it, and hold no such number.
    values, arrays = Workdir(tmp_path).load_state()
    assert values["done"] <= step and all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


@pytest.mark.parametrize(("split", "cache"), [("train", "none"), ("validation", "decoded")])
def test_a_damaged_record_is_named(sample_dataset, tmp_path, split, cache):
    """Its shard is as long as it was published: only reading it shows."""
    copy = shutil.copytree(sample_dataset, tmp_path / "data" / "affect_faces" / "sample" / "1.0.0")
    shard = min(copy.glob(f"*-{split}.tfrecord-*"))
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=f"{shard.name}: the record at byte 0 fails its checksum"):
        training.train(small(copy, cache=cache), tmp_path / "work", say=lambda line: None)


def test_another_configuration_is_refused(run, config):
    with pytest.raises(UsageError, match="seed: 0 -> 7"):
        training.train(dataclasses.replace(config, seed=7), run[0])


def test_another_dataset_is_refused(run, config, tmp_path):
    write_faces(tmp_path / "raw", 40)
    convert(tmp_path / "raw", tmp_path / "data", splits="train:0.5,validation:0.5", name="sample")
    with pytest.raises(DataError, match="another dataset: digest"):
        training.train(dataclasses.replace(config, data_dir=str(tmp_path / "data")), run[0])


def test_a_second_run_is_refused(run, config):
    with Workdir(run[0]).locked(), pytest.raises(OutputBusyError, match="another run"):
        training.train(config, run[0])


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """A dataset without valence, without contempt, and without a validation split."""
    root = tmp_path_factory.mktemp("poor")
    write_faces(root / "raw", 56, order=("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger"))
    for path in (root / "raw").rglob("*_val.npy"):
        path.unlink()
    convert(root / "raw", root / "data", splits="train:0.8,test:0.2")
    return dataset_of(root / "data")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"heads": ("expression",)}, UsageError, "validation.*--holdout"),
        ({"validation_split": "test"}, DataError, "valence is unknown in all"),
        ({"validation_split": "test", "heads": ("arousal",), "batch_size": 512}, UsageError, "512.*smaller"),
        (
            {"validation_split": "test", "heads": ("expression",), "balance": "weights"},
            DataError, "contempt: no example in 'train'.*balance=none, or num_classes=7",
        ),
        ({"train_split": "nowhere"}, UsageError, "split 'nowhere' cannot be read"),
        (
            {"train_split": "train[:60%]", "validation_split": "train[50%:]", "heads": ("arousal",)},
            UsageError, "[45] examples are both in",
        ),
        ({"name": "other"}, DataError, "is missing"),
    ],
    ids=["no_validation", "no_label", "large_batch", "empty_class", "no_split", "shared_faces", "no_dataset"],
)  # fmt: skip
def test_bad_data(poor, tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        training.train(small(poor, **given), tmp_path / "work")


def test_class_weights_that_are_capped_are_said(sample_dataset):
    data = streams.Streams(small(sample_dataset, balance="weights", max_class_weight=1.5))
    assert "class weights capped at 1.5: fear 1.7" in data.notes[0] and data.class_weights.max() == 1.5


def test_seven_classes_weigh_seven(sample_dataset):
    data = streams.Streams(small(sample_dataset, balance="weights", num_classes=7))
    assert data.class_weights[7] == 0 and data.class_weights[:7].all()
    for batch in data.training():
        alone = (batch["expression_probs"][:, 7] == 1).numpy()
        assert not batch["mask"]["expression"].numpy()[alone].any()


def test_evaluation_counts_labels_not_shares(sample_dataset):
    """The last batch is filled up, and what fills it is masked; without contempt its faces have no label."""
    data = streams.Streams(small(sample_dataset, num_classes=7))
    batch = next(iter(data.evaluation()))
    assert batch["image"].shape == (16, 32, 32, 3) and not any(batch["mask"][head][12:].numpy().any() for head in HEADS)
    np.testing.assert_array_equal(batch["label_known"][:12], batch["expression"][:12] != 7)
    assert not batch["label_known"][12:].numpy().any() and (batch["expression"][:12] == 7).numpy().any()


_MIRRORED = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from trainers import training
from trainers.config import from_json
for folder in sys.argv[1:]:
    with open(folder + ".json") as file:
        training.train(from_json(file.read()), folder)
"""


@pytest.mark.slow
def test_two_devices_make_the_same_history(sample_dataset, tmp_path):
    """Losses to three percent, over three epochs of a whole training: rounding differs, and Adam's first steps grow it.

    Averaged weights and saved models are part of it."""
    folders = []
    for name, given in {
        "none": {},
        "mirrored": {"distribute": "mirrored"},
        "dropped": {"distribute": "mirrored", "dropout": 0.2, "epochs": 1},  # other masks, so another curve
    }.items():
        config = small(sample_dataset, **{"epochs": 3, "ema": 0.9, "affect_loss": "ccc+mse", "clip_norm": 1.0} | given)
        (tmp_path / f"{name}.json").write_text(to_json(config))
        folders.append(str(tmp_path / name))
    done = subprocess.run([sys.executable, "-c", _MIRRORED, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 × CPU" in done.stdout and len(rows_of(tmp_path / "dropped")) == 1
    one, two = (rows_of(tmp_path / name) for name in ("none", "mirrored"))
    for name in ("loss", "expression_loss", "valence_loss", "val_loss", "val_expression_loss"):
        found, expected = ([float(row[name]) for row in rows] for rows in (two, one))
        assert found == pytest.approx(expected, rel=0.03), name
    assert not models.load(tmp_path / "mirrored").get_layer("stage1_block1_2_bn").synchronized


@pytest.mark.slow
def test_it_learns(tmp_path):
    """2,000 drawn faces: chosen on validation, scored on the test split, in about four minutes of processor time."""
    sample_faces.write_dataset(tmp_path / "raw", count=2000, seed=0, image_size=64, num_workers=2)
    convert(tmp_path / "raw", tmp_path / "data", num_shards=2)
    config = small(
        dataset_of(tmp_path / "data"), width=0.5, image_size=48, shared_units=(64,), batch_size=32, epochs=30,
        optimizer="adamw", weight_decay=0.01, schedule="cosine", warmup_epochs=1.0, affect_loss="ccc+mse",
        monitor="score", rotation=5.0, zoom=0.05, translation=0.03,
    )  # fmt: skip
    began = time.monotonic()
    training.train(config, tmp_path / "work")
    assert time.monotonic() - began < 600
    model, sums = models.load(tmp_path / "work"), 0
    for batch in make_eval(config.dataset_dir, "test", batch_size=50, image_size=48):
        sums += metrics.batch_sums(batch, model(batch["image"]), HEADS).numpy()
    found = metrics.figures(sums, HEADS)
    assert found["accuracy"] >= 0.9 and found["valence_ccc"] >= 0.8 and found["arousal_ccc"] >= 0.8, found
