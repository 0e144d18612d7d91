"""LiteRT and ONNX files of a model, and functions of them.

They take `images`, uint8 [N, S, S, 3], already resized, return the heads by name, and use the runtimes' built-in
operations alone.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from export import serving
from pipeline.errors import EnvironmentFault

FORMATS = ("litert", "onnx")
#: Faces that the ranges of int8 are taken from.
CALIBRATION_FACES = 200
ONNX_OPSET = 18


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to write a model.

    Attributes:
      name: in tables.
      file: in the version's directory.
      exact: whether it holds the numbers of the SavedModel, unrounded.
      convert: writes the file.
      start: the file as a function of `images`.
    """

    name: str
    file: str
    exact: bool
    convert: Callable[[Path], None]
    start: Callable[[Path], Callable]


def require(formats: Sequence[str]) -> None:
    """Raises EnvironmentFault unless what `formats` need is installed."""
    needs = {"litert": ("ai_edge_litert.interpreter",), "onnx": ("tf2onnx", "onnxruntime")}
    for name in formats:
        for module in needs[name]:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise EnvironmentFault(
                    f"--format={name} needs packages that are not installed ({error}); pip install '.[{name}]'"
                ) from None


def convert(
    model, folder: Path, formats: Sequence[str], *, calibration: Callable[[], np.ndarray]
) -> Iterator[tuple[Form, Path]]:
    """Writes the forms of some formats, one after the other.

    Args:
      model: a keras.Model of `trainers.model`, in float32.
      folder: where the files go, by the names of their forms.
      formats: of FORMATS.
      calibration: gives training faces, uint8 [N, S, S, 3].

    Raises:
      EnvironmentFault: the temporary folder that is converted from cannot be written.
    """
    with _resized_only(model) as (source, function):
        for form in _forms(source, function, formats, calibration):
            path = folder / form.file
            path.parent.mkdir(exist_ok=True)
            with _quiet():
                form.convert(path)
            yield form, path


def litert(path: str | os.PathLike) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A LiteRT file as a function of `images`, uint8 [N, S, S, 3]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(path), num_threads=len(os.sched_getaffinity(0)))
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: runner(images=np.asarray(images))


def onnx(path: str | os.PathLike) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """An ONNX file as a function of `images`, uint8 [N, S, S, 3]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    heads = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(heads, session.run(None, {"images": np.asarray(images)})))


def _forms(source: str, function, formats: Sequence[str], calibration: Callable) -> Iterator[Form]:
    """The forms of some formats.

    Args:
      source: SavedModel of `function`.
      function: the model without the resizing.
      formats: of FORMATS.
      calibration: gives faces.
    """

    def to_litert(kind: str) -> Callable[[Path], None]:
        def convert(path: Path) -> None:
            converter = tf.lite.TFLiteConverter.from_saved_model(source)
            if kind != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if kind == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if kind == "int8":
                # Operations that have no int8 form stay in float32, built in all the same.
                converter.representative_dataset = lambda: ({"images": image[None]} for image in calibration())
            path.write_bytes(converter.convert())

        return convert

    def to_onnx(path: Path) -> None:
        import tf2onnx

        tf2onnx.convert.from_function(
            function, input_signature=function.input_signature, opset=ONNX_OPSET, output_path=os.fspath(path)
        )

    if "litert" in formats:
        for kind in ("float32", "float16", "int8"):
            yield Form(f"litert_{kind}", f"litert/{kind}.tflite", kind == "float32", to_litert(kind), litert)
    if "onnx" in formats:
        yield Form("onnx", "onnx/model.onnx", True, to_onnx, onnx)


@contextlib.contextmanager
def _resized_only(model) -> Iterator[tuple[str, tf.types.experimental.PolymorphicFunction]]:
    """The model alone, without the resizing, which has no built-in operation: as a SavedModel, and as a function."""
    size = model.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8, "images")])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(model(tf.cast(images, tf.float32), training=False))

    with tempfile.TemporaryDirectory() as folder:
        serving.write(model, folder, {"serving_default": answer})
        yield folder, answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converters report their progress, and that TensorFlow's own interpreter is deprecated."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
