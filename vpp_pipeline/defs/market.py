"""The market in Dagster: prices, what moves them, and weather.

Belongs here: assets and checks of what comes in from outside. Does not: reading a feed
(`markets`).
"""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl
import requests

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.forecasting.price_days import PRICE_MEMORY
from vpp_pipeline.markets import (
    energy_charts,
    forecast_file,
    open_meteo,
    price_file,
    recorded,
    recorded_feed,
)
from vpp_pipeline.markets.feeds import FeedError, FeedResult
from vpp_pipeline.markets.schemas import MarketForecasts, Prices, Weather
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.warehouse.quarantine import from_feed, from_refused_file

WEATHER_HISTORY = timedelta(days=28)
_DONE, _REFUSED = "done", "refused"
_REFUSALS_TOLD_FOR = timedelta(days=1)
_FORETOLD_EVERY = timedelta(hours=3)
"""Weather models are run every few hours; every plan would store the same again."""


@dg.asset(
    group_name="market",
    partitions_def=delivery_days,
    kinds={"requests", "duckdb"},
    owners=owners(),
    metadata=column_schema(Prices),
)
def day_ahead_prices(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Auction prices of the delivery day, as far as they are published.

    A feed that is late, wrong or absent leaves the last good prices in use; the check
    `prices_are_published` tells it, and nothing else waits.
    """
    day = delivery_day(context)
    now = runtime.clock.now()
    try:
        fetched = _fetch(runtime, day, now)
        problem = ""
    except FeedError as error:
        context.log.warning("%s", error)
        fetched, problem = None, str(error)
    stored = 0 if fetched is None else _store(runtime, "prices", fetched, now)
    return dg.MaterializeResult(
        metadata={
            "new_rows": stored,
            "rejected": 0 if fetched is None else fetched.rejected.height,
            "feed_problem": problem or "none",
            "prices": table(_published(runtime, day, now), rows=100),
        }
    )


@dg.asset_check(asset=day_ahead_prices)
def prices_are_published(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """Every quarter-hour of the day has a published price; until then the forecast stands in."""
    day = delivery_day(context)
    expected = market_day.day_intervals(day, MARKET_TZ).len()
    published = _published(runtime, day, runtime.clock.now()).height
    return dg.AssetCheckResult(
        passed=published == expected,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "expected": expected,
            "published": published,
            "remedy": "none needed"
            if published == expected
            else "the forecast stands in: see feed_problem of the asset, or drop a price file",
        },
    )


@dg.asset(group_name="market", kinds={"csv", "duckdb"}, owners=owners())
def dropped_prices(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Prices and market forecasts from the drop folder; read files go to `done/` or `refused/`."""
    now = runtime.clock.now()
    stored, rejected, refused = 0, 0, []
    folder = runtime.settings.drop_dir
    for path in dropped(folder):
        name = f"{now:%Y%m%dT%H%M%SZ}-{path.name}"
        kind = "market_forecasts" if forecast_file.is_forecast_file(path) else "prices"
        try:
            kept, rejected_rows = _load(runtime, path, kind, now)
        except FeedError as error:
            context.log.warning("%s", error)
            refused.append(str(error))
            kept_as = folder / _REFUSED / name
            with runtime.warehouse.write() as connection:
                connection.append("quarantine", from_refused_file(error, kept_as, kind, now))
        else:
            stored += kept
            rejected += rejected_rows
            kept_as = folder / _DONE / name
        kept_as.parent.mkdir(exist_ok=True)
        path.replace(kept_as)
    return dg.MaterializeResult(
        metadata={"new_rows": stored, "rejected": rejected, "refused_files": refused}
    )


@dg.asset_check(asset=dropped_prices)
def dropped_files_are_taken(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """Of the files that were dropped in the last day no row, and no whole file, was refused."""
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        refused = connection.frame(
            "defs_refused_of_files",
            folder=f"{runtime.settings.drop_dir}/",
            since=now - _REFUSALS_TOLD_FOR,
            as_of=now,
        )
    return dg.AssetCheckResult(
        passed=refused.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "refused": table(refused),
            "remedy": "none needed"
            if refused.is_empty()
            else "see the remedies here; every refused row stands in the table quarantine",
        },
    )


def dropped(folder: Path) -> list[Path]:
    """Return all that was dropped into a folder and waits, by name."""
    return sorted(path for path in folder.glob("*") if path.name not in {_DONE, _REFUSED})


@dg.asset(
    group_name="market",
    partitions_def=delivery_days,
    kinds={"duckdb"},
    owners=owners(),
    metadata=column_schema(MarketForecasts),
)
def market_forecasts(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What is told of the delivery day's load, wind and sun before its auction.

    A plant on recorded prices takes the recorded ones; any other takes dropped files. Where there
    are none, the price forecast says which model stood in.
    """
    now = runtime.clock.now()
    start, end = market_day.bounds(delivery_day(context), MARKET_TZ)
    stored = 0
    if runtime.settings.price_source == "recorded":
        told = recorded_feed.market_forecasts(end, now)
        stored = _store(runtime, "market_forecasts", told, now)
    with runtime.warehouse.read() as connection:
        known = connection.frame(
            "warehouse_market_forecasts", market=MARKET, start=start, end_=end, as_of=now
        )
    return dg.MaterializeResult(
        metadata={"new_rows": stored, "market_forecasts": table(known, rows=100)}
    )


@dg.asset(
    group_name="market",
    partitions_def=delivery_days,
    kinds={"duckdb"},
    owners=owners(),
    metadata=column_schema(Weather),
)
def weather(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Outdoor temperature seen so far at every site, and the weather foretold where a service is.

    A service that is late, wrong or absent leaves its last forecast in use.
    """
    now = runtime.clock.now()
    day_start, _ = market_day.bounds(delivery_day(context), MARKET_TZ)
    sites = runtime.devices(now).unique("site_id").sort("site_id")
    foretold, problem = Weather.create_empty(), "none"
    try:
        foretold = _foretold(runtime, sites, now)
    except FeedError as error:
        context.log.warning("%s", error)
        problem = str(error)
    with runtime.warehouse.write() as connection:
        last = connection.frame("defs_weather_known_until", as_of=now)["known_until"][0]
        rows = recorded.temperature().filter(
            pl.col("interval_start") > (last or day_start - WEATHER_HISTORY),
            pl.col("interval_start") + market_day.STEP <= now,
        )
        new = sites.join(rows, how="cross").select(
            "site_id",
            "interval_start",
            "temperature_c",
            ghi_w_per_m2=pl.lit(None, pl.Float64),
            kind=pl.lit("observed"),
            source=pl.lit("recorded"),
            known_at=pl.col("interval_start") + market_day.STEP,
        )
        connection.append("weather", Weather.validate(new, cast=True))
        connection.append("weather", foretold)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": new.height + foretold.height,
            "foretold": foretold.height,
            "feed_problem": problem,
        }
    )


def _foretold(runtime: Runtime, sites: pl.DataFrame, now: datetime) -> dy.DataFrame[Weather]:
    """Fetch the weather forecast, where a service is and the last one is hours old."""
    if runtime.settings.weather_url is None:
        return Weather.create_empty()
    with runtime.warehouse.read() as connection:
        told_at = connection.frame("defs_weather_known_until", as_of=now)["foretold_at"][0]
    if told_at is not None and now - told_at < _FORETOLD_EVERY:
        return Weather.create_empty()
    with requests.Session() as session:
        return open_meteo.fetch_weather(session, runtime.settings.weather_url, sites, now)


def _fetch(runtime: Runtime, day: date, now: datetime) -> FeedResult[Prices]:
    """Fetch the day, and what is missing before it for the price forecast."""
    oldest = day - PRICE_MEMORY
    first = oldest if _published(runtime, oldest, now).is_empty() else day
    if runtime.settings.price_source == "recorded":
        return recorded_feed.fetch_day_ahead(first, day, now)
    with requests.Session() as session:
        return energy_charts.fetch_day_ahead(
            session, runtime.settings.energy_charts_url, MARKET, first, day, now
        )


def _load(runtime: Runtime, path: Path, kind: str, now: datetime) -> tuple[int, int]:
    """Store what a dropped file tells; return how many rows were new and how many refused.

    Raises FeedError where it can't be read or holds no row.
    """
    read = price_file.read_price_file if kind == "prices" else forecast_file.read_forecast_file
    told: FeedResult[Any] = read(path, now, MARKET)
    if told.rows.is_empty() and told.rejected.is_empty():
        raise FeedError(str(path), "holds no row", "write a row for each interval")
    return _store(runtime, kind, told, now), told.rejected.height


def _store(runtime: Runtime, kind: str, result: FeedResult[Any], now: datetime) -> int:
    """Store what is new or changed, and quarantine what was refused."""
    with runtime.warehouse.write() as connection:
        new = connection.frame(f"defs_new_{kind}", frames={"fetched": result.rows}, as_of=now)
        connection.append(kind, new)
        if result.rejected.height:
            connection.append("quarantine", from_feed(kind, result, now))
    return new.height


def _published(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        return connection.frame(
            "warehouse_prices", market=MARKET, start=start, end_=end, as_of=as_of
        )
