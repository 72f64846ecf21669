"""Prices dropped as a file, CSV or Parquet.

Belongs here: reading one file. Does not: watching a folder (`defs`), what all feeds share
(`feeds`).

Columns: `market`, `start` (ISO 8601 with an offset or Z), `price_eur_per_mwh` and, if it is not
15, `resolution_minutes` (15, 30 or 60).
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.fleet.delimited import Cells, UnreadableError, read_cells
from vpp_pipeline.markets.feeds import (
    RESOLUTIONS_MINUTES,
    FeedError,
    FeedResult,
    RejectedRows,
    Rule,
    judge,
)

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import dataframely as dy

_REQUIRED = ("market", "start", "price_eur_per_mwh")
_RESOLUTION = "resolution_minutes"
_WRITE_AS = "write columns market, start, price_eur_per_mwh and, if not 15, resolution_minutes"
_YEARS = (1970, 2099)
_NAME = "price_file"


def read_price_file(path: Path, known_at: datetime) -> FeedResult:
    """Return a file's prices as quarter-hours, and the rows that were refused.

    Rows are numbered from 1, header excluded. Raises FeedError if the file can't be read or its
    columns are not those above.
    """
    source = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        raise FeedError(source, reason, "name a file that exists and is readable") from error
    match path.suffix.lower():
        case ".csv":
            cells = _csv(content, source)
        case ".parquet":
            cells = _parquet(content, source)
        case suffix:
            raise FeedError(source, f"has no known suffix ({suffix!r})", "name it .csv or .parquet")
    _check_columns(cells.frame.columns, source)
    result = judge(_candidates(cells), _own_rules(), source, known_at, _NAME)
    rejected = pl.concat([result.rejected, _ragged_rows(cells)]).sort("row_number")
    return replace(result, rejected=RejectedRows.validate(rejected))


def _csv(content: bytes, source: str) -> Cells:
    try:
        return read_cells(content)
    except UnreadableError as error:
        raise FeedError(source, str(error), "save it as comma-separated text in UTF-8") from error


def _parquet(content: bytes, source: str) -> Cells:
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
        reason = f"is no Parquet file of prices ({str(error).splitlines()[0]})"
        raise FeedError(source, reason, _WRITE_AS) from error
    rows = pl.int_range(1, text.height + 1, dtype=pl.Int64, eager=True)
    return Cells(text, rows, ())


def _check_columns(columns: list[str], source: str) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*_REQUIRED, _RESOLUTION)]
    wrong = [f"lacks {', '.join(missing)}"] if missing else []
    wrong += [f"has the unknown {', '.join(unknown)}"] if unknown else []
    if wrong:
        raise FeedError(source, " and ".join(wrong), _WRITE_AS)


def _candidates(cells: Cells) -> pl.DataFrame:
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
        price_eur_per_mwh=pl.col("price_eur_per_mwh").cast(pl.Float64, strict=False),
        price_text=pl.col("price_eur_per_mwh"),
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


def _own_rules() -> list[Rule]:
    return [
        Rule(
            pl.col("market").is_null(),
            "market",
            pl.col("market"),
            "has no market",
            "write the bidding zone, such as DE-LU",
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


def _ragged_rows(cells: Cells) -> dy.DataFrame[RejectedRows]:
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
