"""LiteRT and ONNX files: their answers, their scores, and that a form which loses too much is left out."""

import json
import shutil

import numpy as np
import pytest

from export import exporting, faces, smaller_forms
from export.smaller_forms import Margins
from pipeline.errors import EnvironmentFault
from tests import small_models

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model():
    return small_models.build()


@pytest.fixture(scope="module")
def workdir(model, sample_dataset, tmp_path_factory):
    return small_models.write_workdir(tmp_path_factory.mktemp("trained") / "run", model, dataset=sample_dataset)


@pytest.fixture(scope="module")
def exported(workdir):
    """(version, lines said) of an export that accepts any loss of the small forms."""
    said = []
    folder = exporting.export_model(
        workdir, formats=["litert", "onnx"], margins=Margins(accuracy=1.0, ccc=2.0), say=said.append
    )
    return folder, said


@pytest.mark.parametrize(
    ("file", "start", "tolerance"),
    [
        ("litert/float32.tflite", smaller_forms.litert, 1e-4),
        ("litert/float16.tflite", smaller_forms.litert, 0.02),
        ("litert/int8.tflite", smaller_forms.litert, 0.3),
        ("onnx/model.onnx", smaller_forms.onnx, 1e-4),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_forms_answer_as_the_model(exported, model, sample_dataset, file, start, tolerance, count):
    asked = faces.of_split(sample_dataset, "validation", size=small_models.SIZE, count=count).images
    wanted = model(asked, training=False)
    answer = start(exported[0] / file)(asked)
    assert set(answer) == set(wanted)
    for head, values in wanted.items():
        assert answer[head].dtype == np.float32
        np.testing.assert_allclose(answer[head], values.numpy(), atol=tolerance, rtol=0)


def test_files_get_smaller_and_hold_built_in_operations_only(exported):
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    folder = exported[0]
    sizes = [(folder / f"litert/{kind}.tflite").stat().st_size for kind in ("float32", "float16", "int8")]
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.4 * sizes[0]
    assert {node.domain for node in onnx.load(folder / "onnx/model.onnx").graph.node} == {""}
    for kind in ("float32", "float16", "int8"):
        operations = Interpreter(model_path=str(folder / f"litert/{kind}.tflite"))._get_ops_details()
        assert not [one for one in operations if one["op_name"].upper().startswith(("FLEX", "CUSTOM"))]


def test_the_table(exported):
    folder, said = exported
    assert [line.split()[0] for line in said[1:]] == [
        "form", "saved_model", "litert_float32", "litert_float16", "litert_int8", "onnx",
    ]  # fmt: skip
    forms = json.loads((folder / "assets.extra" / "model.json").read_text())["forms"]
    assert all(form["latency_ms"] > 0 and set(form["scores"]) == set(forms[0]["scores"]) for form in forms)
    assert forms[1]["scores"] == pytest.approx(forms[0]["scores"], abs=1e-4)
    assert "| litert_int8 | litert/int8.tflite |" in (folder / "model_card.md").read_text()


def test_a_form_that_loses_too_much_is_left_out(workdir, monkeypatch, tmp_path):
    """Ranges taken from black pictures cut off what faces make of the layers."""
    copy = shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    black = np.zeros([4, small_models.SIZE, small_models.SIZE, 3], np.uint8)
    monkeypatch.setattr(exporting, "_calibration", lambda *_: black)
    said = []
    folder = exporting.export_model(copy, formats=["litert"], say=said.append)
    (line,) = [line for line in said if "left out: it has" in line]
    assert line.startswith("litert_int8") and line.endswith("use litert_float16")
    assert sorted(path.name for path in (folder / "litert").iterdir()) == ["float16.tflite", "float32.tflite"]
    assert "| litert_int8 | left out |" in (folder / "model_card.md").read_text()


def test_an_exact_form_must_lose_nothing():
    before = {"accuracy": 0.9, "valence_ccc": 0.5, "arousal_ccc": float("nan")}
    lost = smaller_forms._lost
    assert lost(before, before, Margins()) == lost(before, before | {"accuracy": 0.891}, Margins()) == ""
    assert "accuracy 0.8800" in lost(before, before | {"accuracy": 0.88}, Margins())
    assert "valence_ccc" in lost(before, before | {"valence_ccc": 0.47}, Margins())
    assert "valence_ccc" in lost(before, before | {"valence_ccc": float("nan")}, Margins())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(EnvironmentFault, match=r"--format=onnx needs packages .* pip install '\.\[onnx\]'"):
        smaller_forms.require(["onnx"])
