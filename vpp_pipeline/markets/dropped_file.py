"""A table about a market that was dropped as a file, CSV or Parquet, as cells.

Belongs here: reading such a file, and the columns and rules that all of them share. Does not:
what a file tells (`price_file`, `forecast_file`), watching a folder (`defs`).

Columns: `market`, `start` (ISO 8601 with an offset or Z), the values and, if it is not 15,
`resolution_minutes` (15, 30 or 60).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.fleet.delimited import Cells, UnreadableError, read_cells
from vpp_pipeline.markets.feeds import RESOLUTIONS_MINUTES, FeedError, RejectedRows, Rule

if TYPE_CHECKING:
    from pathlib import Path

    import dataframely as dy

_RESOLUTION = "resolution_minutes"
_YEARS = (1970, 2099)


@dataclass(frozen=True)
class Form:
    """What a kind of file is to hold: its values' columns, by the name of what they tell."""

    told: str
    values: tuple[str, ...]

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return ("market", "start", *self.values)

    @property
    def write_as(self) -> str:
        """What a file should look like."""
        return f"write columns {', '.join(self.required)} and, if not 15, {_RESOLUTION}"


def read_dropped(path: Path, form: Form) -> Cells:
    """Return a file's cells; raises FeedError if it can't be read or has other columns."""
    cells = _read(path, form)
    columns = cells.frame.columns
    missing = [name for name in form.required if name not in columns]
    unknown = [name for name in columns if name not in (*form.required, _RESOLUTION)]
    wrong = [f"lacks {', '.join(missing)}"] if missing else []
    wrong += [f"has the unknown {', '.join(unknown)}"] if unknown else []
    if wrong:
        raise FeedError(str(path), " and ".join(wrong), form.write_as)
    return cells


def has_columns(path: Path, form: Form) -> bool:
    """Tell whether a file has any of the form's own columns; one that can't be read has none."""
    try:
        columns = _read(path, form).frame.columns
    except FeedError:
        return False
    return any(name in columns for name in form.values)


def _read(path: Path, form: Form) -> Cells:
    source = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        raise FeedError(source, reason, "name a file that exists and is readable") from error
    match path.suffix.lower():
        case ".csv":
            return _csv(content, source)
        case ".parquet":
            return _parquet(content, source, form)
        case suffix:
            raise FeedError(source, f"has no known suffix ({suffix!r})", "name it .csv or .parquet")


def _csv(content: bytes, source: str) -> Cells:
    try:
        return read_cells(content)
    except UnreadableError as error:
        raise FeedError(source, str(error), "save it as comma-separated text in UTF-8") from error


def _parquet(content: bytes, source: str, form: Form) -> Cells:
    """Return a Parquet file's cells as text, as a CSV file would hold them."""
    try:
        frame = pl.read_parquet(io.BytesIO(content))
        text = frame.select(
            pl.col(name).dt.to_string("iso")
            if isinstance(dtype, pl.Datetime)
            else pl.col(name).cast(pl.String)
            for name, dtype in frame.schema.items()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = f"is no Parquet file of {form.told} ({str(error).splitlines()[0]})"
        raise FeedError(source, reason, form.write_as) from error
    rows = pl.int_range(1, text.height + 1, dtype=pl.Int64, eager=True)
    return Cells(text, rows, ())


def candidates(cells: Cells, form: Form) -> pl.DataFrame:
    """Return a file's rows with what the rules look at.

    `row_number`, `row_json`, `market`, `start`, `start_text`, `start_if_utc`,
    `resolution_minutes`, `resolution_text`, and of each value `<name>` and `<name>_text`.
    """
    frame = cells.frame
    if _RESOLUTION not in frame.columns:
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(_RESOLUTION))
    start = pl.col("start").str.replace(" ", "T").str.replace("[zZ]$", "+00:00")
    resolution = pl.col(_RESOLUTION).fill_null("15").cast(pl.Float64, strict=False)
    return frame.select(
        "market",
        row_number=cells.rows,
        row_json=pl.struct(cells.frame.columns).struct.json_encode(),
        start=_instant(start),
        start_text=pl.col("start"),
        start_if_utc=_instant(start + "+00:00"),
        **{name: pl.col(name).cast(pl.Float64, strict=False) for name in form.values},
        **{f"{name}_text": pl.col(name) for name in form.values},
        resolution_minutes=pl.when(resolution.is_in(list(map(float, RESOLUTIONS_MINUTES)))).then(
            resolution.cast(pl.Int64, strict=False)
        ),
        resolution_text=pl.col(_RESOLUTION),
    )


def _instant(text: pl.Expr) -> pl.Expr:
    """Return the instant that an ISO 8601 text with an offset names; null if it names none."""
    formats = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
    parsed = pl.coalesce(
        text.str.to_datetime(f, time_unit="us", time_zone="UTC", strict=False) for f in formats
    )
    return pl.when(parsed.dt.year().is_between(*_YEARS)).then(parsed)


def file_rules(of_market: str | None) -> list[Rule]:
    """Return the rules for what only a file can get wrong; with `of_market` it is to tell of that."""
    return [
        Rule(
            pl.col("market").is_null(),
            "market",
            pl.col("market"),
            "has no market",
            "write the bidding zone, such as DE-LU",
        ),
        Rule(
            pl.col("market") != pl.lit(of_market, pl.String),
            "market",
            pl.col("market"),
            "is not the market that is planned on",
            f"write {of_market} if that is what it tells of, else leave it out: it is never read",
        ),
        Rule(
            pl.col("start").is_null() & pl.col("start_if_utc").is_not_null(),
            "start",
            pl.col("start_text"),
            "has no time zone",
            "append Z for UTC or an offset such as +01:00",
        ),
        Rule(
            pl.col("start").is_null(),
            "start",
            pl.col("start_text"),
            "is no time",
            "write ISO 8601 with an offset, such as 2026-03-29T01:15:00+01:00",
        ),
        Rule(
            pl.col("resolution_minutes").is_null(),
            _RESOLUTION,
            pl.col("resolution_text"),
            "is no market's resolution",
            "write 15, 30 or 60",
        ),
    ]


def ragged_rows(cells: Cells) -> dy.DataFrame[RejectedRows]:
    """Return the rows that did not fit the header, as refused."""
    remedy = "give every row as many cells as the header"
    return RejectedRows.validate(
        pl.DataFrame(
            [
                (row.row, "", row.text, row.reason, remedy, json.dumps({"text": row.text}))
                for row in cells.ragged
            ],
            schema=RejectedRows.create_empty().schema,
            orient="row",
        )
    )
