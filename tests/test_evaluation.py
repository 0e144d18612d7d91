"""Evaluation: predictions whatever the batches, files, pages, what is refused; and comparison of several."""

import csv
import dataclasses
import hashlib
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from pipeline import command, conversion, publishing
from pipeline.errors import DataError, EnvironmentFault, InvariantError, UsageError
from pipeline.records import EXPRESSIONS
from pipeline.settings import Settings

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
keras = pytest.importorskip("keras")

from datasets.selection import Selection  # noqa: E402
from trainers import (  # noqa: E402
    comparison,
    comparison_page,
    comparison_plots,
    config,
    evaluate,
    evaluation,
    evaluation_files,
    evaluation_page,
    evaluation_pdf,
    evaluation_plots,
    evaluation_text,
    prediction,
    saliency,
    subject,
)

SIZE = 32
HEADS = ("expression", "valence", "arousal")


def tiny_model(seed: int = 0, heads=HEADS, classes: int = 8) -> keras.Model:
    """A model of the form of `trainers.model`, with random weights that make it sure of itself."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    x = keras.layers.Conv2D(8, 5, strides=4, activation="relu", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    outputs = {}
    if "expression" in heads:
        wide = keras.initializers.RandomNormal(stddev=6.0, seed=seed)
        outputs["expression"] = keras.layers.Dense(
            classes, activation="softmax", name="expression", kernel_initializer=wide
        )(x)
    for head in heads:
        if head != "expression":
            outputs[head] = keras.layers.Dense(1, activation="tanh", name=head)(x)
    return keras.Model(image, outputs, name="custom_cnn")


def tiny_workdir(
    folder: Path, dataset: Path, model: keras.Model, *, train: str = "train", validation: str = "validation", **given
) -> Path:
    """What a training leaves behind; `given` are fields of its configuration."""
    folder.mkdir(parents=True)
    model.save(folder / "best.keras")
    settings = config.TrainConfig(
        data_dir=str(dataset.parents[2]), name=dataset.parent.name, backbone="custom_cnn", image_size=SIZE,
        heads=tuple(model.output), **given,
    )  # fmt: skip
    (folder / "config.json").write_text(config.to_json(settings))
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "dataset": {
                    "folder": str(dataset),
                    "name": dataset.parent.name,
                    "digest": publishing.digest(dataset),
                    "train_split": train,
                    "validation_split": validation,
                }
            }
        )
    )
    (folder / "history.csv").write_text(
        "epoch,step,best,loss,val_loss,val_accuracy,val_score\n0,3,0,2.1,2.0,0.2,0.2\n1,6,1,1.5,1.4,0.4,0.3\n"
    )
    return folder


@pytest.fixture(scope="module")
def workdir(sample_dataset, tmp_path_factory) -> Path:
    """A training, and its evaluation on the training split (the largest), which must be allowed."""
    folder = tiny_workdir(tmp_path_factory.mktemp("a") / "first", sample_dataset, tiny_model())
    chosen = subject.from_workdir(str(folder), batch_size=16)
    options = evaluation.Options(resamples=40, allow_leak=True)
    evaluation.evaluate(chosen, str(sample_dataset), "train", str(folder / "eval"), options, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def chosen(workdir) -> subject.Subject:
    """The model of that training, read once more."""
    return subject.from_workdir(str(workdir), batch_size=16)


@pytest.fixture(scope="module")
def metrics(workdir) -> dict:
    return json.loads((workdir / "eval" / "metrics.json").read_text())


def predicted(model, dataset, split="train", batch_size=16, **given) -> prediction.Predictions:
    selection = Selection(dataset, split, None)
    return prediction.predict(prediction.from_keras(model, batch_size=batch_size), selection, **given)


def test_each_example_once_whatever_the_batch(sample_dataset):
    model = tiny_model()
    count = Selection(sample_dataset, "train", None).count
    found = {size: predicted(model, sample_dataset, batch_size=size) for size in (1, 7, 128)}
    for size, predictions in found.items():
        assert [len(column) for column in predictions.outputs.values()] == [count] * 3
        for head, column in predictions.outputs.items():
            assert np.abs(column - found[7].outputs[head]).max() <= 1e-5, (size, head)
        for head, column in predictions.truth.items():
            assert np.array_equal(column, found[7].truth[head], equal_nan=True)
    assert count % 7 and count % 128


def test_every_call_has_one_shape(sample_dataset):
    shapes = set()

    def call(images):
        shapes.add(tuple(images.shape))
        return {"expression": np.full((len(images), 8), 1 / 8), "valence": np.zeros((len(images), 1))}

    predictor = prediction.Predictor(call, ["valence", "expression"], batch_size=7, image_size=SIZE, parameters=0)
    selection = Selection(sample_dataset, "test", None)
    predictions = prediction.predict(predictor, selection)
    assert shapes == {(7, SIZE, SIZE, 3)} and selection.count % 7
    assert predictor.heads == ("expression", "valence") and set(predictions.outputs) == {"expression", "valence"}
    assert len(predictions.outputs["expression"]) == selection.count


def test_examples_that_do_not_come_are_noticed(chosen, sample_dataset, monkeypatch):
    make_eval = prediction.make_eval
    monkeypatch.setattr(prediction, "make_eval", lambda *arguments, **given: make_eval(*arguments, **given).take(1))
    with pytest.raises(InvariantError, match=r"16 of 96 examples came"):
        prediction.predict(chosen.predictor, Selection(sample_dataset, "train", None))


def test_truth_is_that_of_the_records(sample_dataset):
    selection = Selection(sample_dataset, "test", None)
    predictions = predicted(tiny_model(), sample_dataset, "test")
    assert np.array_equal(predictions.truth["expression"], selection.expression)
    for head in ("valence", "arousal"):
        assert np.array_equal(predictions.truth[head], selection.column(head).to_numpy(), equal_nan=True)


def test_rows_are_those_of_the_whole(sample_dataset):
    model, rows = tiny_model(), np.array([3, 5, 11])
    whole, some = predicted(model, sample_dataset), predicted(model, sample_dataset, rows=rows)
    for head in HEADS:
        assert some.outputs[head] == pytest.approx(whole.outputs[head][rows], abs=1e-6)
        assert np.array_equal(some.truth[head], whole.truth[head][rows], equal_nan=True)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"expression": np.full(8, np.nan)}, "expression is not finite for 2 of 2 examples, first"),
        ({"expression": np.full(8, 0.5)}, "expression is no distribution"),
        (
            {"expression": np.full(7, 1 / 7)},
            r"shape \[2, 7\] for 2 images; \[2, 8\] is due: a probability each of neutral",
        ),
        ({"valence": np.array([3.0])}, r"valence lies outside \[-1, 1\]"),
        ({"mood": np.zeros(1)}, "the model gives mood; at least one of expression"),
    ],
)
def test_a_broken_model_is_named(sample_dataset, outputs, message):
    with pytest.raises(DataError, match=message):
        predictor = prediction.Predictor(
            lambda images: {head: np.stack([row] * len(images)) for head, row in outputs.items()},
            list(outputs), batch_size=2, image_size=SIZE, parameters=0,
        )  # fmt: skip
        prediction.predict(predictor, Selection(sample_dataset, "test", None))


def test_files_agree_with_each_other(workdir, metrics):
    with open(workdir / "eval" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["dataset"]["evaluated"] == metrics["dataset"]["examples"]
    assert len({row["id"] for row in rows}) == len(rows)
    known = [row for row in rows if row["true_expression"]]
    right = sum(row["true_expression"] == row["expression"] for row in known)
    eight = metrics["expression"]["protocols"]["eight"]
    assert eight["plain"]["accuracy"]["value"] == pytest.approx(right / len(known))
    assert eight["plain"]["accuracy"]["examples"] == eight["examples"] == len(known)
    for row in rows:
        assert max(EXPRESSIONS, key=lambda name: float(row[name])) == row["expression"]
    valence = np.array([[float(row["true_valence"]), float(row["valence"])] for row in rows if row["true_valence"]])
    figures = metrics["valence"]["figures"]
    assert figures["mae"]["value"] == pytest.approx(np.abs(valence[:, 0] - valence[:, 1]).mean())
    assert figures["mae"]["examples"] == metrics["valence"]["examples"] == len(valence)
    assert figures["mae"]["low"] <= figures["mae"]["value"] <= figures["mae"]["high"]
    with open(workdir / "eval" / "confusion_matrix.csv", newline="") as file:
        confusion = list(csv.reader(file))
    assert confusion[0][1:] == list(EXPRESSIONS) and sum(int(n) for row in confusion[1:] for n in row[1:]) == len(known)
    assert sum(int(row[1 + EXPRESSIONS.index(row[0])]) for row in confusion[1:]) == right
    confusion_sha256 = hashlib.sha256((workdir / "eval" / "confusion_matrix.csv").read_bytes()).hexdigest()
    assert metrics["confusion_sha256"] == confusion_sha256
    assert metrics["guard"]["allowed"] == ["leak"] and metrics["guard"]["shared_with_train"] == len(rows)


def test_predictions_are_read_back_as_they_were(workdir, metrics, sample_dataset):
    ids, back = evaluation_files.read_predictions(str(workdir / "eval"), metrics["predictions_sha256"])
    expected = predicted(keras.models.load_model(workdir / "best.keras"), sample_dataset)
    assert ids == Selection(sample_dataset, "train", None).column("id").to_pylist()
    for head in HEADS:
        assert np.array_equal(back.outputs[head], expected.outputs[head])
        assert np.array_equal(back.truth[head], expected.truth[head], equal_nan=True)


def test_hostile_ids_come_back(tmp_path):
    ids = ['a,"b"\n<script>', "ü\u202e 😀", "=1+1\rb", ""]
    truth = {"expression": np.array([0, -1, 2, 7], np.int8)}
    truth |= {head: np.array([0.1, np.nan, -1, 1], np.float32) for head in ("valence", "arousal")}
    outputs = {"expression": np.random.default_rng(0).dirichlet(np.ones(8), 4).astype(np.float32)}
    with evaluation_files.output_file(str(tmp_path), "predictions.csv") as file:
        writer = evaluation_files.PredictionsWriter(file)
        writer(ids[:2], *({name: column[:2] for name, column in columns.items()} for columns in (truth, outputs)))
        writer(ids[2:], *({name: column[2:] for name, column in columns.items()} for columns in (truth, outputs)))
    found, back = evaluation_files.read_predictions(str(tmp_path), writer.digest())
    assert found == ids and set(back.outputs) == {"expression"}
    assert np.array_equal(back.outputs["expression"], outputs["expression"])
    assert np.array_equal(back.truth["valence"], truth["valence"], equal_nan=True)
    with pytest.raises(DataError, match=r"predictions.csv is not what metrics.json was computed from"):
        evaluation_files.read_predictions(str(tmp_path), "0" * 64)


class Page(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.elements, self.text = path.read_text(), [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def rows(self) -> list[list[str]]:
        """The texts of the cells of every row of a table; of rows of one name the first counts."""
        texts = (
            re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>.*?</tr>", self.source, re.S)
        )
        return [[html.unescape(re.sub(r"<.*?>", " ", text)).strip() for text in row] for row in texts][::-1]

    def alts(self) -> list[str]:
        return [attributes["alt"] for tag, attributes in self.elements if tag == "img"]


def check_self_contained(page: Page) -> None:
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")


def test_report_shows_everything(workdir, metrics):
    page = Page(workdir / "eval" / "report.html")
    check_self_contained(page)
    alts = page.alts()
    for start in (
        "Loss and validation", "Confusion matrix", "ROC and", "Accuracy against", "Confidence of right",
        "Predicted against true valence and arousal", "The plane of valence", "Grad-CAM of",
    ):  # fmt: skip
        assert [alt for alt in alts if alt.startswith(start)], start
    accuracy = metrics["expression"]["protocols"]["eight"]["plain"]["accuracy"]["value"]
    assert f"{accuracy:.3f}" in page.text and "were trained on" in page.text
    assert "re-encoded copies are not seen" in page.text
    assert "contempt: a prediction of it is wrong" in page.text
    # The most confident mistake comes first.
    with open(workdir / "eval" / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["true_expression"] not in ("", row["expression"])]
    surest = max(rows, key=lambda row: max(float(row[name]) for name in EXPRESSIONS))
    figures = [attributes for tag, attributes in page.elements if tag == "figure"]
    titles = [attributes["title"] for attributes in figures if "title" in attributes]
    assert titles[0] == surest["id"]
    # The PDF has the text on pages of its own, each plot, and the two kinds of faces.
    pages = -(-len(list(evaluation_text.lines(metrics))) // evaluation_pdf.LINES_PER_PAGE)
    pages += len(figures) - len(titles) + 2
    assert re.findall(rb"/Count (\d+)", (workdir / "eval" / "report.pdf").read_bytes()) == [b"%d" % pages]


def test_the_pdf_says_what_the_page_says(metrics):
    lines = list(evaluation_text.lines(metrics))
    for start in (
        "first on sample train: 96 examples", "dataset ", "model: custom_cnn", "intervals: 40 resamples",
        "leakage: of these images 96 were trained on, 0 chose the checkpoint; by sha256", "allowed by flag: leak",
        "  contempt: a prediction of it is wrong", "classes, under the protocol eight", "contempt precision",
        f"valence: {metrics['valence']['zeros']} examples are exactly 0",
    ):  # fmt: skip
        assert [line for line in lines if line.startswith(start)], start
    assert [line for line in lines if " images a second in batches of 16, CPU" in line]
    assert not [line for line in lines if "mirror" in line or "started from" in line or "not scored" in line]
    guard = metrics["guard"] | {"started_from": ["first \u202e", "b"], "shared_with_ancestors": 1234, "allowed": []}
    others = metrics | {
        "guard": guard, "model": metrics["model"] | {"tta_flip": True},
        "unscored": {"arousal": "arousal: the model does not predict it"},
    }  # fmt: skip
    lines = list(evaluation_text.lines(others))
    assert "each answer is the mean over the image and its mirror image" in lines
    assert r"started from the weights of first \u202e, b" in lines
    assert "not scored: arousal: the model does not predict it" in lines
    assert "0 chose the checkpoint, 1,234 were seen by a model that this one started from; by" in " ".join(lines)
    unchecked = others | {"guard": guard | {"checked": False, "reason": "nobody knows", "allowed": ["leak"]}}
    assert "leakage: not checked: nobody knows" in list(evaluation_text.lines(unchecked))
    assert evaluation.summary(unchecked)[-2:] == ["leakage: not checked: nobody knows", "allowed by flag: leak"]
    assert max(map(len, lines)) <= evaluation_text.WIDTH


def test_same_evaluation_same_bytes(workdir, chosen, sample_dataset, tmp_path):
    options = evaluation.Options(resamples=40, allow_leak=True, report=False)
    evaluation.evaluate(chosen, str(sample_dataset), "train", str(tmp_path), options, say=lambda line: None)
    for name in ("predictions.csv", "confusion_matrix.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / "eval" / name).read_bytes()
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, workdir / "eval"))
    assert first.pop("speed").keys() == second.pop("speed").keys() and first == second
    assert set(os.listdir(workdir / "eval")) - set(os.listdir(tmp_path)) == {"report.html", "report.pdf"}


@pytest.mark.slow
def test_same_metrics_same_pages(workdir, chosen, sample_dataset, tmp_path, monkeypatch):
    speed, write = json.loads((workdir / "eval" / "metrics.json").read_text())["speed"], evaluation_page.write

    def write_with_that_speed(output, metrics, *arguments):
        write(output, metrics | {"speed": speed}, *arguments)

    monkeypatch.setattr(evaluation_page, "write", write_with_that_speed)
    options = evaluation.Options(resamples=40, allow_leak=True)
    evaluation.evaluate(chosen, str(sample_dataset), "train", str(tmp_path), options, say=lambda line: None)
    for name in ("report.html", "report.pdf"):
        assert (tmp_path / name).read_bytes() == (workdir / "eval" / name).read_bytes(), name


def test_what_a_killed_evaluation_leaves_passes_for_nothing(workdir, chosen, sample_dataset, tmp_path, monkeypatch):
    folder = shutil.copytree(workdir / "eval", tmp_path / "eval")
    for name in (
        ".predictions.csv.99999999",
        ".report.pdf.99999999",
        f".report.html.{os.getppid()}",
        ".notes.99999999",
    ):
        (folder / name).write_text("half")

    options = evaluation.Options(resamples=0, report=False)
    monkeypatch.setattr(evaluation_files, "write_metrics", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate(chosen, str(sample_dataset), "test", str(folder), options, say=lambda line: None)
    left = {
        ".notes.99999999",
        f".report.html.{os.getppid()}",
        "confusion_matrix.csv",
        "metrics.json",
        "predictions.csv",
    }
    assert set(os.listdir(folder)) == left
    metrics = evaluation_files.read_metrics(str(folder))
    with pytest.raises(DataError, match=r"predictions.csv is not what metrics.json was computed from"):
        evaluation_files.read_predictions(str(folder), metrics["predictions_sha256"])
    confusion_sha256 = hashlib.sha256((folder / "confusion_matrix.csv").read_bytes()).hexdigest()
    assert metrics["confusion_sha256"] != confusion_sha256


@pytest.fixture(scope="module")
def of_one_class(chosen, sample_dataset, tmp_path_factory) -> Path:
    """An evaluation of some examples of one class."""
    folder = tmp_path_factory.mktemp("happy")
    options = evaluation.Options(resamples=20, only="happy", num_samples=5, allow_leak=True)
    evaluation.evaluate(chosen, str(sample_dataset), "train", str(folder), options, say=lambda line: None)
    return folder


def test_single_class(of_one_class):
    metrics = evaluation_files.read_metrics(str(of_one_class))
    assert metrics["dataset"]["evaluated"] == 5 and metrics["only"] == "happy"
    assert "of happy alone" in evaluation.summary(metrics)[0]
    with open(of_one_class / "predictions.csv", newline="") as file:
        assert {row["true_expression"] for row in csv.DictReader(file)} == {"happy"}
    eight = metrics["expression"]["protocols"]["eight"]
    assert eight["plain"]["recall/happy"]["value"] == eight["plain"]["accuracy"]["value"]
    assert eight["plain"]["roc_auc"]["value"] is None and len(eight["absent"]) == 7
    # What is common to model and dataset does not depend on which of its examples are looked at.
    assert metrics["expression"]["protocols"]["common"]["classes"] == list(EXPRESSIONS)
    page = Page(of_one_class / "report.html")
    alts = page.alts()
    assert "of happy alone" in page.text and not [alt for alt in alts if alt.startswith("ROC")]
    for start in ("Confusion matrix", "Accuracy against", "Confidence of right"):
        assert [alt for alt in alts if alt.startswith(start)], start
    assert len([alt for alt in alts if alt.startswith("happy, taken for")]) == 5


@pytest.fixture(scope="module")
def of_valence(sample_dataset, tmp_path_factory) -> tuple[subject.Subject, Path]:
    """A model of valence alone, and its evaluation."""
    folder = tiny_workdir(tmp_path_factory.mktemp("affect") / "v", sample_dataset, tiny_model(heads=("valence",)))
    (folder / "eval").mkdir()
    (folder / "eval" / "confusion_matrix.csv").write_text("of an earlier evaluation")
    model = subject.from_workdir(str(folder), batch_size=16)
    options = evaluation.Options(resamples=0)
    evaluation.evaluate(model, str(sample_dataset), "test", str(folder / "eval"), options, say=lambda line: None)
    return model, folder / "eval"


def test_without_expressions(of_valence, sample_dataset, tmp_path):
    model, folder = of_valence
    metrics = evaluation_files.read_metrics(str(folder))
    assert metrics["heads"] == ["valence"] and set(metrics["unscored"]) == {"expression", "arousal"}
    assert metrics["valence"]["figures"]["ccc"]["low"] is None
    assert "Not scored: arousal: the model does not predict it." in Page(folder / "report.html").text
    assert sorted(os.listdir(folder)) == ["metrics.json", "predictions.csv", "report.html", "report.pdf"]
    again = shutil.copytree(folder, tmp_path / "again")
    options = evaluation.Options(resamples=0, report=False)
    evaluation.evaluate(model, str(sample_dataset), "test", str(again), options, say=lambda line: None)
    assert sorted(os.listdir(again)) == ["metrics.json", "predictions.csv"]


@pytest.fixture(scope="module")
def contemptless(tmp_path_factory, sample_faces_dir) -> Path:
    """Drawn faces of another seed, without contempt, valence and arousal, as FER-2013 has them; one id is hostile."""
    from datasets import sample_faces

    raw = tmp_path_factory.mktemp("fer") / "raw"
    sample_faces.write_dataset(raw, count=40, seed=1, image_size=48)
    images = sorted((raw / "images").iterdir())
    names = [f"<img src=x onerror=alert(1)>{{{{7*7}}}} {index}.jpg" for index in range(len(images))]
    lines = ["image,expression,split\n"]
    for index, (image, name) in enumerate(zip(images, names)):
        image.rename(raw / name)
        lines.append(f'"{name}",{EXPRESSIONS[index % 7]},test\n')
    (raw / "labels.csv").write_text("".join(lines))
    shutil.rmtree(raw / "annotations")
    shutil.rmtree(raw / "images")
    settings = Settings("csv", str(raw), str(tmp_path_factory.mktemp("data")), "fer", max_bad_fraction=0.5)
    return Path(conversion.convert(settings).dataset_dir)


def test_another_dataset_with_other_classes(chosen, contemptless, sample_dataset, tmp_path):
    lines = []
    metrics = evaluation.evaluate(
        chosen, str(contemptless), "test", str(tmp_path), evaluation.Options(resamples=20, protocol="common"),
        say=lines.append,
    )  # fmt: skip
    assert metrics["guard"]["checked"] and metrics["guard"]["shared_with_train"] == 0
    found = metrics["expression"]["protocols"]
    assert found["eight"]["absent"] == ["contempt"] and found["common"]["classes"] == list(EXPRESSIONS[:7])
    assert found["eight"]["mapping"] == ["contempt: no example is of it; a prediction of it is wrong"]
    assert found["common"]["mapping"] == ["contempt: masked in the prediction; 0 faces left out"]
    assert "  contempt: masked in the prediction; 0 faces left out" in lines
    assert "  contempt: no example is of it; a prediction of it is wrong" in evaluation_text.lines(metrics)
    assert "  without an example, and so left out of every mean: contempt" in evaluation_text.lines(metrics)
    assert found["common"]["plain"] == found["seven"]["plain"]
    assert metrics["heads"] == ["expression"] and metrics["unscored"]["valence"] == "valence: no example has a label"
    page = Page(tmp_path / "report.html")
    check_self_contained(page)
    assert "{{7*7}}" in page.text and not [tag for tag, a in page.elements if tag == "img" and a["src"] == "x"]
    # A model of valence alone finds nothing to score here.
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    folder = tiny_workdir(tmp_path / "affect", contemptless, tiny_model(heads=("valence",)))
    with pytest.raises(DataError, match=r"nothing to score in 'test'.*valence: no example has a label"):
        evaluation.evaluate(
            subject.from_workdir(str(folder), batch_size=8), str(contemptless), "test", str(tmp_path),
            evaluation.Options(allow_leak=True), say=lines.append,
        )  # fmt: skip
    with pytest.raises(UsageError, match="--protocol=seven counts no example here; give one of eight, common"):
        evaluation.evaluate(
            chosen, str(sample_dataset), "train", str(tmp_path),
            evaluation.Options(only="contempt", protocol="seven", allow_leak=True), say=lines.append,
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_model_without_a_class_that_the_dataset_has(contemptless, sample_dataset, tmp_path):
    folder = tiny_workdir(
        tmp_path / "seven", contemptless, tiny_model(), train="test[:80%]", validation="test[80%:]", num_classes=7
    )
    metrics = evaluation.evaluate(
        subject.from_workdir(str(folder), batch_size=16), str(sample_dataset), "train", str(folder / "eval"),
        evaluation.Options(resamples=0, report=False), say=lambda line: None,
    )  # fmt: skip
    truth = Selection(sample_dataset, "train", None).expression
    contempt = int((truth == 7).sum())
    assert contempt and metrics["guard"]["checked"] and metrics["model"]["classes"] == list(EXPRESSIONS[:7])
    found = metrics["expression"]["protocols"]
    assert found["eight"]["mapping"] == [f"contempt: the model was not trained on it; its {contempt} faces count"]
    assert found["common"]["mapping"] == [f"contempt: masked in the prediction; {contempt} faces left out"]
    assert found["common"]["classes"] == list(EXPRESSIONS[:7]) and found["common"]["absent"] == []
    _, predictions = evaluation_files.read_predictions(str(folder / "eval"), metrics["predictions_sha256"])
    right = predictions.outputs["expression"][:, :7].argmax(1) == truth
    assert found["common"]["examples"] == len(truth) - contempt
    assert found["common"]["plain"]["accuracy"]["value"] == pytest.approx(right[truth < 7].mean())


def test_leaks_and_wrong_requests_leave_nothing_behind(chosen, sample_dataset, tmp_path):
    for split, options, message in (
        ("train", {}, "the model was trained on them"),
        ("validation", {}, "they chose the checkpoint"),
        ("nonsense", {}, "split 'nonsense' cannot be read"),
    ):
        with pytest.raises((DataError, UsageError), match=message):
            evaluation.evaluate(
                chosen, str(sample_dataset), split, str(tmp_path / "eval"), evaluation.Options(**options)
            )
    assert not (tmp_path / "eval").exists()
    with pytest.raises(UsageError, match="--expression=joyful is not accepted; give one of neutral"):
        evaluation.Options(only="joyful")
    with pytest.raises(UsageError, match="--protocol=nine"):
        evaluation.Options(protocol="nine")


def test_output_that_cannot_be_written(chosen, sample_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="file/eval cannot be made: Not a directory"):
        evaluation.evaluate(
            chosen, str(sample_dataset), "test", str(tmp_path / "file" / "eval"), evaluation.Options(resamples=0)
        )


def test_a_damaged_evaluation_is_named(workdir, tmp_path):
    folder = shutil.copytree(workdir / "eval", tmp_path / "eval")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"protocol": "nine"}))
    with pytest.raises(DataError, match=r"metrics.json, field protocol: 'nine' is not among the protocols; evaluate"):
        evaluation_files.read_metrics(str(folder))
    del metrics["valence"]["figures"]["ccc"]["low"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=r"metrics.json, field valence.figures.ccc.low: it is missing; evaluate again"):
        evaluation_files.read_metrics(str(folder))


def test_a_damaged_history_is_named_and_an_empty_cell_is_a_gap(tmp_path):
    path = tmp_path / "history.csv"
    assert evaluation_files.read_history(str(path)) == ()
    path.write_text("epoch,best,loss,val_loss\n0,1,2.5,\n1,,1.5,1.4\n")
    first, second = evaluation_files.read_history(str(path))
    assert math.isnan(first["val_loss"]) and math.isnan(second["best"]) and second["val_loss"] == 1.4
    figure = evaluation_plots.training((first, second))
    assert [text.get_position()[0] for text in figure.axes[1].texts] == [0]  # the best epoch
    for text in (
        "best,loss\n1,2.5\n",
        "epoch,loss\n0,2.5\n,1.5\n",
        "epoch,loss\nx,1\n",
        "epoch,loss\n0,1,2\n",
        "a\n\0\n",
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=r"history.csv is damaged .*remove it, and the report has no training"):
            evaluation_files.read_history(str(path))


def test_grad_cam_points_at_what_speaks():
    """A model that looks for a bright spot: the map is bright there."""
    x = image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.AveragePooling2D(4)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    model = keras.Model(image, {"expression": keras.layers.Dense(8, activation="softmax", name="expression")(x)})
    kernel = np.zeros((3, 8), np.float32)
    kernel[:, 1] = 5  # happy speaks for brightness
    model.get_layer("expression").set_weights([kernel, np.zeros(8, np.float32)])
    pixels = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    pixels[0, 4:12, 20:28] = 255
    pixels[1, 20:28, 4:12] = 255
    heat = saliency.grad_cam(model, pixels, np.array([1, 1]))
    assert heat.shape == (2, SIZE, SIZE) and heat.max((1, 2)) == pytest.approx([1, 1])
    assert np.unravel_index(heat[0].argmax(), (SIZE, SIZE)) == pytest.approx((7.5, 23.5), abs=4)
    assert np.unravel_index(heat[1].argmax(), (SIZE, SIZE)) == pytest.approx((23.5, 7.5), abs=4)
    assert saliency.grad_cam(model, pixels, np.array([0, 0])).max() == 0  # brightness speaks against neutral


@pytest.fixture(scope="module")
def evaluations(sample_dataset, tmp_path_factory) -> list[str]:
    """Two models on the test split; the second predicts what is true, but for every eighth example."""
    folders = []
    for name in ("weak", "strong"):
        folder = tiny_workdir(tmp_path_factory.mktemp(name) / "model", sample_dataset, tiny_model())
        chosen = subject.from_workdir(str(folder), batch_size=16)
        if name == "strong":
            selection = Selection(sample_dataset, "test", None)
            truth = np.where(np.arange(selection.count) % 8, selection.expression, 0)
            rows = iter(np.eye(8)[truth] * 0.9 + 0.0125)
            valence = iter(selection.column("valence").to_numpy())
            chosen = dataclasses.replace(
                chosen,
                predictor=prediction.Predictor(
                    lambda images, rows=rows, valence=valence: {
                        "expression": np.stack([next(rows, np.eye(8)[0]) for _ in images]),
                        "valence": np.stack([[np.clip(next(valence, 0) + 0.01, -1, 1)] for _ in images]),
                        "arousal": np.zeros((len(images), 1)),
                    },
                    HEADS, batch_size=16, image_size=SIZE, parameters=7,
                ),
                keras=None,
            )  # fmt: skip
        evaluation.evaluate(
            chosen, str(sample_dataset), "test", str(folder / "eval"), evaluation.Options(resamples=20, report=False),
            say=lambda line: None,
        )  # fmt: skip
        folders.append(str(folder))
    return folders


def test_comparison_says_better_only_where_it_holds(evaluations):
    entries = comparison.load(evaluations, ensemble=False)
    assert [entry.name for entry in entries] == ["model", "model (2)"]
    rows = {row.key: row for row in comparison.compare(entries, protocol="eight", resamples=200, seed=0)}
    accuracy = rows["expression/accuracy"]
    assert accuracy.winner == "model (2)"
    difference, low, high = accuracy.differences["model (2)", "model"]
    assert 0 < low < difference < high
    assert accuracy.differences["model", "model (2)"] == pytest.approx((-difference, -high, -low))
    assert rows["expression/nll"].winner == rows["valence/rmse"].winner == "model (2)"  # where less is better
    # Against itself there is no winner.
    itself = comparison.compare([entries[0], dataclasses.replace(entries[0], name="copy")], protocol="eight",
                                resamples=50, seed=0)  # fmt: skip
    assert {row.winner for row in itself} == {""}
    assert itself[0].differences["model", "copy"] == (0, 0, 0)


def test_paired_difference_is_narrower_than_an_unpaired_one(evaluations):
    """Two models that err on the same examples but one: the paired interval of their difference is narrow."""
    strong = comparison.load(evaluations, ensemble=False)[1]
    outputs = dict(strong.predictions.outputs)
    outputs["expression"] = outputs["expression"].copy()
    row = int(np.flatnonzero(outputs["expression"].argmax(1) == strong.predictions.truth["expression"])[0])
    outputs["expression"][row] = np.roll(outputs["expression"][row], 1)
    other = dataclasses.replace(
        strong, name="other", predictions=dataclasses.replace(strong.predictions, outputs=outputs)
    )
    table = comparison.compare([strong, other], protocol="eight", resamples=300, seed=0)
    accuracy = next(row for row in table if row.key == "expression/accuracy")
    _, low, high = accuracy.differences[strong.name, "other"]
    own = accuracy.figures["other"]
    assert low == 0 and accuracy.winner == ""
    assert high - low < own["high"] - own["low"]


def test_ensemble_is_the_mean(evaluations):
    entries = comparison.load(evaluations, ensemble=True)
    assert entries[-1].name == "ensemble" and entries[-1].metrics is None
    for head in HEADS:
        expected = (entries[0].predictions.outputs[head] + entries[1].predictions.outputs[head]) / 2
        assert entries[-1].predictions.outputs[head] == pytest.approx(expected, abs=1e-7)


def test_comparison_page(evaluations, tmp_path):
    # One evaluation lies elsewhere than its model, beside which the history is found all the same.
    moved = shutil.copytree(Path(evaluations[0]) / "eval", tmp_path / "other_eval")
    entries = comparison.load([str(moved), evaluations[1]], ensemble=True)
    assert [len(entry.history) for entry in entries] == [2, 2, 0]
    metrics = dict(entries[0].metrics) | {"only": "happy"}
    metrics["model"] = metrics["model"] | {"bytes": 12_345_678, "training_seconds": 300.0}
    metrics["speed"] = metrics["speed"] | {"images_per_second": 432.1}
    seven = tuple(name for name in EXPRESSIONS if name != "fear")
    entries[0] = dataclasses.replace(entries[0], name="_$lr$_", classes=seven, metrics=metrics)
    settings = {"protocol": "eight", "resamples": 30, "seed": 5}
    rows = comparison.compare(entries, **settings)
    comparison_page.write(str(tmp_path / "c.html"), entries, rows, **settings)
    page = Page(tmp_path / "c.html")
    check_self_contained(page)
    assert "protocol eight: all eight classes" in page.text and "30 resamples, seed 5," in page.text
    assert "Comparison of happy alone" in page.text and "all examples are of happy" in page.text
    (fear,) = [line for line in comparison.notes(entries, rows, "eight") if "fear" in line]
    assert fear.startswith("_$lr$_: fear: the model was not trained on it") and fear in page.text
    cells = {row[0]: row[1:] for row in page.rows()}
    assert {cells[row.title][-1] for row in rows if row.winner} >= {"model (2)"}
    assert all(cells[row.title][-1] == (row.winner or "–") for row in rows)
    assert cells["parameters"][1:3] == ["698", "–"]
    assert cells["size"][0] == "12.3 MB" and cells["training"][:2] == ["5 min", "–"]
    assert cells["images a second"][0].startswith("432 ") and cells["images a second"][2] == "–"
    accuracy = entries[1].predictions.outputs["expression"].argmax(1) == entries[1].predictions.truth["expression"]
    assert cells["accuracy"][1].startswith(f"{accuracy.mean():.3f}") and " to " in cells["accuracy"][1]
    for start in ("Figures with", "ROC curves", "Precision-recall", "Accuracy against", "Validation loss"):
        assert [alt for alt in page.alts() if alt.startswith(start)], start
    assert "model (2) − ensemble" in page.text and "macro F1" in page.text
    figure = comparison_plots.figures([entry.name for entry in entries], rows[:1])
    texts = figure.legends[0].get_texts()
    assert [text.get_text().strip() for text in texts] == [r"_\$lr\$_", "model (2)", "ensemble"]


def test_protocols_of_a_comparison(evaluations):
    entries = comparison.load(evaluations, ensemble=False)
    affect = []
    for entry in entries:
        outputs = {"valence": entry.predictions.outputs["valence"]}
        predictions = dataclasses.replace(entry.predictions, outputs=outputs)
        affect.append(
            dataclasses.replace(entry, name=f"{entry.name} affect", classes=("happy",), predictions=predictions)
        )
    for some in (entries, affect):
        with pytest.raises(UsageError, match="--protocol=nine is not accepted; give one of eight, seven"):
            comparison.compare(some, protocol="nine", resamples=5, seed=0)
    # Classes in common are those of the models that predict any.
    views = comparison.views([*affect, *entries], "common")
    assert list(views) == [entry.name for entry in entries]
    for view in views.values():
        assert [EXPRESSIONS[index] for index in view.classes] == entries[0].metrics["dataset"]["classes"]
    rows = comparison.compare(affect, protocol="common", resamples=5, seed=0)
    assert comparison.notes(affect, rows, "common") == []


def test_comparison_of_other_examples_is_refused(evaluations, workdir, tmp_path):
    with pytest.raises(DataError, match=r"is an evaluation of other examples .*sample train.* than"):
        comparison.load([evaluations[0], str(workdir)], ensemble=False)
    other = shutil.copytree(Path(evaluations[0]) / "eval", tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["dataset"]["digest"] = "0" * 64
    (other / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=r"of other examples .*digest 000000000000\) than"):
        comparison.load([evaluations[0], str(other)], ensemble=False)
    with pytest.raises(UsageError, match="two or more"):
        comparison.load(evaluations[:1], ensemble=False)
    with pytest.raises(DataError, match=r"metrics.json cannot be read"):
        comparison.load([evaluations[0], evaluations[0] + "x"], ensemble=False)


def test_exported_model(sample_dataset, tmp_path):
    """A SavedModel takes the encoded images, and says what the Keras model says."""
    import tensorflow as tf

    from datasets import preprocessing

    folder = tiny_workdir(tmp_path / "work", sample_dataset, tiny_model())
    model = keras.models.load_model(folder / "best.keras")

    class Exported(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(self, image_bytes):
            images = tf.map_fn(
                lambda data: preprocessing.decode_and_resize(data, SIZE), image_bytes, fn_output_signature=tf.uint8
            )
            return model(images, training=False)

    exported = Exported()
    exported.model = model
    tf.saved_model.save(exported, str(folder / "export" / "1"), signatures={"serving_bytes": exported.serve})
    chosen = subject.from_export(str(folder / "export" / "1"), "", batch_size=7)
    assert chosen.trained_on["name"] == "sample" and chosen.about["parameters"] == model.count_params()
    selection = Selection(sample_dataset, "test", None)
    found = prediction.predict(chosen.predictor, selection)
    expected = predicted(model, sample_dataset, "test", batch_size=7)
    for head in HEADS:
        assert found.outputs[head] == pytest.approx(expected.outputs[head], abs=1e-6)
    for size in (1, 128):
        predictor = prediction.from_saved_model(str(folder / "export" / "1"), batch_size=size)
        other = prediction.predict(predictor, selection)
        for head in HEADS:
            assert other.outputs[head] == pytest.approx(found.outputs[head], abs=1e-5), (size, head)
    with pytest.raises(DataError, match=r"holds no saved_model.pb"):
        subject.from_export(str(tmp_path), "", batch_size=7)

    # What stands beside the graph says what it was trained on, and is believed before a --workdir.
    moved = shutil.copytree(folder / "export" / "1", tmp_path / "moved")
    environment = json.loads((folder / "environment.json").read_text())
    described = {"dataset": environment["dataset"], "num_classes": 8, "recipe": "", "backbone": "custom_cnn"}
    described |= {"tta_flip": False, "started_from": []}
    (moved / "assets.extra").mkdir()

    def describe(**changed) -> None:
        (moved / "assets.extra" / "model.json").write_text(json.dumps(described | changed))

    describe()
    assert subject.from_export(str(moved), str(folder), batch_size=7).trained_on == environment["dataset"]
    for changed in (
        {"num_classes": 7}, {"recipe": "strong"}, {"backbone": "other"}, {"tta_flip": True},
        {"started_from": [{"name": "x", "dataset": None}]},
    ):  # fmt: skip
        describe(**changed)
        with pytest.raises(
            DataError, match=rf"not of the training in .*work: its model.json has {next(iter(changed))} "
        ):
            subject.from_export(str(moved), str(folder), batch_size=7)
    describe(num_classes=7)
    alone = subject.from_export(str(moved), "", batch_size=7)
    assert alone.trained_on["folder"] == "" and alone.classes == EXPRESSIONS[:7]
    assert alone.about["sha256"] == chosen.about["sha256"] == subject.fingerprint(str(moved))
    with pytest.raises(DataError, match="the model was trained on them"):
        evaluation.evaluate(alone, str(sample_dataset), "train", str(tmp_path / "eval"))
    # Of what is gone since, only the file's name is known: no contradiction.
    describe(started_from=[{"name": "gone", "dataset": None}])
    settings = config.TrainConfig(backbone="custom_cnn", image_size=SIZE, init=str(tmp_path / "gone" / "best.keras"))
    (folder / "config.json").write_text(config.to_json(settings))
    assert [one.name for one in subject.from_export(str(moved), str(folder), batch_size=7).ancestors] == ["best.keras"]
    environment["dataset"]["digest"] = "0" * 64
    (folder / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(DataError, match=r"moved is not of the training in .*work: its model.json has the dataset's"):
        subject.from_export(str(moved), str(folder), batch_size=7)
    (moved / "assets.extra" / "model.json").write_text("{}")
    with pytest.raises(DataError, match=r"model.json, field dataset: it is missing; export the model again"):
        subject.from_export(str(moved), "", batch_size=7)


@pytest.mark.parametrize("name", ["environment.json", "best.keras", "config.json"])
def test_a_workdir_that_is_none(workdir, tmp_path, name):
    folder = shutil.copytree(workdir, tmp_path / "work")
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        subject.from_workdir(str(folder), batch_size=4)


def test_a_model_that_is_replaced_while_it_is_read(workdir, tmp_path, monkeypatch):
    folder, other, load = shutil.copytree(workdir, tmp_path / "work"), tiny_model(seed=1), subject.models.load
    other.save(tmp_path / "new.keras")
    due = subject.fingerprint(str(tmp_path / "new.keras"))

    def replacing(path, **given):
        model = load(path, **given)
        if (tmp_path / "new.keras").exists():
            os.replace(tmp_path / "new.keras", path)
        return model

    monkeypatch.setattr(subject.models, "load", replacing)
    found = subject.from_workdir(str(folder), batch_size=4)
    assert found.about["sha256"] == due
    assert all(np.array_equal(*pair) for pair in zip(found.keras.get_weights(), other.get_weights()))

    def growing(path, **given):
        with open(path, "ab") as file:
            file.write(b"x")

    monkeypatch.setattr(subject.models, "load", growing)
    with pytest.raises(DataError, match=r"best.keras was replaced each of the 5 times that it was read"):
        subject.from_workdir(str(folder), batch_size=4)


@pytest.mark.parametrize("text", ["{}", "", '{"backbone": "custom_cnn"}', "[]"])
def test_a_damaged_configuration_is_named(workdir, tmp_path, text):
    folder = shutil.copytree(workdir, tmp_path / "work")
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config.json is damaged"):
        subject.from_workdir(str(folder), batch_size=4)


def browse(page: Path, tmp_path: Path) -> subprocess.CompletedProcess:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_the_pages_without_complaint(workdir, evaluations, tmp_path):
    entries = comparison.load(evaluations, ensemble=True)
    rows = comparison.compare(entries, protocol="eight", resamples=10, seed=0)
    comparison_page.write(str(tmp_path / "c.html"), entries, rows, protocol="eight", resamples=10, seed=0)
    for page, text in ((workdir / "eval" / "report.html", "Mistakes"), (tmp_path / "c.html", "Differences")):
        done = browse(page, tmp_path)
        assert "CONSOLE" not in done.stderr and text in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_pages_of_less_and_would_complain(of_one_class, of_valence, tmp_path):
    for folder, text in ((of_one_class, "of happy alone"), (of_valence[1], "Not scored: arousal")):
        done = browse(folder / "report.html", tmp_path)
        assert "CONSOLE" not in done.stderr and text in done.stdout
    # The test of silence is one only if there is something to be heard: a request that the page's policy forbids.
    source = (of_one_class / "report.html").read_text()
    (tmp_path / "canary.html").write_text(source.replace("<main>", '<main><img src="https://example.invalid/a.png">'))
    assert "CONSOLE" in browse(tmp_path / "canary.html", tmp_path).stderr


def test_the_command_refuses_a_leak_and_prints_what_outlives_its_reader(workdir, monkeypatch):
    given = {"workdir": str(workdir), "split": "validation", "batch_size": 16, **vars(evaluation.Options())}
    given |= dict.fromkeys(("model", "data_dir", "name", "output", "expression"), "")
    handed = {}
    monkeypatch.setattr(evaluate.flags, "FLAGS", types.SimpleNamespace(**given))
    monkeypatch.setattr(evaluate.signal, "signal", lambda *_: None)
    with pytest.raises(DataError, match="--allow_selection_split"):
        evaluate._evaluate()
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **named: handed.update(named))
    evaluate._evaluate()
    assert handed == {"say": command.say}


def test_commands(workdir, tmp_path):
    """Through the command lines: an evaluation, a comparison, a wrong usage."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)

    done = run("trainers.evaluate", f"--workdir={workdir}", "--resamples=5", "--noreport",
               f"--output={tmp_path / 'a'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "expression, protocol seven_contempt_wrong" in done.stdout
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    done = run("trainers.compare", f"--evaluations={tmp_path / 'a'},{tmp_path / 'b'}", "--resamples=5",
               f"--output={tmp_path / 'compare.html'}")  # fmt: skip
    assert done.returncode == 0 and "winner: –" in done.stdout and (tmp_path / "compare.html").is_file()
    assert "protocol eight: all eight classes\n" in done.stdout and "of 5 resamples (seed 0)" in done.stdout
    (accuracy,) = [line for line in done.stdout.splitlines() if line.startswith("accuracy")]
    assert re.search(r"first 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]  first \(2\) 0", accuracy)
    wrong = run("trainers.evaluate")
    assert wrong.returncode == 1 and "--workdir" in wrong.stderr and "Traceback" not in wrong.stderr
