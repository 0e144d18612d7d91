"""Checks a published dataset: every checksum, count and record, in parallel.

    python -m pipeline.verify --dataset_dir=DATA/affect_faces/NAME/1.0.0

Exit codes: 0 all is well; 3 something is wrong, and each line names the shard and record.
"""

import os
import time

from absl import flags

from pipeline import command
from pipeline.errors import DataError, UsageError


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("dataset_dir", None, "The published directory.", required=True)
    flags.DEFINE_integer("num_workers", 0, "Processes; 0 is one per core.")
    command.run(_verify)


def _verify() -> None:
    if flags.FLAGS.num_workers < 0:
        raise UsageError(f"--num_workers={flags.FLAGS.num_workers} is not accepted; give 0 (one per core) or more")
    # Arrow takes longer to import than --help may take to answer.
    from pipeline import checking

    started = time.monotonic()
    workers = flags.FLAGS.num_workers or len(os.sched_getaffinity(0))
    folder = os.path.expanduser(flags.FLAGS.dataset_dir)
    verdict = checking.check_dataset(folder, workers=workers)
    if verdict.problems:
        raise DataError(f"{len(verdict.problems)} problems in {folder}\n  " + "\n  ".join(verdict.problems))
    seconds = time.monotonic() - started
    print(
        f"all is well: {verdict.records:,} records in {verdict.shards} shards, {verdict.bytes / 1e6:,.1f} MB, "
        f"every checksum, count, label and image ({seconds:.1f} s)\ndigest    {verdict.digest}"
    )


if __name__ == "__main__":
    main()
