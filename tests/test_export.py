"""Export: what a version holds, and that one which disagrees, or is not whole, never appears."""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from datasets import preprocessing
from datasets.selection import Selection
from export import converters, exporting, faces, model_card, parity, serving, versions
from pipeline.errors import DataError, EnvironmentFault, InvariantError, OutputBusyError, UsageError
from pipeline.records import EXPRESSIONS
from tests import small_models
from tests.faces import ROOT
from trainers import evaluation, prediction, subject
from trainers import model as models


@pytest.fixture(scope="module")
def model():
    return small_models.build()


@pytest.fixture(scope="module")
def workdir(model, sample_dataset, tmp_path_factory):
    """A trained work directory without an export: copy before you export."""
    return small_models.write_workdir(tmp_path_factory.mktemp("trained") / "run", model, dataset=sample_dataset)


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """(version, lines said) of an export of a relative work directory; shared: do not change it."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(workdir, folder / "run")
    said = []
    with contextlib.chdir(folder):
        return folder / exporting.export_model("run", say=said.append), said


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "run")


@pytest.fixture
def asked_here(monkeypatch):
    """The SavedModel is asked in this process: a fresh one, which `exported` had, takes longer than all the rest."""

    def ask(folder, *, pixels, encoded):
        served = tf.saved_model.load(os.fspath(folder)).signatures
        replies = {
            "serving_default": served["serving_default"](images=tf.constant(pixels)),
            "serving_bytes": served["serving_bytes"](image_bytes=tf.constant(encoded)),
        }
        columns = {f"{name}/{head}": value.numpy() for name, reply in replies.items() for head, value in reply.items()}
        return columns | {"seconds": 0.0}

    monkeypatch.setattr(parity, "_ask", ask)


@contextlib.contextmanager
def files_of_at_most(bytes: int):
    """A limit on the size of files fails writes as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_version_has_graph_description_and_card(exported, sample_dataset):
    folder, said = exported
    assert folder.name == "1" and sorted(path.name for path in folder.iterdir()) == [
        "assets", "assets.extra", "fingerprint.pb", "model_card.md", "saved_model.pb", "variables",
    ]  # fmt: skip
    document = json.loads((folder / "assets.extra" / "model.json").read_text())
    digest = json.loads((folder.parents[1] / "environment.json").read_text())["dataset"]["digest"]
    assert document["dataset"]["digest"] == digest and document["image_size"] == small_models.SIZE
    assert document["class_names"] == list(EXPRESSIONS) and document["heads"] == ["expression", "valence", "arousal"]
    assert document["conversion"] == {"image_size": 0, "min_side": 16}
    assert max(document["parity"][name] for name in ("serving_default", "serving_bytes")) <= parity.TOLERANCE
    assert (folder / "assets.extra" / "labels.txt").read_text().split() == list(EXPRESSIONS)
    assert "12 faces of validation" in said[0]
    card = (folder / "model_card.md").read_text()
    assert digest in card and "not what a person feels" in card and "decisions about people" in card
    assert "Not evaluated before the export" in card and "EXIF" in card
    for path in (folder / "model_card.md", folder / "assets.extra" / "model.json"):
        assert str(sample_dataset) not in path.read_text() and str(ROOT) not in path.read_text()


def test_answers_as_evaluation_does(exported, model, sample_dataset):
    asked = faces.of_split(sample_dataset, "validation", size=small_models.SIZE, count=32)
    wanted = {head: values.numpy() for head, values in model(asked.images, training=False).items()}
    assert np.ptp(wanted["expression"], axis=0).max() > 0.05
    served = tf.saved_model.load(str(exported[0])).signatures
    pixels = tf.stack([preprocessing.decode(image) for image in asked.encoded])
    for answer in (served["serving_bytes"](image_bytes=asked.encoded), served["serving_default"](images=pixels)):
        for head, values in wanted.items():
            np.testing.assert_allclose(answer[head].numpy(), values, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def evaluated(workdir, sample_dataset, tmp_path_factory):
    """(work directory with an evaluation on the training split, its metrics.json): copy before you change it."""
    folder = shutil.copytree(workdir, tmp_path_factory.mktemp("evaluated") / "run")
    chosen = dataclasses.replace(subject.from_workdir(str(folder), batch_size=32), trained_on=None)
    options = evaluation.Options(resamples=10, report=False, allow_leak=True)
    evaluation.evaluate(chosen, str(sample_dataset), "train", str(folder / "eval"), options, say=lambda line: None)
    return folder, json.loads((folder / "eval" / "metrics.json").read_text())


@pytest.mark.usefixtures("asked_here")
def test_scores_are_those_of_the_exported_model(evaluated, tmp_path):
    copy, metrics = shutil.copytree(evaluated[0], tmp_path / "run"), evaluated[1]
    path = copy / "eval" / "metrics.json"
    path.write_text(json.dumps(metrics | {"guard": metrics["guard"] | {"reason": f"nobody finds {copy}"}}))

    def train_on(line: str) -> None:
        """A training that still runs finds a better model during the export."""
        (copy / "best.keras").write_bytes(b"the next one")

    version = exporting.export_model(copy, say=train_on)
    assert "| accuracy |" in (version / "model_card.md").read_text()
    assert str(copy) not in (version / "assets.extra" / "model.json").read_text()
    exported = metrics["model"]["sha256"]
    assert model_card.scores(copy, sha256=exported)
    assert model_card.scores(copy, sha256="0" * 64) is None
    for text in (json.dumps(metrics | {"only": "happy"}), "{}", json.dumps([metrics])):
        path.write_text(text)
        assert model_card.scores(copy, sha256=exported) is None


@pytest.mark.parametrize("name", ["eight", "seven"])
def test_scores_stand_with_protocol_interval_and_examples(exported, evaluated, tmp_path, name):
    metrics = evaluated[1]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text(json.dumps(metrics | {"protocol": name}))
    found = model_card.scores(tmp_path, sha256=metrics["model"]["sha256"])
    document = json.loads((exported[0] / "assets.extra" / "model.json").read_text())
    card = model_card.render(document | {"scores": found})
    protocol = metrics["expression"]["protocols"][name]
    plain, affect = protocol["plain"], metrics["valence"]["figures"]["ccc"]

    def row(title: str, figure: dict) -> str:
        return (
            f"| {title} | {figure['value']:.4f} | {figure['low']:.4f} to {figure['high']:.4f} | {figure['examples']} |"
        )

    assert f"by the protocol `{name}`: {protocol['title']}.\n" in card
    assert "| figure | value | interval | examples |\n|---|---|---|---|\n| accuracy |" in card
    assert row("accuracy", plain["accuracy"]) in card and row("valence CCC", affect) in card
    assert affect["examples"] == 96 and (protocol["examples"] < 96) == (name == "seven")
    recall = plain["recall/happy"]
    assert "| class | precision | recall | F1 | ROC AUC | PR AUC | examples |\n|---|---|---|---|---|---|---|\n" in card
    (happy,) = (line.split(" | ") for line in card.splitlines() if line.startswith("| happy |"))
    assert happy[2] == f"{recall['value']:.4f}" and happy[6] == f"{recall['examples']} |"
    assert ("\n| contempt |" in card) == (name == "eight")


def test_a_form_that_was_left_out_is_explained(exported):
    document = json.loads((exported[0] / "assets.extra" / "model.json").read_text())
    form = {"file": "litert/float16.tflite", "bytes": 9, "latency_ms": 1.0, "scores": {"accuracy": 0.5}, "left_out": ""}
    left_out = {"name": "litert_int8", "file": "", "left_out": "has accuracy 0.1 where the SavedModel has 0.9"}
    card = model_card.render(document | {"forms": [form | {"name": "litert_float16"}, form | left_out]})
    assert "\nlitert_int8 was left out: it has accuracy 0.1 where the SavedModel has 0.9.\n" in card
    assert "litert_float16 was left out" not in card


@pytest.mark.parametrize("replacements", [2, 3])
def test_a_model_that_is_replaced_while_it_is_read(tmp_path, monkeypatch, replacements):
    loaded = []

    def load(folder):
        loaded.append(folder)
        if len(loaded) <= replacements:
            (tmp_path / "best.keras").write_bytes(b"better" * len(loaded))
        return len(loaded)

    (tmp_path / "best.keras").write_bytes(b"the first")
    monkeypatch.setattr(models, "load", load)
    if replacements == 3:
        with pytest.raises(DataError, match="was replaced while it was read, 3 times; export again"):
            exporting._load(tmp_path)
    else:
        assert exporting._load(tmp_path) == (3, hashlib.sha256(b"better" * 2).hexdigest())


@pytest.mark.usefixtures("asked_here")
def test_what_it_started_from_is_said(copy, model, sample_dataset, tmp_path):
    started = dataclasses.replace(small_models.CONFIG, init=str(copy))
    folder = small_models.write_workdir(tmp_path / "later", model, dataset=sample_dataset, config=started)
    version = exporting.export_model(folder, say=lambda line: None)
    assert "started from the weights of run, trained on sample" in (version / "model_card.md").read_text()
    text = (version / "assets.extra" / "model.json").read_text()
    assert str(tmp_path) not in text
    moved = shutil.copytree(version, tmp_path / "moved")
    (ancestor,) = subject.from_export(str(moved), "", batch_size=4).ancestors
    assert ancestor.name == "run" and ancestor.trained_on["digest"] == json.loads(text)["dataset"]["digest"]


@pytest.mark.usefixtures("asked_here")
def test_without_the_dataset_drawn_faces_are_asked(copy):
    environment = json.loads((copy / "environment.json").read_text())
    environment["dataset"]["folder"] = "gone"
    (copy / "environment.json").write_text(json.dumps(environment))
    said = []
    folder = exporting.export_model(copy, say=said.append)
    assert "is not in gone" in said[0] and "32 drawn faces" in said[1]
    assert json.loads((folder / "assets.extra" / "model.json").read_text())["conversion"] == {}


def test_smaller_forms_need_the_dataset(copy):
    pytest.importorskip("ai_edge_litert")
    environment = json.loads((copy / "environment.json").read_text())
    environment["dataset"]["folder"] = "gone"
    (copy / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(DataError, match="--format=litert needs it"):
        exporting.export_model(copy, formats=["litert"])
    with pytest.raises(DataError, match=r"is not in .*run; give the directory"):
        exporting.export_model(copy, dataset_dir=str(copy))


@pytest.mark.usefixtures("asked_here")
def test_a_model_that_differs_by_a_ten_thousandth_is_found(exported):
    other = small_models.build()
    kernel, bias = other.get_layer("valence").get_weights()
    other.get_layer("valence").set_weights([kernel, bias + 1e-4])
    asked = faces.drawn(size=small_models.SIZE, count=4)
    with pytest.raises(InvariantError, match="serving_default of the SavedModel differs from the Keras model by"):
        parity.check(other, exported[0], asked)


@pytest.mark.usefixtures("asked_here")
def test_a_model_without_usable_outputs_is_not_published(copy):
    kernel, bias = (broken := small_models.build()).get_layer("arousal").get_weights()
    broken.get_layer("arousal").set_weights([kernel, bias * np.nan])
    broken.save(copy / "best.keras")
    with pytest.raises(DataError, match="the model's arousal is not finite for 12 of 12"):
        exporting.export_model(copy, say=lambda line: None)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(image := keras.Input((48, 48, 3), name="image"))
    outputs = {"expression": keras.layers.Dense(7, "softmax")(x)}
    outputs |= {head: keras.layers.Dense(1, "tanh")(x) for head in ("valence", "arousal")}
    keras.Model(image, outputs, name="custom_cnn").save(copy / "best.keras")
    with pytest.raises(DataError, match=r"expression has shape \[12, 7\] for 12 images; \[12, 8\] is due"):
        exporting.export_model(copy, say=lambda line: None)
    assert not versions.numbers(copy / "export")


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("head", ["expression", "valence", "arousal"])
def test_an_answer_that_is_no_number_is_a_difference(exported, model, monkeypatch, head):
    ask = parity._ask

    def answers(*arguments, **named):
        found = ask(*arguments, **named)
        found[f"serving_bytes/{head}"][0] = np.nan
        return found

    monkeypatch.setattr(parity, "_ask", answers)
    with pytest.raises(DataError, match=f"{head} is not finite for 1 of 2"):
        parity.check(model, exported[0], faces.drawn(size=small_models.SIZE, count=2))


def test_a_damaged_shard_is_named(copy, sample_dataset, tmp_path):
    dataset = shutil.copytree(sample_dataset, tmp_path / "sample")
    shard = next(dataset.glob("*-validation.tfrecord-00000*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=shard.name):
        exporting.export_model(copy, dataset_dir=str(dataset), say=lambda line: None)
    with pytest.raises(DataError, match=shard.name):
        predictor = prediction.from_keras(models.load(str(copy)), batch_size=4)
        prediction.predict(predictor, Selection(str(dataset), "validation", None))


@pytest.mark.slow
def test_a_damaged_graph_does_not_answer(exported, model, tmp_path):
    damaged = shutil.copytree(exported[0], tmp_path / "1")
    variables = damaged / "variables" / "variables.data-00000-of-00001"
    data = bytearray(variables.read_bytes())
    data[len(data) // 2] ^= 1
    variables.write_bytes(data)
    with pytest.raises(InvariantError, match="did not answer in a fresh process"):
        parity.check(model, damaged, faces.drawn(size=small_models.SIZE, count=2))


def test_a_version_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "export"
    for number in (1, 2):
        with versions.new_version(folder) as (version, _):
            (version / "saved_model.pb").write_text(str(number))
            assert versions.numbers(folder) == list(range(1, number))
    with pytest.raises(RuntimeError), versions.new_version(folder) as (version, _):
        (version / "saved_model.pb").write_text("3")
        raise RuntimeError
    assert versions.numbers(folder) == [1, 2] and not list(folder.glob(".partial"))
    assert versions.latest(folder) == versions.latest(tmp_path) == versions.latest(folder / "2") == folder / "2"
    (folder / "11").mkdir()
    assert versions.latest(folder) == folder / "2", "a directory without a graph is no version"
    with pytest.raises(DataError, match="holds no SavedModel"):
        versions.latest(tmp_path / "nowhere")


def test_one_export_at_a_time(tmp_path):
    with (
        versions.new_version(tmp_path),
        pytest.raises(OutputBusyError, match="another export"),
        versions.new_version(tmp_path),
    ):
        pass


def test_a_killed_export_leaves_no_version(copy, tmp_path):
    with versions.new_version(copy / "export") as (version, _):
        (version / "saved_model.pb").write_text("the older one")
    command = [sys.executable, "-m", "export.export_model", f"--workdir={copy}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    partial = copy / "export" / ".partial" / "saved_model.pb"
    while not partial.exists():
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert versions.numbers(copy / "export") == [1] and versions.latest(copy).name == "1"
    with versions.new_version(copy / "export") as (version, _):
        assert not list(version.iterdir()), "what the killed one left is gone"


def test_a_full_disk_leaves_no_version(copy):
    with files_of_at_most(100_000), pytest.raises(EnvironmentFault, match="cannot be written"):
        exporting.export_model(copy, say=lambda line: None)
    assert os.listdir(copy / "export") == [".lock"]


def test_a_full_temporary_folder_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pixels = np.zeros([1, 200, 200, 3], np.uint8)
    with files_of_at_most(100_000):
        with pytest.raises(EnvironmentFault, match=rf"{tmp_path}/\w+ cannot be written"):
            converters._resized_only(model).__enter__()
        with pytest.raises(EnvironmentFault, match=rf"{tmp_path}/\w+ cannot be written: File too large; free some"):
            parity._ask(tmp_path, pixels=pixels, encoded=[b""])


def test_a_savedmodel_that_does_not_answer_in_time(exported, monkeypatch):
    monkeypatch.setattr(parity, "_SECONDS", 0.01)
    with pytest.raises(EnvironmentFault, match=r"did not answer in a fresh process within 0\.01 seconds"):
        parity._ask(exported[0], pixels=np.zeros([1, 48, 48, 3], np.uint8), encoded=[small_models.jpeg(0)])


#: The command around an export that takes no time, and sends itself a signal when there is an argument.
COMMAND = """
import os, signal, sys, types
from export import export_model, versions
def export(workdir, *, say, **_):
    with versions.new_version(workdir) as (folder, final):
        (folder / "saved_model.pb").write_text("half")
        say("parity")
        if SIGNAL:
            os.kill(os.getpid(), SIGNAL)
    return final
sys.modules["export.exporting"] = types.SimpleNamespace(export_model=export)
sys.modules["export.smaller_forms"] = types.SimpleNamespace(Margins=lambda *_: None)
export_model.main()
"""


@pytest.mark.parametrize(("number", "code", "left"), [(signal.SIGTERM, 143, []), (0, 0, ["1"])])
def test_a_signal_leaves_nothing_and_a_closed_output_a_version(tmp_path, number, code, left):
    command = [sys.executable, "-c", f"SIGNAL = {int(number)}\n{COMMAND}", f"--workdir={tmp_path}"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == code, done.stderr
    assert sorted(os.listdir(tmp_path)) == [".lock", *left]


def test_wrong_arguments(copy, tmp_path):
    with pytest.raises(UsageError, match=r"--format=tflite is not accepted; give any of saved_model,litert,onnx"):
        exporting.export_model(copy, formats=["tflite"])
    with pytest.raises(DataError, match=r"environment\.json cannot be read"):
        exporting.export_model(tmp_path)
    (copy / "best.keras").unlink()
    with pytest.raises(DataError, match="does not exist"):
        exporting.export_model(copy)
    assert not (copy / "export").exists()


@pytest.mark.usefixtures("asked_here")
def test_tta_flip_is_part_of_what_is_scored_and_exported(tmp_path, model, sample_dataset):
    config = dataclasses.replace(small_models.CONFIG, tta_flip=True)
    folder = small_models.write_workdir(tmp_path / "run", model, dataset=sample_dataset, config=config)
    version = exporting.export_model(folder, say=lambda line: None)
    asked = faces.of_split(sample_dataset, "validation", size=small_models.SIZE, count=12)
    plain, mirrored = (model(images, training=False) for images in (asked.images, asked.images[:, :, ::-1]))
    served = tf.saved_model.load(str(version)).signatures["serving_bytes"](image_bytes=asked.encoded)
    scored = subject.from_workdir(str(folder), batch_size=12)
    for head, answers in scored.predictor(asked.images).items():
        wanted = (plain[head] + mirrored[head]) / 2
        assert np.abs(wanted - plain[head]).max() > 1e-3
        np.testing.assert_allclose(answers, wanted, atol=1e-5, rtol=0)
        np.testing.assert_allclose(served[head], wanted, atol=1e-5, rtol=0)
    assert scored.about["tta_flip"] and subject.from_export(str(version), "", batch_size=4).about["tta_flip"]
    assert scored.about["parameters"] == model.count_params()
    assert "the mean over the image and its mirror image" in (version / "model_card.md").read_text()


def test_mixed_precision_is_exported_in_float32(tmp_path, sample_dataset):
    config = dataclasses.replace(small_models.CONFIG, precision="mixed_bfloat16")
    folder = small_models.write_workdir(
        tmp_path / "run", small_models.build(config), dataset=sample_dataset, config=config
    )
    serving.save(models.load(str(folder)), tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    assert {variable.dtype for variable in loaded.signatures["serving_bytes"].variables} == {tf.float32}
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    nodes = [node for function in graph.library.function for node in function.node_def]
    assert nodes and not [node.name for node in nodes if "BFLOAT16" in str(node.attr.get("T", ""))]
