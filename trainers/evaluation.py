"""Scores of a model on a dataset, and the files and pages that hold them.

    evaluate(subject.from_workdir("WORKDIR", batch_size=64), "DATA/affect_faces/NAME/1.0.0", "test", "WORKDIR/eval")

Predictions are written as they come; of each example only labels and predictions stay in memory.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf

from datasets.labels import HEADS
from datasets.selection import Selection
from pipeline import publishing
from pipeline.errors import DataError, UsageError
from pipeline.records import EXPRESSIONS
from trainers import evaluation_files as files
from trainers import evaluation_page, evaluation_text, heap, intervals, leakage, prediction, protocols, scoreboard
from trainers.subject import Subject


@dataclasses.dataclass(frozen=True)
class Options:
    """How an evaluation is made.

    Attributes:
      protocol: the one that the plots and the confusion matrix show; every one is scored.
      resamples: of the intervals; 0 is no intervals.
      seed: of the resamples.
      only: a class, to look at its examples alone; "" is all.
      num_samples: how many of them at most.
      num_threads: decoding threads; 0 is one per core.
      report: whether to write the pages, which take some seconds.
      allow_leak, allow_selection_split: score also what was trained on, or what chose the checkpoint.
    """

    protocol: str = "eight"
    resamples: int = intervals.RESAMPLES
    seed: int = 0
    only: str = ""
    num_samples: int = 100
    num_threads: int = 0
    report: bool = True
    allow_leak: bool = False
    allow_selection_split: bool = False

    def __post_init__(self):
        for name, accepted in (("protocol", tuple(protocols.PROTOCOLS)), ("only", ("", *EXPRESSIONS))):
            if getattr(self, name) not in accepted:
                flag = {"only": "expression"}.get(name, name)
                raise UsageError(
                    f"--{flag}={getattr(self, name)} is not accepted; give one of {', '.join(filter(None, accepted))}"
                )
        for name, least in (("resamples", 0), ("seed", 0), ("num_samples", 1), ("num_threads", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name}={getattr(self, name)} is not accepted; give {least} or more")


def evaluate(
    subject: Subject,
    dataset_dir: str,
    split: str,
    output: str,
    options: Options = Options(),
    *,
    say: Callable[[str], None] = print,
) -> dict:
    """Scores a model on a split, and writes the evaluation's files and its report.

    Args:
      subject: the model.
      dataset_dir: DATA_DIR/affect_faces/NAME/1.0.0.
      split: as TFDS writes splits and slices.
      output: the folder that the files appear in; those of an earlier evaluation are replaced.
      options: what else there is to choose.
      say: takes each line about the evaluation.

    Returns:
      What `metrics.json` holds.

    Raises:
      UsageError: a split or option that is not there.
      DataError: a leak, a damaged dataset, no labels, or a model that gives no predictions.
      EnvironmentFault: `output` cannot be written.
    """
    selection = Selection(dataset_dir, split, None)
    guard = leakage.check(
        selection, subject.trained_on, ancestors=subject.ancestors, allow_leak=options.allow_leak,
        allow_selection_split=options.allow_selection_split,
    )  # fmt: skip
    model_classes = tuple(name for name in subject.classes if name in guard["trained_classes"])
    in_data = set(selection.expression.tolist())
    classes = {
        "model_classes": model_classes,
        "data_classes": tuple(name for index, name in enumerate(EXPRESSIONS) if index in in_data),
    }
    rows = _rows(selection, options)
    _check_scorable(selection, rows, subject.predictor.heads, classes, options)
    files.make_folder(output)
    started = time.perf_counter()
    with files.output_file(output, files.PREDICTIONS) as file:
        writer = files.PredictionsWriter(file)
        predictions = prediction.predict(
            subject.predictor, selection, rows=rows, num_threads=options.num_threads or None, on_batch=writer
        )
        heap.give_back()
        # What an earlier evaluation left would pass for this one's, also if this one is killed before its own.
        files.remove(output, [evaluation_page.PAGE, evaluation_page.PDF, files.CONFUSION])
    metrics = {
        "format": files.FORMAT,
        "model": {**subject.about, "classes": list(model_classes)},
        "dataset": {
            "classes": list(classes["data_classes"]),
            "name": os.path.basename(os.path.dirname(selection.folder.rstrip("/"))),
            "split": split,
            "digest": publishing.digest(selection.folder),
            "examples": selection.count,
            "evaluated": selection.count if rows is None else len(rows),
        },
        "only": options.only,
        "guard": guard,
        "intervals": {"level": intervals.LEVEL, "resamples": options.resamples, "seed": options.seed},
        "protocol": options.protocol,
        "speed": {
            "images_per_second": subject.predictor.images_per_second,
            "batch_size": subject.predictor.batch_size,
            "seconds": time.perf_counter() - started,
            "device": _device(),
        },
        "predictions_sha256": writer.digest(),
        "confusion_sha256": None,
        **score(predictions, classes, options),
    }
    view = None
    if "expression" in metrics["heads"]:
        view = protocols.view(
            options.protocol, predictions.truth["expression"], predictions.outputs["expression"], **classes
        )  # fmt: skip
        counts = scoreboard.confusion(view.truth, view.probabilities.argmax(1))
        metrics["confusion_sha256"] = files.write_confusion(output, counts, view.classes)
    files.write_metrics(output, metrics)
    for line in summary(metrics):
        say(line)
    if options.report:
        pictures = evaluation_page.draw(predictions, view, subject, selection, rows)
        # Nobody needs the predictions any more, and no page is drawn on top of them.
        del predictions, view
        heap.give_back()
        evaluation_page.write(output, metrics, pictures)
    say(os.path.join(output, evaluation_page.PAGE if options.report else files.METRICS))
    return metrics


def score(predictions: prediction.Predictions, classes: Mapping[str, Sequence[str]], options: Options) -> dict:
    """heads (that are scored), unscored (why the others are not), and the scores of each head.

    Args:
      predictions: of the examples.
      classes: model_classes and data_classes, as in `protocols.view`.
      options: protocol, resamples and seed.
    """
    drawn = {"resamples": options.resamples, "seed": options.seed}
    unscored, found = _unscored(predictions.outputs, {head: len(predictions.known(head)) for head in HEADS}), {}
    for head in HEADS:
        rows = predictions.known(head)
        if head in unscored:
            continue
        if head == "expression":
            by_protocol = scoreboard.expression(predictions.truth[head], predictions.outputs[head], **classes, **drawn)
            found[head] = {"protocols": by_protocol}
        else:
            found[head] = scoreboard.affect(predictions.truth[head][rows], predictions.outputs[head][rows], **drawn)
    return {"heads": list(found), "unscored": unscored, **found}


def summary(metrics: dict) -> list[str]:
    """The scores as lines of text, and what a reader must know of them."""
    lines = [evaluation_text.heading(metrics)]
    if "expression" in metrics["heads"]:
        for name, protocol in metrics["expression"]["protocols"].items():
            lines.append(f"expression, protocol {name}: {protocol['title']}; {protocol['examples']:,} examples")
            lines += [f"  {line}" for line in protocol["mapping"]]
            if protocol["absent"]:
                lines.append(f"  without an example, and so left out: {', '.join(protocol['absent'])}")
            lines.append(_line("  plain          ", protocol["plain"], ("accuracy", "macro_f1", "kappa", "roc_auc")))
            lines.append(
                _line("  skew-normalised", protocol["skew_normalised"], ("accuracy", "macro_f1", "kappa", "roc_auc"))
            )
    for head in ("valence", "arousal"):
        if head in metrics["heads"]:
            found = metrics[head]
            lines.append(f"{head}: {found['examples']:,} examples, of which {found['zeros']} are exactly 0")
            lines.append(_line("                 ", found["figures"], ("ccc", "pearson", "rmse", "sagr")))
    return lines + evaluation_text.remarks(metrics)


def _line(start: str, figures: dict, names: tuple[str, ...]) -> str:
    def text(name: str) -> str:
        figure = figures[name]
        if figure["value"] is None:
            return f"{name} –"
        between = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
        return f"{name} {figure['value']:.3f}{between}"

    return f"{start} {'  '.join(text(name) for name in names)}"


def _rows(selection: Selection, options: Options) -> np.ndarray | None:
    """The rows of one class; published order is a random one, so the first are a sample.

    Raises:
      DataError: the split has no example of the class.
    """
    if not options.only:
        return None
    rows = np.flatnonzero(selection.expression == EXPRESSIONS.index(options.only))
    if not len(rows):
        present = [EXPRESSIONS[index] for index in np.unique(selection.expression) if index >= 0]
        raise DataError(
            f"no example of {' + '.join(selection.splits)} in {selection.folder} is of class {options.only}; there are "
            f"{', '.join(present) or 'none with a class'}"
        )
    return rows[: options.num_samples]


def _unscored(heads: Collection[str], labelled: Mapping[str, int]) -> dict[str, str]:
    """Why each head that cannot be scored cannot; `labelled` says how many examples have its label."""
    reasons = {head: f"{head}: no example has a label" for head in HEADS if not labelled[head]}
    return reasons | {head: f"{head}: the model does not predict it" for head in HEADS if head not in heads}


def _check_scorable(
    selection: Selection, rows: np.ndarray | None, heads: Sequence[str], classes: Mapping, options: Options
) -> None:
    """Before anything is predicted or written: is there something to score?

    Raises:
      UsageError: the options' protocol counts no example.
      DataError: no head of the model has a label.
    """
    every = slice(None) if rows is None else rows
    truth = selection.expression[every]
    labelled = {head: selection.known(head)[every].sum() for head in ("valence", "arousal")}
    unscored = _unscored(heads, labelled | {"expression": (truth >= 0).sum()})
    if len(unscored) == len(HEADS):
        raise DataError(
            f"there is nothing to score in {' + '.join(map(repr, selection.splits))} of {selection.folder}: "
            f"{'; '.join(unscored.values())}"
        )
    if "expression" not in unscored:
        counting = [name for name in protocols.PROTOCOLS if protocols.counted(name, truth, **classes).any()]
        if options.protocol not in counting:
            raise UsageError(f"--protocol={options.protocol} counts no example here; give one of {', '.join(counting)}")


def _device() -> str:
    gpus = tf.config.list_logical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"CPU, {len(os.sched_getaffinity(0))} cores"
