"""Training: from a configuration and a work directory to the best model of a run.

    train(TrainConfig(data_dir="DATA", name="NAME"), "WORKDIR")

A run that ended anywhere goes on when it is called again, and comes to the very same weights and history on a CPU: the
state holds every variable and the place in the stream, the stream begins at that place, and the steps after the last
saved state are made again. The files are written in an order that holds at any moment: the best model, then the state
that knows of it, then the history that the state holds.
"""

import contextlib
import dataclasses
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
import tqdm

from datasets import augmentation, faults
from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS
from trainers import devices, guards, metrics, monitoring, schedules, streams
from trainers import model as models
from trainers.board import Board
from trainers.config import TrainConfig
from trainers.step import Learner
from trainers.workdir import Workdir

#: So many steps pass between two looks at what they came to: a GPU need not wait for Python.
LOOK = 10
#: Training examples from which the statistics of batch normalisation are taken for averaged weights.
STATISTICS_EXAMPLES = 2048
#: What the progress bar calls the figures of valence and arousal.
_AFFECT = {"CCC": "ccc", "r": "pearson", "RMSE": "rmse", "SAGR": "sagr"}
_VERSIONED = ("tensorflow", "keras", "numpy")


def train(
    config: TrainConfig,
    workdir: str | os.PathLike,
    *,
    say: Callable[[str], None] = print,
    show_progress: bool = False,
    began: float | None = None,
) -> None:
    """Trains a model, or goes on with it, or finds that it is done.

    SIGTERM and Ctrl-C save the state and raise SystemExit with 143 or 130.

    Args:
      config: what to do.
      workdir: its directory, made when missing; `trainers.workdir` says what it then holds.
      say: takes each line about the run.
      show_progress: whether to show a bar with the scores.
      began: `time.monotonic()` of the moment that the time to the first step counts from; None is now.

    Raises:
      UsageError: an argument has a value that nothing accepts, or the directory is of another configuration,
        precision or purpose.
      DataError: the dataset is at fault, or loss or gradient became infinite or NaN.
      OutputBusyError: another run trains in the directory.
      EnvironmentFault: the directory cannot be written.
    """
    began = time.monotonic() if began is None else began
    place = Workdir(workdir)
    with place.locked():
        data = streams.Streams(config)
        place.check(config, data.digest)
        with (
            faults.explained(), guards.listening() as heard, guards.Watchdog(config.stall_minutes) as watchdog,
        ):  # fmt: skip
            run = _Run(config, place, data, say, show_progress, heard, watchdog)
            run.introduce(began)
            try:
                run.go()
            except BaseException:
                with contextlib.suppress(tf.errors.OpError):  # what went wrong before says more
                    run.close()
                raise
            run.close()


class _Asked(Exception):
    """A signal was heard; what is to be saved can be saved."""


class _Run:
    """One call of `train`, past the checks.

    Attributes:
      epoch, done: where the stream stands: epochs, and steps of the present one.
      monitor, rows: what the epochs so far have come to.
      finished: no step is left.
    """

    def __init__(self, config, place, data, say, show_progress, heard, watchdog):
        self.config, self._place, self._data, self._say = config, place, data, say
        self._heard, self._watchdog, self._show_progress = heard, watchdog, show_progress
        self._phases = config.training_phases
        self.epoch, self.done, self.finished = 0, 0, False
        self.monitor, self.rows = monitoring.Monitor(), []
        self._scale_warned = False

        self._devices = devices.prepare(config)
        with self._devices.strategy.scope():
            self._model = models.build(dataclasses.replace(config, precision=self._devices.precision))
        state = place.load_state()
        if state is None:
            for sentence in models.initialise(self._model, config):
                say(sentence)
        place.begin(config, self._environment())
        self._learner = Learner(
            self._model, config, strategy=self._devices.strategy, class_weights=data.class_weights,
            float16=self._devices.precision == "mixed_float16",
        )  # fmt: skip
        if state is not None:
            self._restore(*state)
        else:
            self._begin_phase()
        self._validation = data.evaluation()
        self._board = Board(place.logs if config.tensorboard else None)

    def close(self) -> None:
        """What is written is on disk."""
        self._board.flush()

    def introduce(self, began: float) -> None:
        """The first lines."""
        config, data = self.config, self._data
        total, trained = _parameters(self._model)
        own = _memory(self._learner.variables)
        self._say(f"device      {self._devices.text}; precision {self._devices.precision}")
        self._say(f"parameters  {total:,}, of which {trained:,} learn in this phase ({self._phase().what})")
        self._say(
            f"examples    {data.train.count:,} in {config.train_split}, {data.validation.count:,} in "
            f"{config.validation_split}"
        )
        self._say(f"steps       {data.steps:,} an epoch, {config.epochs} epochs, batches of {config.batch_size}")
        self._say(
            f"memory      {own / 1e6:,.0f} MB of weights and optimizer, {_resident() / 1e6:,.0f} MB in all so far"
        )
        for note in data.notes:
            self._say(note)
        if self.epoch or self.done:
            self._say(f"going on    after epoch {self.epoch}, step {self.done}")
        self._began = began

    def go(self) -> None:
        """Trains to the end."""
        self._place.write_history(self.rows)  # whoever was killed before it has only the state
        if self.finished:
            self._say(f"nothing is left to do: {self._place.folder} is finished, after {self.epoch} epochs")
            return
        self._saved, self._first_step = time.monotonic(), None
        stream = self._data.training((self.epoch, self.done), prefetch_to_device=self._prefetches)
        batches = iter(self._distributed(stream))
        while not self.finished:
            if self.epoch == 0 and self.done == 0:
                self._show_faces()
            try:
                self._train_epoch(batches)
                self._end_epoch()
            except _Asked:
                self._end_at_signal()
        best = self.rows[self.monitor.best_epoch]
        self._say(f"best epoch  {best['epoch']}: {_brief(best, 'val_')}; {self._place.best}")

    @property
    def _prefetches(self) -> bool:
        return self._devices.gpu and self._devices.strategy.num_replicas_in_sync == 1

    def _distributed(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        if self._devices.strategy.num_replicas_in_sync == 1:
            return batches
        return self._devices.strategy.experimental_distribute_dataset(batches.map(_without_id))

    def _train_epoch(self, batches: Iterator) -> None:
        steps = self._data.steps
        with self._bar(steps) as bar:
            while self.done < steps:
                rate = schedules.learning_rate(self.config, self.epoch, self.done, steps, self.monitor.factor)
                self._learner.train(next(batches), rate)
                self.done += 1
                self._estimate(steps)
                due = time.monotonic() - self._saved >= self.config.save_minutes * 60
                if self.done % LOOK == 0 or self.done == steps or due or self._heard.number:
                    self._look(bar)
                self._beat()
                if due and self.done < steps:
                    self._save()

    def _beat(self) -> None:
        """The training moves; raises _Asked when it is to end."""
        self._watchdog.beat()
        if self._heard.number:
            raise _Asked

    def _look(self, bar: tqdm.tqdm) -> None:
        """Stops at a loss that is not finite, and shows how far the epoch is."""
        self._check_finite()
        scale = self._learner.loss_scale
        if scale is not None and scale < 1 and not self._scale_warned:
            self._scale_warned = True
            self._say(
                f"loss scale  {scale:g}: float16 overflows in every step and nothing is learned; "
                "give --precision=mixed_bfloat16 or float32"
            )
        scores = self._learner.scores()
        bar.n = self.done
        bar.set_postfix_str(_full(scores), refresh=True)
        if self.done % LOOK == 0 or self.done == self._data.steps:
            self._board.scalars(self._learner.steps, {f"train/{name}": value for name, value in scores.items()})

    def _check_finite(self) -> None:
        if bad := self._learner.first_bad_step():
            raise DataError(self._describe_bad(*bad))

    def _end_epoch(self) -> None:
        config, learner = self.config, self._learner
        trained = learner.scores()
        rate = schedules.learning_rate(config, self.epoch, self._data.steps - 1, self._data.steps, self.monitor.factor)
        with learner.averaged(self._statistics_batches, self._beat):
            validated, sums = learner.validate(self._validation, self._beat)
            self.monitor = self.monitor.observe(config, self.epoch, monitoring.monitored(config, validated))
            better = self.monitor.best_epoch == self.epoch
            if better:
                with learner.as_saved() as model:
                    self._place.save_best(model)
        row = {"epoch": self.epoch, "step": learner.steps, "best": int(better), "learning_rate": rate}
        self.rows.append(row | trained | {f"val_{name}": value for name, value in validated.items()})
        self._board.scalars(learner.steps, {f"validation/{name}": value for name, value in validated.items()})
        self._board.scalars(learner.steps, {"train/learning_rate": rate})
        if "expression" in config.heads:
            self._board.confusion(learner.steps, metrics.confusion(sums, config.heads))
        self._say(f"epoch {self.epoch:>4}  {_brief(self.rows[-1])} | {_brief(validated)}{' *' if better else ''}")
        self._next_epoch()
        self._save()
        self._place.write_history(self.rows)

    def _next_epoch(self) -> None:
        config, last = self.config, schedules.phase_index(self._phases, self.epoch)
        self._learner.restart_scores()
        stopped = self.monitor.ends_training(config, last_phase=last == len(self._phases) - 1)
        self.epoch, self.done = self.epoch + 1, 0
        self.finished = stopped or self.epoch == config.epochs
        if stopped:
            self._say(f"no better epoch in {self.monitor.waited}: early stopping")
        if not self.finished and schedules.phase_index(self._phases, self.epoch) != last:
            self.monitor = self.monitor.new_phase()
            self._begin_phase()
            self._say(f"phase       {self._phase().what}: {_parameters(self._model)[1]:,} parameters learn")

    def _phase(self):
        return self._phases[schedules.phase_index(self._phases, min(self.epoch, self.config.epochs - 1))]

    def _begin_phase(self) -> None:
        models.set_trainable(self._model, self._phase().what)
        self._learner.begin_phase(self._model.trainable_variables)

    def _statistics_batches(self) -> tf.data.Dataset:
        return self._data.excerpt(self.epoch, 0, max(1, STATISTICS_EXAMPLES // self.config.batch_size))

    def _save(self) -> None:
        values = {
            "epoch": self.epoch, "done": self.done, "finished": self.finished, "rows": self.rows,
            "monitor": dataclasses.asdict(self.monitor),
        }  # fmt: skip
        arrays = [variable.numpy() for variable in self._learner.variables]
        self._place.save_state(self._learner.steps, values, arrays)
        self._saved = time.monotonic()
        self._watchdog.beat()

    def _restore(self, values: dict, arrays: list[np.ndarray]) -> None:
        self.epoch, self.done, self.finished = (values[name] for name in ("epoch", "done", "finished"))
        self.rows, self.monitor = values["rows"], monitoring.Monitor(**values["monitor"])
        self._begin_phase()
        for variable, array in zip(self._learner.variables, arrays, strict=True):
            variable.assign(array)

    def _end_at_signal(self) -> None:
        name = signal.Signals(self._heard.number).name
        self._check_finite()  # a state with such weights would stop every later start
        self._save()
        self._say(f"stopped by {name} and saved: the same command goes on from here")
        raise SystemExit(128 + self._heard.number)

    def _describe_bad(self, step: int, values: dict[str, float]) -> str:
        """Which examples, and what they came to; the stream of that place is opened once more for their ids."""
        epoch, position = divmod(step, self._data.steps)
        batch = next(iter(self._data.excerpt(epoch, position, 1)))
        ids = ", ".join(id.decode(errors="replace") for id in batch["id"].numpy())
        figures = ", ".join(f"{name} {value:g}" for name, value in values.items())
        scale = self._learner.loss_scale
        return (
            f"loss or gradient is not finite in step {step} (epoch {epoch}, step {position}): {figures}, loss scale "
            f"{'none' if scale is None else f'{scale:g}'}; the last good state stays in {self._place.states}; lower "
            f"--learning_rate or give --clip_norm, in a new --workdir, or look at the batch's faces: {ids}"
        )

    def _show_faces(self) -> None:
        batch = next(iter(self._data.excerpt(0, 0, 1)))
        if self.config.augment_place == "device":
            batch = augmentation.augment_batch(batch, self.config.augment, batch["seeds"])
        self._board.faces(0, batch["image"].numpy())

    def _estimate(self, steps: int) -> None:
        """After some steps, how long all of them will take; the first ones compile."""
        if self._first_step is None:
            self._first_step = (time.monotonic(), self.done)
            self._say(f"first step  {self._first_step[0] - self._began:.1f} s after the start")
        elif self._first_step and self._first_step[1] < self.done == min(self._first_step[1] + 2 * LOOK, steps):
            seconds = (time.monotonic() - self._first_step[0]) / (self.done - self._first_step[1])
            left = self.config.epochs * steps - self.epoch * steps - self.done
            self._say(f"time        {1000 * seconds:.0f} ms a step, about {_duration(seconds * left)} of steps to go")
            self._first_step = ()

    def _bar(self, steps: int) -> tqdm.tqdm:
        return tqdm.tqdm(
            total=steps, initial=self.done, desc=f"epoch {self.epoch}", unit="step", leave=False,
            disable=not self._show_progress, file=sys.stderr,
        )  # fmt: skip

    def _environment(self) -> dict:
        total, _ = _parameters(self._model)
        return {
            "dataset": streams.describe(self.config, self._data),
            "device": self._devices.text,
            "precision": self._devices.precision,
            "versions": {"python": platform.python_version()}
            | {name: sys.modules[name].__version__ for name in _VERSIONED},
            "parameters": total,
            "image_size": self.config.input_size,
            "heads": list(self.config.heads),
            "class_names": list(EXPRESSIONS),
        }


def _without_id(batch: dict) -> dict:
    """Devices hold no text."""
    return {name: column for name, column in batch.items() if name != "id"}


def _parameters(model: keras.Model) -> tuple[int, int]:
    """(all, trainable) numbers in the weights."""
    return model.count_params(), sum(math.prod(weight.shape) for weight in model.trainable_variables)


def _memory(variables: list[tf.Variable]) -> int:
    return sum(math.prod(variable.shape) * variable.dtype.size for variable in variables)


def _resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _brief(scores: dict, prefix: str = "") -> str:
    """The scores that fit on a line."""
    names = {"loss": "loss", "accuracy": "accuracy", "macro_f1": "F1", "valence_ccc": "V", "arousal_ccc": "A"}
    return " ".join(f"{text} {scores[prefix + name]:.4f}" for name, text in names.items() if prefix + name in scores)


def _full(scores: dict) -> str:
    """All scores, in few letters: of each head its own, for valence and arousal CCC, Pearson's r, RMSE and SAGR."""
    parts = [f"loss {scores['loss']:.4f}"]
    if "accuracy" in scores:
        parts.append(f"accuracy {scores['accuracy']:.4f} F1 {scores['macro_f1']:.4f}")
    for head in ("valence", "arousal"):
        if f"{head}_ccc" in scores:
            figures = [f"{name} {scores[f'{head}_{key}']:.3f}" for name, key in _AFFECT.items()]
            parts.append(f"{head[0].upper()} {' '.join(figures)}")
    return " | ".join(parts)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
