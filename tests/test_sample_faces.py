"""Faces drawn by code: the layout, the repeatability, and what the pixels show."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datasets import sample_faces
from pipeline import errors, records


def files(root):
    """Relative name to bytes, without the settings."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != sample_faces.SETTINGS_FILE
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    sample_faces.write_dataset(root, count=40, seed=0)
    return root


def test_files_are_in_affectnets_layout(dataset):
    ids = sorted(int(path.stem) for path in (dataset / "images").glob("*.jpg"))
    assert len(ids) == 40 and ids != list(range(ids[0], ids[0] + 40))
    assert len(files(dataset)) == 5 * 40
    storages = set()
    for number in ids:
        with Image.open(dataset / "images" / f"{number}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))
        arrays = {
            name: np.load(dataset / "annotations" / f"{number}_{name}.npy", allow_pickle=False)
            for name in ("exp", "val", "aro", "lnd")
        }
        storages.add((arrays["val"].dtype.kind, arrays["val"].shape))
        assert arrays["exp"].dtype.kind in "iU" and 0 <= int(arrays["exp"].item()) < 8
        assert all(-1 <= float(arrays[name].item()) <= 1 for name in ("val", "aro"))
        assert arrays["lnd"].shape == (136,) and arrays["lnd"].dtype == np.float64
    assert storages == {("U", ()), ("f", ()), ("f", (1,))}


def test_every_face_is_another(dataset):
    images = [data for name, data in files(dataset).items() if name.endswith(".jpg")]
    assert len({hashlib.sha256(data).digest() for data in images}) == len(images)


def test_forty_faces_show_every_expression_unevenly():
    shown = np.bincount([sample_faces.face(3, i).expression for i in range(40)], minlength=8)
    assert tuple(shown) == sample_faces.BLOCK
    assert shown.min() > 0 and shown.max() > 2 * shown.min()


def test_face_i_depends_on_seed_and_i_only(dataset, tmp_path):
    sample_faces.write_dataset(tmp_path / "fewer", count=9, seed=0, num_workers=2)
    fewer, all_files = files(tmp_path / "fewer"), files(dataset)
    assert len(fewer) == 45
    assert all(all_files[name] == data for name, data in fewer.items())
    sample_faces.write_dataset(tmp_path / "other", count=9, seed=1)
    assert not set(files(tmp_path / "other").values()) & {all_files[name] for name in all_files if ".jpg" in name}


def test_split_layout_reuses_numbers_and_balances_validation(tmp_path):
    sample_faces.write_dataset(tmp_path, count=80, seed=0, layout="split", image_size=48, storage="text")
    folders = {
        folder: {path.stem for path in (tmp_path / folder / "images").iterdir()} for folder in ("train_set", "val_set")
    }
    assert {folder: len(ids) for folder, ids in folders.items()} == {"train_set": 64, "val_set": 16}
    assert folders["train_set"] & folders["val_set"]
    shown = [int(np.load(path).item()) for path in (tmp_path / "val_set" / "annotations").glob("*_exp.npy")]
    assert sorted(shown) == sorted(2 * list(range(len(records.EXPRESSIONS))))


def test_an_interrupted_run_is_completed(tmp_path):
    sample_faces.write_dataset(tmp_path, count=4, seed=0, image_size=48)
    before = files(tmp_path)
    victim = next((tmp_path / "images").iterdir())
    victim.rename(victim.with_name(f".{victim.name}.part"))
    sample_faces.write_dataset(tmp_path, count=4, seed=0, image_size=48)
    assert files(tmp_path) == before


@pytest.mark.parametrize(("name", "content"), [("mine.txt", "hello"), (sample_faces.SETTINGS_FILE, "{}")])
def test_a_directory_of_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(errors.UsageError, match=r"another output directory|missing or empty"):
        sample_faces.write_dataset(tmp_path, count=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_wrong_arguments_are_refused(tmp_path):
    for wrong in ({"count": 0}, {"seed": -1}, {"layout": "round"}, {"storage": "pickle"}, {"image_size": 8}):
        with pytest.raises(errors.UsageError, match="give a count"):
            sample_faces.write_dataset(tmp_path / "new", **({"count": 1, "seed": 0} | wrong))
    assert not (tmp_path / "new").exists()


def test_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "datasets.sample_faces",
        f"--output_dir={tmp_path}/raw",
        "--count=2",
        "--num_workers=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 faces in" in done.stdout
    assert subprocess.run([*command, "--seed=1"], capture_output=True, check=False).returncode == 1
    assert subprocess.run(command[:3], capture_output=True, check=False).returncode == 1
    heavy = "{'tensorflow', 'keras', 'apache_beam'}"
    probe = f"import sys, datasets.sample_faces; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_jpeg_is_the_drawn_face(dataset):
    this = sample_faces.face(0, 5)
    rng = np.random.default_rng([0, 5, sample_faces.PICTURE])
    drawn, landmarks = sample_faces.draw_face(rng, this.expression, this.valence, this.arousal)
    stored = np.asarray(Image.open(io.BytesIO((dataset / "images" / f"{this.number}.jpg").read_bytes())))
    assert drawn.dtype == np.uint8 and landmarks.dtype == np.float32 and landmarks.shape == (68, 2)
    assert np.abs(stored.astype(int) - drawn).mean() < 4
    written = np.load(dataset / "annotations" / f"{this.number}_lnd.npy")
    np.testing.assert_allclose(written.reshape(68, 2), landmarks, atol=1e-3)


def drawn(expression, seed, arousal=0.4, image_size=96):
    """Image, landmarks (68, 2)."""
    valence = sample_faces.VALENCE_MEAN[expression]
    return sample_faces.draw_face(seed, expression, valence, arousal, image_size)


def darkest_around(image, points):
    """The lowest luminance of the 3 x 3 pixels at each point, averaged."""
    grey = image.mean(-1)
    columns, rows = np.clip(np.round(points).astype(int), 1, len(grey) - 2).T
    return np.mean([grey[y - 1 : y + 2, x - 1 : x + 2].min() for x, y in zip(columns, rows)])


def share_of_dark_features(shift):
    """How often brows, lids, the line of the mouth and the nostrils are darker at the landmarks than the nose is."""
    darker = []
    for seed in range(40):
        image, landmarks = drawn(seed % 8, seed)
        skin = np.median(image.mean(-1)[tuple(np.round(landmarks[27:31]).astype(int).T[::-1])])
        for points in ([19, 20, 23, 24], [37, 38, 43, 44], [61, 62, 63], [32, 34]):
            darker.append(darkest_around(image, landmarks[points] + shift) < 0.8 * skin)
    return np.mean(darker)


def test_landmarks_lie_on_the_features():
    assert share_of_dark_features((0, 0)) > 0.95
    assert max(share_of_dark_features(shift) for shift in ((0, 5), (0, -5))) < 0.75
    for seed in range(40):
        _, landmarks = drawn(seed % 8, seed)
        assert landmarks.min() > 0 and landmarks.max() < 1.06 * 96  # A dropped jaw may leave the image.


def test_expressions_move_the_features_as_they_should():
    means = {}
    for expression, name in enumerate(records.EXPRESSIONS):
        faces = np.stack([drawn(expression, seed)[1] for seed in range(24)])
        width = np.linalg.norm(faces[:, 45] - faces[:, 36], axis=1)  # Between the outer corners of the eyes.
        means[name] = {
            "corners_up": np.mean((faces[:, [57, 51], 1].mean(1) - faces[:, [48, 54], 1].mean(1)) / width),
            "one_corner_up": np.mean(np.abs(faces[:, 48, 1] - faces[:, 54, 1]) / width),
            "mouth_open": np.mean((faces[:, 66, 1] - faces[:, 62, 1]) / width),
            "brows_up": np.mean((faces[:, 36:48, 1].mean(1) - faces[:, 17:27, 1].mean(1)) / width),
            "eyes_open": np.mean((faces[:, [40, 41, 46, 47], 1] - faces[:, [38, 37, 44, 43], 1]).mean(1) / width),
        }

    def most(feature):
        return max(means, key=lambda name: means[name][feature])

    def least(feature):
        return min(means, key=lambda name: means[name][feature])

    assert (most("corners_up"), least("corners_up")) == ("happy", "sad")
    assert most("one_corner_up") == "contempt"
    assert most("mouth_open") == "surprise"
    assert (most("brows_up"), least("brows_up")) == ("surprise", "anger")
    assert most("eyes_open") == "fear"


def test_arousal_sets_the_intensity():
    rest = drawn(0, 5)[1]
    calm, excited = (np.abs(drawn(3, 5, arousal)[1] - rest)[48:].max() for arousal in (-0.2, 0.9))
    assert excited > 1.2 * calm > 0


def concordance(truth, guess):
    """Lin's concordance correlation coefficient."""
    return 2 * np.cov(truth, guess, bias=True)[0, 1] / (truth.var() + guess.var() + (truth.mean() - guess.mean()) ** 2)


def some_faces(count, image_size):
    """Images [count, image_size, image_size, 3], labels."""
    faces = [sample_faces.face(11, i) for i in range(count)]
    images = [
        sample_faces.draw_face(
            np.random.default_rng([11, f.index, sample_faces.PICTURE]), f.expression, f.valence, f.arousal, image_size
        )[0]
        for f in faces
    ]
    labels = {name: np.array([getattr(f, name) for f in faces]) for name in ("expression", "valence", "arousal")}
    return np.stack(images), labels


def test_a_linear_model_on_small_grey_pixels_learns_but_not_all():
    images, labels = some_faces(600, 32)
    grey = images.mean(-1).reshape(len(images), -1)
    grey = (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)
    train, test = slice(0, 480), slice(480, None)
    targets = np.concatenate(
        [np.eye(8)[labels["expression"]], labels["valence"][:, None], labels["arousal"][:, None]], axis=1
    )
    offset = targets[train].mean(0)
    kernel = grey[train] @ grey[train].T + 300 * np.eye(480)
    guess = grey[test] @ grey[train].T @ np.linalg.solve(kernel, targets[train] - offset) + offset
    accuracy = np.mean(guess[:, :8].argmax(1) == labels["expression"][test])
    assert 0.45 < accuracy < 0.9  # Chance is 0.25.
    assert concordance(labels["valence"][test], guess[:, 8]) > 0.3
    assert concordance(labels["arousal"][test], guess[:, 9]) > 0.2


@pytest.mark.slow
def test_a_small_network_learns_all_labels():
    import keras
    from keras import layers

    images, labels = some_faces(2400, 64)
    train, test = slice(0, 2000), slice(2000, None)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for filters, stride in ((24, 2), (48, 1), (48, 2), (96, 1), (96, 2), (128, 1)):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Dense(128, use_bias=False)(x)))
    outputs = {
        "expression": layers.Dense(8, activation="softmax", name="expression")(x),
        "valence": layers.Dense(1, name="valence")(x),
        "arousal": layers.Dense(1, name="arousal")(x),
    }
    model = keras.Model(inputs, outputs)
    schedule = keras.optimizers.schedules.CosineDecay(1e-4, 1100, warmup_target=2e-3, warmup_steps=100)
    losses = {"expression": "sparse_categorical_crossentropy", "valence": "mse", "arousal": "mse"}
    weights = {"expression": 1.0, "valence": 2.0, "arousal": 2.0}
    model.compile(keras.optimizers.AdamW(schedule), losses, loss_weights=weights)
    mirrored = np.concatenate([images[train], images[train][:, :, ::-1]])
    twice = {name: np.concatenate([values[train]] * 2) for name, values in labels.items()}
    model.fit(mirrored, twice, batch_size=32, epochs=9, verbose=0)
    guess = model.predict(images[test], verbose=0)
    accuracy = np.mean(guess["expression"].argmax(1) == labels["expression"][test])
    scores = {name: concordance(labels[name][test], guess[name][:, 0]) for name in ("valence", "arousal")}
    print(f"accuracy {accuracy:.3f}, concordance {scores}")
    assert accuracy > 0.9
    assert scores["valence"] > 0.8 and scores["arousal"] > 0.7
