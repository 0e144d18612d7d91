"""What TensorFlow computes on, and in which precision."""

import dataclasses
import os

import keras
import tensorflow as tf

from pipeline.errors import UsageError
from trainers.config import TrainConfig

#: From this compute capability on, a GPU computes with numbers of that kind at full speed.
_BFLOAT16_GPU, _FLOAT16_GPU = (8, 0), (7, 0)


@dataclasses.dataclass(frozen=True)
class Devices:
    """Of one run.

    Attributes:
      text: the devices, for people.
      strategy: of `tf.distribute`; the default one for a single device.
      precision: a Keras dtype policy.
      gpu: whether a GPU computes.
    """

    text: str
    strategy: tf.distribute.Strategy
    precision: str
    gpu: bool


def prepare(config: TrainConfig) -> Devices:
    """Chooses devices and precision, and makes this process compute the same each time from `config.seed` on.

    On the CPU results are the same bit for bit (TensorFlow's op determinism). On a GPU they are not: that would cost
    speed, and some operations have no such version.

    Raises:
      UsageError: the batch cannot be divided among the devices.
    """
    gpus = tf.config.list_logical_devices("GPU")
    used = gpus or tf.config.list_logical_devices("CPU")
    if config.distribute == "mirrored" and len(used) > 1:
        strategy = tf.distribute.MirroredStrategy([device.name for device in used])
    else:
        strategy, used = tf.distribute.get_strategy(), used[:1]
    if config.batch_size % strategy.num_replicas_in_sync:
        raise UsageError(
            f"--batch_size={config.batch_size} cannot be divided among {strategy.num_replicas_in_sync} devices; "
            "give a multiple of their number"
        )
    if not gpus:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    text = _text(used, bool(gpus)) + ", which alone is mirrored" * (config.distribute == "mirrored" and len(used) == 1)
    return Devices(text, strategy, _precision(config.precision), bool(gpus))


def _text(used: list, gpu: bool) -> str:
    if gpu:
        name = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])["device_name"]
    else:
        name = f"CPU, {len(os.sched_getaffinity(0))} cores"
    return name if len(used) == 1 else f"{len(used)} × {name}"


def _precision(wanted: str) -> str:
    """For "auto" that which the weakest GPU is fast in; float32 where there is none."""
    if wanted != "auto":
        return wanted
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    weakest = min((detail.get("compute_capability", (0, 0)) for detail in details), default=(0, 0))
    if weakest >= _BFLOAT16_GPU:
        return "mixed_bfloat16"
    return "mixed_float16" if weakest >= _FLOAT16_GPU else "float32"
