"""Exports the best model of a training as a SavedModel with three outputs.

    python -m export.export_model --workdir=WORKDIR --format=saved_model,litert,onnx

WORKDIR/export/1 (then 2, 3 …) appears after a fresh process has agreed with the trained model, or not at all.

Exit codes: 0 done, 1 wrong usage, 3 nothing was trained there, 4 the machine is at fault, 5 the SavedModel differs,
6 another export is running.
"""

import os
import signal
import sys

from absl import flags, logging

from pipeline import command


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("workdir", None, "Work directory of the training.", required=True)
    flags.DEFINE_list("format", ["saved_model"], "Any of saved_model (always made), litert and onnx.")
    flags.DEFINE_string("dataset_dir", "", "The dataset that it was trained on, if it was moved.")
    flags.DEFINE_float("max_accuracy_loss", 0.01, "What a smaller form may lose in accuracy, a fraction.", 0, 1)
    flags.DEFINE_float("max_ccc_loss", 0.02, "What a smaller form may lose in CCC of valence or arousal.", 0, 2)
    command.run(_export)


def _export() -> None:
    # As an exception, so that half a version is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Libraries' remarks on how they were built and what they open; their errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    # TensorFlow takes longer to import than --help may take to answer.
    from export import exporting, smaller_forms

    values = flags.FLAGS
    folder = exporting.export_model(
        os.path.expanduser(values.workdir),
        formats=values.format,
        dataset_dir=os.path.expanduser(values.dataset_dir),
        margins=smaller_forms.Margins(values.max_accuracy_loss, values.max_ccc_loss),
        say=command.say,
    )
    command.say(f"exported    {folder}")


if __name__ == "__main__":
    main()
