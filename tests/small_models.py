"""A small model with weights that make its answers differ from face to face, and a work directory around it."""

import functools
import json
import os
import pathlib

import keras
import numpy as np
import simplejpeg

from datasets import sample_faces
from pipeline import publishing
from pipeline.records import EXPRESSIONS
from trainers import model as models
from trainers.config import TrainConfig
from trainers.workdir import Workdir

SIZE = 48
CONFIG = TrainConfig(backbone="custom_cnn", width=0.25, image_size=SIZE, shared_units=(16,))


def build(config: TrainConfig = CONFIG):
    """The model of a configuration, with the same weights every time."""
    keras.utils.set_random_seed(0)
    model = models.build(config)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.startswith(("shared", "expression_logits", "valence", "arousal")) and layer.weights:
            kernel, bias = layer.get_weights()
            # Valence and arousal of all faces would else be ±1.
            scale = 0.3 if layer.name in ("valence", "arousal") else 3.0
            layer.set_weights([rng.normal(0, scale / np.sqrt(len(kernel)), kernel.shape), bias])
    return model


@functools.cache
def face(number: int, size: int = SIZE) -> np.ndarray:
    """uint8 [size, size, 3], drawn."""
    return sample_faces.draw_face(number, number % len(EXPRESSIONS), 0.5, 0.5, size)[0]


@functools.cache
def jpeg(number: int, size: int = SIZE) -> bytes:
    """That face as a JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(face(number, size)), 95)


def write_workdir(folder: pathlib.Path, model, *, dataset: pathlib.Path, config: TrainConfig = CONFIG) -> pathlib.Path:
    """What `trainers.training` leaves of a training on `dataset`, a published directory."""
    place = Workdir(folder)
    environment = {
        "dataset": {
            "folder": str(dataset),
            "name": "sample",
            "digest": publishing.digest(os.fspath(dataset)),
            "train_split": "train",
            "validation_split": "validation",
            "examples": {"train": 96, "validation": 12},
        },
        "device": "CPU",
        "precision": "float32",
        "versions": {"tensorflow": "2.21.0"},
        "parameters": model.count_params(),
        "image_size": config.input_size,
        "heads": list(config.heads),
        "class_names": list(EXPRESSIONS),
    }
    place.begin(config, json.loads(json.dumps(environment)))
    place.save_best(model)
    return folder
