"""What every test runs under: quiet libraries, bounded hypothesis, one set of drawn faces and its dataset."""

import os
import pathlib

import hypothesis
import pytest

# Read by TensorFlow when it is imported, here or in a subprocess.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# No deadline: a busy machine is no failing test. Derandomized: the same examples in every run.
hypothesis.settings.register_profile("tests", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def sample_faces_dir(tmp_path_factory) -> pathlib.Path:
    """120 drawn faces of 64 pixels in AffectNet's flat layout. Shared by all tests: copy before you change it."""
    from datasets import sample_faces

    folder = tmp_path_factory.mktemp("sample_faces") / "raw"
    sample_faces.write_dataset(folder, count=120, seed=0, image_size=64)
    return folder


@pytest.fixture(scope="session")
def sample_dataset(sample_faces_dir, tmp_path_factory) -> pathlib.Path:
    """Those faces converted: DATA/affect_faces/sample/1.0.0, two shards a split. Copy before you change it."""
    from pipeline import conversion
    from pipeline.settings import Settings

    data_dir = tmp_path_factory.mktemp("sample_data")
    settings = Settings("affectnet", str(sample_faces_dir), str(data_dir), "sample", num_shards=2)
    return pathlib.Path(conversion.convert(settings).dataset_dir)
