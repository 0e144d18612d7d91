"""One picture of many photographs, with what the model says written under each."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipeline.records import EXPRESSIONS

#: Photographs on a sheet.
CELLS = 100
COLUMNS = 10
SIDE = 128
_LINE, _MARGIN, _LINES = 14, 6, 3


def cell(encoded: bytes, row: Mapping) -> Image.Image:
    """One photograph, at most SIDE pixels a side, above three lines of text.

    Args:
      encoded: JPEG or PNG; b"" when there is none.
      row: image (a path), error, and {head: value}, where the expression is float32 [8].
    """
    canvas = Image.new("RGB", (SIDE, SIDE + _LINES * _LINE), "white")
    pen = ImageDraw.Draw(canvas)
    if encoded:
        image = Image.open(io.BytesIO(encoded))
        image.draft("RGB", (SIDE, SIDE))
        image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE))
        canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    else:
        pen.rectangle((0, 0, SIDE - 1, SIDE - 1), fill="#e6e6e6")
        pen.line((SIDE // 3, SIDE // 3, SIDE * 2 // 3, SIDE * 2 // 3), fill="#808080", width=3)
        pen.line((SIDE // 3, SIDE * 2 // 3, SIDE * 2 // 3, SIDE // 3), fill="#808080", width=3)
    for number, line in enumerate(_lines(row)):
        pen.text((0, SIDE + number * _LINE), _shortened(line, pen), fill="black", font_size=11)
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


def _shortened(line: str, pen: ImageDraw.ImageDraw) -> str:
    """The line, cut where it is too wide; what cannot be printed, such as a line end, is "?"."""
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    if pen.textlength(line, font_size=11) <= SIDE:
        return line
    while pen.textlength(line + "…", font_size=11) > SIDE:
        line = line[:-1]
    return line + "…"
