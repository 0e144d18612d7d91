"""One picture of many photographs, with what the model says written under each."""

import functools
import io
import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.records import EXPRESSIONS

#: Photographs on a sheet.
CELLS = 100
COLUMNS = 10
SIDE = 128
_LINE, _MARGIN, _LINES = 14, 6, 3
_FONT_SIZE = 11


def cell(encoded: bytes, row: Mapping) -> Image.Image:
    """One photograph, its longer side SIDE pixels, above three lines of text.

    Args:
      encoded: JPEG or PNG; b"" when there is none.
      row: image (a path), error, and {head: value}, where the expression is float32 [8].
    """
    canvas = Image.new("RGB", (SIDE, SIDE + _LINES * _LINE), "white")
    pen = ImageDraw.Draw(canvas)
    if encoded:
        image = Image.open(io.BytesIO(encoded))
        image.draft("RGB", (SIDE, SIDE))
        image = ImageOps.contain(image.convert("RGB"), (SIDE, SIDE))
        canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    else:
        pen.rectangle((0, 0, SIDE - 1, SIDE - 1), fill="#e6e6e6")
        pen.line((SIDE // 3, SIDE // 3, SIDE * 2 // 3, SIDE * 2 // 3), fill="#808080", width=3)
        pen.line((SIDE // 3, SIDE * 2 // 3, SIDE * 2 // 3, SIDE // 3), fill="#808080", width=3)
    for number, line in enumerate(_lines(row)):
        pen.text(
            (0, SIDE + number * _LINE), _shortened(line, pen, keep_end=number == _LINES - 1), fill="black", font=_font()
        )
    return canvas


def draw(cells: Sequence[Image.Image]) -> bytes:
    """The sheet as a PNG."""
    columns, rows = min(COLUMNS, len(cells)), -(-len(cells) // COLUMNS)
    width, height = SIDE + _MARGIN, SIDE + _LINES * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    for number, picture in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        sheet.paste(picture, (_MARGIN + column * width, _MARGIN + row * height))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _lines(row: Mapping) -> list[str]:
    """Two lines of what was said, then the end of the path."""
    name = row["image"].rsplit("/", 1)[-1]
    if row["error"]:
        reason, _, detail = row["error"].partition(": ")
        return [reason, detail, name]
    shares = row.get("expression")
    said = "" if shares is None else f"{EXPRESSIONS[int(np.argmax(shares))]} {np.max(shares):.0%}"
    affect = [f"{head[0].upper()} {row[head]:+.2f}" for head in ("valence", "arousal") if head in row]
    return [said, "  ".join(affect).replace("-", "−"), name]


def _shortened(line: str, pen: ImageDraw.ImageDraw, *, keep_end: bool) -> str:
    """The line, cut at its end or start where it is too wide; what cannot be printed, such as a line end, is "?"."""
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    shown = line
    while pen.textlength(shown, font=_font()) > SIDE:
        line = line[1:] if keep_end else line[:-1]
        shown = "…" + line if keep_end else line + "…"
    return shown


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's: Pillow's own has few letters."""
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _FONT_SIZE)
