"""Shows that pretrained weights are loaded and worth it: the same short training from them and from random weights.

    python scripts/pretrained_gain.py --weights=mobilenet_v2_0.35_224_no_top.weights.h5 --ferplus=ferplus.zip

A MobileNetV2 of width 0.35 learns eight expressions from a part of FER+, once with its backbone frozen and once as a
whole, from each start: same faces, same order, same steps. Exit code 5 unless the pretrained weights are better by
--margin, in accuracy on validation, both times.
"""

import csv
import dataclasses
import os
import pathlib
import sys
import tempfile

from absl import flags

from pipeline import command
from pipeline.conversion import convert
from pipeline.errors import InvariantError
from pipeline.settings import Settings
from trainers.config import TrainConfig

PHASES = {"heads on a frozen backbone": "heads@0", "the whole network": "all@0"}


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("weights", None, "Weights file of MobileNetV2, width 0.35, without classifier.", required=True)
    flags.DEFINE_string("ferplus", None, "FER+: the zip or the folder.", required=True)
    flags.DEFINE_integer("faces", 6000, "Faces to learn from.", lower_bound=500)
    flags.DEFINE_integer("epochs", 3, "Passes over them.", lower_bound=1)
    flags.DEFINE_float("margin", 0.05, "Gain in accuracy that is asked for.")
    command.run(_compare)


def _compare() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = flags.FLAGS
    gains = {}
    with tempfile.TemporaryDirectory(prefix="pretrained_gain_") as folder:
        convert(Settings("ferplus", given.ferplus, folder, "ferplus", on_leak="drop"))
        config = TrainConfig(
            data_dir=folder, name="ferplus", train_split=f"train[:{given.faces}]", backbone="mobilenet_v2", width=0.35,
            image_size=64, heads=("expression",), shared_units=(), rotation=0.0, zoom=0.0, translation=0.0,
            brightness=0.0, contrast=0.0, learning_rate=1e-3, batch_size=64, epochs=given.epochs, monitor="accuracy",
            tensorboard=False,
        )  # fmt: skip
        for what, phase in PHASES.items():
            scores = []
            for weights in ("none", given.weights):
                workdir = pathlib.Path(folder, f"run{len(gains)}{len(scores)}")
                scores.append(_accuracy(dataclasses.replace(config, weights=weights, phases=(phase,)), workdir))
            gains[what] = scores[1] - scores[0]
            print(f"{what}: random {scores[0]:.3f}, pretrained {scores[1]:.3f}, gain {gains[what]:+.3f}", flush=True)
    if min(gains.values()) < given.margin:
        raise InvariantError(f"pretrained weights gain less than {given.margin:g}")


def _accuracy(config: TrainConfig, workdir: pathlib.Path) -> float:
    """The best accuracy on validation of a training run."""
    from trainers import training

    training.train(config, workdir, show_progress=sys.stderr.isatty())
    with open(workdir / "history.csv", newline="") as file:
        return max(float(row["val_accuracy"]) for row in csv.DictReader(file))


if __name__ == "__main__":
    main()
