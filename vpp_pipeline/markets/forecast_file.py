"""Load and renewables forecasts of a market, dropped as a file, CSV or Parquet.

Belongs here: what such a file holds and what is refused of it. Does not: reading it
(`dropped_file`), watching a folder (`defs`), forecasting (`forecasting`).

Columns: `market`, `start` (ISO 8601 with an offset or Z), `load_mw`, `renewables_mw` (wind and
sun; both the mean over the interval) and, if it is not 15, `resolution_minutes` (15, 30 or 60).
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.markets.dropped_file import (
    Form,
    candidates,
    file_rules,
    has_columns,
    ragged_rows,
    read_dropped,
)
from vpp_pipeline.markets.feeds import (
    FeedResult,
    RejectedRows,
    Rule,
    off_boundary,
    on_quarter_hours,
    sift,
    without_overlaps,
)
from vpp_pipeline.markets.schemas import MarketForecasts

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_VALUES = ("load_mw", "renewables_mw")
_FORM = Form("market forecasts", _VALUES)
_NAME = "forecast_file"
_HIGHEST_MW = 1e6


def is_forecast_file(path: Path) -> bool:
    """Tell whether a dropped file means to hold market forecasts; one that can't be read doesn't."""
    return has_columns(path, _FORM)


def read_forecast_file(
    path: Path, known_at: datetime, of_market: str | None = None
) -> FeedResult[MarketForecasts]:
    """Return a file's forecasts as quarter-hours known at `known_at`, and the refused rows.

    Rows are numbered from 1, header excluded; with `of_market` those of others are refused. Raises
    FeedError if the file can't be read or its columns are not those above, ValueError for a naive `known_at`.
    """
    if known_at.tzinfo is None:
        raise ValueError(f"known_at {known_at} has no time zone; pass an aware instant")
    cells = read_dropped(path, _FORM)
    rules = [*file_rules(of_market), off_boundary(), *map(_no_power, _VALUES)]
    sound, malformed = sift(candidates(cells, _FORM), rules)
    single, repeated = without_overlaps(sound, _VALUES, pl.col("load_mw_text"))
    rows = on_quarter_hours(single).select(
        "market",
        "interval_start",
        *_VALUES,
        "resolution_minutes",
        source=pl.lit(_NAME),
        known_at=pl.lit(known_at.astimezone(UTC), dtype=pl.Datetime("us", "UTC")),
    )
    rejected = pl.concat([malformed, repeated, ragged_rows(cells)]).sort("row_number")
    return FeedResult(
        rows=MarketForecasts.validate(rows.sort("market", "interval_start"), cast=True),
        rejected=RejectedRows.validate(rejected),
        source=str(path),
        fetched_at=known_at.astimezone(UTC),
    )


def _no_power(name: str) -> Rule:
    return Rule(
        pl.col(name).is_null() | ~pl.col(name).is_between(0, _HIGHEST_MW),
        name,
        pl.col(f"{name}_text"),
        f"is no power from 0 to {_HIGHEST_MW:,.0f} MW",
        "write MW as a number of 0 or more, with a point for its decimals",
    )
