"""Flexibility in Dagster: what every device could do, and whether a plan may stand on it.

Belongs here: the envelopes and the blocking check on a plan's inputs. Does not: computing
envelopes (`outlook`, `flexibility`), the plan (`planning`).
"""

from datetime import date, datetime

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.forecasts import (
    ev_forecast,
    generation_forecast,
    load_forecast,
    temperature_forecast,
)
from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import fleet, telemetry
from vpp_pipeline.flexibility.envelopes import group_envelopes
from vpp_pipeline.flexibility.schemas import Envelopes
from vpp_pipeline.optimization import inputs
from vpp_pipeline.planning.inputs import DayOverError, horizon_left, market_prices, stored_envelopes
from vpp_pipeline.planning.outlook import outlook
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ


@dg.asset(
    group_name="flexibility",
    partitions_def=delivery_days,
    deps=[
        fleet,
        telemetry,
        load_forecast,
        generation_forecast,
        temperature_forecast,
        ev_forecast,
    ],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(Envelopes),
)
def flexibility_envelopes(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What each device could do in what is left of the delivery day."""
    now = runtime.clock.now()
    horizon = horizon_for_dispatch(runtime, delivery_day(context), now)
    known = outlook(runtime, horizon, now)
    with runtime.warehouse.write() as connection:
        connection.append("envelopes", known.envelopes.with_columns(known_at=pl.lit(now)))
    unavailable = known.states.filter(~pl.col("available")).select("device_id", "why")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": known.envelopes.height,
            "unavailable_devices": table(unavailable),
            "groups": table(
                group_envelopes(known.devices, known.envelopes)
                .group_by("group_id")
                .agg(
                    pl.col("devices").max(),
                    pl.col("min_power_kw").min(),
                    pl.col("max_power_kw").max(),
                )
                .sort("group_id")
            ),
        }
    )


@dg.asset_check(asset=flexibility_envelopes, blocking=True)
def plan_inputs_are_sound(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """No plan is made on stale, non-finite or misaligned inputs."""
    now = runtime.clock.now()
    day = delivery_day(context)
    envelopes = stored_envelopes(runtime, day, now)
    horizon = envelopes["interval_start"].unique().sort()
    _, day_end = market_day.bounds(day, MARKET_TZ)
    wanted = market_day.intervals(horizon[0], day_end) if horizon.len() else horizon
    with runtime.warehouse.read() as connection:
        newest = connection.frame("defs_newest_price", market=MARKET, as_of=now)["known_at"][0]
    found = inputs.problems(
        runtime.devices(now),
        envelopes,
        market_prices(runtime, wanted, now),
        wanted,
        newest_price_known_at=newest,
        as_of=now,
    )
    return dg.AssetCheckResult(
        passed=found.is_empty(),
        metadata={"problems": table(found), "count": found.height},
    )


def horizon_for_dispatch(runtime: Runtime, day: date, now: datetime) -> pl.Series:
    """Return what is left of the day to be planned; a run for a day that is over fails for good."""
    try:
        return horizon_left(runtime, day, now)
    except DayOverError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
