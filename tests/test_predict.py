"""Prediction: every photograph gets a row, as conversion would have taken it in, and none stops the others."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import preprocessing
from export import contact_sheet, photographs, predicting, serving
from pipeline import images
from pipeline.errors import DataError, EnvironmentFault, UsageError
from pipeline.images import ImageSettings
from pipeline.records import EXPRESSIONS
from tests import small_models
from tests.faces import ROOT
from trainers import prediction


@pytest.fixture(scope="module")
def model():
    return small_models.build()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A directory of versions."""
    folder = tmp_path_factory.mktemp("versions")
    serving.save(model, folder / "1")
    return folder


@pytest.fixture
def faces(tmp_path):
    """Five usable images and what else lies in people's folders."""
    folder = tmp_path / "faces"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(small_models.jpeg(0))
    Image.fromarray(small_models.face(1, 64)).save(folder / "b.png")
    Image.fromarray(small_models.face(2, 64)).save(folder / "c é\n.webp", lossless=True)
    (folder / "d.jpg").write_bytes(small_models.jpeg(3)[:900])
    # TensorFlow's decoder takes this one without a word.
    damaged = bytearray(small_models.jpeg(6))
    middle = len(damaged) * 7 // 10
    damaged[middle : middle + 20] = bytes(20)
    (folder / "damaged.jpg").write_bytes(damaged)
    (folder / "e.jpg").write_bytes(b"<html>not found</html>")
    (folder / "more" / "f.JPG").write_bytes(small_models.jpeg(4))
    (folder / "more" / "notes.txt").write_text("no image by its name")
    os.mkfifo(folder / "more" / "pipe.jpg")
    (folder / "more" / "z.jpg").symlink_to(folder / "a.jpg")
    return folder


def expected(model, stored: list[bytes]) -> dict[str, np.ndarray]:
    pixels = tf.stack([preprocessing.decode_and_resize(image, small_models.SIZE) for image in stored])
    return {head: values.numpy() for head, values in model(pixels, training=False).items()}


def read_csv(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_image(model, exported, faces, tmp_path):
    output = tmp_path / "predictions.csv"
    result = predicting.predict(exported, [str(faces)], output, batch_size=3)
    rows = read_csv(output)
    names = [
        "a.jpg",
        "b.png",
        "c é\n.webp",
        "d.jpg",
        "damaged.jpg",
        "e.jpg",
        "more/f.JPG",
        "more/pipe.jpg",
        "more/z.jpg",
    ]
    assert [os.path.relpath(row["image"], faces) for row in rows] == names
    assert (result.images, result.errors) == (9, 4) and result.images_per_second > 0
    assert [row["error"].split(":")[0] for row in rows] == [
        "", "", "", "truncated", "corrupt", "not_an_image", "", "unsafe_path", "",
    ]  # fmt: skip
    good = [row for row in rows if not row["error"]]
    stored = [
        images.store((faces / name).read_bytes(), ImageSettings()) for name in names[:3] + ["more/f.JPG", "a.jpg"]
    ]
    wanted = expected(model, stored)
    shares = np.array([[float(row[name]) for name in EXPRESSIONS] for row in good])
    np.testing.assert_allclose(shares, wanted["expression"], atol=1e-5)
    assert [row["expression"] for row in good] == [EXPRESSIONS[index] for index in wanted["expression"].argmax(1)]
    for head in ("valence", "arousal"):
        np.testing.assert_allclose([float(row[head]) for row in good], wanted[head][:, 0], atol=1e-5)
    assert not any(row[column] for row in rows if row["error"] for column in ("expression", "happy", "valence"))


def test_json_lines(exported, faces, tmp_path):
    output = tmp_path / "predictions.jsonl"
    predicting.predict(exported / "1", [str(faces / "a.jpg"), str(faces / "e.jpg")], output)
    good, bad = map(json.loads, output.read_text().splitlines())
    assert good["expression"] == max(good["probabilities"], key=good["probabilities"].get) and good["error"] is None
    assert list(good["probabilities"]) == list(EXPRESSIONS) and -1 <= good["valence"] <= 1
    assert (
        bad["error"].startswith("not_an_image") and bad["expression"] is bad["valence"] is bad["probabilities"] is None
    )


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photographs_are_turned_upright(model, exported, tmp_path, orientation):
    upright = Image.fromarray(small_models.face(5, 64)).crop((0, 0, 50, 64))
    turned = upright.transpose({3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    predicting.predict(exported, [str(tmp_path / "*.png")], tmp_path / "out.csv")
    first, second = read_csv(tmp_path / "out.csv")
    assert {name: first[name] for name in EXPRESSIONS} == {name: second[name] for name in EXPRESSIONS}
    as_stored = expected(model, [_bytes(turned)])["expression"][0]
    difference = as_stored - [float(first[name]) for name in EXPRESSIONS]
    assert abs(difference).max() > 1e-3, "turning must make a difference here"


def _bytes(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_images_are_reduced_as_the_training_data_was(exported, tmp_path):
    (tmp_path / "1").mkdir()
    settings = predicting._settings(tmp_path / "1")
    assert settings == ImageSettings()
    (tmp_path / "1" / "assets.extra").mkdir()
    (tmp_path / "1" / "assets.extra" / "model.json").write_text('{"conversion": {"image_size": 32, "min_side": 20}}')
    settings = predicting._settings(tmp_path / "1")
    (tmp_path / "large.jpg").write_bytes(small_models.jpeg(1, 113))
    ((photo,),) = photographs.read(iter([str(tmp_path / "large.jpg")]), settings, batch_size=4)
    assert Image.open(io.BytesIO(photo.encoded)).size == (32, 32)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "no JSON"),
        ("{}", "field conversion: it is missing"),
        ('{"conversion": {"min_side": "x"}}', "field conversion.min_side"),
    ],
)
def test_a_damaged_description_is_named(exported, tmp_path, text, field):
    folder = shutil.copytree(exported / "1", tmp_path / "1")
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "model.json").write_text(text)
    with pytest.raises(DataError, match=rf"model.json.*{field}.*export the model again"):
        predicting.predict(folder, [__file__], tmp_path / "out.csv")


def test_a_signature_that_takes_no_images_is_refused(tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[])
        def serve(self):
            return {"valence": tf.zeros([1, 1])}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures={"serving_bytes": other.serve})
    with pytest.raises(DataError, match=r"serving_bytes takes nothing; encoded images \(string\) alone are due"):
        predicting.predict(tmp_path, [__file__], tmp_path / "out.csv")


def test_half_a_table_does_not_outlive_a_signal(exported, faces, tmp_path):
    command = [
        sys.executable, "-m", "export.predict", f"--model={exported}", f"--output={tmp_path / 'out.csv'}",
        *[f"--images={faces}"] * 500,
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not any(path.stat().st_size > 100 for path in tmp_path.glob(".out.csv.*")):
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143 and not list(tmp_path.glob("*out.csv*"))


def test_what_a_killed_prediction_left_is_removed(exported, tmp_path):
    (tmp_path / "a.jpg").write_bytes(small_models.jpeg(0))
    kept = [f".out.csv.{os.getppid()}", ".out.csv.old", ".other.csv.999999999"]
    for name in (".out.csv.999999999", *kept):
        (tmp_path / name).write_text("half a table")
    result = predicting.predict(exported, [str(tmp_path / "a.jpg")], tmp_path / "out.csv")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.jpg", "out.csv", *kept])
    assert result.images_per_second > 0, "one batch is enough to say it"


def test_what_tensorflow_refuses_costs_one_row(exported, tmp_path, monkeypatch):
    """Images that our verification accepts and TensorFlow's decoder does not."""
    (tmp_path / "a.jpg").write_bytes(small_models.jpeg(0))
    (tmp_path / "b.jpg").write_bytes(small_models.jpeg(1))
    (tmp_path / "c.jpg").write_bytes(small_models.jpeg(2))
    store = images.store
    refused = small_models.jpeg(1)
    monkeypatch.setattr(images, "store", lambda data, settings: b"?" if data == refused else store(data, settings))
    result = predicting.predict(exported, [str(tmp_path)], tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    assert result.errors == 1 and [row["error"] for row in rows] == [
        "", "corrupt: assertion failed: [image_bytes[0]] [is neither a JPEG nor a PNG]", "",
    ]  # fmt: skip
    assert rows[0]["valence"] and rows[2]["valence"]


def test_wrong_arguments(exported, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.csv or \.jsonl"):
        predicting.predict(exported, ["x"], tmp_path / "out.txt")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        predicting.predict(exported, ["x"], tmp_path / "out.csv", sheet=tmp_path / "sheet.gif")
    for nothing in ("missing.jpg", "*.jpg", ""):
        with pytest.raises(DataError, match="names no image"):
            predicting.predict(exported, [str(tmp_path / nothing)], tmp_path / "out.csv")
    (tmp_path / "a.jpg").write_bytes(small_models.jpeg(0))
    with pytest.raises(DataError, match="names no image"):
        predicting.predict(exported, [str(tmp_path), str(tmp_path / "*.png")], tmp_path / "out.csv")
    with pytest.raises(DataError, match="holds no SavedModel"):
        predicting.predict(tmp_path / "nowhere", [str(tmp_path)], tmp_path / "out.csv")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        predicting.predict(exported, [str(tmp_path)], tmp_path / "nowhere" / "out.csv")
    assert not list(tmp_path.glob("out.*"))


class Foreign(tf.Module):
    """Somebody else's model: one answer, whatever the image."""

    def __init__(self, answer: dict):
        super().__init__()
        self._answer = answer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve(self, image_bytes):
        return {
            head: tf.repeat(tf.constant([row], tf.float32), tf.size(image_bytes), 0)
            for head, row in self._answer.items()
        }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"expression": [1 / 7] * 7}, r"the model's expression has shape \[1, 7\] for 1 images; \[1, 8\] is due"),
        ({"valence": [0.0, 0.0]}, r"the model's valence has shape \[1, 2\]"),
        ({"valence": [float("nan")]}, r"the model's valence is not finite for 1 of 1 examples, first '.*a.jpg'"),
    ],
)
def test_a_model_that_answers_otherwise_is_refused(tmp_path, answer, message):
    foreign = Foreign(answer)
    tf.saved_model.save(foreign, str(tmp_path / "1"), signatures={"serving_bytes": foreign.serve})
    (tmp_path / "a.jpg").write_bytes(small_models.jpeg(0))
    for name in ("out.csv", "out.jsonl"):
        with pytest.raises(DataError, match=message):
            predicting.predict(tmp_path / "1", [str(tmp_path / "a.jpg")], tmp_path / name)
        assert not (tmp_path / name).exists()


def test_what_fills_a_batch_up_costs_nothing():
    """A photograph is decoded once, not once for every free place of its batch."""
    seen = []

    def call(images):
        seen.extend(images.numpy().tolist())
        return {"valence": np.zeros((len(images), 1))}

    predictor = prediction.Predictor(call, ["valence"], batch_size=8, image_size=None, parameters=0)
    large = small_models.jpeg(0, 300)
    assert predictor(np.array([large], object))["valence"].shape == (1, 1)
    assert len(seen) == 8 and seen.count(large) == 1 and max(map(len, seen[1:])) < 200


def test_contact_sheet(exported, faces, tmp_path):
    sheet = tmp_path / "sheet.png"
    predicting.predict(exported, [str(faces)], tmp_path / "out.csv", batch_size=3, sheet=sheet)
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] > 9 * contact_sheet.SIDE and pixels.shape[0] < 2 * contact_sheet.SIDE
    # A face, and the cross of one that could not be used.
    first = pixels[6 : 6 + contact_sheet.SIDE, 6 : 6 + contact_sheet.SIDE]
    assert np.ptp(first[40:90, 40:90].astype(int)) > 50
    fourth = pixels[6 : 6 + contact_sheet.SIDE, 3 * (contact_sheet.SIDE + 6) + 6 :][:, : contact_sheet.SIDE]
    assert (fourth[:30, :30] == 0xE6).all()


MEASURED = """
import sys
from benchmarks import measure
from export import predicting
predicting.predict(sys.argv[1], [sys.argv[2]] * int(sys.argv[3]), sys.argv[4], sheet=sys.argv[5])
print(measure.highest_resident())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(exported, tmp_path):
    face = small_models.jpeg(0, 300)
    (tmp_path / "a.jpg").write_bytes(face)
    peaks, counts = [], (300, 4000)
    for count in counts:
        command = [
            sys.executable, "-c", MEASURED, exported, tmp_path / "a.jpg", str(count), tmp_path / "out.csv",
            tmp_path / "sheet.png",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert len(read_csv(tmp_path / "out.csv")) == counts[1]
    # Less than a third of what keeping the files alone would take.
    assert peaks[1] - peaks[0] < 15e6 < (counts[1] - counts[0]) * len(face) / 3
