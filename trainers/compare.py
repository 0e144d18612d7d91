"""Several evaluations of the same examples side by side.

    python -m trainers.compare --evaluations=WORKDIR_A,WORKDIR_B --output=compare.html --ensemble

Exit codes: 0 done, 1 wrong usage, 3 an evaluation is damaged or of other examples, 4 the page cannot be written.
"""

import os

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
    from trainers import comparison, comparison_page

    given = flags.FLAGS
    entries = comparison.load([os.path.expanduser(folder) for folder in given.evaluations], ensemble=given.ensemble)
    rows = comparison.compare(entries, protocol=given.protocol, resamples=given.resamples, seed=given.seed)
    output = os.path.expanduser(given.output)
    comparison_page.write(output, entries, rows, protocol=given.protocol, resamples=given.resamples)
    for row in rows:
        figures = "  ".join(
            f"{name} {figure['value']:.3f}" for name, figure in row.figures.items() if figure["value"] is not None
        )
        print(f"{row.title:<24} {figures}  winner: {row.winner or '–'}")
    print(output)


if __name__ == "__main__":
    main()
