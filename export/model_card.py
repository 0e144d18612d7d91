"""The model card: what was measured, what the model is not for, how to load it. And the scores that it shows."""

import math
from collections.abc import Mapping
from pathlib import Path

import jinja2

from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS
from trainers import evaluation_files
from trainers import scores as figures

_OUTPUTS = {
    "expression": f"probabilities [N, 8] of {', '.join(EXPRESSIONS)}",
    "valence": "[N, 1], from -1 (unpleasant) to 1 (pleasant)",
    "arousal": "[N, 1], from -1 (calm) to 1 (excited)",
}

_GUARD = (
    "method", "checked", "allowed", "started_from", "shared_with_train", "shared_with_validation",
    "shared_with_ancestors",
)  # fmt: skip


def scores(workdir: Path, *, sha256: str) -> dict | None:
    """What `trainers.evaluate` has left in a work directory about a model, all classes; None when nothing.

    Args:
      workdir: of the training.
      sha256: of the `best.keras` that was loaded; a training that still runs may have replaced it since.

    Returns:
      dataset, guard (without its reason), intervals and protocol as in `metrics.json`; `protocol_title`, None without
      an expression; `figures`, by their names for people, each with value, low, high and examples; `per_class`, the
      examples of each class, and its figures, named by `class_figures`.
    """
    try:
        metrics = evaluation_files.read_metrics(str(workdir / "eval"))
    except DataError:
        return None
    if metrics["model"].get("sha256") != sha256 or metrics["only"]:
        return None
    shown, per_class, title = {}, {}, None
    if "expression" in metrics["heads"]:
        protocol = metrics["expression"]["protocols"][metrics["protocol"]]
        plain, title = protocol["plain"], protocol["title"]
        shown |= {called: plain[name] for name, called in figures.CLASSIFICATION.items() if name in plain}
        for label in protocol["classes"]:
            own = {name: plain.get(f"{name}/{label}", {"value": None, "examples": 0}) for name in figures.PER_CLASS}
            values = [figure["value"] for figure in own.values()]
            per_class[label] = {"examples": own["recall"]["examples"], "figures": values}
    for head in ("valence", "arousal"):
        if head in metrics["heads"]:
            own = metrics[head]["figures"]
            shown |= {f"{head} {called}": own[name] for name, called in figures.REGRESSION.items() if name in own}
    kept = {name: metrics[name] for name in ("dataset", "intervals", "protocol")}
    # Its reason may name folders of this machine.
    kept["guard"] = {name: value for name, value in metrics["guard"].items() if name in _GUARD}
    return kept | {
        "protocol_title": title, "figures": shown, "class_figures": [*figures.PER_CLASS.values()],
        "per_class": per_class,
    }  # fmt: skip


def render(model: Mapping) -> str:
    """The card as Markdown.

    Args:
      model: what `model.json` holds.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=False,  # Markdown; names of datasets are letters, digits and dashes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=_number, interval=_interval)
    return environment.get_template("model_card.md").render(model=model, outputs=_OUTPUTS, versions=_versions)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _interval(figure: Mapping) -> str:
    return "–" if figure["low"] is None else f"{_number(figure['low'])} to {_number(figure['high'])}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown versions"
