"""Throws damaged images and `.npy` files at the verifier: each is accepted or rejected with a reason.

Every mutant is derived from (seed, index) alone, so a finding is repeated with --first=INDEX --count=1. What is
accepted must be stored as something that is accepted again, unchanged; with --check_with_tensorflow, as
something that TensorFlow decodes to the same size (and a PNG to the same pixels).

    python -m scripts.fuzz_images --count=100000 --seed=0
"""

import collections
import dataclasses
import io
import random
import resource
import time
import traceback

import numpy as np
from absl import app, flags
from PIL import Image

from pipeline import images
from pipeline.records import Reject
from pipeline.sources import npy
from scripts import mutations, sample_images

SETTINGS = images.ImageSettings()
#: Decodes and reduces what SETTINGS keeps as it is.
REDUCING = images.ImageSettings(image_size=16)


@dataclasses.dataclass
class Findings:
    """What came of a run.

    Attributes:
      outcomes: how often each: "accepted", "rejected: REASON".
      problems: one text for each mutant that broke a promise.
      slowest_ms: of one mutant, and which.
      peak_mib: highest memory of the process.
    """

    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)
    slowest_ms: float = 0.0
    slowest: str = ""
    peak_mib: float = 0.0

    def table(self) -> str:
        """For people to read."""
        lines = [f"{count:>9,}  {outcome}" for outcome, count in sorted(self.outcomes.items())]
        lines.append(f"{len(self.problems):>9,}  problems")
        lines.append(f"{self.slowest_ms:>9.1f}  ms, slowest: {self.slowest}")
        lines.append(f"{self.peak_mib:>9.0f}  MiB, peak memory")
        return "\n".join(lines + self.problems)


def run(count: int, seed: int, *, first: int = 0, tensorflow=None) -> Findings:
    """Makes and judges `count` mutants.

    Args:
      count, seed, first: which.
      tensorflow: the module, to decode what is accepted; None decides without.
    """
    findings = Findings()
    originals = sorted((sample_images.all_kinds() | npy_files()).items())
    # Half of the mutants are of what is stored as it is: nothing but `inspect` stands before a reader there.
    plain = [(name, data) for name, data in originals if judge(name, data) == "accepted"]
    for index in range(first, first + count):
        generator = random.Random(f"{seed} {index}")
        name, original = generator.choice(generator.choice((originals, plain)))
        mutant = mutations.mutated(original, generator, generator.choice(originals)[1])
        start = time.perf_counter()
        try:
            outcome = judge(name, mutant, tensorflow)
        except Exception:
            outcome = "broken"
            findings.problems.append(f"--seed={seed} --first={index} ({name}): {traceback.format_exc(limit=-3)}")
        milliseconds = 1000 * (time.perf_counter() - start)
        findings.outcomes[f"{name.split()[0]} {outcome}"] += 1
        if milliseconds > findings.slowest_ms:
            findings.slowest_ms, findings.slowest = milliseconds, f"{name}, --seed={seed} --first={index}: {outcome}"
    findings.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return findings


def judge(name: str, data: bytes, tensorflow=None) -> str:
    """The outcome for a mutant of a sample of that name."""
    return judge_npy(data) if name.startswith("npy") else judge_image(data, tensorflow)


def judge_image(data: bytes, tensorflow=None) -> str:
    """The outcome for one image.

    Raises:
      Exception: anything but Reject, or a promise that does not hold.
    """
    try:
        picture = images.inspect(data, SETTINGS)
    except Reject as reject:
        return f"rejected: {reject.reason}"
    stored = images.store(data, SETTINGS)
    again = images.inspect(stored, SETTINGS)
    size = picture.width, picture.height
    if again != images.Picture(again.format, *size, *size, unchanged=True):
        raise AssertionError(f"stored {picture} is then {again}")
    if images.store(stored, SETTINGS) != stored or picture.unchanged != (stored == data):
        raise AssertionError("storing twice changes the bytes, or `unchanged` is wrong")
    images.store(data, REDUCING)
    if tensorflow is not None:
        decoded = tensorflow.io.decode_image(stored, channels=3, expand_animations=False).numpy()
        if decoded.shape != (picture.height, picture.width, 3):
            raise AssertionError(f"TensorFlow decodes {decoded.shape}, accepted was {picture}")
        if again.format == "png" and (decoded != np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))).any():
            raise AssertionError("TensorFlow decodes other pixels")
    return "accepted" if picture.verbatim else "accepted, transcoded"


def judge_npy(data: bytes) -> str:
    """The outcome for one label file: accepted as one number, as an array, or rejected as both."""
    outcomes = []
    for kind, read in (("scalar", npy.read_scalar), ("array", lambda data: npy.read_array(data, 1000))):
        try:
            read(data)
            outcomes.append(f"accepted as {kind}")
        except Reject as reject:
            outcomes.append(f"rejected: {reject.reason}")
    return min(outcomes)


def npy_files() -> dict[str, bytes]:
    """Label files in every form that is accepted, by name."""
    values = {
        "npy int": np.array(3), "npy float": np.array([0.5]), "npy text": np.array("3"),
        "npy bytes": np.array(b"0.25"), "npy big-endian": np.array(-0.5, ">f8"),
        "npy landmarks": np.arange(136.0), "npy points": np.ones((68, 2), "f4"),
    }  # fmt: skip
    files = {}
    for name, value in values.items():
        stream = io.BytesIO()
        np.save(stream, value)
        files[name] = stream.getvalue()
    return files


def main() -> None:
    """Runs the command."""
    flags.DEFINE_integer("count", 1000, "How many mutants.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Which mutants.")
    flags.DEFINE_integer("first", 0, "Index of the first mutant.", lower_bound=0)
    flags.DEFINE_bool("check_with_tensorflow", False, "Whether TensorFlow decodes what is accepted.")
    app.run(_fuzz)


def _fuzz(_) -> int:
    tensorflow = None
    if flags.FLAGS.check_with_tensorflow:
        import tensorflow
    findings = run(flags.FLAGS.count, flags.FLAGS.seed, first=flags.FLAGS.first, tensorflow=tensorflow)
    print(findings.table())
    return 1 if findings.problems else 0


if __name__ == "__main__":
    main()
