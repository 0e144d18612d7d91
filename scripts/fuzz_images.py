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
import struct
import time
import traceback
import zlib

import numpy as np
from absl import app, flags
from PIL import Image

from pipeline import images
from pipeline.records import Reject
from pipeline.sources import npy
from scripts import sample_images

_COUNT = flags.DEFINE_integer("count", 1000, "How many mutants.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Which mutants.")
_FIRST = flags.DEFINE_integer("first", 0, "Index of the first mutant.", lower_bound=0)
_CHECK_WITH_TENSORFLOW = flags.DEFINE_bool(
    "check_with_tensorflow", False, "Whether TensorFlow decodes what is accepted."
)

SETTINGS = images.ImageSettings()
#: Decodes and reduces what SETTINGS keeps as it is.
REDUCING = images.ImageSettings(image_size=16)
#: Values at which sizes, signs and counts go wrong.
_EDGES = (0, 1, 2, 7, 8, 16, 127, 128, 254, 255)
_SIZES = (0, 1, 3, 15, 16, 64, 255, 256, 6000, 20000, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)


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
        mutant = mutated(original, generator, generator.choice(originals)[1])
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
    if again != images.Picture(again.format, picture.width, picture.height, picture.width, picture.height):
        raise AssertionError(f"stored {picture} is then {again}")
    if images.store(stored, SETTINGS) != stored:
        raise AssertionError("storing twice changes the bytes")
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


def mutated(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """One to three kinds of damage; `other` is another file to take parts from."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        data = generator.choice(_MUTATIONS)(data, generator, other) or data[:1]
    return data


def flip_bits(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Flips 1 to 8 bits anywhere."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def edit_header(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Sets a byte, or a number of 2 or 4 bytes, near the beginning."""
    changed = bytearray(data)
    position = generator.randrange(min(len(changed), 64))
    value = generator.choice(_SIZES)
    edit = generator.choice(
        (
            bytes([generator.choice(_EDGES)]),
            struct.pack(generator.choice(("<H", ">H")), value % 2**16),
            struct.pack(generator.choice(("<I", ">I")), value),
        )
    )
    changed[position : position + len(edit)] = edit
    return bytes(changed)


def cut(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Ends early."""
    return data[: generator.randrange(1, len(data) + 1)]


def remove(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Takes a part out."""
    start = generator.randrange(len(data))
    return data[:start] + data[start + generator.randint(1, 64) :]


def splice(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """Puts a part of another file in, over or between."""
    start, source = generator.randrange(len(data)), generator.randrange(len(other))
    part = other[source : source + generator.randint(1, 200)]
    return data[:start] + part + data[start + generator.choice((0, len(part))) :]


def edit_parts(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """Damages chunks or segments as such, with lengths and checksums that fit."""
    if data.startswith(b"\x89PNG"):
        return _edit_chunks(data, generator, other)
    if data.startswith(b"\xff\xd8"):
        return _edit_segments(data, generator, other)
    return flip_bits(data, generator, other)


def _edit_chunks(data: bytes, generator: random.Random, other: bytes) -> bytes:
    chunks, position = [], 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    chunks = _edited(chunks, generator)
    if chunks:
        at = generator.randrange(len(chunks))
        kind, body = chunks[at]
        if kind == b"IDAT":
            body = _edit_pixels(body, generator, other)
        elif body:
            body = generator.choice((flip_bits, edit_header, cut))(body, generator, other)
        if generator.random() < 0.1:
            kind = generator.choice((b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"eXIf", b"abcd", b"ABCD"))
        chunks[at] = (kind, body)
    return data[:8] + b"".join(sample_images.chunk(kind, body) for kind, body in chunks)


def _edit_pixels(body: bytes, generator: random.Random, other: bytes) -> bytes:
    """Changes the pixels themselves, their number, or how they are compressed."""
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return flip_bits(body, generator, other) if body else body
    if raw and generator.random() < 0.7:
        raw = generator.choice((flip_bits, edit_header, cut, remove, splice))(raw, generator, other)
    compressor = zlib.compressobj(generator.randint(0, 9), zlib.DEFLATED, generator.randint(9, 15))
    deflated = compressor.compress(raw) + compressor.flush()
    if generator.random() < 0.2:  # Declares another window than was used.
        method = generator.randrange(9) << 4 | 8
        deflated = bytes([method, -(method << 8) % 31]) + deflated[2:]
    return deflated


def _edit_segments(data: bytes, generator: random.Random, other: bytes) -> bytes:
    segments, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xD9:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if data[position + 1] == 0xDA:
            end = data.find(b"\xff\xd9", position)
            end = len(data) if end < 0 else end
        segments.append((data[position : position + 2], data[position + 4 : end]))
        position = end
    segments = _edited(segments, generator)
    if segments:
        at = generator.randrange(len(segments))
        marker, body = segments[at]
        if body:
            body = generator.choice((flip_bits, edit_header))(body, generator, other)
        if generator.random() < 0.1:
            marker = bytes((0xFF, generator.randrange(256)))
        segments[at] = (marker, body)
    out = [data[:2]]
    for marker, body in segments:
        length = 2 + len(body)
        if marker == b"\xff\xda":  # Of the scan's header alone; what follows is pixels.
            length = 2 + (4 + 2 * body[0] if body else 0)
        out.append(marker + struct.pack(">H", length % 2**16) + body)
    return b"".join(out) + data[position:]


def _edited(parts: list, generator: random.Random) -> list:
    """Drops, doubles or exchanges parts, or leaves them."""
    parts = list(parts)
    if len(parts) > 1:
        a, b = generator.randrange(len(parts)), generator.randrange(len(parts))
        choice = generator.randrange(6)
        if choice == 0:
            del parts[a]
        elif choice == 1:
            parts.insert(b, parts[a])
        elif choice == 2:
            parts[a], parts[b] = parts[b], parts[a]
    return parts


_MUTATIONS = (flip_bits, edit_header, cut, remove, splice, edit_parts, edit_parts, edit_parts)


def main(_) -> int:
    tensorflow = None
    if _CHECK_WITH_TENSORFLOW.value:
        import tensorflow
    findings = run(_COUNT.value, _SEED.value, first=_FIRST.value, tensorflow=tensorflow)
    print(findings.table())
    return 1 if findings.problems else 0


if __name__ == "__main__":
    app.run(main)
