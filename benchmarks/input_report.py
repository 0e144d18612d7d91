"""The tables of the input pipeline's benchmark, and whether each goal is reached."""

import os
import statistics
from collections.abc import Callable, Sequence

from benchmarks.input_contenders import ALL_CORES, Turn
from benchmarks.input_stream import Start


def turns(rounds: list[dict[str, Turn]], demand: float) -> str:
    """The tables of the turns."""
    lines = [f"{'':<46} {'images/s':>9} {'CPU ms/image':>13}   median of {len(rounds)} rounds"]
    for name in rounds[0]:
        rate, cpu = (statistics.median(getattr(one[name], key) for one in rounds) for key in ("rate", "cpu_ms"))
        lines.append(f"{name:<46} {rate:>9,.0f} {cpu:>13.3f}")
    cores = len(os.sched_getaffinity(0))
    lines += ["", f"{'ratio':<64} {'median':>7} {'range':>15}   goal"]

    def row(name: str, ratio: Callable[[dict[str, Turn]], float], goal: float | None = None) -> None:
        values = sorted(map(ratio, rounds))
        middle = statistics.median(values)
        judged = "" if goal is None else f"   ≥ {goal:<5} {'yes' if middle >= goal else 'NO'}"
        lines.append(f"{name:<64} {middle:>7.2f} {values[0]:>7.2f}–{values[-1]:<7.2f}{judged}".rstrip())

    def rate(turns: dict[str, Turn], *names: str) -> float:
        return max(turns[name].relative for name in names)

    row("decoded / (cores × D)", lambda t: rate(t, "ours, decoded") / cores, 0.90)
    row(f"decoded / {ALL_CORES}", lambda t: rate(t, "ours, decoded") / rate(t, ALL_CORES))
    row(f"{ALL_CORES} / (cores × D)", lambda t: rate(t, ALL_CORES) / cores)
    row("augmented / (cores × D)", lambda t: rate(t, "ours, augmented") / cores, 0.38)
    for name, goal in (("keras-cv's layers", 10), ("Keras' layers", 8)):
        row(f"augmented / {name}", lambda t, name=name: rate(t, "ours, augmented") / rate(t, name), goal)
    name = "cv2.imread and ImageDataGenerator, one core"
    row(f"augmented, per core / {name}", lambda t: rate(t, "ours, augmented") / cores / rate(t, name), 5)
    for task, goal in (("decoded", 1.0), ("augmented", 1.6)):
        others = [f"{library}, {task}" for library in ("DALI", "Grain")]
        row(
            f"{task} / the better of DALI and Grain",
            lambda t, task=task, others=others: rate(t, f"ours, {task}") / rate(t, *others),
            goal,
        )
    row(
        "augmented in order / in any",
        lambda t: rate(t, "ours, augmented") / rate(t, "ours, augmented, any order"),
        0.95,
    )
    lines += [
        "",
        f"a consumer that sleeps waits less than 1 % of its time up to {demand:.2f} of the augmented rate",
        "",
        "DALI fills what lies beyond the border with black and turns contrast about mid-grey; ours reflects the image",
        "there and turns contrast about the mean of each channel, as Grain does here.",
        "Ours decodes with libjpeg-turbo's fast integer transform; simplejpeg (D and Grain) and DALI take its accurate",
        "one, which costs a few per cent more. A thread a core decodes as ours does, from memory, and does nothing",
        "else: more than that no pipeline around it can reach.",
    ]
    return "\n".join(lines)


def growth(starts: Sequence[Start]) -> str:
    """The table of the starts, and what it comes to."""
    lines = [
        f"{'examples':>9} {'shards':>7} {'from epoch, position':>21} {'first batch s':>14}"
        f"   {'highest MB in each epoch':<26} mean MB"
    ]
    for start in starts:
        place = f"{start.place[0]}, {start.place[1]:,}"
        highest, mean = ("  ".join(f"{size:,.0f}" for size in sizes) for sizes in (start.highest, start.mean))
        line = f"{start.examples:>9,} {start.shards:>7} {place:>21} {start.first_batch:>14.2f}"
        lines.append(f"{line}   {highest:<26} {mean}")
    lines += ["", f"{'':<64} {'measured':>9}   goal"]

    def row(name: str, value: float, goal: float | None = None) -> None:
        judged = "" if goal is None else f"   ≤ {goal:<5} {'yes' if value <= goal else 'NO'}"
        lines.append(f"{name:<64} {value:>9.2f}{judged}")

    whole = [start for start in starts if start.place == (0, 0)]
    smallest, *_, largest = whole
    row("first batch, seconds after the imports, the slowest", max(start.first_batch for start in starts), 2.0)
    row("memory, GB, the highest", max(max(start.highest) for start in starts) / 1e3, 1.5)
    # An epoch of the smallest is seven batches, which end before every buffer is full. The highest of an epoch goes up
    # and down by 6 %.
    grown = max(start.mean[-1] / start.mean[0] for start in whole if start.examples == largest.examples)
    row("mean memory of the largest datasets, last epoch / first", grown, 1.05)
    row("first batch, largest dataset / smallest", largest.first_batch / smallest.first_batch)
    row("memory, largest dataset / smallest", max(largest.highest) / max(smallest.highest))
    return "\n".join(lines)
