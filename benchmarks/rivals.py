"""Other libraries on the same records: a process of their own that answers how long it took.

    rival = Rival("grain", records)
    seconds, cpu_seconds = rival.run("augment", batches=20)

The process runs `benchmarks/rival_NAME.py` with the interpreter of its environment. It reads lines of JSON,
{"task": "decode" or "augment", "batches": 20}, and answers each with {"seconds": …, "cpu": …}.
"""

import json
import pathlib
import subprocess

import numpy as np
import pyarrow.parquet as pq

from benchmarks import environments
from pipeline import codec


class Rival:
    """A library's process, which holds one pipeline for each task."""

    def __init__(self, name: str, records: pathlib.Path):
        """
        Args:
          name: of an environment.
          records: what `write_index` made.
        """
        script = pathlib.Path(__file__).with_name(f"rival_{name}.py")
        self._process = subprocess.Popen(
            [environments.make(name), script, records],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, task: str, batches: int) -> tuple[float, float]:
        """Wall and processor seconds of so many batches.

        Raises:
          RuntimeError: the process ended; it has said why on standard error.
        """
        self._process.stdin.write(json.dumps({"task": task, "batches": batches}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args[1]} ended with {self._process.wait()}")
        measured = json.loads(answer)
        return measured["seconds"], measured["cpu"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def write_index(dataset_dir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Where each record and each encoded image of the split "train" lies, as each library wants to be told.

    Returns:
      `folder`, with shards.json (paths), images.npy (int64 [N, 3]: shard, offset, length of the encoded image), and
      one text file INDEX.idx per shard (offset and length of each record, a line each).
    """
    table = pq.read_table(dataset_dir / "records.parquet", filters=[("split", "=", "train")])
    table = table.sort_by([("shard", "ascending"), ("position", "ascending")])
    shards = sorted(map(str, dataset_dir.glob("*-train.tfrecord-*")))
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.stack([table[name].to_numpy() for name in ("shard", "offset", "length")], axis=1).astype(np.int64)
    images = np.empty_like(rows)
    for index, path in enumerate(shards):
        own = np.flatnonzero(rows[:, 0] == index)
        lines = []
        with open(path, "rb") as file:
            for row in own:
                _, offset, length = rows[row].tolist()
                file.seek(offset)
                framed = file.read(length)
                image = codec.decode(framed[12:-4]).image
                images[row] = index, offset + framed.index(image), len(image)
                lines.append(f"{offset} {length}\n")
        (folder / f"{index}.idx").write_text("".join(lines))
    np.save(folder / "images.npy", images)
    (folder / "shards.json").write_text(json.dumps(shards))
    return folder
