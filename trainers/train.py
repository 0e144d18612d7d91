"""Trains a model on a published dataset.

    python -m trainers.train --data_dir=DATA --name=NAME --workdir=WORKDIR --recipe=strong

A recipe gives every field of the configuration; a flag of the same name overrides it. The same command goes on
where a run ended, and does nothing where it is finished. What WORKDIR holds: `trainers/workdir.py`.

Exit codes: 0 done, 1 wrong usage, 3 the data is at fault, 4 the environment is at fault, 5 a bug here, 6 another run
trains in the directory, 130 and 143 stopped by a signal, after saving.
"""

import dataclasses
import os
import sys
import time
from typing import get_args, get_origin

from absl import flags, logging

from pipeline import command
from trainers.config import TrainConfig, replace
from trainers.recipes import RECIPES, recipe

#: Fields that are paths: no shell expands the ~ of --data_dir=~/data.
_PATHS = ("data_dir", "weights", "init")


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("workdir", None, "Directory of the run; a run that began there goes on.", required=True)
    define_config_flags()
    command.run(_train)


def define_config_flags() -> None:
    """A flag for each field of TrainConfig, None unless given."""
    by_type = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string, bool: flags.DEFINE_bool}
    for field in dataclasses.fields(TrainConfig):
        text, choices = field.metadata["help"], field.metadata["choices"]
        if field.name == "recipe":
            text, choices = "named configuration to start from; empty is the defaults below", tuple(RECIPES)
        listed = f": {', '.join(map(str, choices))}" if choices else ""
        default = f" (default: {_written(field.default)})" if field.default not in ("", ()) else ""
        define = flags.DEFINE_list if get_origin(field.type) is tuple else by_type[field.type]
        define(field.name, None, f"{text[0].upper()}{text[1:]}{listed}{default}.")


def config_from_flags(recipe_name: str | None = None, backbone: str | None = None) -> TrainConfig:
    """The configuration that the flags ask for.

    Args:
      recipe_name, backbone: instead of the flags of these names.

    Raises:
      UsageError: a recipe or a value is not accepted.
    """
    given = {}
    for field in dataclasses.fields(TrainConfig):
        value = flags.FLAGS[field.name].value
        if value is None or field.name == "recipe":
            continue
        if get_origin(field.type) is tuple:
            value = tuple(_parsed(text, get_args(field.type)[0]) for text in value)
        given[field.name] = os.path.expanduser(value) if field.name in _PATHS else value
    if backbone is not None:
        given["backbone"] = backbone
    name = flags.FLAGS.recipe if recipe_name is None else recipe_name
    start = recipe(name, backbone=given.get("backbone", "")) if name else TrainConfig()
    return replace(start, given)


def _parsed(text: str, kind: type):
    """An item of a list; text that is no number stays text, which TrainConfig refuses."""
    try:
        return kind(text)
    except ValueError:
        return text


def _written(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _train() -> None:
    began = time.monotonic()
    config = config_from_flags()
    # Libraries' remarks on how they were built and what they open; their errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    from trainers import training

    training.train(
        config, os.path.expanduser(flags.FLAGS.workdir), say=command.say, show_progress=sys.stderr.isatty(), began=began
    )


if __name__ == "__main__":
    main()
