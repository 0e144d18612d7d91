"""What an evaluation says, as text: `metrics.json` in lines for the terminal and the PDF, and its numbers in words."""

import textwrap
from collections.abc import Iterator, Mapping

from trainers import scores

#: Letters of the longest line of `lines`.
WIDTH = 104
_HEADER = f"{'plain':>34}{'skew-norm.':>26}{'examples':>26}"


def heading(metrics: Mapping) -> str:
    """What was scored on what."""
    data, model = metrics["dataset"], metrics["model"]
    alone = f" of {metrics['only']} alone" if metrics["only"] else ""
    return f"{model['name']} on {data['name']} {data['split']}: {data['evaluated']:,} examples{alone}"


def remarks(metrics: Mapping) -> list[str]:
    """What a reader must know beside the scores, as lines of text: how the model answers, what it has seen."""
    guard = metrics["guard"]
    lines = [f"not scored: {reason}" for reason in metrics["unscored"].values()]
    if metrics["model"].get("tta_flip"):
        lines.append("each answer is the mean over the image and its mirror image")
    if guard["started_from"]:
        lines.append(f"started from the weights of {', '.join(guard['started_from'])}")
    if guard["checked"]:
        shared = {
            "were trained on": guard["shared_with_train"],
            "chose the checkpoint": guard["shared_with_validation"],
        }
        if guard["started_from"]:
            shared["were seen by a model that this one started from"] = guard["shared_with_ancestors"]
        found = ", ".join(f"{count:,} {what}" for what, count in shared.items())
        lines.append(f"leakage: of these images {found}; by {guard['method']}")
    else:
        lines.append(f"leakage: not checked: {guard['reason']}")
    if guard["allowed"]:
        lines.append(f"allowed by flag: {', '.join(guard['allowed'])}")
    return lines


def lines(metrics: Mapping) -> Iterator[str]:
    """The page's tables and remarks as lines of text."""
    model, speed = metrics["model"], metrics["speed"]
    origin = [model[name] for name in ("backbone", "recipe") if model.get(name)]
    large = [f"{model['parameters']:,} parameters", size(model["bytes"])]
    rate = f"{speed['images_per_second']:.0f}" if speed["images_per_second"] else "–"
    yield from _wrapped(
        heading(metrics),
        f"dataset {metrics['dataset']['digest']}",
        f"model: {', '.join(origin + large)}, training {duration(model['training_seconds'])}",
        f"{rate} images a second in batches of {speed['batch_size']}, {speed['device']}",
        f"intervals: {metrics['intervals']['resamples']:,} resamples, 95 %, seed {metrics['intervals']['seed']}",
        *remarks(metrics),
    )
    if "expression" in metrics["heads"]:
        for name, protocol in metrics["expression"]["protocols"].items():
            yield from ("", f"{name}: {protocol['title']}", *(f"  {line}" for line in protocol["mapping"]))
            if protocol["absent"]:
                yield f"  without an example, and so left out of every mean: {', '.join(protocol['absent'])}"
            yield _HEADER
            yield from _rows(protocol, scores.CLASSIFICATION)
        chosen = metrics["expression"]["protocols"][metrics["protocol"]]
        yield from ("", f"classes, under the protocol {metrics['protocol']}", _HEADER)
        for name in (name for name in chosen["classes"] if name not in chosen["absent"]):
            titles = {f"{figure}/{name}": f"{name} {title}" for figure, title in scores.PER_CLASS.items()}
            yield from _rows(chosen, titles)
    for head in ("valence", "arousal"):
        if head in metrics["heads"]:
            yield from ("", f"{head}: {metrics[head]['zeros']:,} examples are exactly 0")
            for figure, title in scores.REGRESSION.items():
                found = metrics[head]["figures"][figure]
                yield f"{title:<26}{_cell(found)}{found['examples']:>8,}"


def _rows(protocol: Mapping, titles: Mapping[str, str]) -> Iterator[str]:
    for figure, title in titles.items():
        plain, skew = protocol["plain"][figure], protocol["skew_normalised"][figure]
        yield f"{title:<26}{_cell(plain)}{_cell(skew)}{plain['examples']:>8,}"


def _wrapped(*lines: str) -> Iterator[str]:
    """Lines that fit a page; letters that its typeface may lack are shown by their number."""
    for line in lines:
        yield from textwrap.wrap(line.encode("cp1252", "backslashreplace").decode("cp1252"), WIDTH)


def _cell(figure: Mapping) -> str:
    between = "" if figure["low"] is None else f" [{shown(figure['low'])}, {shown(figure['high'])}]"
    return f"{shown(figure['value']):>8}{between:<18}"


def shown(value: float | None) -> str:
    """A figure as text; "–" when it is not defined."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference as text; "–" when it is not defined."""
    return "–" if value != value else f"{value:+.3f}".replace("-", "−")


def size(count: int) -> str:
    """Bytes as text."""
    return f"{count / 1e6:.1f} MB"


def duration(seconds: float | None) -> str:
    """Seconds as text; "–" when they are not known."""
    if seconds is None:
        return "–"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
