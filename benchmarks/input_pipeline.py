"""How fast the input pipeline is, and what it needs, against other ways to read and augment the same faces.

    python -m benchmarks.input_pipeline [--small] [--output=FILE]

224×224 JPEG faces of 20 kB in a dataset that this project converted. Everything is measured in this one run: in each
round every contender has its turn (ours in order and in any order, which are compared with each other, two), ratios are
taken within a round, and the table gives their median and range. D is what one thread of simplejpeg decodes in a
second, the same bytes, just before and just after a turn; in ratios each rate is a multiple of its own D, because a
machine that others share is not as fast in one turn as in the next.

DALI and Grain run in processes and environments of their own, which are made when they are missing. Then, with those
gone: what a consumer can ask for, and how start and memory grow with the dataset. About half an hour on two cores;
--small takes three minutes and only shows that it works.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics

from benchmarks import environments, faces
from benchmarks import input_contenders as contenders
from benchmarks import input_report as report
from benchmarks import input_stream as stream

QUALITY = 97


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      faces: in the dataset that is read.
      rounds: in which each contender has a turn.
      batches: of a turn.
      grown: examples and shards of the datasets whose start and memory are compared, smallest first, and whether the
        stream begins late in the last epoch.
    """

    faces: int = 20_000
    rounds: int = 9
    batches: int = 40
    grown: tuple[tuple[int, int, bool], ...] = (
        (1_000, 1, False), (100_000, 1, False), (100_000, 256, False), (100_000, 256, True),
    )  # fmt: skip


SMALL = Scale(faces=1_000, rounds=1, batches=4, grown=((1_000, 1, False), (1_000, 4, False), (1_000, 4, True)))


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the tables, besides standard output")
    parser.add_argument(
        "--work_dir", type=pathlib.Path, default=pathlib.Path(".cache/benchmark"),
        help="on a disk, with 8 GB free; what is made there is used again",
    )  # fmt: skip
    flags = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    scale = SMALL if flags.small else Scale()
    work_dir = flags.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    for name in environments.ENVIRONMENTS:
        environments.make(name)
    input_dir = faces.make(work_dir, scale.faces, quality=QUALITY)
    dataset_dir = stream.convert(input_dir, work_dir)
    rounds = contenders.take_turns(dataset_dir, input_dir, work_dir, rounds=scale.rounds, batches=scale.batches)
    rate = statistics.median(turns["ours, augmented"].rate for turns in rounds)
    text = report.turns(rounds, stream.highest_demand(dataset_dir, rate, scale.batches))
    text += "\n\n" + report.growth(stream.grow(work_dir, scale.grown))
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
