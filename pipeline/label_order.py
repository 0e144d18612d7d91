"""Are the expression codes in the order that the source declares? Valence knows.

Happy faces are annotated with high valence, sad, fearful, disgusted and angry ones with low. When
valence contradicts the declared order and another known order agrees with it, the codes are permuted:
the mistake that survives every training run unnoticed.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS, LABEL_ORDERS

#: Typical valence of each expression in AffectNet (Mollahosseini et al., 2017, figure 4), rounded.
TYPICAL_VALENCE = dict(zip(EXPRESSIONS, (0.0, 0.65, -0.6, 0.1, -0.5, -0.65, -0.45, -0.5)))
_FEW = 40
_CONTRADICTS, _AGREES = 0.2, 0.5


def check(expression: np.ndarray, valence: np.ndarray, declared: Sequence[str]) -> None:
    """Compares valence with expression.

    Args:
      expression: int (n,), 0 to 7 as mapped by the declared order, or -1.
      valence: float (n,), NaN when unknown.
      declared: the order in use, or () for a source of names, which cannot be permuted.

    Raises:
      DataError: another known order explains valence (correlation with the class's typical valence above
        0.5) and the declared one does not (below 0.2).
    """
    both = (expression >= 0) & ~np.isnan(valence)
    if not declared or both.sum() < _FEW or np.ptp(valence[both]) == 0:
        return
    codes = np.array([declared.index(name) if name in declared else -1 for name in EXPRESSIONS])[expression[both]]
    agreement = {
        name: _correlation(codes, valence[both], order)
        for name, order in LABEL_ORDERS.items()
        if len(order) > codes.max()
    }
    here = _correlation(codes, valence[both], declared)
    best = max(agreement, key=agreement.get, default="")
    if best and here < _CONTRADICTS and agreement[best] > _AGREES:
        raise DataError(
            f"valence contradicts the label order {','.join(declared)}: it correlates {here:+.2f} with what these "
            f"classes mean, and {agreement[best]:+.2f} in the order {best!r} ({','.join(LABEL_ORDERS[best])}). "
            f"Give --label_order={best} if the codes are in that order, or --label_order={','.join(declared)} to insist"
        )


def _correlation(codes: np.ndarray, valence: np.ndarray, order: Sequence[str]) -> float:
    expected = np.array([TYPICAL_VALENCE[name] for name in order])[codes]
    if np.ptp(expected) == 0:
        return 0.0
    return float(np.corrcoef(expected, valence)[0, 1])
