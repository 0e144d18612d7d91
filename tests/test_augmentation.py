"""Augmentation: each transform against keras-cv's layer, the chain against NumPy, labels against the rule."""

import functools
import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from datasets import augmentation, sample_faces
from datasets.augmentation import AugmentConfig, ahead, batch, colour, draws, geometry, mixing, passes, rand_augment
from pipeline.errors import UsageError

BATCH, HEIGHT, WIDTH = 6, 40, 48
OFF = {"flip": False, "rotation": 0, "zoom": 0, "translation": 0, "brightness": 0, "contrast": 0}


@pytest.fixture(scope="module", autouse=True)
def seeded():
    """A training in this process makes TensorFlow's operations deterministic; keras-cv's layers then want seeds."""
    tf.keras.utils.set_random_seed(0)
    tf.random.set_global_generator(tf.random.Generator.from_seed(0))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth, noisy and flat pictures; a resampling of noise shows the smallest error in a coordinate or weight."""
    rng = np.random.default_rng(0)
    smooth = 128 + 120 * np.sin(np.arange(WIDTH) / 7)[None, :, None] * np.cos(np.arange(HEIGHT) / 5)[:, None, None]
    pictures = rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3))
    pictures[:2] = smooth + rng.integers(-7, 8, (2, HEIGHT, WIDTH, 3))
    pictures[2] = [17, 130, 255]
    return pictures.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def seeds() -> np.ndarray:
    return np.random.default_rng(1).integers(-(2**31), 2**31, (BATCH, 2)).astype(np.int32)


def warped(images, matrices) -> np.ndarray:
    pixels = geometry.warp(tf.constant(images), matrices, tf.zeros(len(images)))
    return colour.contrast(pixels, tf.ones(len(images))).numpy()


def assert_close(got, expected, *, tolerance=0.7):
    """Half a grey level is the rounding, 0.16 the resampling; so rounded values are at most one apart."""
    difference = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
    assert difference.max() <= tolerance, difference.max()


def keras_cv_layer(name: str, *args, **kwargs):
    import keras_cv

    return getattr(keras_cv.layers, name)(*args, dtype="float32", **kwargs)


def test_config_is_validated():
    assert AugmentConfig() == AugmentConfig(True, 15.0, 0.1, 0.1, 0.1, 0.1, 0, 0.0, 0.0, 0.0)
    AugmentConfig(rand_augment=(2, 0.5), mixup=0.2)
    for wrong in (
        {"rotation": -1}, {"rotation": math.nan}, {"zoom": 1}, {"translation": 1.1}, {"brightness": -0.1},
        {"contrast": 2}, {"cutout": 1.5}, {"mixup": -1}, {"mixup": math.nan}, {"cutmix": 1e-9},
        {"rand_augment": 2}, {"rand_augment": (0, 0.5)}, {"rand_augment": (2, 7)}, {"rand_augment": (2,)},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}=.* is not accepted; give 0"):
            AugmentConfig(**wrong)


def test_threefry_gives_the_published_answers():
    """Random123's known answer for key and counter 0."""
    first, second = draws.threefry(tf.zeros([1, 2], tf.uint32), tf.constant([0], tf.uint32))
    assert (hex(first[0, 0].numpy()), hex(second[0, 0].numpy())) == ("0x6b200159", "0x99ba4efe")


def test_uniforms_depend_on_the_seed_alone():
    seeds = tf.constant(np.random.default_rng(0).integers(-(2**31), 2**31, (4000, 2)), tf.int32)
    numbers = draws.uniforms(seeds, 7).numpy()
    assert numbers.shape == (4000, 7) and numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_array_equal(draws.uniforms(seeds[100:102], 4), numbers[100:102, :4])
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(numbers.T) - np.eye(7)).max() < 0.06
    neighbours = draws.uniforms(tf.stack([tf.zeros(4000, tf.int32), tf.range(4000)], 1), 2).numpy()
    assert abs(np.corrcoef(neighbours[1:, 0], neighbours[:-1, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0, 100.0])
def test_beta(alpha):
    uniform = np.linspace(0, 1, 4001, dtype=np.float32)[:-1]
    shares = draws.symmetric_beta(tf.constant(uniform), alpha).numpy().astype(np.float64)
    error = scipy.special.betainc(alpha, alpha, shares) - uniform
    # In the tails of a small alpha the probability moves within float32's last bit of the share.
    inside = (shares > 1e-4) & (shares < 1 - 1e-4)
    assert np.abs(error[inside]).max() < 2e-3


@pytest.mark.parametrize("name", ["flip", "rotation", "zoom", "translation", "shear_x", "shear_y"])
def test_geometry_equals_keras_cv(images, name):
    """keras-cv's own layers, fed the same parameters; beyond the default ranges too, where borders repeat."""
    u = np.random.default_rng(3).uniform(-1, 1, (BATCH, 1)).astype(np.float32)
    v = u[::-1].copy()
    u[0] = v[0] = 0
    if name == "flip":
        layer = keras_cv_layer("RandomFlip", "horizontal")
        given = {"flip_horizontals": (u + 1) / 2, "flip_verticals": 0 * u}
        matrices = geometry.flip(tf.constant(u[:, 0] > 0), WIDTH)
    elif name == "rotation":
        layer, given = keras_cv_layer("RandomRotation", 1.0), {"angles": 3 * u[:, 0]}
        matrices = geometry.rotation(tf.constant(3 * u[:, 0]), HEIGHT, WIDTH)
    elif name == "zoom":
        layer, given = keras_cv_layer("RandomZoom", 0.9), {"height_zooms": 1 + 0.9 * u, "width_zooms": 1 + 0.9 * u}
        matrices = geometry.zoom(tf.constant(1 + 0.9 * u[:, 0]), HEIGHT, WIDTH)
    elif name == "translation":
        layer = keras_cv_layer("RandomTranslation", 1.0, 1.0)
        given = {"height_translations": u, "width_translations": v}
        matrices = geometry.translation(tf.constant(WIDTH * v[:, 0]), tf.constant(HEIGHT * u[:, 0]))
    else:
        layer = keras_cv_layer("RandomShear", 1.0, 1.0)
        given = {"shear_x": u if name == "shear_x" else None, "shear_y": u if name == "shear_y" else None}
        along_x = name == "shear_x"
        matrices = geometry.shear(*(tf.constant(u[:, 0] * on) for on in (along_x, not along_x)))
    given = {key: value if value is None else tf.constant(value) for key, value in given.items()}
    expected = layer.augment_images(tf.constant(images, tf.float32), transformations=given)
    assert_close(warped(images, matrices), expected)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_colour_equals_keras_cv(images, name):
    u = np.random.default_rng(4).uniform(-1, 1, BATCH).astype(np.float32)
    unmoved = geometry.flip(tf.zeros(BATCH, tf.bool), WIDTH)
    if name == "brightness":
        layer, given, deltas, factors = keras_cv_layer("RandomBrightness", 1.0), 255 * u, 255 * u, np.ones_like(u)
    else:
        layer, given, deltas, factors = keras_cv_layer("RandomContrast", (0, 255), 1.0), 1 + u, np.zeros_like(u), 1 + u
    got = colour.contrast(geometry.warp(tf.constant(images), unmoved, tf.constant(deltas)), tf.constant(factors))
    expected = layer.augment_images(tf.constant(images, tf.float32), given[:, None, None, None])
    assert_close(got, expected, tolerance=0.85)


def test_ranges_follow_keras_cv():
    """Angles, factors and shifts are uniform in the ranges of keras-cv's layers; half of the faces are mirrored."""
    seeds = tf.constant(np.random.default_rng(0).integers(-(2**31), 2**31, (4000, 2)), tf.int32)
    config = AugmentConfig(flip=False, zoom=0.0, translation=0.0, rotation=20.0, brightness=0.2, contrast=0.3)
    drawn = batch.draw_face(batch.by_name(batch.draw(seeds, config)), config, HEIGHT, WIDTH)
    cosine, sine = drawn["matrices"][:, 0, 0].numpy(), drawn["matrices"][:, 1, 0].numpy()
    for values, low, high in (
        (np.degrees(np.arctan2(sine, cosine)), -20, 20),
        (drawn["deltas"].numpy(), -51, 51),
        (drawn["factors"].numpy(), 0.7, 1.3),
    ):
        assert values.min() >= low - 1e-4 and values.max() <= high + 1e-4
        assert np.abs(np.quantile((values - low) / (high - low), [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.03
    config = AugmentConfig(**OFF | {"flip": True, "zoom": 0.1, "translation": 0.1})
    matrices = batch.draw_face(batch.by_name(batch.draw(seeds, config)), config, HEIGHT, WIDTH)["matrices"].numpy()
    assert 0.47 < (matrices[:, 0, 0] < 0).mean() < 0.53
    assert 0.9 <= np.abs(matrices[:, 0, 0]).min() < 0.91 and 1.09 < np.abs(matrices[:, 0, 0]).max() <= 1.1001
    np.testing.assert_allclose(np.abs(matrices[:, 0, 0]), matrices[:, 1, 1], rtol=1e-6)
    shown = matrices @ [(WIDTH - 1) / 2, (HEIGHT - 1) / 2, 1] - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2, 1]
    shift = np.abs(shown[:, 1] / matrices[:, 1, 1] / HEIGHT)
    assert 0.09 < shift.max() <= 0.1001


def reference_chain(image, numbers: dict, config: AugmentConfig) -> np.ndarray:
    """The chain in float64: walks every output pixel back through translation, zoom, rotation and flip."""
    height, width, _ = image.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    point = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)

    def symmetric(name, largest):
        return (2 * np.float64(numbers[name]) - 1) * largest

    point -= [symmetric("right", config.translation) * width, symmetric("down", config.translation) * height]
    point = (point - centre) * (1 + symmetric("zoom", config.zoom)) + centre
    angle = np.radians(symmetric("rotation", config.rotation))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    point = (point - centre) @ turn + centre
    if config.flip and numbers["flip"] > 0.5:
        point[..., 0] = width - 1 - point[..., 0]
    padded = np.pad(image.astype(np.float64), [(height, height), (width, width), (0, 0)], "symmetric")
    point += [width, height]
    low = np.floor(point).astype(int)
    x, y = np.moveaxis(point - low, -1, 0)[..., None]
    i, j = low[..., 1], low[..., 0]
    top = padded[i, j] * (1 - x) + padded[i, j + 1] * x
    bottom = padded[i + 1, j] * (1 - x) + padded[i + 1, j + 1] * x
    pixels = np.clip(top * (1 - y) + bottom * y + symmetric("brightness", config.brightness) * 255, 0, 255)
    mean = pixels.mean((0, 1))
    return np.clip((pixels - mean) * (1 + symmetric("contrast", config.contrast)) + mean, 0, 255)


@pytest.mark.parametrize(
    "config",
    [AugmentConfig(), AugmentConfig(rotation=180, zoom=0.5, translation=0.3, brightness=0.5, contrast=0.9)],
    ids=["default", "strong"],
)
def test_chain_equals_reference(images, seeds, config):
    numbers = {name: value.numpy() for name, value in batch.by_name(batch.draw(tf.constant(seeds), config)).items()}
    given = labelled(images)
    augmented = augmentation.augment_batch(given, config, seeds)
    for name in given.keys() - {"image", "landmarks", "mask"}:
        np.testing.assert_array_equal(augmented[name], given[name], err_msg=name)
    for head, mask in given["mask"].items():
        np.testing.assert_array_equal(augmented["mask"][head], mask)
    got = augmented["image"].numpy()
    assert got.dtype == np.uint8
    for index in range(BATCH):
        of_this = {name: value[index] for name, value in numbers.items()}
        assert_close(got[index], reference_chain(images[index], of_this, config), tolerance=0.85)


def test_nothing_on_changes_nothing(images, seeds):
    given = {"image": tf.constant(images), "id": tf.constant(["a"] * BATCH), "expression": tf.range(BATCH)}
    got = augmentation.augment_batch(given, AugmentConfig(**OFF), seeds)
    assert got.keys() == given.keys()
    np.testing.assert_array_equal(got["image"], images)
    np.testing.assert_array_equal(warped(images, geometry.flip(tf.zeros(BATCH, tf.bool), WIDTH)), images)
    np.testing.assert_array_equal(warped(images, geometry.flip(tf.ones(BATCH, tf.bool), WIDTH)), images[:, :, ::-1])


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (37, 29), (2, 2)])
def test_one_by_one_is_as_all_at_once(shape):
    """For a processor and for an accelerator, with a batch size known beforehand and one that is not, of any sides; and
    as a stream has it."""
    images = np.random.default_rng(2).integers(0, 256, (5, *shape, 3)).astype(np.uint8)
    given = {"image": tf.constant(images)}
    seeds = tf.constant(np.random.default_rng(3).integers(-1000, 1000, (5, 2)), tf.int32)
    specifications = {"image": tf.TensorSpec([None, *shape, 3], tf.uint8)}, tf.TensorSpec([None, 2], tf.int32)
    results = []

    def augment(transform):
        return lambda given, seeds: augmentation.augment_batch(given, AugmentConfig(), seeds, transform=transform)

    for at_once in (False, True):
        run = tf.function(augment(functools.partial(passes.transform, at_once=at_once)))
        results.append(run(given, seeds)["image"])
        results.append(run.get_concrete_function(*specifications)(given, seeds)["image"])
    apply = ahead.program((5, *shape, 3))
    for known in (False, True):
        stream = tf.data.Dataset.from_tensor_slices(({"image": images}, seeds)).batch(5, drop_remainder=known)
        results += [given["image"] for given in stream.map(augment(apply))]
    for result in results:
        assert result.dtype == tf.uint8 and result.shape == images.shape
        # Compiled together, a coordinate may differ in its last bit, and with it the rounding.
        difference = np.abs(result.numpy().astype(int) - results[0].numpy())
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_one_by_one_does_as_many_as_are_asked_for():
    images = tf.constant(np.random.default_rng(2).integers(1, 256, (5, 9, 8, 3)).astype(np.uint8))
    unmoved, none = tf.eye(3, batch_shape=[5]), tf.zeros(5)
    for faces in (0, 2, 5):
        got = passes.one_by_one(images, unmoved, none, none + 1, tf.constant(faces))
        np.testing.assert_array_equal(got[:faces], images[:faces])
        assert not got[faces:].numpy().any()


def test_what_is_drawn_for_images_is_as_many_as_they_are():
    """Known beforehand or not."""
    images, unmoved, none = tf.ones([5, 9, 8, 3], tf.uint8), tf.eye(3, batch_shape=[5]), tf.zeros(5)
    transform = tf.function(functools.partial(passes.transform, at_once=False))
    unknown = [tf.TensorSpec([None, *value.shape[1:]]) for value in (unmoved, none, none)]
    run = transform.get_concrete_function(tf.TensorSpec(images.shape, tf.uint8), *unknown)
    np.testing.assert_array_equal(run(images, unmoved, none, none + 1), images)
    for wrong in ((unmoved[:2], none, none), (unmoved, none[:2], none), (unmoved, none, none[:2])):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            passes.transform(images, *wrong, at_once=False)
        with pytest.raises(tf.errors.InvalidArgumentError):
            run(images, *wrong)


def test_what_is_compiled_ahead_is_what_runs():
    ahead.program.cache_clear()
    traced = passes.one_by_one.experimental_get_tracing_count
    before, program = traced(), ahead.program((3, 11, 7, 3))
    program._thread.join()
    assert traced() == before + 1
    images, unmoved, none = (
        np.ones((3, 11, 7, 3), np.uint8),
        np.stack([np.eye(3, dtype=np.float32)] * 3),
        np.zeros(3, np.float32),
    )
    np.testing.assert_array_equal(program._run(images, unmoved, none, none + 1), images)
    assert traced() == before + 1


def test_a_stream_may_give_arrays_that_lie_anywhere():
    """XLA reads and writes 64 aligned bytes at a time."""
    program = ahead.program((2, HEIGHT, WIDTH, 3))
    memory = np.random.default_rng(2).integers(0, 256, 2 * HEIGHT * WIDTH * 3 + 64).astype(np.uint8)
    where, none = np.stack([np.eye(3, dtype=np.float32)] * 2), np.zeros(2, np.float32)
    for offset in (0, 1, 16):
        for writeable in (True, False):
            images = memory[offset:][: 2 * HEIGHT * WIDTH * 3].reshape(2, HEIGHT, WIDTH, 3)
            images.flags.writeable = writeable
            np.testing.assert_array_equal(program._run(images, where, none, none + 1), images)


def labelled(images, masks=None) -> dict:
    rng = np.random.default_rng(5)
    masks = np.ones((3, len(images))) if masks is None else np.array(masks)
    probs = rng.dirichlet(np.ones(8), len(images)) * masks[0][:, None]
    return {
        "image": tf.constant(images),
        "expression": tf.constant(np.where(masks[0] > 0, probs.argmax(1), 0), tf.int32),
        "expression_probs": tf.constant(probs, tf.float32),
        "valence": tf.constant(rng.uniform(-1, 1, len(images)) * masks[1], tf.float32),
        "arousal": tf.constant(rng.uniform(-1, 1, len(images)) * masks[2], tf.float32),
        "mask": {h: tf.constant(m, tf.float32) for h, m in zip(("expression", "valence", "arousal"), masks)},
        "landmarks": tf.constant(rng.uniform(5, 35, (len(images), 68, 2)), tf.float32),
        "id": tf.constant([str(index) for index in range(len(images))]),
    }


def test_same_everywhere(images, seeds):
    """Eagerly, in a function, in a compiled one, in tf.data, and (but for mixing) in another batch."""
    config = AugmentConfig(cutout=0.3, mixup=0.2, cutmix=1.0)
    given = labelled(images)
    ids = given.pop("id")
    eager = augmentation.augment_batch(given, config, seeds)

    def run(given, seeds):
        return augmentation.augment_batch(given, config, seeds)

    stream = tf.data.Dataset.from_tensors((given, seeds)).map(run, num_parallel_calls=2)
    results = [tf.function(run)(given, seeds), tf.function(run, jit_compile=True)(given, seeds), next(iter(stream))]
    for result in results:
        assert result.keys() == eager.keys()
        for name in eager.keys() - {"mask", "image"}:
            np.testing.assert_allclose(result[name], eager[name], rtol=1e-4, atol=1e-4, err_msg=name)
        difference = np.abs(result["image"].numpy().astype(int) - eager["image"].numpy())
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    alone = AugmentConfig(cutout=0.3)
    whole = augmentation.augment_batch({"image": tf.constant(images), "id": ids}, alone, seeds)["image"].numpy()
    part = augmentation.augment_batch({"image": tf.constant(images[3:])}, alone, seeds[3:])["image"].numpy()
    np.testing.assert_array_equal(part, whole[3:])
    other = augmentation.augment_batch({"image": tf.constant(images)}, alone, seeds + 1)["image"].numpy()
    assert (other != whole).any()


def test_landmarks_follow_the_pixels(seeds):
    """A dot is drawn at a landmark; after the transform the dot is where the landmark went."""
    rng = np.random.default_rng(6)
    points = rng.integers(15, 30, (BATCH, 68, 2)).astype(np.float32)
    dots = np.zeros((BATCH, HEIGHT, WIDTH, 3), np.uint8)
    for index, (x, y) in enumerate(points[:, 0].astype(int)):
        dots[index, y - 1 : y + 2, x - 1 : x + 2] = 255
    config = AugmentConfig(brightness=0, contrast=0)
    got = augmentation.augment_batch({"image": tf.constant(dots), "landmarks": tf.constant(points)}, config, seeds)
    mirrored = batch.by_name(batch.draw(tf.constant(seeds), config))["flip"].numpy() > 0.5
    assert 0 < mirrored.sum() < BATCH
    for index, picture in enumerate(got["image"].numpy()[..., 0].astype(float)):
        y, x = (np.indices(picture.shape) * picture).sum((1, 2)) / picture.sum()
        moved = got["landmarks"][index, 16 if mirrored[index] else 0]
        np.testing.assert_allclose(moved, [x, y], atol=0.15)
    unknown = geometry.move_landmarks(tf.constant(points * np.nan), geometry.flip(tf.constant(mirrored), WIDTH))
    assert np.isnan(unknown).all()
    there = np.arange(BATCH) % 2
    given = {"landmarks": tf.constant(points * there[:, None, None], tf.float32), "image": tf.constant(dots)}
    given["has_landmarks"] = tf.constant(there, tf.float32)
    kept = augmentation.augment_batch(given, config, seeds)["landmarks"]
    np.testing.assert_array_equal(kept, got["landmarks"] * there[:, None, None])


def test_a_mirrored_face_keeps_its_order():
    """The points of a mirrored face are those of a face: left stays left. Every point has one partner."""
    _, points = sample_faces.draw_face(0, 0, 0.0, 0.0)
    mirrored = geometry.move_landmarks(tf.constant(points[None]), geometry.flip(tf.constant([True]), 224))[0].numpy()
    assert mirrored[0, 0] < mirrored[8, 0] < mirrored[16, 0] and (np.diff(mirrored[17:27, 0]) > 0).all()
    np.testing.assert_array_equal(geometry.MIRRORED[geometry.MIRRORED], np.arange(68))
    for left, right in ((36, 45), (39, 42), (41, 46), (37, 44), (48, 54), (60, 64), (50, 52), (58, 56), (31, 35)):
        assert geometry.MIRRORED[left] == right
    assert [i for i in range(68) if geometry.MIRRORED[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_mixed_labels_follow_the_rule():
    """A known and an unknown label give the known one at its share; two unknown ones stay masked; never NaN."""
    masks = [[1, 1, 0, 0], [1, 0, 0, 0.5], [0, 1, 1, 1]]
    given = labelled(np.zeros((4, 8, 8, 3), np.uint8), masks)
    order, shares = np.array([1, 2, 3, 0]), np.array([0.3, 0.0, 0.6, 1.0], np.float32)
    mixed = mixing.mix_labels(given, tf.constant(order), tf.constant(shares))
    for target, head in (("expression_probs", "expression"), ("valence", "valence"), ("arousal", "arousal")):
        for a, (b, share) in enumerate(zip(order, shares.astype(np.float64))):
            w_a, w_b = share * given["mask"][head][a].numpy(), (1 - share) * given["mask"][head][b].numpy()
            y_a, y_b = given[target][a].numpy(), given[target][b].numpy()
            expected = (w_a * y_a + w_b * y_b) / (w_a + w_b) if w_a + w_b else 0 * y_a
            np.testing.assert_allclose(mixed[target][a], expected, atol=1e-6)
            np.testing.assert_allclose(mixed["mask"][head][a], w_a + w_b, atol=1e-6)
    # Row 0: valence 1 is unknown, so the target is row 0's own, and counts 0.3.
    np.testing.assert_allclose(mixed["valence"][0], given["valence"][0], rtol=1e-6)
    np.testing.assert_allclose(mixed["mask"]["valence"][0], 0.3)
    assert mixed["expression"][0] == given["expression"][1]
    assert mixed["expression_probs"][2].numpy().sum() == 0 and mixed["mask"]["expression"][2] == 0


def test_mixup_equals_keras_cv(images, monkeypatch):
    """With the same partners and shares."""
    order, shares = np.roll(np.arange(BATCH), 2), np.linspace(0, 1, BATCH, dtype=np.float32)
    given, layer = labelled(images), keras_cv_layer("MixUp")
    monkeypatch.setattr(tf.random, "shuffle", lambda *_, **__: tf.constant(order))
    monkeypatch.setattr(layer, "_sample_from_beta", lambda *_: tf.constant(shares))
    expected = layer({"images": tf.constant(images, tf.float32), "labels": given["expression_probs"]})
    mixed = mixing.blend(given["image"], tf.gather(given["image"], order), tf.constant(shares))
    assert_close(mixed, expected["images"])
    targets = mixing.mix_labels(given, tf.constant(order), tf.constant(shares))["expression_probs"]
    np.testing.assert_allclose(targets, expected["labels"], atol=1e-6)


def test_cutmix_equals_keras_cv(images, monkeypatch):
    """With the same partners, areas and centres; it differs on purpose in the share of a rectangle that is clipped."""
    order, areas = np.roll(np.arange(BATCH), 2), np.linspace(0, 1, BATCH, dtype=np.float32)
    u_x, u_y = np.random.default_rng(3).uniform(size=(2, BATCH)).astype(np.float32)
    centres = iter([tf.cast(u_y * HEIGHT, tf.int32), tf.cast(u_x * WIDTH, tf.int32)])
    layer = keras_cv_layer("CutMix")
    monkeypatch.setattr(tf.random, "shuffle", lambda *_, **__: tf.constant(order))
    monkeypatch.setattr(tf.random, "uniform", lambda *_, **__: next(centres))
    monkeypatch.setattr(layer, "_sample_from_beta", lambda *_: tf.constant(areas))
    expected = layer._cutmix(tf.constant(images, tf.float32))[0]
    pasted = mixing.cutmix_rectangle(tf.constant(areas), tf.constant(u_x), tf.constant(u_y), HEIGHT, WIDTH)
    np.testing.assert_array_equal(tf.where(pasted, tf.gather(images, order), images), expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
def test_mixing_pixels_and_shares(seeds, kind):
    """Flat faces of value 10 * i: a mixed pixel says who was mixed, and the masks of one-hot labels say how much."""
    count = 64
    flat = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8) + (np.arange(count, dtype=np.uint8) * 3)[:, None, None, None]
    given = labelled(flat)
    given["valence"] = tf.constant(np.arange(count) * 3 / 255, tf.float32)
    del given["landmarks"]
    config = AugmentConfig(**OFF | ({"mixup": 0.5, "cutmix": 0.5} if kind == "both" else {kind: 0.5}))
    many = np.random.default_rng(9).integers(-(2**31), 2**31, (count, 2)).astype(np.int32)
    got = augmentation.augment_batch(given, config, many)
    picture = got["image"].numpy()
    mean = picture.astype(float).mean((1, 2, 3)) / 255
    # The target is the very mixture that the pixels show.
    np.testing.assert_allclose(mean, got["valence"], atol=0.5 / 255 + 1e-5)
    one_value = np.array([len(np.unique(face)) == 1 for face in picture])
    changed = np.abs(got["valence"] - given["valence"]) > 1e-3
    assert changed.sum() > count / 4
    assert {"mixup": one_value.all(), "cutmix": (~one_value[changed]).mean() > 0.5}.get(kind, True)
    if kind == "both":
        assert 0.2 < one_value[changed].mean() < 0.9
    np.testing.assert_allclose(got["mask"]["valence"], 1, atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(got["expression_probs"], 1), 1, atol=1e-5)


def test_cutout_equals_keras_cv(images):
    rng = np.random.default_rng(7)
    whole = {
        "centers_x": rng.integers(0, WIDTH, BATCH), "centers_y": rng.integers(0, HEIGHT, BATCH),
        "rectangles_height": rng.integers(0, 30, BATCH), "rectangles_width": rng.integers(0, 30, BATCH),
    }  # fmt: skip
    layer = keras_cv_layer("RandomCutout", 0.5, 0.5)
    given = {name: tf.constant(value, tf.int32) for name, value in whole.items()}
    expected = layer.augment_images(tf.constant(images, tf.float32), given)
    names = ("centre_x", "centre_y", "heights", "widths")
    drawn = {name: tf.constant(value, tf.float32) for name, value in zip(names, whole.values())}
    np.testing.assert_array_equal(batch.cut_out(tf.constant(images), drawn), expected)


def test_cutout_draws_like_keras_cv():
    """The same smallest and largest centres and sides, and the same distribution between."""
    count = 4000
    seeds = tf.constant(np.random.default_rng(0).integers(-(2**31), 2**31, (count, 2)), tf.int32)
    uniform = batch.by_name(batch.draw(seeds, AugmentConfig(cutout=0.5)))
    ours = batch.draw_cutout(uniform, 0.5, HEIGHT, WIDTH)
    pictures = tf.zeros([count, HEIGHT, WIDTH, 1])
    theirs = keras_cv_layer("RandomCutout", 0.5, 0.5, seed=1).get_random_transformation_batch(count, pictures)
    for name, other in (
        ("centre_x", "centers_x"), ("centre_y", "centers_y"), ("widths", "rectangles_width"),
        ("heights", "rectangles_height"),
    ):  # fmt: skip
        found, expected = ours[name].numpy(), theirs[other].numpy()
        assert found.min() == expected.min() and found.max() == expected.max(), name
        places = [0.25, 0.5, 0.75]
        np.testing.assert_allclose(np.quantile(found, places), np.quantile(expected, places), atol=1.5, err_msg=name)


@pytest.mark.parametrize("name", rand_augment.TRANSFORMS)
def test_rand_augment_equals_keras_cv(images, name):
    """Every transform of the policy, with the parameters that we drew, against keras-cv's layer."""
    uniform = np.random.default_rng(8).uniform(size=(BATCH, rand_augment.DRAWS)).astype(np.float32)
    drawn = rand_augment.draw(tf.constant(uniform), 0.6)
    drawn["transform"] = tf.fill([BATCH], rand_augment.TRANSFORMS.index(name))
    got = rand_augment.apply(tf.constant(images), drawn)
    pixels, by_image = tf.constant(images, tf.float32), lambda key: drawn[key][:, None, None, None]
    column, nothing = lambda key: drawn[key][:, None], tf.zeros([BATCH, 1])
    layer, given = {
        "auto_contrast": lambda: (keras_cv_layer("AutoContrast", (0, 255)), None),
        "equalize": lambda: (keras_cv_layer("Equalization", (0, 255)), None),
        "solarize": lambda: (
            keras_cv_layer("Solarization", (0, 255)),
            {"additions": by_image("addition"), "thresholds": by_image("threshold")},
        ),
        "color": lambda: (keras_cv_layer("RandomColorDegeneration", 0.5), by_image("degeneration")),
        "contrast": lambda: (keras_cv_layer("RandomContrast", (0, 255), 0.5), by_image("contrast")),
        "brightness": lambda: (keras_cv_layer("RandomBrightness", 0.5), 255 * by_image("shift")),
        "shear_x": lambda: (keras_cv_layer("RandomShear", 1.0), {"shear_x": column("shear"), "shear_y": None}),
        "shear_y": lambda: (keras_cv_layer("RandomShear", None, 1.0), {"shear_x": None, "shear_y": column("shear")}),
        "translate_x": lambda: (
            keras_cv_layer("RandomTranslation", 0.0, 0.6),
            {"height_translations": nothing, "width_translations": column("shift")},
        ),
        "translate_y": lambda: (
            keras_cv_layer("RandomTranslation", 0.6, 0.0),
            {"height_translations": column("shift"), "width_translations": nothing},
        ),
    }[name]()
    assert_close(got, layer.augment_images(pixels, transformations=given))


def test_rand_augment_draws_like_keras_cv():
    """Each transform as often as the others, one in eleven skipped, magnitudes of the policy's means and limits."""
    uniform = np.random.default_rng(8).uniform(size=(20000, rand_augment.DRAWS)).astype(np.float32)
    drawn = {name: value.numpy() for name, value in rand_augment.draw(tf.constant(uniform), 0.6).items()}
    counts = np.bincount(drawn["transform"] + 1, minlength=11) / 20000
    np.testing.assert_allclose(counts, 1 / 11, atol=0.01)
    for name, mean, low, high in (
        ("addition", 66, 0, 110), ("threshold", 102, 0, 255), ("degeneration", 0.6, 0, 1), ("contrast", 1, 0.4, 1.6),
        ("shift", 0, -0.6, 0.6), ("shear", 0, -1, 1),
    ):  # fmt: skip
        assert drawn[name].min() >= low and drawn[name].max() <= high, name
        assert abs(drawn[name].mean() - mean) < 0.02 * (high - low), name
    np.testing.assert_allclose(np.std(drawn["addition"]) / 110, 0.15, atol=0.01)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_layers_hold_the_same_transforms(images, seeds, policy):
    import keras

    from datasets.augmentation import layers

    config = AugmentConfig(cutout=0.5, rand_augment=(1, 0.5))
    points = np.random.default_rng(0).uniform(5, 35, (BATCH, 68, 2)).astype(np.float32)
    given = {"image": tf.constant(images), "landmarks": tf.constant(points)}
    expected = augmentation.augment_batch(given, config, seeds)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        chain = [kind(config) for kind in (layers.FaceAugmentation, layers.RandAugment, layers.Cutout)]
        chain[0] = layers.FaceAugmentation.from_config(chain[0].get_config())
        value = {"images": tf.constant(images), "keypoints": tf.constant(points), "seeds": tf.constant(seeds)}
        for layer in chain:
            value = layer(value)
    finally:
        keras.config.set_dtype_policy(before)
    assert value["images"].dtype == tf.float32
    np.testing.assert_array_equal(value["images"], expected["image"])
    np.testing.assert_allclose(value["keypoints"], expected["landmarks"], atol=1e-3)
    with pytest.raises(ValueError, match="seeds"):
        chain[0]({"images": tf.constant(images)})
    unmoved = {
        "bounding_boxes": {"boxes": tf.zeros([BATCH, 1, 4]), "classes": tf.zeros([BATCH, 1])},
        "segmentation_masks": tf.zeros([BATCH, HEIGHT, WIDTH, 1]),
    }
    for name, target in unmoved.items():
        with pytest.raises(ValueError, match=f"{type(chain[1]).__name__} does not move {name}; give .*keypoints"):
            chain[1]({"images": tf.constant(images), "seeds": tf.constant(seeds), name: target})


def test_sizes_that_cannot_be():
    for size in (1, 1025):
        with pytest.raises(UsageError, match="from 2 to 1024"):
            augmentation.augment_batch(
                {"image": tf.zeros([1, size, size, 3], tf.uint8)}, AugmentConfig(), tf.zeros([1, 2], tf.int32)
            )
