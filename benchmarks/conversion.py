"""How fast the conversion is, and what it needs, against a plain loop and against TFDS's own writers.

    python -m benchmarks.conversion [--small] [--output=FILE]

Everything is measured in this one run, whole processes from start to end, and given as ratios. Two commands
that are compared take turns (A B A B), figures are medians. Before the timed runs each command runs once on
the same files: that fills the page cache alike for all of them, and is the run whose memory is observed.
About twelve minutes on two cores; --small takes two and only shows that it works.
"""

import argparse
import dataclasses
import filecmp
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks import faces, measure
from pipeline.records import DATASET, VERSION

#: Of what is measured, by command: the median of its timed runs, with the memory of the observed one.
Times = dict[str, measure.Figures]

_NAME = "bench"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      sizes: faces, in three steps; the slopes are taken between them.
      repeats: timed runs of each command at each size.
      tfds_repeats: of TFDS's builders at the middle size, of its generator at the largest.
      planned_rows: rows to plan.
    """

    sizes: tuple[int, int, int] = (2_000, 20_000, 100_000)
    repeats: tuple[int, int, int] = (3, 5, 3)
    tfds_repeats: tuple[int, int] = (2, 1)
    planned_rows: int = 1_000_000


SMALL = Scale(sizes=(250, 500, 1_000), repeats=(1, 1, 1), tfds_repeats=(1, 1), planned_rows=10_000)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure, what it should be, and how it is written down."""

    name: str
    value: float
    limit: float
    at_least: bool
    form: str = "{:.2f}"

    def line(self) -> str:
        """One line of the table."""
        reached = self.value >= self.limit if self.at_least else self.value <= self.limit
        sign = "≥" if self.at_least else "≤"
        value, limit = self.form.format(self.value), self.form.format(self.limit)
        return f"{self.name:<64} {value:>10}   {sign} {limit:<8} {'yes' if reached else 'NO'}"


def ours(input_dir: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The command under test."""
    return _python(
        "pipeline.build_tfrecords", source="affectnet", input_dir=input_dir, data_dir=out / "ours", name=_NAME
    )


def loop(input_dir: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The yardstick."""
    return _python("benchmarks.plain_loop", input_dir=input_dir, output_dir=out / "loop")


def by_generator(input_dir: pathlib.Path, out: pathlib.Path) -> list[str]:
    """TFDS's own writer, as `_generate_examples` feeds it."""
    return _python("benchmarks.tfds_builders", writer="generator", input_dir=input_dir, data_dir=out / "generator")


def by_beam(input_dir: pathlib.Path, out: pathlib.Path) -> list[str]:
    """TFDS's own Beam writer."""
    return _python("benchmarks.tfds_builders", writer="beam", input_dir=input_dir, data_dir=out / "beam")


def compare(work_dir: pathlib.Path, size: int, commands: Sequence[Callable], repeats: int) -> Times:
    """Observes each command once, then times them in turn."""
    input_dir, out = faces.make(work_dir, size), work_dir / "out"

    def run(command: Callable, *, observe_memory: bool = False) -> measure.Figures:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        figures = measure.run(command(input_dir, out), observe_memory=observe_memory)
        print(f"{size:>9,} {command.__name__:<14} {figures.wall:8.2f} s", file=sys.stderr, flush=True)
        return figures

    observed = {command: run(command, observe_memory=True) for command in commands}
    timed: dict[Callable, list[measure.Figures]] = {command: [] for command in commands}
    for _ in range(repeats):
        for command in commands:
            timed[command].append(run(command))
    shutil.rmtree(out)
    return {
        command.__name__: dataclasses.replace(
            observed[command],
            wall=statistics.median(figures.wall for figures in timed[command]),
            cpu=statistics.median(figures.cpu for figures in timed[command]),
        )
        for command in commands
    }


def check_same_bytes(work_dir: pathlib.Path, size: int) -> None:
    """The yardstick is one only if it does the work: its shards must be the published ones.

    Raises:
      RuntimeError: a shard differs or is missing.
    """
    input_dir, out = faces.make(work_dir, size), work_dir / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for command in (ours, loop):
        measure.run(command(input_dir, out))
    published = out / "ours" / DATASET / _NAME / VERSION
    shards = [path.name for path in published.glob("*.tfrecord-*")]
    _, different, missing = filecmp.cmpfiles(published, out / "loop", shards, shallow=False)
    if different or missing or len(list((out / "loop").iterdir())) != len(shards):
        raise RuntimeError(f"the plain loop writes other shards: {different}, {missing}")


def measure_planning(rows: int) -> dict:
    """Seconds and bytes of listing and planning, in a process of its own."""
    return json.loads(subprocess.run(_python("benchmarks.planning", rows=rows), capture_output=True, check=True).stdout)


def report(scale: Scale, times: list[Times], tfds: list[Times], planned: dict) -> str:
    """The tables."""
    low, middle, high = scale.sizes
    lines = [f"{'faces':>9} {'command':<14} {'wall s':>9} {'cpu s':>9} {'faces/s':>9} {'MB':>7} {'anonymous MB':>13}"]
    for size, by_command in [*zip(scale.sizes, times), (middle, tfds[0]), (high, tfds[1])]:
        for name, figures in by_command.items():
            lines.append(
                f"{size:>9,} {name:<14} {figures.wall:>9.2f} {figures.cpu:>9.2f} {size / figures.wall:>9,.0f} "
                f"{figures.memory / 1e6:>7.0f} {figures.anonymous / 1e6:>13.0f}"
            )
    lines.append("MB: highest proportional set size of all processes together; anonymous: without mapped files")
    lines.append("")

    def slope(command: str, size: int, index: int) -> float:
        return (times[index + 1][command].wall - times[index][command].wall) / (scale.sizes[index + 1] - size)

    early, late = slope("ours", low, 0), slope("ours", middle, 1)
    growth = (times[2]["ours"].memory - times[1]["ours"].memory) / (high - middle)
    goals = [
        Goal(f"speed against the loop, slope {middle:,} to {high:,}", slope("loop", middle, 1) / late, 0.9, True),
        Goal(
            f"speed against the loop, whole run of {middle:,}", times[1]["loop"].wall / times[1]["ours"].wall, 0.6, True
        ),
        Goal(
            f"speed against TFDS's generator, {middle:,}", tfds[0]["by_generator"].wall / tfds[0]["ours"].wall, 2, True
        ),
        Goal(
            f"speed against TFDS's generator, {high:,}", tfds[1]["by_generator"].wall / times[2]["ours"].wall, 2, True
        ),
        Goal(f"speed against TFDS's Beam writer, {middle:,}", tfds[0]["by_beam"].wall / tfds[0]["ours"].wall, 3, True),
        Goal("growth: how far the first slope is from the second", abs(early / late - 1), 0.1, False),
        Goal("memory of an added image, bytes", growth, 1_000, False, "{:,.0f}"),
        Goal(f"{planned['rows']:,} rows listed and planned, seconds", planned["seconds"], 30, False, "{:.1f}"),
        Goal("  their memory, MB", planned["memory"] / 1e6, 2_000, False, "{:,.0f}"),
    ]
    lines.append(f"{'':<64} {'measured':>10}   {'goal':<10} reached")
    lines += [goal.line() for goal in goals]
    lines.append("")
    lines.append(
        f"ms a face: ours {1e3 * early:.3f} ({low:,} to {middle:,}), {1e3 * late:.3f} ({middle:,} to {high:,}); "
        f"loop {1e3 * slope('loop', low, 0):.3f}, {1e3 * slope('loop', middle, 1):.3f}"
    )
    return "\n".join(lines)


def _python(module: str, **flags) -> list[str]:
    return [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in flags.items())]


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the tables, besides standard output")
    parser.add_argument(
        "--work_dir", type=pathlib.Path, default=pathlib.Path(".cache/benchmark"),
        help="on a disk, with 5 GB free; the faces made there are used again",
    )  # fmt: skip
    flags = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # for TFDS's builders
    scale = SMALL if flags.small else Scale()
    work_dir = flags.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    check_same_bytes(work_dir, scale.sizes[0])
    times = [compare(work_dir, size, (ours, loop), repeats) for size, repeats in zip(scale.sizes, scale.repeats)]
    tfds = [
        compare(work_dir, scale.sizes[1], (ours, by_generator, by_beam), scale.tfds_repeats[0]),
        compare(work_dir, scale.sizes[2], (by_generator,), scale.tfds_repeats[1]),
    ]
    text = report(scale, times, tfds, measure_planning(scale.planned_rows))
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
