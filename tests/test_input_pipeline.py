"""What reaches the network: the stream's contents, its order, its restart, and what a bad argument or dataset gets."""

import hashlib
import inspect
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from faces import convert, dataset_of, picture, write_face

from benchmarks import input_report
from benchmarks.input_contenders import Turn
from benchmarks.input_stream import Start
from datasets import augmentation, batch_memory, faults, input_pipeline, labels, ordering, preprocessing, python_calls
from datasets.augmentation import ahead, passes
from datasets.input_pipeline import make_eval, make_train
from datasets.ordering import WINDOW, Order
from datasets.selection import Selection
from pipeline.errors import DataError, EnvironmentFault, UsageError
from pipeline.records import EXPRESSIONS

SIZE = 32
BATCH = 16
#: Quick to compile.
MIXING = augmentation.AugmentConfig(
    flip=False, rotation=0.0, zoom=0.0, translation=0.0, brightness=0.0, contrast=0.0, mixup=0.2, cutmix=1.0
)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> pathlib.Path:
    """1,100 records in three shards of one split: two windows. Of seven, one has no expression, one no valence and
    arousal; of three, one has no landmarks.
    Some are large, so that the small ones after them are decoded first."""
    root = tmp_path_factory.mktemp("many")
    for i in range(1100):
        code = 8 if i % 7 == 0 else min(7, int(math.log2(1 + i % 200)))
        va = {"val": -2, "aro": -2} if i % 7 == 1 else {"val": i / 1100, "aro": -i / 1100}
        points = {"lnd": np.linspace(1, 30, 136)} if i % 3 else {}
        write_face(root / "raw", str(i), picture(i % 50, 160 if i % 25 == 0 else 32), exp=code, **va, **points)
    convert(root / "raw", root / "data", splits="train:1", num_shards=3, on_leak="allow")
    return dataset_of(root / "data")


def rows_of(dataset: pathlib.Path) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(dataset / "records.parquet").to_pylist()}


def train(dataset, split="train", **given) -> tf.data.Dataset:
    return make_train(str(dataset), split, **{"batch_size": BATCH, "image_size": SIZE, "epochs": 1} | given)


def evaluate(dataset, split="train", **given) -> tf.data.Dataset:
    return make_eval(str(dataset), split, **{"batch_size": BATCH, "image_size": SIZE} | given)


def ids(dataset: tf.data.Dataset) -> list[str]:
    return [id.decode() for batch in dataset.as_numpy_iterator() for id in batch["id"]]


def digests(dataset: tf.data.Dataset) -> list[str]:
    """Of every byte of each batch."""
    found = []
    for batch in dataset.as_numpy_iterator():
        digest = hashlib.sha256()
        for column in tf.nest.flatten(batch):
            digest.update(column.astype(bytes).tobytes() if column.dtype == object else column.tobytes())
        found.append(digest.hexdigest())
    return found


def assert_finite(batch: dict) -> None:
    for column in tf.nest.flatten(batch):
        assert column.dtype.kind != "f" or np.isfinite(column).all()


@pytest.fixture
def records_read(monkeypatch) -> list[tuple]:
    """Where each record lies that is read from now on."""
    places, read = [], Selection._read
    monkeypatch.setattr(Selection, "_read", lambda self, *place: places.append(place[1:]) or read(self, *place))
    return places


def test_elements(many):
    rows, seen = rows_of(many), []
    for batch in evaluate(many, landmarks=True).as_numpy_iterator():
        size = len(batch["id"])
        assert batch["image"].shape == (size, SIZE, SIZE, 3) and batch["image"].dtype == np.uint8
        assert {name: batch[name].dtype for name in ("expression", "valence")} == {
            "expression": np.int32,
            "valence": np.float32,
        }
        assert_finite(batch)
        for i, id in enumerate(batch["id"]):
            row = rows[id.decode()]
            seen.append((row["shard"], row["position"]))
            known = row["expression"] >= 0
            assert batch["mask"]["expression"][i] == known
            assert batch["expression"][i] == max(0, row["expression"])
            np.testing.assert_array_equal(batch["expression_probs"][i], row["expression_probs"])
            for name in ("valence", "arousal"):
                assert batch["mask"][name][i] == (not math.isnan(row[name]))
                assert batch[name][i] == (0 if math.isnan(row[name]) else np.float32(row[name]))
            assert batch["has_landmarks"][i] == row["has_landmarks"]
    assert seen == sorted(seen) and len(seen) == 1100


def test_votes_without_a_label(tmp_path):
    """Votes teach the expression head also where nobody made a label of them: the commonest is `expression`."""
    features = {
        "image": b"", "id": b"a", "expression": -1, "expression_probs": [0, 0, 0.5, 0.25, 0.25, 0, 0, 0],
        "valence": math.nan, "arousal": math.nan,
    }  # fmt: skip
    columns = labels.parse(tf.constant([_example(features)]))
    assert columns["expression"].numpy() == [2] and columns["mask"]["expression"].numpy() == [1]


def _example(features: dict) -> bytes:
    def feature(value) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=np.atleast_1d(value)))

    named = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def test_eval_is_what_tfds_reads_and_takes_no_augmentation(sample_dataset):
    theirs = tfds.builder_from_directory(str(sample_dataset)).as_dataset("test+train[5:30]")
    ours = evaluate(sample_dataset, "test+train[5:30]", image_size=64, batch_size=10)
    assert ids(ours) == [id.decode() for id in (row["id"] for row in theirs.as_numpy_iterator())]
    assert [len(batch["id"]) for batch in ours][-1] == (12 + 25) % 10 and len(ours) == 4
    assert not {"augment", "seed", "shuffle"} & set(inspect.signature(make_eval).parameters)


def test_an_epoch_holds_each_example_once_in_an_order_of_its_own(many):
    stream = ids(train(many, epochs=2, drop_remainder=False))
    epochs = [stream[:1100], stream[1100:]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(rows_of(many))
    assert epochs[0] != epochs[1] and epochs[0] != ids(train(many, seed=1, drop_remainder=False))
    published = ids(evaluate(many))
    assert ids(train(many, shuffle=False, drop_remainder=False)) == published
    assert stream[:WINDOW] == [published[row] for row in Order(1100).window(0)[1]]


def test_the_stream_does_not_depend_on_threads_or_cache(many):
    """All randomness of an example derives from its seeds, which are there for the device."""
    given = {"place": "device", "landmarks": True}
    expected = digests(train(many, **given))
    assert digests(train(many, num_threads=1, **given)) == expected
    assert digests(train(many, num_threads=7, cache="encoded", **given)) == expected
    assert digests(train(many, cache="decoded", **given)) == expected
    assert digests(train(many, seed=1, **given)) != expected


@pytest.mark.slow
def test_the_augmented_stream_does_not_depend_on_threads_or_cache(many):
    """With everything that can be drawn, mixed with partners of the batch."""
    config = augmentation.AugmentConfig(rand_augment=(2, 0.5), cutout=0.3, mixup=0.2, cutmix=1.0)
    expected = digests(train(many, augment=config, num_threads=1))
    assert digests(train(many, augment=config, num_threads=7)) == expected
    assert digests(train(many, augment=config, cache="decoded")) == expected


def test_jpegs_of_the_size_are_decoded_by_the_batch_to_the_same_stream(sample_dataset, monkeypatch):
    side = Selection(str(sample_dataset), "train", None).image_sizes.pop()[0]
    given = {"image_size": side, "landmarks": True, "place": "device", "drop_remainder": False}
    one_by_one = []
    decode = preprocessing.decode
    monkeypatch.setattr(preprocessing, "decode", lambda image: one_by_one.append(image) or decode(image))
    by_batch = [digests(train(sample_dataset, num_threads=threads, **given)) for threads in (1, 5)]
    by_batch.append(digests(train(sample_dataset, cache="decoded", **given)))
    assert not one_by_one
    monkeypatch.setattr(Selection, "formats", {"png", "jpeg"})
    assert by_batch == [digests(train(sample_dataset, **given))] * 3 and one_by_one


def test_memory_is_used_again_once_nothing_looks_at_it(sample_dataset, monkeypatch):
    """The consumer may keep batches, arrays of them, or a part of one, for as long as it likes."""
    made, new = [], batch_memory._Memory
    monkeypatch.setattr(batch_memory, "_Memory", lambda size: made.append(size) or new(size))
    size = Selection(str(sample_dataset), "train", None).image_sizes.pop()[0]
    batches = make_train(str(sample_dataset), batch_size=BATCH, image_size=size, num_threads=2)
    once = list(batches.take(12).as_numpy_iterator())
    kept = []
    for number, batch in enumerate(batches.take(12)):
        kept.append([batch["image"], batch["image"].numpy(), batch["image"].numpy()[3:5, :, 1]][number % 3])
        del batch
    made.clear()
    assert len([None for _ in batches.take(100)]) == 100
    assert len(made) < 10
    for number, images in enumerate(kept):
        expected = once[number]["image"]
        np.testing.assert_array_equal(images, expected[3:5, :, 1] if number % 3 == 2 else expected)


def test_little_memory_waits_for_the_next_batch():
    """Of several sizes the ones that were let go last; none that is larger than all that may wait."""
    pool = batch_memory._Pool(1000)

    def lend(size: int) -> np.ndarray:
        return np.asarray(batch_memory._Loan(pool, pool.take(size)))

    for size in (400, 100, 500, 2000, 300):
        lend(size)
    assert [len(memory.data) for memory in pool.free] == [100, 500, 300]
    array = lend(100)
    assert array.flags.writeable and array.ctypes.data % 64 == 0
    assert [len(memory.data) for memory in pool.free] == [500, 300]
    del array
    assert [len(memory.data) for memory in pool.free] == [500, 300, 100]


@pytest.mark.parametrize("image_size", ["of the images", SIZE])
def test_a_process_ends_while_its_stream_works_ahead(sample_dataset, image_size):
    """Python is asked for batches that nobody takes while it ends; of the first size it hangs without the wait."""
    script = (
        "import sys\n"
        "from datasets.input_pipeline import make_train\n"
        "from datasets.selection import Selection\n"
        f"dataset = {str(sample_dataset)!r}\n"
        "(side, _), = Selection(dataset, 'train', None).image_sizes\n"
        f"side = side if {image_size!r} == 'of the images' else {image_size!r}\n"
        "streams = [make_train(dataset, batch_size=64, image_size=side).as_numpy_iterator() for _ in range(3)]\n"
        "kept = [next(stream)['image'] for stream in streams]\n"
        "print(len(kept))\n"
    )
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.split() == ["3"] and "Exception" not in done.stderr, done.stderr


def test_any_order_has_the_same_examples_and_seeds(many):
    streams = [
        sorted(
            (id, *seeds)
            for batch in train(many, place="device", drop_remainder=False, deterministic=deterministic)
            for id, seeds in zip(batch["id"].numpy(), batch["seeds"].numpy().tolist())
        )
        for deterministic in (True, False)
    ]
    assert len(streams[0]) == 1100 and streams[0] == streams[1]


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_a_cache_reads_each_record_once(many, records_read, cache):
    assert len(ids(train(many, epochs=2, drop_remainder=False, cache=cache))) == 2200
    assert len(records_read) == len(set(records_read)) == 1100


@pytest.mark.parametrize(
    ("given", "compiled"),
    [
        ({}, [16]),
        ({"drop_remainder": False, "epochs": 1, "start": (0, 80)}, [4]),
        ({"drop_remainder": False, "epochs": 2, "start": (0, 80)}, [16]),
        ({"drop_remainder": False, "epochs": 1, "start": (0, 40), "host_count": 2, "host_index": 1}, [2]),
        ({"place": "device"}, []),
        ({"augment": MIXING}, []),
        ({"num_threads": 0}, []),
        ({"cache": "disk"}, []),
        ({"prefetch_to_device": True}, []),
    ],
)
def test_the_first_batch_that_there_is_is_compiled_ahead(sample_dataset, monkeypatch, given, compiled):
    """Of 84 examples; nothing is compiled for what is refused."""
    asked = []
    program = ahead.program
    monkeypatch.setattr(ahead, "program", lambda shape: asked.append(shape) or program(shape))
    arguments = {"batch_size": 16, "image_size": SIZE, "augment": augmentation.AugmentConfig()} | given
    try:
        make_train(str(sample_dataset), "train[:84]", **arguments)
    except UsageError:
        assert given.keys() & {"num_threads", "cache", "prefetch_to_device"}
    assert asked == [(count, SIZE, SIZE, 3) for count in compiled]


def test_only_the_first_batch_is_read_before_the_augmentation_is_compiled(many, records_read, monkeypatch):
    given = {"augment": augmentation.AugmentConfig(), "image_size": 20, "num_threads": 2}
    expected = digests(train(many, **given))
    ahead.program.cache_clear()
    go, build = threading.Event(), ahead.Program._compile
    monkeypatch.setattr(ahead.Program, "_compile", lambda *given: go.wait() and build(*given))
    stream, got = train(many, **given), []
    records_read.clear()
    taker = threading.Thread(target=lambda: got.extend(digests(stream)))
    taker.start()
    try:
        for _ in range(600):
            time.sleep(0.1)
            if len(records_read) >= BATCH:
                break
        time.sleep(0.5)
        assert len(records_read) == BATCH
    finally:
        go.set()
        taker.join(60)
    assert got == expected


@pytest.mark.parametrize(
    ("raised", "said", "text"),
    [
        (tf.errors.InternalError, tf.errors.OpError, "no such instruction"),
        (tf.errors.ResourceExhaustedError, EnvironmentFault, "no memory is left"),
    ],
)
def test_an_augmentation_that_cannot_be_compiled_is_said_by_the_stream(many, monkeypatch, raised, said, text):
    ahead.program.cache_clear()
    monkeypatch.setattr(ahead.Program, "_compile", lambda *_: None)
    stream = train(many, augment=augmentation.AugmentConfig(), image_size=24)

    def broken(*_):
        raise raised(None, None, "no such instruction")

    monkeypatch.setattr(passes, "one_by_one", broken)
    with pytest.raises(said, match=text), faults.explained():
        next(iter(stream))
    ahead.program.cache_clear()


def test_waiting_for_a_thread_does_not_count_as_a_long_call():
    """At the end of a process five times the longest call is waited."""
    calls = python_calls._Calls()
    thread = threading.Thread(target=time.sleep, args=[1.0])
    thread.start()
    calls.run(lambda: calls.join(thread))
    assert not thread.is_alive() and calls._longest < 0.5
    calls.run(time.sleep, 0.6)
    assert calls._longest > 0.5


_FIRST_BATCH = """
import sys
from datasets.augmentation import AugmentConfig
from datasets.input_pipeline import make_train
next(iter(make_train(sys.argv[1], batch_size=8, image_size=16, augment=AugmentConfig(), drop_remainder=%s)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_what_is_compiled_ahead_is_what_the_stream_runs(sample_dataset, tmp_path, drop_remainder):
    environment = os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path}"}
    command = [sys.executable, "-c", _FIRST_BATCH % drop_remainder, sample_dataset]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert len([*tmp_path.glob("*one_by_one*.before_optimizations.txt")]) == 1


@pytest.mark.slow
def test_the_stream_does_not_depend_on_the_process(many):
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_input_pipeline as t\n"
        f"print(*t.digests(t.train({str(many)!r}, augment=t.augmentation.AugmentConfig())))"
    )
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == digests(train(many, augment=augmentation.AugmentConfig()))


@pytest.mark.parametrize("balance", ["none", "resample"])
def test_start_gives_exactly_the_rest(many, balance):
    given = {"epochs": 2, "balance": balance, "place": "device"}
    whole = [(batch["id"].tolist(), batch["seeds"].tolist()) for batch in train(many, **given).as_numpy_iterator()]
    per_epoch = len(whole) // 2
    for epoch, batches in ((0, 65), (1, 0), (1, per_epoch - 1)):
        rest = train(many, start=(epoch, batches * BATCH), **given)
        assert [(batch["id"].tolist(), batch["seeds"].tolist()) for batch in rest.as_numpy_iterator()] == (
            whole[epoch * per_epoch + batches :]
        )


def test_start_anywhere_when_batches_run_on(many):
    stream = ids(train(many, epochs=2, drop_remainder=False))
    assert ids(train(many, epochs=2, drop_remainder=False, start=(1, 1033))) == stream[1100 + 1033 :]


@pytest.mark.parametrize(("drop_remainder", "start", "batches"), [(True, (1, 40), 3), (False, (1, 24), 3)])
def test_the_rest_is_mixed_as_in_the_whole_stream(sample_dataset, drop_remainder, start, batches):
    """Pixels and labels: partners are of the same batch."""
    given = {"epochs": 2, "batch_size": 40, "drop_remainder": drop_remainder, "augment": MIXING}
    whole = digests(train(sample_dataset, **given))
    assert digests(train(sample_dataset, start=start, **given)) == whole[batches:] and len(set(whole)) == len(whole)


@pytest.mark.parametrize("start", [(0, 0), (7, 640)])
def test_the_first_batch_reads_a_few_batches_anywhere(many, records_read, monkeypatch, start):
    """Of windows of 64 records, so that 1,100 are many, those are announced that what is made ahead lies in."""
    monkeypatch.setattr(ordering, "WINDOW", 64)
    announce, announced = Selection.announce, []
    monkeypatch.setattr(Selection, "announce", lambda self, rows: announced.append(len(rows)) or announce(self, rows))
    stream = iter(train(many, epochs=None, start=start))
    next(stream)
    time.sleep(0.5)
    assert BATCH <= len(records_read) <= 14 * BATCH, len(records_read)
    assert 64 <= sum(announced) <= 8 * 64, announced


def test_batches_and_their_number(sample_dataset):
    dropped = train(sample_dataset, epochs=3, batch_size=40)
    assert len(dropped) == 6 and dropped.element_spec["image"].shape == (40, SIZE, SIZE, 3)
    stream = ids(dropped)
    assert len(stream) == 240 and len(set(stream[:80])) == 80
    run_on = [len(batch["id"]) for batch in train(sample_dataset, epochs=3, batch_size=40, drop_remainder=False)]
    assert run_on == [40] * 7 + [8]
    endless = train(sample_dataset, epochs=None, batch_size=40)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert ids(endless.take(6)) == stream


def test_hosts_share_an_epoch(many):
    hosts = [ids(train(many, host_index=i, host_count=3, drop_remainder=False)) for i in range(3)]
    # Two examples are left for another epoch.
    assert [len(host) for host in hosts] == [366] * 3
    assert len(set().union(*hosts)) == 1098
    parts = [ids(evaluate(many, host_index=i, host_count=3)) for i in range(3)]
    assert [id for part in parts for id in part] == ids(evaluate(many))


def test_augmentation_in_the_pipeline_and_on_the_device_agree(sample_dataset):
    off = dict.fromkeys(("rotation", "zoom", "translation", "brightness", "contrast"), 0.0)
    config = augmentation.AugmentConfig(flip=False, cutout=0.5, **off)
    here = train(sample_dataset, augment=config).as_numpy_iterator()
    for batch, expected in zip(train(sample_dataset, augment=config, place="device"), here):
        assert "seeds" not in expected
        augmented = augmentation.augment_batch(batch, config, batch["seeds"])
        np.testing.assert_array_equal(augmented["image"], expected["image"])
        assert (augmented["image"] != batch["image"]).numpy().any()


def test_weights_are_those_of_the_statistics_up_to_the_cap(many):
    given = json.loads((many / "statistics.json").read_text())["splits"]["train"]["class_weights"]
    rows = rows_of(many)
    assert max(filter(None, given.values())) > 3
    for batch in train(many, balance="weights", max_class_weight=3.0).take(20).as_numpy_iterator():
        for i, id in enumerate(batch["id"]):
            expression = rows[id.decode()]["expression"]
            weight = min(3.0, given[EXPRESSIONS[expression]]) if expression >= 0 else 0.0
            assert batch["mask"]["expression"][i] == pytest.approx(weight)
            assert batch["mask"]["valence"][i] in (0, 1)
        assert_finite(batch)


@pytest.mark.parametrize("place", ["pipeline", "device"])
def test_a_class_without_an_example_has_no_weight(sample_dataset, place):
    with pytest.raises(DataError, match=r"no example in 'train\[:2\]', so there is no class weight"):
        train(sample_dataset, "train[:2]", balance="weights", place=place)


def test_the_weight_of_a_mixed_target_is_the_mean_of_its_classes():
    batch = {
        "expression_probs": tf.constant([[0.5, 0, 0, 0, 0, 0, 0, 0.5]]),
        "mask": {"expression": tf.constant([1.0])},
    }
    weights = np.array([0.5, 1, 1, 1, 1, 1, 1, 9], np.float32)
    assert labels.apply_class_weights(batch, weights)["mask"]["expression"].numpy() == [4.75]
    # A class without a weight takes nothing from the others.
    weights[7] = 0
    assert labels.apply_class_weights(batch, weights)["mask"]["expression"].numpy() == [0.5]


@pytest.mark.parametrize("num_classes", [7, 8])
def test_weights_are_of_the_slice_and_of_the_classes_that_are_asked_for(many, num_classes):
    rows, part = rows_of(many), "train[:15%]"
    known = [rows[id]["expression"] for id in ids(evaluate(many, part))]
    counts = np.bincount([label for label in known if 0 <= label < num_classes], minlength=8)
    seen = set()
    given = {"balance": "weights", "max_class_weight": 1e6, "num_classes": num_classes}
    for batch in train(many, part, **given).as_numpy_iterator():
        for id, weight in zip(batch["id"], batch["mask"]["expression"]):
            label = rows[id.decode()]["expression"]
            expected = counts.sum() / (num_classes * counts[label]) if 0 <= label < num_classes else 0.0
            assert weight == pytest.approx(expected), label
            seen.add(label)
    assert {0, 7, -1} <= seen


def test_resampling_balances_the_classes(many):
    rows = rows_of(many)
    counts = np.bincount([rows[id]["expression"] + 1 for id in ids(train(many, balance="resample", batch_size=1))])
    assert counts[0] == 158 and len(set(counts[1:])) == 1


def test_resampling_seven_classes_repeats_no_contempt(many):
    rows = rows_of(many)
    drawn = [rows[id]["expression"] for id in ids(train(many, balance="resample", num_classes=7, batch_size=1))]
    counts, contempt = np.bincount(np.add(drawn, 1)), EXPRESSIONS.index("contempt")
    assert counts[1 + contempt] == sum(row["expression"] == contempt for row in rows.values())
    assert len(set(counts[1 : 1 + contempt])) == 1


def test_landmarks_are_of_the_resized_image(many):
    """The centre of the corner pixel (0, 0) of a stored image of 32 pixels is at 0.5 of 64."""
    rows = rows_of(many)
    batch = next(evaluate(many, image_size=64, landmarks=True).as_numpy_iterator())
    stored = np.linspace(1, 30, 136).reshape(68, 2)
    for id, points in zip(batch["id"], batch["landmarks"]):
        row = rows[id.decode()]
        expected = (stored + 0.5) * 64 / row["width"] - 0.5 if row["has_landmarks"] else 0 * stored
        np.testing.assert_allclose(points, expected, atol=1e-4)


def test_landmarks_that_are_absent_stay_zero(many):
    augment = augmentation.AugmentConfig(brightness=0.0, contrast=0.0)
    for batch in train(many, augment=augment, landmarks=True).take(3).as_numpy_iterator():
        there = batch["has_landmarks"] == 1
        assert there.any() and not there.all()
        assert (batch["landmarks"][~there] == 0).all()
        assert (batch["landmarks"][there] != 0).all() and np.isfinite(batch["landmarks"]).all()


def test_a_name_and_a_directory_are_the_same_dataset(sample_dataset):
    data_dir = str(sample_dataset.parents[2])
    named = make_eval("affect_faces/sample", "test", data_dir=data_dir, batch_size=5, image_size=SIZE)
    assert ids(named) == ids(evaluate(sample_dataset, "test"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "dev"}, "train, validation, test"),
        ({"split": "train["}, "slices are written"),
        ({"split": "train[3:3]"}, "no example"),
        ({"split": "all[:50%]"}, "train, validation, test"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 1, "augment": augmentation.AugmentConfig()}, "image_size with augment is 1;"),
        ({"image_size": 1025, "augment": augmentation.AugmentConfig(), "place": "device"}, "from 2 to 1024"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 97}, "no batch is ever full"),
        ({"batch_size": 30, "host_count": 4}, "24 examples"),
        ({"host_index": 2, "host_count": 2}, "host_index is 2"),
        ({"start": (1, 0)}, "epoch is 1"),
        ({"start": (0, 96)}, "position is 96"),
        ({"start": (0, 5)}, "multiple of the batch size 16"),
        ({"start": 5}, "start is 5; it must be two whole numbers"),
        ({"start": (0, 1.5)}, "position is 1.5"),
        ({"start": (1, 7), "epochs": 2, "drop_remainder": False, "augment": MIXING}, "after 103 examples"),
        ({"num_classes": 6}, "num_classes is 6; it must be 7 or 8"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"cache": "disk"}, "none, encoded, decoded, auto"),
        ({"place": "gpu"}, "pipeline, device"),
        ({"balance": "equal"}, "none, weights, resample"),
        ({"balance": "resample", "shuffle": False}, "shuffle=True"),
        ({"heads": ["smile"]}, "expression, valence, arousal"),
        ({"balance": "weights", "max_class_weight": 0}, "max_class_weight is 0"),
        ({"num_threads": 0}, "num_threads is 0"),
        ({"prefetch_to_device": True}, "sees no accelerator"),
    ],
)
def test_bad_arguments_are_said_at_once(sample_dataset, given, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        train(sample_dataset, **given)


@pytest.fixture
def copy(sample_dataset, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(sample_dataset, tmp_path / "1.0.0"))


@pytest.mark.parametrize("damage", ["missing", "no manifest", "cut", "no shard", "table", "statistics"])
def test_a_damaged_dataset_is_said_at_once(copy, damage):
    shard = sorted(copy.glob("*-train.tfrecord-*"))[1]
    if damage == "missing":
        shutil.rmtree(copy)
    elif damage == "no manifest":
        (copy / "manifest.json").unlink()
    elif damage == "cut":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "no shard":
        shard.unlink()
    else:
        path = copy / {"table": "records.parquet", "statistics": "statistics.json"}[damage]
        path.write_bytes(path.read_bytes() + b" ")
    named = {"missing": "1.0.0", "no manifest": "manifest.json", "cut": shard.name, "no shard": shard.name}
    with pytest.raises(DataError, match=named.get(damage, "its sha256 is not the manifest's")):
        train(copy)


@pytest.mark.parametrize("image_size", [SIZE, 64])  # resized, and decoded by the batch
def test_a_changed_byte_is_found_when_it_is_read(copy, image_size):
    shard = sorted(copy.glob("*-train.tfrecord-*"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    said = f"{shard.name}: the record at byte .* fails its checksum"
    stream = train(copy, image_size=image_size)
    with pytest.raises(tf.errors.OpError, match=said):
        ids(stream)
    with pytest.raises(DataError, match=said), faults.explained():
        ids(stream)
    with pytest.raises(DataError, match=said):
        train(copy, image_size=image_size, cache="decoded")


def test_a_head_without_any_label_is_masked_or_said_at_once(tmp_path):
    for i in range(20):
        write_face(tmp_path / "raw", str(i), picture(i), exp=8, val=0.1, aro=0.2)
    convert(tmp_path / "raw", tmp_path / "data", splits="train:1")
    dataset = dataset_of(tmp_path / "data")
    for augment in (None, MIXING):
        (batch,) = train(dataset, heads=["valence", "arousal"], augment=augment).as_numpy_iterator()
        assert not batch["mask"]["expression"].any() and not batch["expression_probs"].any()
        assert_finite(batch)
    for given in ({"heads": ["expression"]}, {"balance": "weights"}, {"balance": "resample"}):
        with pytest.raises(DataError, match="expression is unknown in all 20 examples of train"):
            train(dataset, **given)


def test_no_more_is_made_ahead_after_pauses_of_the_consumer(many, monkeypatch):
    read, rows = Selection.read, []
    monkeypatch.setattr(Selection, "read", lambda self, some: rows.append(len(some)) or read(self, some))
    batches, taken = iter(train(many, epochs=None)), 0
    for pause in range(9):
        time.sleep(0.1 + 0.02 * 2**pause / 16)
        for _ in range(2**pause + 8):
            next(batches)
            taken += BATCH
    time.sleep(1)
    # Windows in the two stages that hold some, and batches in two queues.
    assert sum(rows) - taken <= 5 * WINDOW, (sum(rows), taken)


def test_auto_caches_what_fits(sample_dataset, monkeypatch):
    chosen = []
    whole = Selection(str(sample_dataset), "train", None)
    for free in (2**40, 4 * whole.record_bytes, 1000):
        monkeypatch.setattr(input_pipeline, "_free_memory", lambda free=free: free)
        chosen.append(input_pipeline._choose_cache("auto", whole, 224))
    assert chosen == ["decoded", "encoded", "none"]
    monkeypatch.undo()
    assert 2**20 < input_pipeline._free_memory() < 2**50


def test_the_benchmark_judges_what_it_measured():
    """Ours at rates that reach every goal, and at half of them; the machine is slower in some turns than in others."""
    cores = len(os.sched_getaffinity(0))

    def turns(ours: float) -> dict[str, Turn]:
        speeds = itertools.cycle((1.0, 0.6, 0.4))
        rates = {
            "simplejpeg, one thread (D)": 1000, "simplejpeg, a thread a core": 1000 * cores,
            "ours, decoded": 950 * cores * ours,
            "ours, augmented": 400 * cores * ours, "ours, augmented, any order": 410 * cores,
            "keras-cv's layers": 39 * cores, "Keras' layers": 49 * cores,
            "cv2.imread and ImageDataGenerator, one core": 79, "DALI, decoded": 900 * cores,
            "Grain, decoded": 800 * cores, "DALI, augmented": 200 * cores, "Grain, augmented": 240 * cores,
        }  # fmt: skip
        return {
            name: Turn(int(1000 * rate * speed), 1000.0, 500.0, decoder=1000 * speed)
            for (name, rate), speed in zip(rates.items(), speeds)
        }

    good, bad = input_report.turns([turns(1.0)] * 3, 0.9), input_report.turns([turns(1.0), turns(0.5), turns(0.5)], 0.4)
    assert good.count(" yes\n") == 8 == bad.count(" NO\n") and " NO" not in good and " yes" not in bad
    assert re.search(r"decoded / simplejpeg, a thread a core +0\.95 ", good)
    assert "up to 0.90 of" in good and "fast integer transform" in good

    def starts(memory: float) -> list[Start]:
        return [
            Start(1000, 1, (0, 0), 1.0, (400.0, 510.0), (390.0, 490.0)),
            Start(9000, 4, (0, 0), 1.5 + memory, (500.0, 510.0 + 1000 * memory), (480.0, 490.0 + 30 * memory)),
            Start(9000, 4, (2, 8064), 1.4, (505.0,), (495.0,)),
        ]

    good, bad = input_report.growth(starts(0.0)), input_report.growth(starts(1.0))
    assert good.count(" yes\n") == 3 == bad.count(" NO\n") and " NO" not in good and " yes" not in bad
    assert good.endswith(f"{1.0:.2f}") and "2, 8,064" in good
