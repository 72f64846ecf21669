"""Large fleets, a row a device, in CSV or Parquet.

Belongs here: reading the file into the typed table of `columns.COLUMNS`, and every problem of it
at once. Does not: what a record may be (`model`, `screen`), rules over many devices (`across`).

Good rows are never looked at one by one; a bad one is shown to its model, which words the reason.
"""

from __future__ import annotations

import io
from difflib import get_close_matches
from typing import TYPE_CHECKING

import polars as pl
from pydantic import ValidationError

from vpp_pipeline.fleet import across, screen
from vpp_pipeline.fleet.columns import COLUMNS, SITE, SITE_FIELDS
from vpp_pipeline.fleet.delimited import UnreadableError, lines_of_rows, read_cells
from vpp_pipeline.fleet.model import Fleet
from vpp_pipeline.fleet.problems import Problem, file_problem, location, shown, words
from vpp_pipeline.fleet.table import device_tree, site_tree, with_defaults

if TYPE_CHECKING:
    from collections.abc import Callable

WORDED_ROWS = 100

_REQUIRED = (
    *(name for name, column in SITE.items() if column.required),
    "device_id",
    "type",
    "connection_protocol",
)
_MISSING_COLUMN = "is a missing column"
_OTHER_MARKS = {"semicolons": ";", "tabs": "\t"}
_SAVE_WITH_COMMAS = "save it as comma-separated text in UTF-8, with points for decimals"
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_COLUMN_OF_SITE_FIELD = {field: column for column, field in SITE_FIELDS.items()}
_UNFIT: dict[pl.DataType, tuple[str, str]] = {
    pl.Float64(): ("is no number", "write a number with a point for its decimals"),
    pl.Int64(): ("is no whole number", "write a whole number"),
    pl.Boolean(): ("is neither true nor false", "write true or false"),
    pl.Time(): ("is no time of day", "write one such as 20:00"),
}
_FOUND = {
    "row": pl.Int64,
    "field": pl.String,
    "value": pl.String,
    "reason": pl.String,
    "remedy": pl.String,
}


def read_csv(content: bytes, file: str) -> tuple[pl.DataFrame, list[Problem]]:
    """Return a CSV registry as a typed table with its defaults, or an empty one and its problems."""
    try:
        cells = read_cells(content)
    except UnreadableError as error:
        return _nothing(file_problem(file, str(error), "save it as comma-separated text in UTF-8"))
    if separators := _other_separators(cells.frame.columns):
        reason = f"has its columns separated by {separators}, not by commas"
        return _nothing(file_problem(file, reason, _SAVE_WITH_COMMAS))
    ragged = pl.DataFrame(
        [(row.row, "", "", row.reason, "quote cells that hold a comma") for row in cells.ragged],
        schema=_FOUND,
        orient="row",
    )
    return _checked(cells.frame, cells.rows, ragged, file, lambda: lines_of_rows(content))


def read_parquet(content: bytes, file: str) -> tuple[pl.DataFrame, list[Problem]]:
    """Return a Parquet registry as a typed table, or an empty one and its problems."""
    try:
        cells = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = f"is no Parquet file ({str(error).splitlines()[0]})"
        return _nothing(file_problem(file, reason, "write it anew"))
    rows = pl.int_range(1, cells.height + 1, dtype=pl.Int64, eager=True)
    return _checked(cells, rows, pl.DataFrame(schema=_FOUND), file, dict)


def _nothing(*problems: Problem) -> tuple[pl.DataFrame, list[Problem]]:
    return pl.DataFrame(schema=COLUMNS), list(problems)


def _checked(
    cells: pl.DataFrame,
    rows: pl.Series,
    ragged: pl.DataFrame,
    file: str,
    lines: Callable[[], dict[int, int]],
) -> tuple[pl.DataFrame, list[Problem]]:
    """Type and judge a file's cells; `lines` is asked only where there are problems to place."""
    problems = _header_problems(cells.columns, file)
    if not cells.height and not ragged.height:
        problems.append(file_problem(file, "holds no device", "write one row a device"))
    if any(problem.reason == _MISSING_COLUMN for problem in problems):
        return _nothing(*problems)
    try:
        typed = cells.select(_typed(cells, name) for name in COLUMNS)
    except pl.exceptions.PolarsError as error:
        reason = f"has a column of a type that can't be read ({str(error).splitlines()[0]})"
        return _nothing(*problems, file_problem(file, reason, "write plain numbers and text"))
    table = with_defaults(typed)
    numbered = table.with_columns(row=rows)
    unfit = _unfit_cells(cells, typed, rows)
    suspects = rows.filter(screen.refused(table))
    fitting = numbered.filter(~rows.is_in(unfit["row"].implode()))
    clashes = pl.concat([across.clashes(numbered), across.site_clashes(fitting)]).select(
        "row",
        "field",
        "value",
        pl.format("{}, first in row {}", "reason", "first_row").alias("reason"),
        "remedy",
    )
    found = pl.concat([ragged, unfit, clashes, across.misfits(numbered)])
    bad = pl.concat([found["row"], suspects]).unique().sort()
    worded = bad.head(WORDED_ROWS)
    told = found.filter(pl.col("row").is_in(worded.implode()))
    refused = typed.with_columns(row=rows).filter(rows.is_in(suspects.implode()))
    told = pl.concat([told, _refusals(refused.filter(pl.col("row").is_in(worded.implode())), told)])
    line_of_row = lines() if told.height else {}
    problems += [
        Problem(file, line_of_row.get(row), row, *texts)
        for row, *texts in told.sort("row", "field", maintain_order=True).rows()
    ]
    if bad.len() > WORDED_ROWS:
        reason = f"has {bad.len() - WORDED_ROWS} more rows with problems"
        problems.append(file_problem(file, reason, "mend those above and check again"))
    return (table, problems) if not problems else _nothing(*problems)


def _other_separators(columns: list[str]) -> str:
    """Return what stands between the registry's columns in a header's cell, if anything does."""
    for separators, mark in _OTHER_MARKS.items():
        for cell in columns:
            if COLUMNS.keys() & {name.strip(' "') for name in cell.split(mark)[1:]}:
                return separators
    return ""


def _header_problems(columns: list[str], file: str) -> list[Problem]:
    missing = [
        Problem(file, None, None, name, "", _MISSING_COLUMN, "add it")
        for name in _REQUIRED
        if name not in columns
    ]
    unknown = [
        Problem(file, None, None, name, "", "is no column of the registry", _remedy_for(name))
        for name in columns
        if name not in COLUMNS
    ]
    return missing + unknown


def _remedy_for(name: str) -> str:
    close = get_close_matches(name, COLUMNS, n=1)
    return f"write {close[0]} if that is meant" if close else "remove it"


def _typed(cells: pl.DataFrame, name: str) -> pl.Expr:  # noqa: PLR0911 - a case a type
    """Return a column in its type; null where the cell is blank or does not fit."""
    want = COLUMNS[name]
    if name not in cells.columns:
        return pl.lit(None, dtype=want).alias(name)
    have, value = cells.schema[name], pl.col(name)
    if isinstance(want, pl.List):
        if isinstance(have, pl.List):
            return value.cast(want)
        parts = value.cast(pl.String).str.split(";").list.eval(pl.element().str.strip_chars())
        return parts.list.filter(pl.element() != "")
    if isinstance(want, pl.Time) and not isinstance(have, pl.Time):
        text = value.cast(pl.String)
        return pl.coalesce(
            text.str.to_time("%H:%M", strict=False),
            text.str.to_time("%H:%M:%S%.f", strict=False),
        )
    if isinstance(want, pl.Boolean) and not isinstance(have, pl.Boolean):
        return value.cast(pl.String).replace_strict(_TRUTH, default=None, return_dtype=want)
    if isinstance(want, pl.Int64) and have.is_float():
        return pl.when(value == value.floor()).then(value.cast(want, strict=False))
    return value.cast(want, strict=False)


def _unfit_cells(cells: pl.DataFrame, typed: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """Return the cells (`_FOUND`) that hold something, but nothing of their column's type."""
    found = [pl.DataFrame(schema=_FOUND)]
    for name in cells.columns:
        if COLUMNS.get(name) in _UNFIT:
            reason, remedy = _UNFIT[COLUMNS[name]]
            unfit = cells[name].is_not_null() & typed[name].is_null()
            found.append(
                pl.select(
                    row=rows.filter(unfit),
                    field=pl.lit(name),
                    value=cells[name].filter(unfit).cast(pl.String),
                    reason=pl.lit(reason),
                    remedy=pl.lit(remedy),
                )
            )
    return pl.concat(found)


def _refusals(refused: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return why the models refuse these rows (`_FOUND`), but for the cells already told of."""
    known = set(told.select("row", "field").rows())
    found = []
    for row in refused.to_dicts():
        site = site_tree(row, [device_tree({n: v for n, v in row.items() if n != "row"})])
        groups = [{"group_id": name} for name in row["groups"] or ()]
        try:
            Fleet.model_validate({"sites": [site], "groups": groups})
        except ValidationError as refusal:
            for error in refusal.errors(include_url=False):
                column = _column(location(error))
                if (row["row"], column) not in known:
                    cell = row.get(column)
                    refused_value = error["input"] if isinstance(cell, list) else cell
                    found.append((row["row"], column, shown(refused_value), *words(error)))
    return pl.DataFrame(found, schema=_FOUND, orient="row")


def _column(place: tuple[str | int, ...]) -> str:
    """Return the column that a place in the document of one row stands for."""
    names = [part for part in place if isinstance(part, str)]
    match names:
        case ["sites", "devices", "connection", name]:
            return f"connection_{name}"
        case ["sites", "devices", name, *_] | ["sites", "grid", name]:
            return name
        case ["sites", name, *_]:
            return _COLUMN_OF_SITE_FIELD[name]
        case _:
            return "groups"
