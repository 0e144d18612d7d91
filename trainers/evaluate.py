"""Scores of a trained model, or of an exported one, on any dataset.

    python -m trainers.evaluate --workdir=WORKDIR --data_dir=DATA --name=NAME --split=test
    python -m trainers.evaluate --model=WORKDIR/export/1 --data_dir=DATA --name=NAME --split=test --output=eval

Writes metrics.json, predictions.csv, confusion_matrix.csv, report.html and report.pdf. Exit codes: 0 done, 1 wrong
usage, 3 the dataset or the model is at fault (also: the model has seen these images), 4 a file cannot be written.
"""

import os
import signal
import sys
from collections.abc import Mapping

from absl import flags, logging

from pipeline import command
from pipeline.errors import UsageError
from pipeline.records import DATASET, VERSION


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("workdir", "", "Directory of a training; its best.keras is evaluated.")
    flags.DEFINE_string("model", "", "An exported SavedModel, instead; --workdir then only says how it was trained.")
    flags.DEFINE_string("data_dir", "", "Directory that datasets are kept in; default: that of the training.")
    flags.DEFINE_string("name", "", "Name of the dataset; default: that of the training.")
    flags.DEFINE_string("split", "test", "Split or slice, as TFDS writes it: test, validation, test[:50%].")
    flags.DEFINE_string("output", "", "Folder for the results; default: WORKDIR/eval, or eval/CLASS in it.")
    flags.DEFINE_integer("batch_size", 64, "Images of a call; the last call is filled up to it.")
    flags.DEFINE_string(
        "protocol", "eight",
        "What the plots show: eight (all classes), seven (contempt masked), seven_contempt_wrong (predicting it is "
        "wrong), common (classes that model and dataset share). All are scored.",
    )  # fmt: skip
    flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples of the 95 % intervals; 0 is no intervals.")
    flags.DEFINE_integer("seed", 0, "Of the resamples.")
    flags.DEFINE_string("expression", "", "Look at the examples of this class alone.")
    flags.DEFINE_integer("num_samples", 100, "With --expression: at most so many of them.")
    flags.DEFINE_integer("num_threads", 0, "Decoding threads; 0 is one per core.")
    flags.DEFINE_bool("report", True, "Write report.html and report.pdf.")
    flags.DEFINE_bool("allow_leak", False, "Score also images that the model was trained on, or that nobody can check.")
    flags.DEFINE_bool("allow_selection_split", False, "Score also the images that chose the checkpoint.")
    command.run(_evaluate)


def _evaluate() -> None:
    # As an exception, so that half a file is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    given = flags.FLAGS
    workdir, model = os.path.expanduser(given.workdir), os.path.expanduser(given.model)
    output = given.output or (os.path.join(workdir, "eval", given.expression).rstrip("/") if workdir else "")
    if not workdir and not model:
        raise UsageError("nothing to evaluate: give --workdir=WORKDIR of a training, or --model=DIR of an export")
    if not output:
        raise UsageError("--output is missing: say where the results of --model go")
    if given.batch_size < 1:
        raise UsageError(f"--batch_size={given.batch_size} is not accepted; give 1 or more")
    # Libraries' remarks on how they were built and what they open; their errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    # TensorFlow takes longer to import than --help may take to answer.
    from trainers import evaluation, subject

    options = evaluation.Options(
        protocol=given.protocol, resamples=given.resamples, seed=given.seed, only=given.expression,
        num_samples=given.num_samples, num_threads=given.num_threads, report=given.report,
        allow_leak=given.allow_leak, allow_selection_split=given.allow_selection_split,
    )  # fmt: skip
    if model:
        chosen = subject.from_export(model, workdir, batch_size=given.batch_size)
    else:
        chosen = subject.from_workdir(workdir, batch_size=given.batch_size)
    dataset = _dataset_dir(chosen.trained_on)
    evaluation.evaluate(chosen, dataset, given.split, os.path.expanduser(output), options, say=command.say)


def _dataset_dir(trained_on: Mapping | None) -> str:
    """The dataset of the flags, or where they say nothing that of the training."""
    data_dir, name = flags.FLAGS.data_dir, flags.FLAGS.name
    if trained_on and trained_on["folder"] and not data_dir and name in ("", trained_on["name"]):
        return trained_on["folder"]
    if not data_dir or not (name or trained_on):
        raise UsageError("give --data_dir and --name of the dataset to score the model on")
    return os.path.join(os.path.expanduser(data_dir), DATASET, name or trained_on["name"], VERSION)


if __name__ == "__main__":
    main()
