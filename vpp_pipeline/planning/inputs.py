"""What a plan of a delivery day is made of, as it is known at one moment.

Belongs here: the horizon, envelopes, prices and position that a plan and its checks share. Does
not: judging them (`optimization.inputs`), planning (`plans`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting.together import together
from vpp_pipeline.optimization import prices
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.settlement.schemas import Commitment

if TYPE_CHECKING:
    from datetime import date, datetime

    from vpp_pipeline.runtime import Runtime


class DayOverError(ValueError):
    """Nothing is left of a delivery day to be planned."""


def horizon_left(runtime: Runtime, day: date, now: datetime) -> pl.Series:
    """Return the day's quarter-hours that can still be planned; raises `DayOverError`."""
    start, end = market_day.bounds(day, MARKET_TZ)
    earliest = market_day.floor_interval(now + runtime.plan_lead) + market_day.STEP
    horizon = market_day.intervals(max(start, earliest), end)
    if horizon.is_empty():
        raise DayOverError(
            f"delivery day {day} is over at {now:%Y-%m-%d %H:%M} UTC: "
            "plan a later day; a past day is never planned for dispatch"
        )
    return horizon


def stored_envelopes(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
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
    span = _span(horizon, now)
    with runtime.warehouse.read() as connection:
        forecast = connection.frame("warehouse_forecasts", target="price", **span)
    return market_prices_on(runtime, horizon, forecast.filter(pl.col("subject_id") == MARKET), now)


def market_prices_on(
    runtime: Runtime, horizon: pl.Series, forecast: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """Return the horizon's prices, published ones before those of `forecast`."""
    with runtime.warehouse.read() as connection:
        published = connection.frame("warehouse_prices", market=MARKET, **_span(horizon, now))
    return prices.complete(horizon, published, forecast)


def committed_position(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
    """Return what the day's fleet was sold for: (interval_start, position_kw), else no rows."""
    with runtime.warehouse.read() as connection:
        return connection.frame(
            "defs_committed_position",
            delivery_day=day,
            gate_closure=market_day.gate_closure(day, MARKET_TZ),
            as_of=now,
        )


def commitment(position: pl.DataFrame, spread_eur_per_mwh: float) -> Commitment | None:
    """Return what being off a position costs; None where it costs nothing or there is none."""
    if position.is_empty() or spread_eur_per_mwh == 0:
        return None
    return Commitment(position, spread_eur_per_mwh)


def imbalance_terms(
    runtime: Runtime,
    day: date,
    market: pl.DataFrame,
    profiles: pl.DataFrame,
    now: datetime,
    *,
    spread_eur_per_mwh: float,
) -> pl.DataFrame | None:
    """Return the day's committed position and what a deviation from it is settled at.

    These are `PortfolioTerms.quarter_hours`; None where the day has no position. `market` are the horizon's prices (interval_start,
    price_eur_per_mwh), `profiles` the `Forecasts` of load, sun and wind: a plan weighs how far
    the fleet may end up from what it aims at.
    """
    position = committed_position(runtime, day, now)
    if position.is_empty():
        return None
    price = pl.col("price_eur_per_mwh")
    return (
        market.join(position, on="interval_start", how="left")
        .join(_uncertain(profiles), on="interval_start", how="left")
        .select(
            "interval_start",
            pl.col("position_kw", "lower_by_kw", "higher_by_kw").fill_null(0.0),
            surplus_eur_per_mwh=price - spread_eur_per_mwh,
            shortage_eur_per_mwh=price + spread_eur_per_mwh,
        )
    )


def _uncertain(profiles: pl.DataFrame) -> pl.DataFrame:
    """Return by how much the sum of forecasts may be below or above its p50, a quarter-hour each.

    Loads, sun and wind err independently of each other.
    """
    return (
        together(profiles)
        .group_by("interval_start")
        .agg((pl.col(name) ** 2).sum().sqrt() for name in ("lower_by_kw", "higher_by_kw"))
    )


def newest_values(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
    """Return the `PlanPrices` of the day's newest plan, for the next to begin from."""
    with runtime.warehouse.read() as connection:
        return connection.frame("defs_newest_values", delivery_day=day, as_of=now)


def _span(horizon: pl.Series, now: datetime) -> dict[str, Any]:
    return {"start": horizon[0], "end_": horizon[-1] + market_day.STEP, "as_of": now}
