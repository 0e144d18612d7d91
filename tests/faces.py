"""Small raw faces in AffectNet's layout, the job run on them, and what it leaves: shared by the tests of the job."""

import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import simplejpeg

from pipeline import codec, conversion, label_order, tfrecord
from pipeline.settings import Settings

ROOT = pathlib.Path(__file__).parents[1]
SIDE = 48


@functools.cache
def picture(seed: int, side: int = SIDE) -> bytes:
    """A JPEG of its own for each seed: a few colours, blurred by magnification."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    pixels = np.kron(colours, np.ones((side // 4, side // 4, 1), np.uint8))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 80)


def write_face(root: pathlib.Path, id: str, image: bytes | None, *, folder: str = "", **numbers) -> None:
    """One face: an image unless None, and `{id}_{kind}.npy` for each of exp, val, aro, lnd that is given."""
    images, annotations = root / folder / "images", root / folder / "annotations"
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(exist_ok=True)
    if image is not None:
        (images / f"{id}.jpg").write_bytes(image)
    for kind, number in numbers.items():
        np.save(annotations / f"{id}_{kind}.npy", np.asanyarray(number))


def write_faces(
    root: pathlib.Path, count: int, *, folder: str = "", start: int = 0, order: tuple[str, ...] | None = None
) -> pathlib.Path:
    """`count` good faces with all labels, ids from `start`, expressions in turn; valence fits the expression.

    Args:
      order: of the expression codes; AffectNet's unless given.
    """
    names = order or tuple(label_order.TYPICAL_VALENCE)
    for i in range(start, start + count):
        code = i % len(names)
        write_face(
            root, str(i), picture(i), folder=folder, exp=code, val=label_order.TYPICAL_VALENCE[names[code]],
            aro=round(np.sin(i) / 2, 3), lnd=np.linspace(4, SIDE - 4, 136),
        )  # fmt: skip
    return root


def settings_for(raw: pathlib.Path, data_dir: pathlib.Path, **changes) -> Settings:
    """Settings with one decoding process unless told otherwise; the name is "faces"."""
    given = {"source": "affectnet", "input_dir": str(raw), "data_dir": str(data_dir), "name": "faces", "num_workers": 1}
    return Settings(**given | changes)


def convert(raw: pathlib.Path, data_dir: pathlib.Path, *, faults: Sequence[dict] = (), **changes) -> conversion.Result:
    """Converts in this process, with faults in the decoding processes alone."""
    with mock.patch.dict(os.environ, environment(faults) if faults else {}):
        return conversion.convert(settings_for(raw, data_dir, **changes))


def plan(raw: pathlib.Path, **changes) -> dict:
    """The statistics of a dry run."""
    return convert(raw, pathlib.Path("never_made"), dry_run=True, **changes).statistics


def command(raw: pathlib.Path, data_dir: pathlib.Path, **flags) -> list[str]:
    """The command line that converts `raw`."""
    given = {"source": "affectnet", "input_dir": raw, "data_dir": data_dir, "name": "faces", "num_workers": 1}
    given = [f"--{name}={value}" for name, value in (given | flags).items()]
    return [sys.executable, "-m", "pipeline.build_tfrecords", *given]


def environment(faults: Sequence[dict] = (), **variables: str) -> dict[str, str]:
    """The environment of a run of this repository, with the faults that `fault_injection` describes."""
    folders = [str(ROOT)]
    if faults:
        folders.insert(0, str(ROOT / "tests" / "fault_injection"))
        variables["FAULTS"] = json.dumps(faults)
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)} | variables


def run(
    raw: pathlib.Path, data_dir: pathlib.Path, *, faults: Sequence[dict] = (), env=None, **flags
) -> subprocess.CompletedProcess:
    """Runs the command in a process group of its own and waits for it."""
    return subprocess.run(
        command(raw, data_dir, **flags),
        env=environment(faults, **(env or {})),
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=600,
    )


def error_of(done: subprocess.CompletedProcess) -> str:
    """The first line of the error message, without "error: "; there is no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    (first, *_) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return first.removeprefix("error: ")


def folder_of(data_dir: pathlib.Path) -> pathlib.Path:
    """Where the job works: the parent of the dataset directory."""
    return data_dir / "affect_faces" / "faces"


def dataset_of(data_dir: pathlib.Path) -> pathlib.Path:
    """The dataset directory."""
    return folder_of(data_dir) / "1.0.0"


def published(data_dir: pathlib.Path) -> dict[str, str]:
    """sha256 of every published file by name, but of run.json, which tells of the run. Nothing else is there."""
    assert os.listdir(folder_of(data_dir)) == ["1.0.0"]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset_of(data_dir).iterdir()}
    assert files.pop("run.json")
    return files


def rows_of(data_dir: pathlib.Path) -> dict[str, dict]:
    """records.parquet by id."""
    rows = pq.read_table(dataset_of(data_dir) / "records.parquet").to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    return {row["id"]: row for row in rows}


def records_of(data_dir: pathlib.Path, split: str) -> Iterator[codec.Record]:
    """Every record of a split, in order."""
    for path in sorted(dataset_of(data_dir).glob(f"affect_faces-{split}.tfrecord-*")):
        with open(path, "rb") as file:
            for _, data in tfrecord.read_records(file):
                yield codec.decode(data)
