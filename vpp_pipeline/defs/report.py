"""The day's report in Dagster.

Belongs here: reading what the page shows. Does not: the page (`reporting`), any figure.
"""

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.metadata import owners, picture
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.regret import plan_churn, regret
from vpp_pipeline.defs.settlement import by_target, forecast_errors, settlement
from vpp_pipeline.planning.records import day_devices
from vpp_pipeline.reporting import html, pictures
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

_MOST_UNVERIFIED_SHOWN = 100


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[settlement, forecast_errors, regret, plan_churn],
    kinds={"html"},
    owners=owners(),
)
def plan_report(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The day as one self-contained HTML page, and its pictures."""
    day = delivery_day(context)
    start, end = market_day.bounds(day, MARKET_TZ)
    now = runtime.clock.now()
    devices = day_devices(runtime, day, now)
    batteries = devices.filter(pl.col("device_type") == "battery").select("device_id")
    with runtime.warehouse.read() as connection:
        delivery = connection.frame("defs_delivery", delivery_day=day)
        in_force = connection.frame("defs_schedule_at_start", start=start, end_=end)
        market = connection.frame(
            "warehouse_prices", market=MARKET, start=start, end_=end, as_of=now
        )
        readings = connection.frame(
            "warehouse_readings",
            {"devices": batteries},
            start=start,
            end_=end,
            as_of=now,
        )
        page = html.Day(
            delivery_day=day,
            market=MARKET,
            timezone=MARKET_TZ,
            made_at=now,
            devices=devices.height,
            costs=connection.frame("defs_settlement", delivery_day=day),
            errors=connection.frame("defs_delivery_error", delivery_day=day),
            plans=connection.frame("defs_plans_of_day", delivery_day=day),
            commands=connection.frame("defs_command_counts", start=start, end_=end),
            unverified=connection.frame("defs_unverified_commands", start=start, end_=end).head(
                _MOST_UNVERIFIED_SHOWN
            ),
            schedule=in_force.join(devices.select("device_id", "device_type"), on="device_id"),
            prices=market,
            delivery=delivery.join(
                devices.filter("controllable").select("device_id"), on="device_id", how="semi"
            ),
            stored_planned=_stored(in_force, batteries),
            stored_measured=_stored(quarter_hours(readings), batteries),
            regret=connection.frame("defs_regret", delivery_day=day),
            churn=connection.frame("defs_plan_churn", delivery_day=day),
            forecast_errors=by_target(connection.frame("defs_forecast_errors", delivery_day=day)),
        )
    target = runtime.settings.report_dir / f"{day}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html.render(page), encoding="utf-8")
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.path(str(target)),
            "prices_and_plan": picture(
                pictures.prices_and_plan(page.schedule, page.prices, MARKET_TZ, "png"),
                "prices and plan",
            ),
            "stored_energy": picture(
                pictures.stored_energy(page.stored_planned, page.stored_measured, MARKET_TZ, "png"),
                "stored energy",
            ),
        }
    )


def _stored(rows: pl.DataFrame, batteries: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.join(batteries, on="device_id", how="semi")
        .group_by("interval_start")
        .agg(pl.col("energy_kwh").sum())
        .sort("interval_start")
    )
