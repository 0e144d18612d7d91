"""The SavedModel's two signatures: what they accept, what they answer, and that TensorFlow alone is enough for them."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from datasets import preprocessing
from export import model_card, serving
from tests import small_models

#: Refuses to import this project and keras-cv, then prints what the model says of the images in standard input.
ALONE = """
import json
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipeline", "datasets", "trainers", "export", "keras_cv"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocker())
import tensorflow as tf
image = sys.stdin.buffer.read()
loaded = tf.saved_model.load(sys.argv[1])
answer = loaded.signatures["serving_bytes"](image_bytes=tf.constant([image, image]))
print(json.dumps({head: values.numpy().tolist() for head, values in answer.items()}))
"""


@pytest.fixture(scope="module")
def model():
    return small_models.build()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "1"
    serving.save(model, path)
    return path


@pytest.fixture(scope="module")
def served(folder):
    return tf.saved_model.load(str(folder)).signatures


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def expected(model, images: list[bytes]) -> dict[str, np.ndarray]:
    """What evaluation says: its own decoding, and the model on a batch of the same shape."""
    pixels = tf.stack([preprocessing.decode_and_resize(image, small_models.SIZE) for image in images])
    return {head: values.numpy() for head, values in model(pixels, training=False).items()}


def assert_same(answer: dict, wanted: dict) -> None:
    assert set(answer) == set(wanted)
    for head, values in wanted.items():
        np.testing.assert_allclose(answer[head].numpy(), values, atol=1e-5, rtol=0, err_msg=head)


def test_images_of_any_size_and_kind_in_one_batch(model, served):
    images = [
        small_models.jpeg(0),
        small_models.jpeg(1, 113),
        encoded(Image.fromarray(small_models.face(2, 64)).resize((90, 31))),
        encoded(Image.fromarray(small_models.face(3)).convert("L")),
        encoded(Image.fromarray(small_models.face(4, 64)).convert("L"), "JPEG"),
    ]
    answer = served["serving_bytes"](image_bytes=tf.constant(images))
    wanted = expected(model, images)
    assert np.ptp(wanted["expression"], axis=0).max() > 0.1 and np.ptp(wanted["valence"]) > 0.1, "faces must differ"
    assert_same(answer, wanted)


@pytest.mark.parametrize("shape", [(small_models.SIZE, small_models.SIZE), (113, 113), (113, 70), (40, 90)])
@pytest.mark.parametrize("count", [1, 3])
def test_decoded_images(model, served, shape, count):
    height, width = shape
    faces = [small_models.face(number, 113)[:height, :width] for number in range(count)]
    images = [encoded(Image.fromarray(np.ascontiguousarray(face))) for face in faces]
    pixels = tf.stack([preprocessing.decode(image) for image in images])
    answer = served["serving_default"](images=pixels)
    assert {head: (values.dtype, values.shape.as_list()) for head, values in answer.items()} == {
        "expression": (tf.float32, [count, 8]),
        "valence": (tf.float32, [count, 1]),
        "arousal": (tf.float32, [count, 1]),
    }
    assert_same(answer, expected(model, images))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "neither a JPEG nor a PNG"),
        (b"<html>", "neither a JPEG nor a PNG"),
        (encoded(Image.new("RGB", (20, 20)), "GIF"), "neither a JPEG nor a PNG"),
        (encoded(Image.new("RGB", (20, 20)), "WEBP"), "neither a JPEG nor a PNG"),
        (b"\x89PNG\r\n\x1a\n", "neither a JPEG nor a PNG"),
        (small_models.jpeg(0)[:700], "JPEG"),
        (png_header(5, 5), "PNG"),
        (png_header(2**31 + 5, 1), "PNG"),
    ],
)
def test_what_is_no_whole_image_is_an_error(served, image, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served["serving_bytes"](image_bytes=tf.constant([small_models.jpeg(0), image]))


def test_the_error_says_which_image_of_the_batch(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[1\]"):
        served["serving_bytes"](image_bytes=tf.constant([small_models.jpeg(0), b"text"]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_100_megapixels_are_refused_before_they_are_decoded(served, kind):
    bomb = encoded(Image.new("L", (10_000, 10_000)), kind)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = peak_memory()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[10000 10000\].*40000000 pixels"):
        served["serving_bytes"](image_bytes=tf.constant([bomb] * 4))
    assert peak_memory() - before < 50e6


def peak_memory() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def test_large_and_empty_batches_of_decoded_images(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 40000000 pixels"):
        served["serving_default"](images=tf.zeros([1, 10_000, 10_000, 3], tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="images: the batch is empty"):
        served["serving_default"](images=tf.zeros([0, 48, 48, 3], tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a side is 0"):
        served["serving_default"](images=tf.zeros([2, 0, 48, 3], tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes: the batch is empty"):
        served["serving_bytes"](image_bytes=tf.zeros([0], tf.string))


def test_a_float_batch_is_an_error(served):
    with pytest.raises(Exception, match=r"(?s)float.*uint8|uint8.*float"):
        served["serving_default"](images=tf.zeros([1, 48, 48, 3], tf.float32))


def test_loads_with_tensorflow_alone(folder, model, tmp_path):
    face = small_models.jpeg(7, 64)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, folder], input=face, cwd=tmp_path, capture_output=True,
        env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    for head, values in expected(model, [face, face]).items():
        np.testing.assert_allclose(json.loads(done.stdout)[head], values, atol=1e-5)


def test_rest_conventions(served):
    """TensorFlow Serving sends base64 to inputs of type string, and splits rows by a first axis that all share."""
    inputs = {name: signature.structured_input_signature[1] for name, signature in served.items()}
    assert inputs["serving_bytes"]["image_bytes"] == tf.TensorSpec([None], tf.string, "image_bytes")
    assert inputs["serving_default"]["images"] == tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    for signature in served.values():
        assert all(spec.shape[0] is None for spec in signature.structured_outputs.values())


def test_the_rest_request_of_the_model_card(model, served):
    """As TensorFlow Serving documents its row format: {"b64": …} is bytes, each other object is named inputs."""
    template = Path(model_card.__file__).with_name("templates") / "model_card.md"
    (request,) = re.findall(r'`(\{"signature_name.*\})`', template.read_text(encoding="utf-8"))
    faces = [small_models.jpeg(1, 64), small_models.jpeg(2)]

    def decoded(value: dict):
        return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value

    assert request.count("…") == 1
    rows = []
    for face in faces:
        sent = json.loads(request.replace("…", base64.b64encode(face).decode()), object_hook=decoded)
        rows += sent["instances"]
    inputs = {name: tf.constant([row[name] for row in rows]) for name in rows[0]}
    assert_same(served[sent["signature_name"]](**inputs), expected(model, faces))


@pytest.mark.slow
@pytest.mark.parametrize(("signature", "name"), [("serving_default", "images"), ("serving_bytes", "image_bytes")])
def test_saved_model_cli(folder, model, tmp_path, signature, name):
    faces = [small_models.jpeg(1, 64), small_models.jpeg(2, 64)]
    pixels = np.stack([preprocessing.decode(face).numpy() for face in faces])
    np.save(tmp_path / "faces.npy", pixels if name == "images" else np.array(faces))
    command = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    done = subprocess.run(
        [command, "run", "--dir", folder, "--tag_set", "serve", "--signature_def", signature,
         "--inputs", f"{name}={tmp_path / 'faces.npy'}", "--outdir", tmp_path],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for head, values in expected(model, faces).items():
        np.testing.assert_allclose(np.load(tmp_path / f"{head}.npy"), values, atol=1e-5)
