"""What an exported model says of your photographs.

    python -m export.predict --model=WORKDIR/export --images='faces/*.jpg' --output=predictions.csv

A row for each image; a broken image is a row with an error. Photographs are turned by their EXIF, and converted as the
training data was. Unlike a conversion it decodes in its own process: a decoder that crashed would end it.

Exit codes: 0 done, 1 wrong usage, 3 there is no such model or no image, 4 the output cannot be written.
"""

import os
import signal
import sys

from absl import flags, logging

from pipeline import command


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string(
        "model", None, "SavedModel, or a directory with versions of one, of which the highest is taken.", required=True
    )
    flags.DEFINE_multi_string(
        "images", None, "File, folder (searched with its subfolders) or quoted pattern; may be repeated.", required=True
    )
    flags.DEFINE_string("output", "predictions.csv", "Table to write: .csv, or .jsonl for JSON lines.")
    flags.DEFINE_string("contact_sheet", "", "PNG to draw of the first 100 images and what is said of them.")
    flags.DEFINE_integer("batch_size", 32, "Images of a call.", 1, 4096)
    command.run(_predict)


def _predict() -> None:
    # As an exception, so that half a file is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Libraries' remarks on how they were built and what they open; their errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    # TensorFlow takes longer to import than --help may take to answer.
    from export import predicting

    values = flags.FLAGS
    output, sheet = os.path.expanduser(values.output), os.path.expanduser(values.contact_sheet)
    result = predicting.predict(
        os.path.expanduser(values.model), values.images, output, batch_size=values.batch_size, sheet=sheet
    )
    rate = f"{result.images_per_second:,.1f} images/s"
    print(f"{result.images:,} images, {result.errors:,} of them with an error; {rate}")
    for path in filter(None, (output, sheet)):
        print(path)


if __name__ == "__main__":
    main()
