"""What was stored of a delivery day that is over.

Belongs here: reading the records that a day is settled on. Does not: settling it (`settlement`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.settlement.settle import Records
from vpp_pipeline.telemetry_quality.parts import in_parts
from vpp_pipeline.telemetry_quality.repair import trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.runtime import Runtime

_BEFORE = timedelta(days=1)


def day_devices(runtime: Runtime, day: date, as_of: datetime) -> dy.DataFrame[DeviceFrame]:
    """Return the fleet that a delivery day ended with, as `Runtime.known_devices` does.

    Of a day that is not over at `as_of`, and of one that ended before any fleet was known, it is the
    fleet known at `as_of`. Raises `LookupError` where none was.
    """
    ended = market_day.bounds(day, MARKET_TZ)[1] - timedelta.resolution
    try:
        return runtime.known_devices(min(ended, as_of))
    except LookupError:
        return runtime.known_devices(as_of)


def day_records(runtime: Runtime, devices: pl.DataFrame, day: date, as_of: datetime) -> Records:
    """Return what is known at `as_of` of the day's delivery."""
    start, end = market_day.bounds(day, MARKET_TZ)
    span: dict[str, Any] = {"start": start, "end_": end, "as_of": as_of}
    telemetry = measured(runtime, devices, "warehouse_readings", start, end, as_of)
    with runtime.warehouse.read() as connection:
        return Records(
            telemetry=telemetry,
            prices=connection.frame("warehouse_prices", market=MARKET, **span),
            weather=connection.frame("warehouse_weather", **span),
            forecasts=pl.concat(
                [
                    connection.frame("warehouse_forecasts", target=target, **span)
                    for target in ("load", "pv", "wind", "temperature")
                ]
            ),
            day_ahead=connection.frame("defs_day_ahead_schedule", delivery_day=day),
            in_force=connection.frame("defs_schedule_at_start", start=start, end_=end),
            commands=connection.frame("defs_commands_of_day", start=start, end_=end),
            outages=connection.frame("defs_outages", **span),
        )


def measured(  # noqa: PLR0917 - whose readings, which of them, of when, and as known when
    runtime: Runtime,
    devices: pl.DataFrame,
    query: str,
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> pl.DataFrame:
    """Return the quarter-hours of `devices` from a day before `start` to `end`, as known at `as_of`.

    What is doubted of them is repaired. `query` is the named query that reads their readings.
    """
    told = readings(runtime, devices, query, start - _BEFORE, end, as_of)
    settings = QualitySettings()
    return in_parts(told, lambda part: quarter_hours(trusted(part, devices, settings)))


def readings(  # noqa: PLR0917 - as `measured`
    runtime: Runtime,
    devices: pl.DataFrame,
    query: str,
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> pl.DataFrame:
    """Return the readings of `devices` in [start, end) known at `as_of`, as `query` reads them."""
    with runtime.warehouse.read() as connection:
        return connection.frame(
            query,
            {"devices": devices.select("device_id")},
            start=start,
            end_=end,
            as_of=as_of,
        )
