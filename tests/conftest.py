"""What every test runs under: quiet libraries, bounded hypothesis."""

import os

import hypothesis

# Read by TensorFlow when it is imported, here or in a subprocess.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# No deadline: a busy machine is no failing test. Derandomized: the same examples in every run.
hypothesis.settings.register_profile("tests", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")
