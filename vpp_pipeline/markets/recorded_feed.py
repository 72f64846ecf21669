"""The shipped market data as a feed: what had been published by a moment.

Belongs here: playing the recorded prices and market forecasts. Does not: the data (`recorded`), live feeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import delivery_day
from vpp_pipeline.markets import recorded
from vpp_pipeline.markets.feeds import FeedError, FeedResult, RejectedRows
from vpp_pipeline.markets.schemas import MarketForecasts, Prices

if TYPE_CHECKING:
    from datetime import date, datetime


def fetch_day_ahead(start: date, end: date, known_at: datetime) -> FeedResult[Prices]:
    """Return the recorded prices of the delivery days start..end published by `known_at`.

    Raises FeedError where nothing was recorded or published for any of them.
    """
    first, _ = delivery_day.bounds(start, recorded.MARKET_TZ)
    _, last = delivery_day.bounds(end, recorded.MARKET_TZ)
    rows = recorded.prices().filter(
        pl.col("interval_start") >= first,
        pl.col("interval_start") < last,
        pl.col("known_at") <= known_at,
    )
    if rows.is_empty():
        raise FeedError(
            "recorded prices",
            f"nothing was published for {start} to {end} by {known_at:%Y-%m-%d %H:%M} UTC",
            "wait until 12:55 market time of the day before, or choose days in the recorded window",
        )
    return FeedResult(Prices.validate(rows), RejectedRows.create_empty(), "recorded", known_at)


def market_forecasts(end: datetime, known_at: datetime) -> FeedResult[MarketForecasts]:
    """Return the recorded forecasts of load, wind and sun before `end`, as told by `known_at`."""
    rows = recorded.market_forecasts().filter(
        pl.col("interval_start") < end, pl.col("known_at") <= known_at
    )
    return FeedResult(
        MarketForecasts.validate(rows), RejectedRows.create_empty(), "recorded", known_at
    )
