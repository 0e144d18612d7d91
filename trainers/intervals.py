"""Bootstrap intervals: how far a figure might lie from where it is, had other examples been drawn.

Examples are drawn again, with replacement, as many as there are (Efron, "Bootstrap methods", 1979); an interval holds
the middle 95 % of a figure's values. The draws follow from the seed and the number of examples alone, so two models
scored on the same examples meet the same resamples: their differences, resample by resample, are a paired bootstrap.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
#: Weights in memory together: 8 MB, and what is computed from them takes five times as much.
_CHUNK = 2**20
#: Resamples whose share of that memory is left to what the examples themselves take, and to TensorFlow's growth.
_LEFT_FREE = 8
#: An interval needs this part of the resamples to have the figure at all.
_ENOUGH = 0.5

Figures = Mapping[str, np.ndarray]


def resampled(figures: Callable[[np.ndarray], Figures], count: int, *, resamples: int, seed: int) -> dict:
    """Each figure of each resample.

    Args:
      figures: from weights, float64 [N, R], to {name: float64 [R]}, as `weighted` has them.
      count: examples, N ≥ 1.
      resamples: how often the examples are drawn again.
      seed: of the draws.

    Returns:
      {name: float64 [resamples]}.
    """
    parts = [figures(weights) for weights in _draws(count, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of a figure's resampled values [R].

    Resamples in which the figure is not defined are left out; None when fewer than half remain.
    """
    known = values[np.isfinite(values)]
    if len(known) < max(_ENOUGH * len(values), 2):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each example: float64 [count, some], `resamples` columns in all."""
    at_once = max(_CHUNK // count - _LEFT_FREE, 1)
    for first in range(0, resamples, at_once):
        columns = range(first, min(first + at_once, resamples))
        weights = np.empty((count, len(columns)))
        for column, resample in enumerate(columns):
            random = np.random.default_rng((seed, resample))
            weights[:, column] = np.bincount(random.integers(count, size=count), minlength=count)
        yield weights
