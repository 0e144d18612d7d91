"""Several evaluations of the same examples side by side.

    python -m trainers.compare --evaluations=WORKDIR_A,WORKDIR_B --output=compare.html --ensemble

Exit codes: 0 done, 1 wrong usage, 3 an evaluation is damaged or of other examples, 4 the page cannot be written.
"""

import os
from collections.abc import Mapping

from absl import flags

from pipeline import command


def main() -> None:
    """Runs the command."""
    flags.DEFINE_list(
        "evaluations", None, "Folders that trainers.evaluate wrote, or work directories with an eval.", required=True
    )
    flags.DEFINE_string("output", "compare.html", "HTML file to write; replaced when it exists.")
    flags.DEFINE_string("protocol", "eight", "eight, seven, seven_contempt_wrong or common; see trainers.evaluate.")
    flags.DEFINE_integer("resamples", 1000, "Resamples of the paired bootstrap.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the resamples.", lower_bound=0)
    flags.DEFINE_bool("ensemble", False, "Add a row of all models together: the means of what they predict.")
    command.run(_compare)


def _compare() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Matplotlib and scikit-learn take longer to import than --help may take to answer.
    from trainers import comparison, comparison_page, protocols

    given = flags.FLAGS
    entries = comparison.load([os.path.expanduser(folder) for folder in given.evaluations], ensemble=given.ensemble)
    settings = {"protocol": given.protocol, "resamples": given.resamples, "seed": given.seed}
    rows = comparison.compare(entries, **settings)
    output = os.path.expanduser(given.output)
    comparison_page.write(output, entries, rows, **settings)
    data = entries[0].metrics["dataset"]
    command.say(f"{len(entries)} models on {data['name']} {data['split']}: {data['evaluated']:,} examples")
    command.say(f"protocol {given.protocol}: {protocols.PROTOCOLS[given.protocol]}")
    for line in comparison.notes(entries, rows, given.protocol):
        command.say(f"  {line}")
    command.say(f"in brackets the middle 95 % of {given.resamples:,} resamples (seed {given.seed})")
    for row in rows:
        figures = "  ".join(f"{name} {_text(figure)}" for name, figure in row.figures.items())
        command.say(f"{row.title:<24} {figures}  winner: {row.winner or '–'}")
    command.say(output)


def _text(figure: Mapping) -> str:
    if figure["value"] is None:
        return "–"
    between = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}{between}"


if __name__ == "__main__":
    main()
