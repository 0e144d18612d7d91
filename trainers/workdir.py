"""The files of a training: what they hold, and that each appears whole.

    WORKDIR/config.json       the TrainConfig
            environment.json  dataset, versions, parameters: what the figures were made with
            state/            the newest two states, NUMBER.state
            best.keras        the model of the best epoch
            history.csv       one row an epoch, no times
            logs/             TensorBoard

A state is a line of JSON, the bytes of its arrays, and the sha256 of both.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline import tfrecord
from pipeline.errors import DataError, EnvironmentFault, OutputBusyError, UsageError
from pipeline.worker import describe_os_error
from trainers import config as configuration
from trainers.config import TrainConfig

_KEPT = 2
_SHA256_BYTES = 32


class Workdir:
    """A work directory.

    Attributes:
      folder: its path; `config`, `environment`, `best`, `history`, `logs` and `states` are paths in it.
    """

    def __init__(self, folder: str | os.PathLike):
        """
        Raises:
          EnvironmentFault: it cannot be made.
        """
        self.folder = pathlib.Path(folder)
        self.config, self.environment = self.folder / "config.json", self.folder / "environment.json"
        self.best, self.history = self.folder / "best.keras", self.folder / "history.csv"
        self.logs, self.states = self.folder / "logs", self.folder / "state"
        try:
            self.states.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise describe_os_error(error, str(folder)) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock ends with the process, however that dies.

        Raises:
          OutputBusyError: another run holds it.
          EnvironmentFault: it cannot be written.
        """
        try:
            file = open(self.states / ".lock", "a")  # noqa: SIM115 - closed below
        except OSError as error:
            raise describe_os_error(error, str(self.folder)) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputBusyError(
                    f"another run is training in {self.folder}; wait for it, or give another --workdir"
                ) from None
            except OSError as error:
                raise EnvironmentFault(
                    f"{self.folder} cannot be locked ({error.strerror}); use a file system with flock"
                ) from None
            for path in [*self.states.glob(".*.*.*"), *self.folder.glob(".*.*.*")]:  # of a killed run
                path.unlink()
            yield

    def check(self, config: TrainConfig, digest: str) -> None:
        """Compares a run with the one that began here, if one did.

        Args:
          config: of this run.
          digest: of its dataset.

        Raises:
          UsageError: the directory is of another configuration, or holds something else.
          DataError: it is of another dataset.
        """
        if not self.config.exists():
            ours = {self.states.name, self.environment.name}
            if others := sorted(path.name for path in self.folder.iterdir() if path.name not in ours):
                raise UsageError(
                    f"{self.folder} holds {', '.join(others[:3])} but no config.json; give a new or empty --workdir"
                )
            return
        old = configuration.from_json(self.config.read_text(encoding="utf-8"))
        if changed := configuration.differences(old, config):
            raise UsageError(
                f"{self.folder} was begun with another configuration: {'; '.join(changed)}; "
                "give a new --workdir, or the old values"
            )
        before = json.loads(self.environment.read_text(encoding="utf-8"))["dataset"]["digest"]
        if before != digest:
            raise DataError(
                f"{self.folder} was begun with another dataset: digest {before} -> {digest}; "
                "give a new --workdir, or the old dataset"
            )

    def begin(self, config: TrainConfig, environment: Mapping) -> None:
        """Writes the configuration and the environment of a new run; warns when an earlier one had other versions.

        Args:
          config: of this run, checked.
          environment: what JSON can hold, "versions" among it.
        """
        if not self.config.exists():
            _write(self.environment, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
            _write(self.config, configuration.to_json(config))
            return
        before = json.loads(self.environment.read_text(encoding="utf-8"))["versions"]
        now = environment["versions"]
        if changed := [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]:
            warnings.warn(
                f"{self.folder} was begun with other versions, so results may differ: {', '.join(changed)}",
                stacklevel=2,
            )

    def save_state(self, number: int, values: Mapping, arrays: Sequence[np.ndarray]) -> None:
        """Adds a state and removes all but the newest two.

        Args:
          number: of steps; grows.
          values: what JSON can hold.
          arrays: in an order that the reader knows.
        """
        kinds = [[array.dtype.str, array.shape] for array in arrays]
        header = json.dumps({"values": values, "arrays": kinds}).encode() + b"\n"
        digest = hashlib.sha256(header)
        with tfrecord.atomic_file(self._state(number)) as file:
            file.write(header)
            for array in arrays:
                data = np.ascontiguousarray(array).data
                digest.update(data)
                file.write(data)
            file.write(digest.digest())
        for path in self._all_states()[:-_KEPT]:
            path.unlink()

    def load_state(self) -> tuple[dict, list[np.ndarray]] | None:
        """(values, arrays) of the newest state that is whole; None when there is none yet.

        A damaged one is warned of and removed: the run makes it anew.

        Raises:
          DataError: there are states, and all are damaged.
        """
        paths = self._all_states()
        for path in reversed(paths):
            data = path.read_bytes()
            if hashlib.sha256(data[:-_SHA256_BYTES]).digest() == data[-_SHA256_BYTES:]:
                return _parse_state(data)
            if path != paths[0]:
                warnings.warn(f"{path} is damaged (its sha256 is wrong); going on from the state before", stacklevel=2)
                path.unlink()
        if paths:
            raise DataError(
                f"{paths[0]} is damaged, and no state before it is left; remove {self.states} to begin anew"
            )
        return None

    def write_history(self, rows: Sequence[Mapping]) -> None:
        """Replaces history.csv; the columns are those of the first row."""
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        _write(self.history, text.getvalue())

    def save_best(self, model) -> None:
        """Replaces best.keras by the model as it is, in one step."""
        part = self.folder / f".best.{os.getpid()}.keras"  # Keras goes by the suffix
        model.save(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.replace(self.best)
        tfrecord.sync_folder(self.folder)

    def _state(self, number: int) -> pathlib.Path:
        return self.states / f"{number:09d}.state"

    def _all_states(self) -> list[pathlib.Path]:
        return sorted(self.states.glob("[0-9]*.state"))


def _parse_state(data: bytes) -> tuple[dict, list[np.ndarray]]:
    header, _, body = data[:-_SHA256_BYTES].partition(b"\n")
    document, arrays, start = json.loads(header), [], 0
    for kind, shape in document["arrays"]:
        array = np.frombuffer(body, kind, int(np.prod(shape)), start).reshape(shape)
        arrays.append(array)
        start += array.nbytes
    return document["values"], arrays


def _write(path: pathlib.Path, text: str) -> None:
    with tfrecord.atomic_file(path) as file:
        file.write(text.encode())
