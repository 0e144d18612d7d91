"""Index files: the rows of a CSV or TSV as a stream, columns by name, a bad row on its own.

The rules are those of RFC 4180, with the first line naming the columns:

- Names of columns match in any order and case; columns of other names are ignored. The delimiter is
  a tab when the first line has one, else a comma. A byte order mark, CRLF and blank lines are nothing.
- A cell may stand in quotes, which then hold anything, line ends too, over MAX_ROW_LINES lines at most.
  A cell without quotes is stripped of blanks around it.
- A row with more or fewer cells than the first line, with a quote that is not closed, with bytes that
  are not UTF-8, or with a line that does not end, is rejected as `bad_row`; its neighbours are read as
  if it were not there.
"""

import collections
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.errors import DataError
from pipeline.files import MAX_LINE_BYTES, Line
from pipeline.records import EXPRESSIONS, Labels, Reject, expression_index
from pipeline.sources import annotation
from pipeline.sources.base import Entry, Source

#: How many lines a row may cover when cells in quotes hold line ends.
MAX_ROW_LINES = 8
#: Longest label or group, in characters; a cell is kept in memory for every row.
MAX_CELL = 128
#: Longest path that Linux opens.
MAX_PATH = 4096

_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_BLANKS = " \t"


class Row:
    """One row of a table.

    Attributes:
      id: "labels.csv:line-000012", for an entry that names no image.
      line: its (first) line in the file, from 1.
      fault: what keeps the row from being read, else "".
    """

    __slots__ = ("_cells", "_table", "data", "fault", "id", "line", "offset")

    def __init__(self, table: "Table", line: Line, *, data: bytes = b"", cells: Sequence[str] = (), fault: str = ""):
        self.id = f"{table.name}:line-{line.number:06d}"
        self.line = line.number
        self.offset = line.offset
        self.data = data
        self.fault = fault
        self._table = table
        self._cells = cells

    def text(self, column: str, limit: int = MAX_CELL) -> str:
        """A cell, "" when the table has no such column.

        Raises:
          Reject: `bad_row`, when it is longer than `limit` characters.
        """
        position = self._table.columns.get(column)
        if position is None:
            return ""
        cell = self._cells[position]
        if len(cell) > limit:
            raise Reject("bad_row", f"{column} has {len(cell)} characters, more than {limit}")
        return cell

    def span(self, column: str) -> tuple[int, int]:
        """(offset in the file, length) of a cell's bytes as stored, quotes left out."""
        start, end = _spans(self.data, self._table.delimiter)[self._table.columns[column]]
        return self.offset + start, end - start


class Table:
    """An index file, read as a stream.

    Attributes:
      name: of the file, for messages and ids.
      columns: position of each column that is there.
      delimiter: between cells.
    """

    def __init__(
        self,
        lines: Iterator[Line],
        name: str,
        *,
        columns: Mapping[str, Sequence[str]],
        required: Sequence[str],
        may_lack_header: bool = False,
    ):
        """Reads the first line.

        Args:
          lines: of the file, from its beginning.
          columns: for each column its accepted spellings in lower case; the first one that is there is taken.
          required: columns that must be there.
          may_lack_header: a first line without any known name is a row, its cells being `columns` in order.

        Raises:
          DataError: the file is empty, not UTF-8, names a column twice, or lacks a required one.
        """
        self.name = name
        self._lines = lines
        self._pending: collections.deque[Line] = collections.deque()
        header = self._next()
        while header is not None and not header.data and not header.reason:
            header = self._next()
        if header is None:
            raise DataError(f"{name} is empty; expected a first line with the columns {', '.join(columns)}")
        self.delimiter = b"\t" if b"\t" in header.data else b","
        try:
            found = [cell.strip().lower() for cell in _cells(header.data, self.delimiter) or []]
        except (UnicodeDecodeError, ValueError):
            found = []
        if header.reason or not found:
            raise DataError(f"the first line of {name} is no CSV in UTF-8; expected the columns {', '.join(columns)}")
        self.width = len(found)
        spellings = {spelling for accepted in columns.values() for spelling in accepted}
        if may_lack_header and not spellings.intersection(found):
            self._pending.append(header)
            found = list(columns)
            self.width = len(columns)
        twice = sorted(name for name, count in collections.Counter(found).items() if count > 1 and name in spellings)
        if twice:
            raise DataError(f"{name} has more than one column {twice[0]!r}; rename or remove one")
        self.columns = {}
        for column, accepted in columns.items():
            there = [found.index(spelling) for spelling in accepted if spelling in found]
            if there:
                self.columns[column] = there[0]
            elif column in required:
                known = f" (or {', '.join(accepted[1:])})" if accepted[1:] else ""
                raise DataError(
                    f"{name} has no column {column!r}{known}; its first line names {', '.join(found)[:500]}; "
                    f"accepted are {', '.join(columns)}, in any order"
                )

    def rows(self) -> Iterator[Row]:
        """Every row once, in the order of the file."""
        while (line := self._next()) is not None:
            if line.data or line.reason:
                yield self._row(line)

    def entries(self, make: Callable[[Row], Entry]) -> Iterator[Entry]:
        """`entry` of each row."""
        for row in self.rows():
            yield entry(row, make)

    def _next(self) -> Line | None:
        return self._pending.popleft() if self._pending else next(self._lines, None)

    def _row(self, line: Line) -> Row:
        if line.reason:
            return Row(self, line, fault=f"the line has more than {MAX_LINE_BYTES} bytes")
        data, taken = line.data, []
        try:
            cells = _cells(data, self.delimiter)
            while cells is None:
                # A quote is open at the end of the line: the cell goes on in the next one, or never ends.
                following = self._next() if len(taken) < MAX_ROW_LINES - 1 else None
                if following is None:
                    raise ValueError("a quote is not closed")
                taken.append(following)
                gap = following.offset - line.offset - len(data)
                if following.reason or len(data) + gap + len(following.data) > MAX_LINE_BYTES:
                    raise ValueError("a quote is not closed")
                data += b"\n".rjust(gap, b"\r") + following.data
                cells = _cells(data, self.delimiter)
            if len(cells) != self.width:
                raise ValueError(f"{len(cells)} cells where the first line has {self.width}")
        except ValueError as error:
            self._pending.extendleft(reversed(taken))
            fault = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            return Row(self, line, fault=fault)
        return Row(self, line, data=data, cells=cells)


class ListedImages(Source):
    """A layout whose index names the image files: one that is not there is `missing_image`, found when it is read."""

    def raw(self, entry: Entry) -> bytes:
        try:
            return super().raw(entry)
        except Reject as reject:
            if reject.reason == "io_error" and not self.files.has_file(entry.path):
                raise Reject("missing_image", f"{entry.path!r} is not there") from None
            raise


def entry(row: Row, make: Callable[[Row], Entry]) -> Entry:
    """What `make` makes of a row; a rejected entry where it raises Reject or the row cannot be read."""
    try:
        if row.fault:
            raise Reject("bad_row", row.fault)
        return make(row)
    except Reject as reject:
        return Entry(id=row.id, line=row.line, reason=reject.reason, detail=f"line {row.line}: {reject.detail}")


def number(text: str, name: str) -> float:
    """A decimal number, NaN and infinity included.

    Raises:
      Reject: `bad_row` for anything else: "", "0x1", "1_0", "3 4".
    """
    if not _NUMBER.fullmatch(text):
        raise Reject("bad_row", f"{name} {text!r} is not a number")
    return float(text)


def cell_labels(
    cells: Mapping[str, str], order: Sequence[str], *, landmarks: tuple[float, ...] = (), missing_labels: str = "mask"
) -> Labels:
    """Checked labels from the cells of a row; an empty cell is unknown.

    Args:
      cells: of the columns expression, valence and arousal, as far as the table has them. The
        expression is a code in `order` ("3", "3.0"), one of AffectNet's 8 to 10, or a name.
      missing_labels: "reject" refuses an empty cell, "mask" leaves that label unknown.

    Raises:
      Reject: `bad_label`, `bad_row`, `non_finite`, `out_of_range`, `inconsistent_va` or `missing_labels`.
    """
    if missing_labels == "reject" and not all(cells.values()):
        raise Reject("missing_labels", f"no {', '.join(column for column, cell in cells.items() if not cell)}")
    values = {column: cell for column, cell in cells.items() if cell}
    expression = values.pop("expression", "")
    code = None
    if _NUMBER.fullmatch(expression):
        code = float(expression)
    elif expression:
        code, order = expression_index(expression), EXPRESSIONS
    numbers = {column: number(cell, column) for column, cell in values.items()}
    return annotation.checked_labels(order, expression=code, landmarks=landmarks, **numbers)


def _cells(data: bytes, delimiter: bytes) -> list[str] | None:
    """The cells of a row; None when a quote is still open at its end.

    Raises:
      ValueError: the bytes are not UTF-8, or text follows a closing quote.
    """
    if b'"' not in data:
        return [cell.strip(_BLANKS) for cell in data.decode().split(delimiter.decode())]
    spans = _spans(data, delimiter)
    if spans is None:
        return None
    cells = []
    for start, end in spans:
        cell = data[start:end].decode()
        quoted = start > 0 and data[start - 1 : start] == b'"'
        cells.append(cell.replace('""', '"') if quoted else cell.strip(_BLANKS))
    return cells


def _spans(data: bytes, delimiter: bytes) -> list[tuple[int, int]] | None:
    """(start, end) of each cell, quotes left out; None when a quote is still open at the end.

    Raises:
      ValueError: text follows a closing quote.
    """
    pattern = _CELL[delimiter]
    spans, position = [], 0
    while True:
        match = pattern.match(data, position)
        if match is None:
            if _OPEN_CELL.match(data, position):
                return None
            raise ValueError("text after a closing quote")
        spans.append(match.span(1 if match[1] is not None else 2))
        position = match.end() + 1
        if match.end() == len(data):
            return spans


#: A cell in quotes (1) or without (2), up to the delimiter or the end.
_CELL = {
    delimiter: re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|(?!")([^%s]*))(?=%s|\Z)' % (delimiter, delimiter))
    for delimiter in (b",", b"\t")
}
_OPEN_CELL = re.compile(rb'"[^"]*(?:""[^"]*)*\Z')
