"""Decode and resize: against libjpeg and exact formulas, the same eagerly, in tf.data, and in a batch."""

import io

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets import preprocessing, sample_faces
from pipeline.errors import UsageError


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return sample_faces.draw_face(0, 1, 0.5, 0.2, image_size=96)[0]


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def reference_resize(image: np.ndarray, size: int) -> np.ndarray:
    """A triangle filter, float64, widened by the reduction where the axis shrinks."""
    for axis in (0, 1):
        length = image.shape[axis]
        scale = length / size
        centre = (np.arange(size) + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centre[:, None]) / max(1, scale))
        image = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


def test_decode_is_libjpegs_with_the_fast_transform(face):
    data = encoded(face, "JPEG", quality=90, subsampling=2)
    decoded = preprocessing.decode(data).numpy()
    np.testing.assert_array_equal(decoded, simplejpeg.decode_jpeg(data, fastdct=True))
    assert 0 < np.abs(decoded.astype(int) - simplejpeg.decode_jpeg(data)).max() <= 6


@settings(max_examples=60, deadline=None)
@given(
    sides=st.integers(1, 70),
    grey=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "subsampling": st.sampled_from([0, 1, 2]),
            "progressive": st.booleans(),
            "optimize": st.booleans(),
            "restart_marker_blocks": st.sampled_from([0, 3]),
        }
    ),
    seed=st.integers(0, 9),
)
def test_jpegs_by_the_batch_have_the_same_pixels(sides, grey, options, seed):
    """Two libraries, of two versions of libjpeg, and every kind of JPEG that a record can hold."""
    noise = np.random.default_rng(seed).integers(0, 256, (2, sides, sides, 3)).astype(np.uint8)
    jpegs = [encoded(image[..., 0] if grey else image, "JPEG", **options) for image in noise]
    decoded = preprocessing.decode_jpegs(np.array(jpegs, object), sides)
    np.testing.assert_array_equal(decoded, [preprocessing.decode(data).numpy() for data in jpegs])


def test_a_jpeg_of_another_size_is_an_error(face):
    for image in (face[:50], face[:50, :50]):
        with pytest.raises(ValueError):
            preprocessing.decode_jpegs(np.array([encoded(image, "JPEG")], object), 96)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_rgb(face, kind):
    data = encoded(face[..., 0], kind)
    decoded = preprocessing.decode(data).numpy()
    assert decoded.dtype == np.uint8 and decoded.shape == (96, 96, 3)
    assert np.abs(decoded - np.asarray(Image.open(io.BytesIO(data)), int)[..., None]).max() <= 6
    assert (decoded == decoded[..., :1]).all()


def test_png_is_exact(face):
    np.testing.assert_array_equal(preprocessing.decode(encoded(face, "PNG")), face)


def test_no_image_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode(b"GIF, or was it?")


@pytest.mark.parametrize("shape", [(96, 96), (50, 96), (31, 20)])
@pytest.mark.parametrize("size", [24, 40, 96, 150])
def test_resize_is_antialiased_down_and_bilinear_up(shape, size):
    """Noise shows what smooth pictures hide: an antialiased reduction of it is nearly grey."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    resized = preprocessing.resize(noise, size).numpy()
    assert resized.dtype == np.uint8 and resized.shape == (size, size, 3)
    assert np.abs(resized - reference_resize(noise.astype(np.float64), size)).max() < 0.51


def test_same_everywhere(face):
    data = encoded(face, "JPEG")
    expected = preprocessing.decode_and_resize(data, 56).numpy()
    # In tf.data the size is not known beforehand.
    stream = tf.data.Dataset.from_tensors(data).map(lambda value: preprocessing.decode_and_resize(value, 56))
    assert stream.element_spec.shape == (56, 56, 3)
    np.testing.assert_array_equal(next(iter(stream)), expected)
    compiled = tf.function(preprocessing.decode_and_resize).get_concrete_function(tf.TensorSpec([], tf.string), 56)
    np.testing.assert_array_equal(compiled(tf.constant(data)), expected)
    decoded = preprocessing.decode(data)
    serve = tf.function(lambda images: preprocessing.resize(images, 56))
    specification = tf.TensorSpec([None, None, None, 3], tf.uint8)
    served = serve.get_concrete_function(specification)(tf.stack([decoded, decoded]))
    np.testing.assert_array_equal(served, [expected, expected])
    np.testing.assert_array_equal(preprocessing.resize(tf.cast(decoded, tf.float32), 56), expected)


def test_the_same_size_keeps_the_pixels(face):
    np.testing.assert_array_equal(preprocessing.resize(face, 96), face)
    unknown = tf.function(lambda image: preprocessing.resize(image, 96))
    served = unknown.get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8))(tf.constant(face))
    np.testing.assert_array_equal(served, face)
    floats = np.float32([[[-3, 254.5, 300]]])
    np.testing.assert_array_equal(preprocessing.resize(floats, 1), [[[0, 254, 255]]])


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_below_one_is_refused(face, size):
    with pytest.raises(UsageError, match=f"image_size={size} is not accepted"):
        preprocessing.resize(face, size)
