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
    rng = np.random.default_rng([0, 5, 1])
    drawn, landmarks = sample_faces.draw_face(rng, this.expression, this.valence, this.arousal)
    stored = np.asarray(Image.open(io.BytesIO((dataset / "images" / f"{this.number}.jpg").read_bytes())))
    assert drawn.dtype == np.uint8 and landmarks.dtype == np.float32 and landmarks.shape == (68, 2)
    assert np.abs(stored.astype(int) - drawn).mean() < 4
    written = np.load(dataset / "annotations" / f"{this.number}_lnd.npy")
    np.testing.assert_allclose(written.reshape(68, 2), landmarks, atol=1e-3)
