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
import re
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
#: What a killed run leaves half written: a hidden name with its process id.
_TEMPORARY = re.compile(r"\.(?:\d{9}\.state|config\.json|environment\.json|history\.csv)\.\d+|\.best\.\d+\.keras")


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
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise describe_os_error(error, str(folder)) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock ends with the process, however that dies.

        Raises:
          UsageError: it holds something else; nothing in it was touched.
          DataError: its config.json is damaged; nothing was touched either.
          OutputBusyError: another run holds it.
          EnvironmentFault: it cannot be written.
        """
        self._refuse_what_is_not_ours()
        try:
            self.states.mkdir(exist_ok=True)
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
            for folder in (self.states, self.folder):
                for path in folder.iterdir():
                    if _TEMPORARY.fullmatch(path.name) and path.is_file():
                        path.unlink()
            yield

    def check(self, config: TrainConfig, digest: str) -> None:
        """Compares a run with the one that began here, if one did.

        Args:
          config: of this run.
          digest: of its dataset.

        Raises:
          UsageError: the directory is of another configuration.
          DataError: it is of another dataset, or its records of that are damaged.
        """
        if not self._begun():
            return
        if changed := configuration.differences(self._earlier(), config):
            raise UsageError(
                f"{self.folder} was begun with another configuration: {'; '.join(changed)}; "
                "give a new --workdir, or the old values"
            )
        before = self._recorded()["dataset"]["digest"]
        if before != digest:
            raise DataError(
                f"{self.folder} was begun with another dataset: digest {before} -> {digest}; "
                "give a new --workdir, or the old dataset"
            )

    def begin(self, config: TrainConfig, environment: Mapping) -> None:
        """Writes the configuration and the environment of a new run; warns when an old one's environment was another.

        Args:
          config: of this run, checked.
          environment: what JSON can hold, "versions", "precision" and "device" among it.

        Raises:
          UsageError: an earlier run computed in another precision, which its device chose.
        """
        if not self._begun():
            _write(self.environment, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
            _write(self.config, configuration.to_json(config))
            return
        before = self._recorded()
        if before["precision"] != environment["precision"]:
            raise UsageError(
                f"{self.folder} was begun in {before['precision']}, and --precision={config.precision} is "
                f"{environment['precision']} on this device; go on where it was begun, or give a new --workdir"
            )
        before, now = (found["versions"] | {"device": found.get("device")} for found in (before, environment))
        if changed := [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]:
            warnings.warn(
                f"{self.folder} was begun elsewhere, so results may differ: {', '.join(changed)}",
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
        with _faults_explained(self._state(number)), tfrecord.atomic_file(self._state(number)) as file:
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
        with _faults_explained(self.best):
            try:
                model.save(part)
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
                part.replace(self.best)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            tfrecord.sync_folder(self.folder)

    def _refuse_what_is_not_ours(self) -> None:
        if self.config.exists():
            self._earlier()
            return
        ours = {self.states.name, self.environment.name}
        names = sorted(path.name for path in self.folder.iterdir())
        if others := [name for name in names if name not in ours and not _TEMPORARY.fullmatch(name)]:
            raise UsageError(
                f"{self.folder} holds {', '.join(others[:3])} but no config.json; give a new or empty --workdir"
            )

    def _begun(self) -> bool:
        """Whether something was learned here: a run that failed before that binds nobody to its configuration."""
        return bool(self._all_states()) or self.best.exists()

    def _earlier(self) -> TrainConfig:
        """The configuration that the run began with."""
        try:
            return configuration.from_json(self.config.read_text(encoding="utf-8"))
        except (UsageError, UnicodeDecodeError, FileNotFoundError) as error:
            raise _damaged(self.config, error) from None

    def _recorded(self) -> dict:
        """The environment that the run began in."""
        try:
            found = json.loads(self.environment.read_text(encoding="utf-8"))
            found["dataset"]["digest"], found["precision"], found["versions"].items()
        except (ValueError, LookupError, TypeError, AttributeError, FileNotFoundError) as error:
            raise _damaged(self.environment, error) from None
        return found

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
    with _faults_explained(path), tfrecord.atomic_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _faults_explained(path: pathlib.Path) -> Iterator[None]:
    """What the file system does not do becomes an EnvironmentFault that names the file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)  # not the temporary one
        raise describe_os_error(error, str(path)) from None


def _damaged(path: pathlib.Path, error: Exception) -> DataError:
    what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
    return DataError(f"{path} {what}; put it back as it was, or give a new --workdir")
