"""From raw faces to predictions of an exported model, each command as a user runs it."""

import csv
import json
import subprocess
import sys

import numpy as np

from pipeline.records import EXPRESSIONS
from tests.faces import ROOT


def run(module: str, *flags: object) -> str:
    """What a command says."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, flags)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (module, done.stdout, done.stderr)
    return done.stdout


def test_from_faces_to_predictions(sample_faces_dir, tmp_path):
    data, work, table = tmp_path / "data", tmp_path / "model", tmp_path / "predictions.csv"
    run(
        "pipeline.build_tfrecords", "--source=affectnet", f"--input_dir={sample_faces_dir}", f"--data_dir={data}",
        "--name=faces",
    )  # fmt: skip
    run(
        "trainers.train", f"--data_dir={data}", "--name=faces", f"--workdir={work}", "--backbone=custom_cnn",
        "--width=0.25", "--image_size=32", "--epochs=1",
    )  # fmt: skip
    run("trainers.evaluate", f"--workdir={work}", "--split=test", "--resamples=20", "--noreport")
    assert f"exported    {work / 'export' / '1'}" in run("export.export_model", f"--workdir={work}")
    (tmp_path / "broken.jpg").write_text("<html>not found</html>")
    said = run(
        "export.predict", f"--model={work / 'export'}", f"--images={sample_faces_dir / 'images'}",
        f"--images={tmp_path / 'broken.jpg'}", f"--output={table}", f"--contact_sheet={tmp_path / 'sheet.png'}",
    )  # fmt: skip
    assert said.startswith("121 images, 1 of them with an error; ") and "images/s" in said
    assert (tmp_path / "sheet.png").stat().st_size > 10_000

    version = work / "export" / "1"
    document = json.loads((version / "assets.extra" / "model.json").read_text())
    assert document["dataset"]["name"] == "faces" and document["scores"]["dataset"]["split"] == "test"
    metrics = json.loads((work / "eval" / "metrics.json").read_text())
    accuracy = metrics["expression"]["protocols"]["eight"]["plain"]["accuracy"]["value"]
    assert f"| accuracy | {accuracy:.4f} |" in (version / "model_card.md").read_text()

    # The stored images are the files, byte for byte, so the exported model says of them what was evaluated.
    with open(table, encoding="utf-8", newline="") as file:
        predicted = {row["image"].rsplit("/", 1)[-1].split(".")[0]: row for row in csv.DictReader(file)}
    with open(work / "eval" / "predictions.csv", encoding="utf-8", newline="") as file:
        scored = list(csv.DictReader(file))
    assert len(scored) == 12
    for row in scored:
        other = predicted[row["id"].rsplit("/", 1)[-1].split(".")[0]]
        for column in (*EXPRESSIONS, "valence", "arousal"):
            np.testing.assert_allclose(float(other[column]), float(row[column]), atol=1e-5, err_msg=row["id"])
    assert np.ptp([float(row["happy"]) for row in scored]) > 1e-3, "faces must differ for this to show anything"
