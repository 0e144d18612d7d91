"""Kills the conversion at random moments, again and again, and compares what comes out in the end.

    python scripts/kill_conversion.py --times=50

Drawn faces are converted once undisturbed. Then the same command is started and its whole process group is
killed with SIGKILL at a random moment: one in five while it starts up, the others while it works. The next start
goes on where it was, until one gets through: that is a round. After each round the published bytes must be the
undisturbed ones, nothing else may be left, and no finished chunk or shard may have been made twice. Rounds follow
until there were so many kills.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: So that kills meet every stage: to convert small faces is a matter of milliseconds.
_SLOWED = (
    {"at": "decode:*", "do": "sleep:0.003"},
    {"at": "made:out/*", "do": "sleep:0.1"},
    {"at": "made:write/*", "do": "sleep:0.1"},
)
_WHILE_STARTING = 0.2
#: The last first.
_STAGES = ("write", "plan", "verify", "scan")
_SECONDS_TO_DIE = 5


@dataclasses.dataclass
class Tally:
    """What happened.

    Attributes:
      kills: how many runs were killed.
      rounds: how many datasets were published after kills, each compared.
      resumed: how many runs found something that an earlier one had finished.
      stages: kills by the newest thing that was there: "nothing", "scan", "verify", "plan", "write" or "publish".
      problems: one line each; empty when all is well.
    """

    kills: int = 0
    rounds: int = 0
    resumed: int = 0
    stages: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after the start, or after the first sign of work."""

    seconds: float
    at_work: bool


class Conversion:
    """One dataset that is converted from `raw` below `work`, in as many starts as it takes."""

    def __init__(self, raw: pathlib.Path, work: pathlib.Path, beam_options: str):
        self.work = work
        self.folder = work / "data" / "affect_faces" / "faces"
        self.log = work / "made.log"
        self._beam_options = beam_options
        (work / "tmp").mkdir(parents=True)
        self._command = [
            sys.executable, "-m", "pipeline.build_tfrecords", "--source=affectnet", f"--input_dir={raw}",
            f"--data_dir={work / 'data'}", "--name=faces", "--num_shards=4", "--num_workers=2",
            f"--beam_options={beam_options}",
        ]  # fmt: skip
        faults = [{"at": f"{what}:*", "do": f"log:{self.log}"} for what in ("made", "decode")] + [*_SLOWED]
        path = os.pathsep.join((str(ROOT / "tests" / "fault_injection"), str(ROOT)))
        self._environment = os.environ | {
            "PYTHONPATH": path, "FAULTS": json.dumps(faults), "TMPDIR": str(work / "tmp"),
        }  # fmt: skip
        self._finished: dict[str, tuple[int, int]] = {}

    def start(self, kill: Moment | None = None) -> int:
        """Runs the command, kills its process group if told to, and returns its exit code."""
        self.log.touch()
        logged, began = self.log.stat().st_size, time.monotonic()
        work_began = None
        with open(self.work / "said.txt", "ab") as said:
            process = subprocess.Popen(
                self._command, env=self._environment, stdout=said, stderr=said, start_new_session=True
            )
        while process.poll() is None:
            now = time.monotonic()
            if work_began is None and self._works(logged):
                work_began = now
            if kill and now - ((work_began or now) if kill.at_work else began) > kill.seconds:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
        ended = time.monotonic()
        self.seconds_to_work = (work_began or ended) - began
        self.seconds_at_work = ended - (work_began or ended)
        self.left = _living(process.pid)
        return process.returncode

    def _works(self, logged: int) -> bool:
        """Whether something was decoded or made since the log had so many bytes; the listing does not count."""
        with open(self.log, encoding="utf-8") as file:
            file.seek(logged)
            return any("/scan/" not in line and not line.endswith("reserve\n") for line in file)

    def stage(self) -> str:
        """How far the unfinished dataset has come."""
        staging = self.folder / ".1.0.0.partial"
        if (staging / "out" / "records.parquet").exists():
            return "publish"
        return next((stage for stage in _STAGES if any(staging.glob(f"{stage}/[!.]*"))), "nothing")

    def finished(self) -> dict[str, tuple[int, int]]:
        """(inode, time of change) of each finished chunk, and of the file of each finished shard."""
        staging = self.folder / ".1.0.0.partial"
        paths = {f"verify/{path.name}": path for path in staging.glob("verify/[!.]*")}
        for done in staging.glob("write/[!.]*.json"):
            paths[f"out/{done.stem}"] = staging / "out" / done.stem
        return _identities(paths)

    def check(self, expected: dict[str, str]) -> Iterator[str]:
        """What is wrong with the published dataset, one line each."""
        if names := sorted(set(os.listdir(self.folder)) - {"1.0.0"}):
            yield f"left beside the dataset: {', '.join(names)}"
        # Beam's other runners leave folders of their own there, also when nothing disturbs them.
        ours = "affect_faces" if self._beam_options else ""
        if names := sorted(name for name in os.listdir(self.work / "tmp") if name.startswith(ours)):
            yield f"left in TMPDIR: {', '.join(names)}"
        found = digests(self.folder / "1.0.0")
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                yield f"{name} differs"
        units = [line for line in self.log.read_text().splitlines() if _is_done_record(line)]
        for path, count in collections.Counter(units).items():
            if count > 1:
                yield f"{os.path.basename(path)} was finished {count} times"


def digests(dataset_dir: pathlib.Path) -> dict[str, str]:
    """sha256 of every published file but run.json, which tells of the run."""
    paths = [path for path in dataset_dir.iterdir() if path.name != "run.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def kill_again_and_again(
    raw: pathlib.Path, work: pathlib.Path, *, times: int, seed: int = 0, beam_options: str = ""
) -> Tally:
    """Converts `raw` undisturbed, then with kills.

    Args:
      raw: faces in AffectNet's layout; 1,100 are three chunks.
      work: an empty directory.
      times: how many kills.
      seed: of the moments.
      beam_options: as on the command line.
    """
    chance, tally = random.Random(seed), Tally()
    undisturbed = Conversion(raw, work / "undisturbed", beam_options)
    if undisturbed.start() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{(undisturbed.work / 'said.txt').read_text()}")
    expected = digests(undisturbed.folder / "1.0.0")
    tally.problems += undisturbed.check(expected)
    moments = _moments(chance, undisturbed.seconds_to_work, undisturbed.seconds_at_work)

    while tally.kills < times:
        conversion = Conversion(raw, work / f"round{tally.rounds}", beam_options)
        _one_round(conversion, expected, tally, times=times, moments=moments)
        if tally.problems:
            break
        shutil.rmtree(conversion.work)
    return tally


def _one_round(
    conversion: Conversion,
    expected: dict[str, str],
    tally: Tally,
    *,
    times: int,
    moments: Iterator[Moment],
) -> None:
    finished: dict[str, tuple[int, int]] = {}
    while True:
        code = conversion.start(next(moments) if tally.kills < times else None)
        tally.problems += [f"alive {_SECONDS_TO_DIE} s after its end: {line}" for line in conversion.left]
        if code != -signal.SIGKILL:
            break
        tally.kills += 1
        tally.stages[conversion.stage()] += 1
        tally.resumed += bool(finished)
        here = conversion.finished()
        tally.problems += [f"{name} was made again" for name in finished.keys() & here if finished[name] != here[name]]
        finished |= here
    # Killed after the renaming that publishes, a run has nothing left to do but to say so.
    if code != 0 and not (code == 6 and (conversion.folder / "1.0.0").exists()):
        tally.problems.append(f"exit {code}: {(conversion.work / 'said.txt').read_text()[-2000:]}")
        return
    published = _identities({f"out/{path.name}": path for path in (conversion.folder / "1.0.0").iterdir()})
    tally.problems += [
        f"{name} was made again" for name in finished.keys() & published if finished[name] != published[name]
    ]
    tally.problems += conversion.check(expected)
    tally.rounds += 1


def _moments(chance: random.Random, to_work: float, at_work: float) -> Iterator[Moment]:
    """Within the time that an undisturbed run takes; half of its work, since a run that goes on has less to do."""
    while True:
        starting = chance.random() < _WHILE_STARTING
        yield Moment(chance.uniform(0, to_work if starting else at_work / 2), at_work=not starting)


def _identities(paths: dict[str, pathlib.Path]) -> dict[str, tuple[int, int]]:
    found = {}
    for name, path in paths.items():
        status = path.stat()
        found[name] = status.st_ino, status.st_mtime_ns
    return found


def _is_done_record(path: str) -> bool:
    folder, name = os.path.split(path)
    return folder.endswith(".partial/verify") or (folder.endswith(".partial/write") and name.endswith(".json"))


def _living(group: int) -> list[str]:
    """The processes of a group that are still there after _SECONDS_TO_DIE."""
    end = time.monotonic() + _SECONDS_TO_DIE
    while True:
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, pgid = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
                if int(pgid) == group and state != "Z":
                    found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def _define_flags() -> None:
    flags.DEFINE_integer("times", 50, "How many kills.", lower_bound=1)
    flags.DEFINE_integer("faces", 1100, "How many faces are converted.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.")
    flags.DEFINE_string("beam_options", "", "As of the conversion: the runner to kill.")


def main(argv: list[str]) -> int:
    """Parses flags, kills, and says what happened; returns the exit code."""
    del argv
    sys.path.insert(0, str(ROOT))
    from datasets import sample_faces

    with tempfile.TemporaryDirectory(prefix="kill_conversion_") as folder:
        raw = pathlib.Path(folder) / "raw"
        sample_faces.write_dataset(raw, count=flags.FLAGS.faces, seed=0, image_size=48)
        tally = kill_again_and_again(
            raw,
            pathlib.Path(folder),
            times=flags.FLAGS.times,
            seed=flags.FLAGS.seed,
            beam_options=flags.FLAGS.beam_options,
        )
    stages = ", ".join(f"{name} {count}" for name, count in tally.stages.items())
    print(f"{tally.kills} kills ({stages}) in {tally.rounds} rounds; {tally.resumed} starts went on with earlier work")
    for problem in tally.problems:
        print(f"PROBLEM: {problem}")
    if not tally.problems:
        print("every round published the undisturbed bytes, left nothing else, and finished no chunk or shard twice")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    _define_flags()
    app.run(main)
