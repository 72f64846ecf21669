"""Forecasts in Dagster.

Belongs here: the assets that make and judge forecasts. Does not: any model (`forecasting`).
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.market import day_ahead_prices, market_forecasts, weather
from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import fleet, telemetry
from vpp_pipeline.forecasting.generation import generation_forecast as forecast_generation
from vpp_pipeline.forecasting.load import load_forecast as forecast_load
from vpp_pipeline.forecasting.price_days import PRICE_MEMORY
from vpp_pipeline.forecasting.prices import lear_price_forecast
from vpp_pipeline.forecasting.schemas import Forecasts, SessionForecasts
from vpp_pipeline.forecasting.sessions import session_forecast as forecast_sessions
from vpp_pipeline.forecasting.temperature import temperature_forecast as forecast_temperature
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.telemetry_quality.repair import trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

HISTORY = timedelta(days=28)


def _forecast(
    *deps: dg.AssetsDefinition, schema: type[dy.Schema] = Forecasts
) -> Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]:
    """Make a delivery day's forecast an asset; `schema` is what it stores."""
    return dg.asset(
        group_name="forecasts",
        partitions_def=delivery_days,
        deps=deps,
        kinds={"polars", "duckdb"},
        owners=owners(),
        metadata=column_schema(schema),
    )


@_forecast(fleet, telemetry)
def load_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What every uncontrolled load will draw, from recent days of its kind."""
    now = runtime.clock.now()
    loads = runtime.devices(now).filter(pl.col("device_type") == "load")
    return _store(
        runtime,
        forecast_load(
            loads,
            _history(runtime, now, loads, "warehouse_power_readings"),
            _intervals(context),
            MARKET_TZ,
            now,
        ),
    )


@_forecast(fleet, telemetry, weather)
def generation_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What PV and wind could inject, uncurtailed."""
    now = runtime.clock.now()
    devices = runtime.devices(now).filter(
        pl.col("device_type").cast(pl.String).is_in(["pv", "wind"])
    )
    with runtime.warehouse.read() as connection:
        seen = connection.frame("warehouse_irradiance", start=now - HISTORY, end_=now, as_of=now)
    return _store(
        runtime,
        forecast_generation(
            devices,
            _history(runtime, now, devices, "warehouse_power_readings"),
            seen,
            _intervals(context),
            now,
        ),
    )


@_forecast(weather)
def temperature_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Outdoor temperature at every site with a building to heat."""
    now = runtime.clock.now()
    heated = runtime.devices(now).filter(pl.col("device_type") == "heat_pump")
    sites = heated.select(pl.col("site_id").unique().sort())
    with runtime.warehouse.read() as connection:
        seen = connection.frame(
            "warehouse_temperatures",
            {"sites": sites},
            start=now - HISTORY,
            end_=now,
            as_of=now,
        )
    return _store(
        runtime,
        forecast_temperature(sites["site_id"], seen, _intervals(context), MARKET_TZ, now),
    )


@_forecast(fleet, telemetry, schema=SessionForecasts)
def ev_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """When vehicles will come and leave, and what they will ask for."""
    now = runtime.clock.now()
    chargers = runtime.devices(now).filter(pl.col("device_type") == "ev_charger")
    expected = forecast_sessions(
        _history(runtime, now, chargers, "warehouse_readings"),
        *market_day.bounds(delivery_day(context), MARKET_TZ),
        MARKET_TZ,
        now,
    )
    with runtime.warehouse.write() as connection:
        connection.append("session_forecasts", expected)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": expected.height, "sessions": table(expected)}
    )


@_forecast(day_ahead_prices, market_forecasts)
def price_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Prices of the day, for the plan that is made before the auction's results."""
    now = runtime.clock.now()
    _, end = market_day.bounds(delivery_day(context), MARKET_TZ)
    span: dict[str, Any] = {"start": now - PRICE_MEMORY, "end_": end, "as_of": now}
    with runtime.warehouse.read() as connection:
        known = connection.frame("warehouse_prices", market=MARKET, **span)
        told = connection.frame("warehouse_market_forecasts", market=MARKET, **span)
    return _store(
        runtime,
        lear_price_forecast(known, told, _intervals(context), MARKET, MARKET_TZ, now),
    )


def _intervals(context: dg.AssetExecutionContext) -> pl.Series:
    return market_day.day_intervals(delivery_day(context), MARKET_TZ)


def _history(runtime: Runtime, now: datetime, devices: pl.DataFrame, query: str) -> pl.DataFrame:
    with runtime.warehouse.read() as connection:
        readings = connection.frame(
            query,
            {"devices": devices.select("device_id")},
            start=now - HISTORY,
            end_=now,
            as_of=now,
        )
    return quarter_hours(trusted(readings, devices, QualitySettings()))


def _store(runtime: Runtime, forecast: pl.DataFrame) -> dg.MaterializeResult[None]:
    with runtime.warehouse.write() as connection:
        connection.append("forecasts", forecast)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": forecast.height,
            "models": table(forecast.group_by("model").agg(rows=pl.len()).sort("model")),
            "total": table(
                forecast.group_by("interval_start")
                .agg(pl.col("p10", "p50", "p90").sum())
                .sort("interval_start"),
                rows=100,
            ),
        }
    )
