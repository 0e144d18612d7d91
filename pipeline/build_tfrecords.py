"""Converts raw faces and annotations to a checked, sharded TFRecord dataset that TFDS reads.

    python -m pipeline.build_tfrecords --source=affectnet --input_dir=RAW --data_dir=DATA --name=NAME

The dataset appears at DATA/affect_faces/NAME/1.0.0, complete or not at all. A killed run goes on where it
stopped when the same command is given again.

Exit codes: 0 done, 1 wrong usage, 3 the data is at fault, 4 the environment is at fault, 5 a bug here,
6 the output exists or another run holds it, 130 and 143 stopped by a signal.
"""

import dataclasses
import os
import shutil

from absl import flags

from pipeline import command, processes
from pipeline.records import LABEL_ORDERS
from pipeline.settings import DEFAULT_SPLITS, MISSING_LABELS, ON_LEAK, SENTINELS, Settings
from pipeline.sources import SOURCES

_LAYOUTS = "\n".join(f"  {name}: {source.layout}" for name, source in SOURCES.items())


def main() -> None:
    """Runs the command."""
    _define_flags()
    command.run(_convert)


def _define_flags() -> None:
    default = {field.name: field.default for field in dataclasses.fields(Settings)}
    flags.DEFINE_enum("source", None, list(SOURCES), f"Layout of --input_dir:\n{_LAYOUTS}\n", required=True)
    flags.DEFINE_string("input_dir", None, "Raw faces and annotations.", required=True)
    flags.DEFINE_string("data_dir", None, "TFDS data directory; the dataset appears below it.", required=True)
    flags.DEFINE_string("name", None, "Name of the dataset (the TFDS config).", required=True)
    strings = {
        "splits": f"For a source that declares none: name:fraction, by comma; empty is {DEFAULT_SPLITS}.",
        "label_order": f"What codes 0, 1, 2 … mean: names by comma, or one of {', '.join(LABEL_ORDERS)}.",
        "beam_options": "Beam's own options in one string, as '--runner=FlinkRunner --parallelism=8'.",
    }
    numbers = {
        "num_shards": "Shards per split; 0 chooses by --shard_mb.",
        "shard_mb": "Largest shard aimed at, in MB of source images.",
        "image_size": "Reduce images to this shorter side, in pixels; 0 keeps every size. Nothing is enlarged.",
        "max_examples_per_split": "Keep the first so many of each split; 0 is all.",
        "num_workers": "Processes that decode; 0 is one per core (per Beam worker: one, on other runners).",
        "min_side": "Reject images with a shorter side, in pixels.",
    }
    fractions = {
        "holdout": "Fraction of a declared train split that becomes validation, where the source declares none.",
        "max_bad_fraction": "Publish nothing when more inputs than this fraction are rejected.",
        "box_margin": "Margin around a face box, as a fraction of its longer side.",
        "decode_timeout": "Seconds after which a decoder counts as hung.",
    }
    enums = {
        "on_leak": (
            ON_LEAK,
            "Equal bytes in two splits that the source declares: stop; drop the copy in train first; allow.",
        ),
        "sentinels": (
            SENTINELS,
            "Faces that AffectNet's annotators could not label: keep with that head unknown, or drop.",
        ),
        "missing_labels": (
            MISSING_LABELS,
            "A face of whose label files some are missing: mask those heads, or reject it.",
        ),
    }
    for name, text in strings.items():
        flags.DEFINE_string(name, default[name], text)
    for name, text in numbers.items():
        flags.DEFINE_integer(name, default[name], text)
    for name, text in fractions.items():
        flags.DEFINE_float(name, default[name], text)
    for name, (choices, text) in enums.items():
        flags.DEFINE_enum(name, default[name], choices, text)
    flags.DEFINE_integer("seed", default["seed"], "Seed of the splits and of the order in them.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing dataset, in one step.")
    flags.DEFINE_bool("dry_run", False, "Verify and plan, print the summary, write nothing.")


def _convert() -> None:
    given = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)}
    # No shell expands the ~ of --data_dir=~/data.
    folders = {name: os.path.expanduser(given[name]) for name in ("input_dir", "data_dir")}
    settings = Settings(**given | folders)
    # Arrow takes longer to import than --help may take to answer.
    from pipeline import conversion, summary

    temporary: list[str] = []
    advice = "nothing is published; the same command goes on where this one stopped"
    with processes.ending_at_signals(
        advice, lambda: [shutil.rmtree(folder, ignore_errors=True) for folder in temporary]
    ):
        result = conversion.convert(settings, show_progress=True, on_staging=temporary.append)
    print(summary.render(result))


if __name__ == "__main__":
    main()
