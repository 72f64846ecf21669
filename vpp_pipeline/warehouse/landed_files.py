"""Reading many landed files in as few scans as they allow, and checking their rows.

Belongs here: files to good rows, failures and unreadable files. Does not: when a file is read
and what becomes of it (`landing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.warehouse.validate import by_place, validated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import dataframely as dy

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class FileRows:
    """What files hold: good rows with `file_name` and `row_number`; failures; unreadable files."""

    good: pl.DataFrame
    failures: tuple[pl.DataFrame, ...]
    unreadable: Mapping[str, str]  # reason by file name


def read_files(files: Sequence[Path], schema: type[dy.Schema]) -> FileRows:
    """Read the files and sort their rows by `validated`; a file that is gone holds nothing."""
    as_landed: dict[str, pl.DataType] = {
        name: pl.String() if isinstance(dtype, pl.Enum) else dtype
        for name, dtype in schema.create_empty().schema.items()
    }
    good: list[pl.DataFrame] = [by_place(schema).create_empty()]
    failures: list[pl.DataFrame] = []
    unreadable: dict[str, str] = {}
    for outcome in _scanned(files, as_landed):
        if isinstance(outcome, pl.DataFrame):
            rows, details = validated(schema, outcome)
            good.append(rows)
            failures.append(details)
        else:
            unreadable |= outcome
    return FileRows(pl.concat(good), tuple(failures), unreadable)


def _scanned(
    files: Sequence[Path], as_landed: Mapping[str, pl.DataType]
) -> Iterator[pl.DataFrame | dict[str, str]]:
    """Yield rows with their place, or unreadable files: one scan, halved around what fails."""
    if not files:
        return
    try:
        rows = pl.scan_parquet(
            list(files), schema=dict(as_landed), include_file_paths="file_name", glob=False
        ).collect()
    except _UNREADABLE:
        if len(files) == 1:
            yield _odd(files[0], as_landed)
        else:
            middle = len(files) // 2
            yield from _scanned(files[:middle], as_landed)
            yield from _scanned(files[middle:], as_landed)
    else:
        yield _placed(rows.with_columns(pl.col("file_name").str.split("/").list.last()))


def _odd(path: Path, as_landed: Mapping[str, pl.DataType]) -> pl.DataFrame | dict[str, str]:
    """Read a file that isn't as others are: other types may still be cast, row by row."""
    try:
        rows = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        return {}
    except _UNREADABLE as error:
        return {path.name: f"the file can't be read as Parquet: {error}"}
    missing, extra = as_landed.keys() - set(rows.columns), set(rows.columns) - as_landed.keys()
    if missing or extra:
        return {
            path.name: "the file has the wrong columns: "
            f"missing {sorted(missing) or 'none'}, not known {sorted(extra) or 'none'}"
        }
    return _placed(rows.with_columns(file_name=pl.lit(path.name)))


def _placed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        row_number=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("file_name")
    )
