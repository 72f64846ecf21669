"""What a plan of a delivery day stands on, read as it is known at one moment.

Belongs here: the horizon, envelopes, prices and position that the planning assets and their
checks share. Does not: judging them (`optimization.inputs`), planning (`planning`).
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.optimization import prices
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ


def horizon_left(runtime: Runtime, day: date, now: datetime) -> pl.Series:
    """Return the day's quarter-hours that can still be planned; a day that is over fails."""
    start, end = market_day.bounds(day, MARKET_TZ)
    earliest = market_day.floor_interval(now + runtime.plan_lead) + market_day.STEP
    horizon = market_day.intervals(max(start, earliest), end)
    if horizon.is_empty():
        raise dg.Failure(
            f"delivery day {day} is over at {now:%Y-%m-%d %H:%M} UTC: "
            "plan a later day; a past day is never planned for dispatch",
            allow_retries=False,
        )
    return horizon


def newest_envelopes(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
    """Return the newest `Envelopes` of the day, of what was left of it when they were made."""
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        return connection.frame("defs_envelopes", start=start, end_=end, as_of=now)


def market_prices(runtime: Runtime, horizon: pl.Series, now: datetime) -> pl.DataFrame:
    """Return the horizon's prices, published before forecast: see `prices.complete`."""
    if horizon.is_empty():
        return prices.complete(
            horizon,
            pl.DataFrame(schema={"interval_start": horizon.dtype, "price_eur_per_mwh": pl.Float64}),
            pl.DataFrame(schema={"interval_start": horizon.dtype, "p50": pl.Float64}),
        )
    span: dict[str, Any] = {
        "start": horizon[0],
        "end_": horizon[-1] + market_day.STEP,
        "as_of": now,
    }
    with runtime.warehouse.read() as connection:
        published = connection.frame("warehouse_prices", market=MARKET, **span)
        forecast = connection.frame("warehouse_forecasts", target="price", **span)
    return prices.complete(horizon, published, forecast.filter(pl.col("subject_id") == MARKET))


def imbalance_terms(
    runtime: Runtime, day: date, market: pl.DataFrame, now: datetime
) -> pl.DataFrame | None:
    """Return the day's committed position and what a deviation from it is settled at.

    These are `PortfolioTerms.quarter_hours`; None where the day has no position, or imbalance costs no more than the market's price.
    `market` are the horizon's prices (interval_start, price_eur_per_mwh).
    """
    spread = runtime.settings.imbalance_spread_eur_per_mwh
    with runtime.warehouse.read() as connection:
        position = connection.frame(
            "defs_committed_position",
            delivery_day=day,
            gate_closure=market_day.gate_closure(day, MARKET_TZ),
            as_of=now,
        )
    if position.is_empty() or spread == 0:
        return None
    price = pl.col("price_eur_per_mwh")
    return market.join(position, on="interval_start", how="left").select(
        "interval_start",
        pl.col("position_kw").fill_null(0.0),
        surplus_eur_per_mwh=price - spread,
        shortage_eur_per_mwh=price + spread,
    )


def newest_values(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
    """Return the `PlanPrices` of the day's newest plan, for the next to begin from."""
    with runtime.warehouse.read() as connection:
        return connection.frame("defs_newest_values", delivery_day=day, as_of=now)
