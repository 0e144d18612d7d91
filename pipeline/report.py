"""A page to look at: what a published dataset holds, and what became of every input.

    python -m pipeline.report --dataset_dir=DATA_DIR/affect_faces/NAME/1.0.0 --output=report.html

Exit codes: 0 done, 1 wrong usage, 3 the dataset is damaged, 4 a file cannot be read or written.
"""

import os

from absl import flags

from pipeline import command


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("dataset_dir", None, "Published directory: DATA_DIR/affect_faces/NAME/VERSION.", required=True)
    flags.DEFINE_string("output", "report.html", "HTML file to write; replaced when it exists.")
    command.run(_report)


def _report() -> None:
    # Arrow and Matplotlib take longer to import than --help may take to answer.
    from pipeline.report_page import write_report

    output = os.path.expanduser(flags.FLAGS.output)
    write_report(os.path.expanduser(flags.FLAGS.dataset_dir), output)
    print(output)


if __name__ == "__main__":
    main()
