"""The scan: every input listed once, sorted by id, checked for ids that collide, cut into chunks.

The listing is held as Arrow columns (about 150 bytes an input); no image is opened here.
"""

import dataclasses
import hashlib
import operator
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import staging
from pipeline.errors import DataError
from pipeline.sources.base import Entry

_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))
_VALUES = operator.attrgetter(*_FIELDS)
_BATCH = 20_000
#: Rows that are read together: each batch costs about as much as a thousand of its rows.
_READ_BATCH = 8192
#: What may differ between two rows of one input without their saying different things.
_SAME_BUT = ("line", "reason", "detail")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A part of the listing that one task verifies; `key` names what was listed and how it is verified."""

    index: int
    rows: int
    key: str


def list_inputs(entries: Iterable[Entry]) -> pa.Table:
    """The inputs sorted by id, with duplicate and ambiguous ids rejected; independent of the listing order.

    Raises:
      DataError: one id has two rows that differ, or there is no input at all.
    """
    table = pa.Table.from_batches(_batches(entries), schema=staging.SCAN_SCHEMA)
    if table.num_rows == 0:
        raise DataError("the input lists no face at all; see --help for the layout that --source expects")
    order = ("id", "reason", "split", "path", "offset", "payload", "line", "detail")
    table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in order])).combine_chunks()
    table = _reject(table, _repeated(table), "duplicate_row", "the same as the row before it in id order")
    return _reject(table, _ambiguous(table), "ambiguous_id", "another id differs only in case or Unicode form")


def cut_chunks(table: pa.Table, where: staging.Staging, settings_digest: str) -> list[Chunk]:
    """Writes the listing in chunks and names each by what it holds.

    A chunk is small enough to be repeated after a kill, and large enough that no more than about a
    thousand files hold a million faces.
    """
    size = max(512, min(4096, table.num_rows // 128))
    chunks = []
    for index, start in enumerate(range(0, table.num_rows, size)):
        part = table.slice(start, size).combine_chunks()
        path = where.scan_path(index)
        staging.write_table(path, part)
        key = hashlib.sha256(f"{settings_digest} {staging.file_digest(path)}".encode()).hexdigest()[:16]
        chunks.append(Chunk(index, part.num_rows, key))
    return chunks


def entries(table: pa.Table) -> Iterator[Entry]:
    """The rows of a listing as entries."""
    for row in zip(*(table.column(name).to_pylist() for name in _FIELDS)):
        yield Entry(*row)


def batches(where: staging.Staging) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The listed and the verified rows of the whole job, side by side, several chunks at a time."""
    chunks = [Chunk(**chunk) for chunk in staging.read_json(where.plan_path("chunks.json"))]
    listed, verified, rows = [], [], 0
    for chunk in chunks:
        listed.append(staging.read_table(where.scan_path(chunk.index)))
        verified.append(staging.read_table(where.verify_path(chunk.index, chunk.key)).replace_schema_metadata())
        rows += chunk.rows
        if rows >= _READ_BATCH or chunk is chunks[-1]:
            yield pa.concat_tables(listed), pa.concat_tables(verified)
            listed, verified, rows = [], [], 0


def _batches(entries: Iterable[Entry]) -> Iterator[pa.RecordBatch]:
    rows = []
    for entry in entries:
        rows.append(_VALUES(entry))
        if len(rows) == _BATCH:
            yield _batch(rows)
            rows = []
    if rows:
        yield _batch(rows)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows), staging.SCAN_SCHEMA)]
    return pa.record_batch(columns, schema=staging.SCAN_SCHEMA)


def _repeated(table: pa.Table) -> np.ndarray:
    """Which rows say again what the row before them said."""
    usable = _column(pc.equal(table["reason"], ""))
    ids = table["id"]
    again = np.zeros(table.num_rows, bool)
    again[1:] = _column(pc.equal(ids.slice(1), ids.slice(0, table.num_rows - 1))) & usable[1:] & usable[:-1]
    for row in np.flatnonzero(again):
        first, second = (table.slice(i, 1).to_pylist()[0] for i in (int(row) - 1, int(row)))
        if any(first[name] != second[name] for name in _FIELDS if name not in _SAME_BUT):
            raise DataError(
                f"the id {first['id']!r} stands for two different inputs; keep one of them:\n"
                f"  {_shown(first)}\n  {_shown(second)}"
            )
    return again


def _ambiguous(table: pa.Table) -> np.ndarray:
    """Which usable rows have an id that another usable row's id equals after normalisation and case folding."""
    usable = _column(pc.equal(table["reason"], ""))
    folded = pa.chunked_array(
        [pa.array([_fold(i) for i in table["id"].slice(start, _BATCH).to_pylist()], pa.string())
         for start in range(0, table.num_rows, _BATCH)]
    )  # fmt: skip
    codes = _column(pc.dictionary_encode(folded).combine_chunks().indices)
    counts = np.bincount(codes[usable], minlength=codes.max() + 1)
    return usable & (counts[codes] > 1)


def _fold(text: str) -> str:
    # Twice, because folding can undo a normal form: Unicode's "canonical caseless match" (D145).
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _reject(table: pa.Table, rows: np.ndarray, reason: str, detail: str) -> pa.Table:
    if not rows.any():
        return table
    mask = pa.array(rows)
    for name, value in (("reason", reason), ("detail", detail)):
        column = pc.if_else(mask, value, table[name])
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table.combine_chunks()


def _column(array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False) if isinstance(array, pa.Array) else array.to_numpy()


def _shown(row: dict) -> str:
    return ", ".join(f"{name}={row[name]!r}" for name in _FIELDS if row[name] not in ("", 0, -1))
