"""What a face record is: its labels, their ranges, and what counts as unknown.

Nothing here reads a file; everything else in `pipeline` agrees on these names. Standard library only.
"""

import dataclasses
import math
from collections.abc import Sequence

DATASET = "affect_faces"
VERSION = "1.0.0"

#: AffectNet's order; `expression` is an index into it.
EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
UNKNOWN_EXPRESSION = -1
NO_SHARES = (0.0,) * len(EXPRESSIONS)
LANDMARKS = 68

#: AffectNet's codes beyond the eight expressions: a face that annotators could not label.
EXPRESSION_SENTINELS = {8: "none", 9: "uncertain", 10: "no_face"}
#: AffectNet's value for valence and arousal that nobody annotated.
VALENCE_AROUSAL_SENTINEL = -2.0

#: How other projects spell the eight names.
SYNONYMS = {
    "afraid": "fear", "angry": "anger", "contemptuous": "contempt", "disgusted": "disgust",
    "fearful": "fear", "happiness": "happy", "joy": "happy", "neutrality": "neutral",
    "sadness": "sad", "surprised": "surprise",
}  # fmt: skip

#: Known label orders: the expression that code 0, 1, 2 … stands for.
LABEL_ORDERS = {
    "affectnet": EXPRESSIONS,
    "fer2013": ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "ferplus": ("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear", "contempt"),
    "alphabetical": ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
    "alphabetical7": ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
}

#: Every reason for which an input is rejected, and what it means.
REJECTION_REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "the bytes are no image format",
    "unsupported_format": "an image format that is not accepted (TIFF, AVIF, HEIC, JPEG XL …)",
    "animated": "more than one frame",
    "truncated": "the image ends before its pixels do",
    "corrupt": "the strict decoder found damage",
    "too_large": "more pixels or bytes than the limit",
    "too_small": "a side is shorter than --min_side",
    "decoder_crash": "the decoder crashed twice on this image alone",
    "timeout": "the decoder did not finish in time",
    "unsafe_pickle": "the .npy file holds a Python pickle; it was not opened",
    "bad_npy": "not a .npy file, or its header and its size disagree",
    "bad_shape": "the array has another shape than the layout says",
    "bad_dtype": "the array's type cannot be read as the number that it should be",
    "bad_json": "the annotation is not the JSON object that the layout says",
    "bad_row": "the row cannot be parsed",
    "non_finite": "NaN or infinity where a number is due",
    "out_of_range": "valence or arousal outside [-1, 1] and not -2",
    "inconsistent_va": "only one of valence and arousal is -2",
    "bad_label": "not an expression code or name of this source",
    "bad_votes": "the votes are not counts of annotators",
    "bad_split": "the row declares a split that is not train, validation or test, or none where others do",
    "bad_landmarks": "not 68 points, or points far outside the image",
    "bad_box": "the face box does not overlap the image",
    "missing_annotation": "an image without annotation",
    "missing_image": "an annotation without image",
    "missing_labels": "a label file is missing and --missing_labels=reject",
    "duplicate_row": "the same row again; the first one was kept",
    "ambiguous_id": "ids that differ only in case or Unicode form",
    "bad_name": "the file name is not UTF-8",
    "unsafe_path": "a link, path or special file that leaves the input directory or cannot be read safely",
    "io_error": "the file vanished or cannot be read",
    "bad_member": "a zip member that is encrypted, zip64, doubled, or compressed otherwise than by deflate",
    "unknown_file": "a file or folder that the layout has no place for",
}

#: Every reason for which a good input is left out by policy.
FILTER_REASONS = {
    "no_label": "no head has a label",
    "sentinel": "an AffectNet sentinel and --sentinels=drop",
    "leak": "the same bytes are in another split and --on_leak=drop",
    "max_examples": "beyond --max_examples_per_split",
}


class Reject(Exception):
    """One input cannot be used: a `reason` of REJECTION_REASONS and what was seen."""

    def __init__(self, reason: str, detail: str = ""):
        if reason not in REJECTION_REASONS:
            raise KeyError(f"{reason!r} is no rejection reason; it must be one of {sorted(REJECTION_REASONS)}")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """The annotations of one face.

    Attributes:
      expression: 0 to 7 in the order of EXPRESSIONS, or -1 when unknown.
      shares: eight vote shares that sum to 1, or eight zeros when unknown.
      valence, arousal: in [-1, 1], NaN when unknown.
      landmarks: 136 numbers x, y, x, y … in pixels of the upright source image, or () when absent.
      notes: what was unusual and is counted in `statistics.json` (sentinels, stored types).
    """

    expression: int = UNKNOWN_EXPRESSION
    shares: tuple[float, ...] = NO_SHARES
    valence: float = math.nan
    arousal: float = math.nan
    landmarks: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether any head can learn from this face."""
        return self.expression >= 0 or any(self.shares) or not math.isnan(self.valence) or not math.isnan(self.arousal)


def one_hot(expression: int) -> tuple[float, ...]:
    """Shares for a hard label; zeros for -1."""
    return tuple(float(i == expression) for i in range(len(EXPRESSIONS)))


def expression_index(name: str) -> int:
    """The index of an expression's name, in any case and the usual spellings.

    Raises:
      Reject: `bad_label`, for a name that is none of the eight.
    """
    key = name.strip().lower()
    key = SYNONYMS.get(key, key)
    if key not in EXPRESSIONS:
        raise Reject("bad_label", f"expression {name!r} is none of {', '.join(EXPRESSIONS)}")
    return EXPRESSIONS.index(key)


def expression_from_code(code: int, order: Sequence[str]) -> tuple[int, str]:
    """The expression for a source's code, and the sentinel's name if it is one.

    Args:
      code: the number in the source.
      order: the source's label order; `order[code]` is a name of EXPRESSIONS.

    Returns:
      (index or -1, name of EXPRESSION_SENTINELS or "").

    Raises:
      Reject: `bad_label`, for a code that is neither.
    """
    if 0 <= code < len(order):
        return EXPRESSIONS.index(order[code]), ""
    if code in EXPRESSION_SENTINELS and len(order) <= code:
        return UNKNOWN_EXPRESSION, EXPRESSION_SENTINELS[code]
    accepted = f"0 to {len(order) - 1}, nor 8 none, 9 uncertain, 10 no-face"
    raise Reject("bad_label", f"expression code {code} is not {accepted}")


def check_valence_arousal(valence: float | None, arousal: float | None) -> tuple[float, float, bool]:
    """Checks a pair as annotated; either may be None when the source has no such value.

    Returns:
      (valence, arousal, whether the pair was AffectNet's -2); NaN where unknown.

    Raises:
      Reject: `non_finite`, `out_of_range` or `inconsistent_va`.
    """
    given = {"valence": valence, "arousal": arousal}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if not math.isfinite(value):
            raise Reject("non_finite", f"{name} is {value}")
        if value != VALENCE_AROUSAL_SENTINEL and not -1.0 <= value <= 1.0:
            raise Reject("out_of_range", f"{name} is {value!r}, outside [-1, 1] and not -2")
    unknown = [name for name, value in given.items() if value == VALENCE_AROUSAL_SENTINEL]
    if len(given) == 2 and len(unknown) == 1:
        raise Reject("inconsistent_va", f"only {unknown[0]} is -2: valence {valence!r}, arousal {arousal!r}")
    if unknown:
        return math.nan, math.nan, True
    return given.get("valence", math.nan), given.get("arousal", math.nan), False


def parse_label_order(text: str) -> tuple[str, ...]:
    """A label order from a flag: a name of LABEL_ORDERS, or names separated by commas.

    Raises:
      ValueError: with what was received and what is accepted.
    """
    if text in LABEL_ORDERS:
        return LABEL_ORDERS[text]
    try:
        order = tuple(EXPRESSIONS[expression_index(name)] for name in text.split(","))
    except Reject as reject:
        raise ValueError(
            f"label order {text!r}: {reject.detail}; "
            f"accepted are {', '.join(LABEL_ORDERS)} or names separated by commas"
        ) from None
    if len(set(order)) != len(order):
        raise ValueError(f"label order {text!r} names an expression twice")
    return order
