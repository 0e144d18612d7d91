"""Installs the four packages: pipeline, datasets, trainers, export.

    pip install .            # CPU
    pip install '.[gpu]'     # with TensorFlow's CUDA libraries

The lower bounds are the versions that were measured together; requirements.lock pins every
version for the two commands of the README (`make demo`, `make test`).
"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="affect-faces",
    version="0.1.0",
    description="Facial-affect data and models: raw faces to TFRecords, TFDS, trained models, SavedModels",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pipeline*", "datasets*", "trainers*", "export*"]),
    package_data={
        "datasets.affect_faces": ["*.md", "*.bib", "*.txt"],
        "export": ["templates/*"],
        "pipeline": ["templates/*"],
        "trainers": ["templates/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "apache-beam>=2.70,<3",
        "google-crc32c>=1.7",
        "importlib_resources>=6",
        "jinja2>=3.1",
        "keras>=3.10,<4",
        "keras-cv>=0.9,<0.10",
        "krippendorff>=0.8",
        "matplotlib>=3.9",
        "mlcroissant>=1.0",
        "numpy>=2.0",
        "pillow>=11",
        "pyarrow>=18",
        "scikit-learn>=1.8",
        "simplejpeg>=1.8",
        "tensorboard>=2.19",
        "tensorflow>=2.19,<3",
        "tensorflow-datasets>=4.9.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.19,<3"],
        # What `python -m export.export_model --format=litert,onnx` makes and scores its files with.
        # backports.strenum, a need of it: newer ones refuse Python 3.11, and what makes the lock does not see that.
        "litert": ["ai-edge-litert>=2.0", "backports.strenum<1.3"],
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.16.1"],
        # dill: an undeclared need of tfds.testing.
        "dev": ["dill>=0.3.8", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
