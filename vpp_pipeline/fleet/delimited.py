"""CSV as cells: every value as text, every row with its number, and the rows that don't fit.

Belongs here: taking a CSV file apart. Does not: what the cells mean (`table_file`, price files).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped] # ships no types
from pyarrow import csv as arrow_csv

_BLOCK_BYTES = 1 << 24


class UnreadableError(ValueError):
    """A file that is no CSV at all; the text says why."""


@dataclass(frozen=True)
class RaggedRow:
    """A row with more or fewer cells than the header, whole."""

    row: int
    text: str
    reason: str


@dataclass(frozen=True)
class Cells:
    """`frame` has the header's columns as text, blanks null; `rows` their numbers (from 1)."""

    frame: pl.DataFrame
    rows: pl.Series
    ragged: tuple[RaggedRow, ...]


def read_cells(content: bytes) -> Cells:
    """Take a CSV file (UTF-8, commas, one header) apart; raises UnreadableError."""
    text = _decoded(content)
    try:
        header = next(filter(None, csv.reader(io.StringIO(text))), [])
    except csv.Error as error:
        raise UnreadableError(f"is no CSV file ({error})") from error
    if not header:
        raise UnreadableError("is empty")
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise UnreadableError(f"has columns of the same name: {', '.join(twice)}")
    ragged: list[RaggedRow] = []

    def set_aside(row: arrow_csv.InvalidRow) -> str:
        reason = f"has {row.actual_columns} cells where the header has {row.expected_columns}"
        ragged.append(RaggedRow(row.number - 1, row.text, reason))
        return "skip"

    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(f"{text}\n".encode()),
            # With one thread only does a refused row know its number.
            arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            arrow_csv.ConvertOptions(default_column_type=pa.string()),
        )
    except pa.ArrowInvalid as error:
        raise UnreadableError(f"is no CSV file ({str(error).splitlines()[0]})") from error
    frame = pl.DataFrame(pl.from_arrow(table))
    rows = pl.int_range(1, frame.height + len(ragged) + 1, dtype=pl.Int64, eager=True)
    kept = rows.filter(~rows.is_in([row.row for row in ragged]))
    stripped = frame.select(pl.all().str.strip_chars().replace("", None))
    return Cells(stripped, kept, tuple(ragged))


def lines_of_rows(content: bytes) -> dict[int, int]:
    """Return the line on which each row begins: only a file known bad is worth reading twice."""
    reader = csv.reader(io.StringIO(_decoded(content)))
    lines: dict[int, int] = {}
    begins = 1
    try:
        for cells in reader:
            if cells:
                lines[len(lines)] = begins
            begins = reader.line_num + 1
    except csv.Error:
        return lines
    return lines


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"is not text in UTF-8 (line {line})") from error
