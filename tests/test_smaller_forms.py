"""LiteRT and ONNX files: their answers, their scores, and that a form which loses too much is left out."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest

from datasets.input_pipeline import make_eval
from datasets.selection import Selection
from export import converters, exporting, faces, serving, smaller_forms
from export.smaller_forms import Margins
from pipeline.errors import EnvironmentFault
from tests import small_models
from trainers import model as models

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(sample_dataset):
    """A model that is right about all 12 faces of validation, so that there is something to lose."""
    made = small_models.build(dataclasses.replace(small_models.CONFIG, shared_units=(64,)))
    batch = next(iter(make_eval(str(sample_dataset), "validation", batch_size=12, image_size=small_models.SIZE)))
    shared = keras.Model(made.input, made.get_layer("shared1").output)(batch["image"]).numpy()
    targets = {
        "expression_logits": 8 * batch["expression_probs"].numpy(),
        "valence": np.arctanh(batch["valence"].numpy()[:, None] * 0.99),
        "arousal": np.arctanh(batch["arousal"].numpy()[:, None] * 0.99),
    }
    for name, values in targets.items():
        bias = made.get_layer(name).get_weights()[1]
        made.get_layer(name).set_weights([np.linalg.lstsq(shared, values)[0], np.zeros_like(bias)])
    return made


@pytest.fixture(scope="module")
def added(model, sample_dataset, tmp_path_factory):
    """(version, rows, lines said), where int8 took its ranges from black pictures, which cut off what faces make."""
    folder = tmp_path_factory.mktemp("added") / "1"
    serving.save(model, folder)
    black = np.zeros([4, small_models.SIZE, small_models.SIZE, 3], np.uint8)
    said = []
    rows = smaller_forms.add(
        model, folder, converters.FORMATS, calibration=lambda: black,
        validation=Selection(str(sample_dataset), "validation", None), margins=Margins(),
        say=said.append,
    )  # fmt: skip
    return folder, rows, said


def assert_answers_as(model, dataset, path, start, *, count: int, tolerance: float) -> None:
    asked = faces.of_split(dataset, "validation", size=small_models.SIZE, count=count).images
    wanted = model(asked, training=False)
    answer = start(path)(asked)
    assert set(answer) == set(wanted)
    for head, values in wanted.items():
        assert answer[head].dtype == np.float32
        np.testing.assert_allclose(answer[head], values.numpy(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("file", "start", "tolerance"),
    [
        ("litert/float32.tflite", converters.litert, 1e-4),
        ("litert/float16.tflite", converters.litert, 0.05),
        ("onnx/model.onnx", converters.onnx, 1e-4),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_forms_answer_as_the_model(added, model, sample_dataset, file, start, tolerance, count):
    assert_answers_as(model, sample_dataset, added[0] / file, start, count=count, tolerance=tolerance)


def assert_built_in(path) -> None:
    """Every operation of a file is one of its runtime's own."""
    if path.suffix == ".onnx":
        import onnx

        assert {node.domain for node in onnx.load(path).graph.node} == {""}
        return
    from ai_edge_litert.interpreter import Interpreter

    operations = [one["op_name"].upper() for one in Interpreter(model_path=str(path))._get_ops_details()]
    assert operations and not [name for name in operations if name.startswith(("FLEX", "CUSTOM"))]


def test_files_get_smaller_and_hold_built_in_operations_only(added):
    folder, rows, _ = added
    sizes = {row.name: row.bytes for row in rows}
    assert sizes["litert_float16"] < 0.6 * sizes["litert_float32"] > 1.5 * sizes["litert_int8"]
    for file in ("litert/float32.tflite", "litert/float16.tflite", "onnx/model.onnx"):
        assert_built_in(folder / file)


def test_every_form_is_scored_and_timed(added):
    _, rows, _ = added
    names = ["saved_model", "litert_float32", "litert_float16", "litert_int8", "onnx"]
    assert [row.name for row in rows] == names == [line.split()[0] for line in smaller_forms.table(rows)[1:]]
    assert all(row.latency_ms > 0 and row.scores.keys() == rows[0].scores.keys() for row in rows)
    for exact in (rows[1], rows[4]):
        assert exact.scores == pytest.approx(rows[0].scores, abs=1e-4)


def test_a_form_that_loses_too_much_is_left_out(added):
    folder, rows, said = added
    assert rows[0].scores["accuracy"] == 1 and rows[0].scores["valence_ccc"] > 0.9
    (line,) = said
    assert line.startswith("litert_int8 is left out: it has") and line.endswith("use litert_float16")
    assert [row.file for row in rows] == [
        ".", "litert/float32.tflite", "litert/float16.tflite", "", "onnx/model.onnx",
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "litert").iterdir()) == ["float16.tflite", "float32.tflite"]


@pytest.mark.slow
def test_forms_are_part_of_a_version(sample_dataset, tmp_path):
    model = small_models.build()
    workdir = small_models.write_workdir(tmp_path / "run", model, dataset=sample_dataset)
    folder = exporting.export_model(workdir, formats=["litert", "onnx"], margins=Margins(1.0, 2.0), say=lambda _: None)
    forms = json.loads((folder / "assets.extra" / "model.json").read_text())["forms"]
    assert all((folder / form["file"]).exists() for form in forms) and len(forms) == 5
    assert "| litert_int8 | litert/int8.tflite |" in (folder / "model_card.md").read_text()
    path = folder / "litert/int8.tflite"
    assert_built_in(path)
    assert_answers_as(model, sample_dataset, path, converters.litert, count=5, tolerance=0.3)


@pytest.mark.slow
def test_tta_flip_is_in_every_form(added, model, sample_dataset, tmp_path):
    mirrored = models.answering(model, dataclasses.replace(small_models.CONFIG, tta_flip=True))
    asked = faces.of_split(sample_dataset, "train", size=small_models.SIZE, count=50).images
    sizes = {row.name: row.bytes for row in added[1]}
    tolerances = {"litert_float32": 1e-4, "litert_float16": 0.05, "litert_int8": 0.3, "onnx": 1e-4}
    difference = model(asked)["expression"] - mirrored(asked)["expression"]
    assert np.abs(difference).max() > 0.05
    for form, path in converters.convert(mirrored, tmp_path, converters.FORMATS, calibration=lambda: asked):
        assert_built_in(path)
        assert_answers_as(mirrored, sample_dataset, path, form.start, count=5, tolerance=tolerances.pop(form.name))
        assert path.stat().st_size < 1.3 * sizes[form.name], "the weights are there once"
    assert not tolerances


def test_an_exact_form_must_lose_nothing():
    before = {"accuracy": 0.9, "valence_ccc": 0.5, "arousal_ccc": float("nan")}
    lost = smaller_forms._lost
    assert lost(before, before, Margins()) == lost(before, before | {"accuracy": 0.891}, Margins()) == ""
    assert "accuracy 0.8800" in lost(before, before | {"accuracy": 0.88}, Margins())
    assert "valence_ccc" in lost(before, before | {"valence_ccc": 0.47}, Margins())
    assert "valence_ccc" in lost(before, before | {"valence_ccc": float("nan")}, Margins())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(EnvironmentFault, match=r"--format=onnx needs packages .* pip install '\.\[onnx\]'"):
        converters.require(["onnx"])
