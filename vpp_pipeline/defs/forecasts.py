"""Forecasts in Dagster.

Belongs here: the assets that make and judge forecasts. Does not: what they stand on
(`planning.forecasts`), any model (`forecasting`).
"""

from collections.abc import Callable

import dagster as dg
import dataframely as dy
import polars as pl

from vpp_pipeline.defs.forecast_figures import forecast_figures
from vpp_pipeline.defs.market import day_ahead_prices, market_forecasts, weather
from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import fleet, telemetry
from vpp_pipeline.forecasting.schemas import Forecasts, SessionForecasts
from vpp_pipeline.planning import forecasts
from vpp_pipeline.runtime import Runtime


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
    """What uncontrolled loads will draw, and those of each site and group together.

    Sites and groups are forecast as they are: their p10 is not the sum of their loads'. A plan
    reads the loads alone.
    """
    return _store(runtime, forecasts.load(runtime, delivery_day(context), runtime.clock.now()))


@_forecast(fleet, telemetry, weather)
def generation_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What PV and wind could inject, uncurtailed."""
    return _store(
        runtime, forecasts.generation(runtime, delivery_day(context), runtime.clock.now())
    )


@_forecast(weather)
def temperature_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Outdoor temperature at every site with a building to heat."""
    return _store(
        runtime, forecasts.temperature(runtime, delivery_day(context), runtime.clock.now())
    )


@_forecast(fleet, telemetry, schema=SessionForecasts)
def ev_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """When vehicles will come and leave, and what they will ask for."""
    kept = forecasts.sessions_to_keep(runtime, delivery_day(context), runtime.clock.now())
    with runtime.warehouse.write() as connection:
        connection.append("session_forecasts", kept)
    expected = kept.filter(pl.col("probability") > 0)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": expected.height, "sessions": table(expected)}
    )


@_forecast(day_ahead_prices, market_forecasts)
def price_forecast(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """Prices of the day, for the plan that is made before the auction's results."""
    return _store(runtime, forecasts.price(runtime, delivery_day(context), runtime.clock.now()))


def _store(runtime: Runtime, forecast: pl.DataFrame) -> dg.MaterializeResult[None]:
    with runtime.warehouse.write() as connection:
        connection.append("forecasts", forecast)
    return dg.MaterializeResult(metadata=forecast_figures(forecast))
