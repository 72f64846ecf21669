"""What each device could do from a moment on, on what was known then.

Belongs here: reading telemetry, forecasts, the plan in force and delivery scores, and making
envelopes of them. Does not: the envelopes themselves (`flexibility`), making forecasts
(`forecasts`), storing anything (`defs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.dispatch.delivery import MEMORY
from vpp_pipeline.dispatch.group import Outlook
from vpp_pipeline.flexibility.derating import deratings
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.flexibility.states import project, usable_states
from vpp_pipeline.runtime import TELEMETRY_MAX_AGE
from vpp_pipeline.settings import MARKET_TZ

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.runtime import Runtime


@dataclass(frozen=True)
class Expected:
    """What is forecast of a fleet."""

    profiles: pl.DataFrame
    """`Forecasts` of load, sun and wind."""
    temperatures: pl.DataFrame
    """`Forecasts` of temperature, by site."""
    sessions: pl.DataFrame
    """`SessionForecasts`"""


def outlook(runtime: Runtime, horizon: pl.Series, now: datetime) -> Outlook:
    """Return the fleet, what may be believed of it at `now`, and its envelopes over `horizon`.

    Raises `EnvelopeError` where the forecasts stored by `now` do not cover the horizon.
    """
    return outlook_on(
        runtime,
        runtime.devices(now),
        runtime.believed_telemetry(now),
        stored_forecasts(runtime, horizon, now),
        horizon,
        now,
    )


def outlook_on(  # noqa: PLR0917 - a frame each; callers name none of them differently
    runtime: Runtime,
    devices: dy.DataFrame[DeviceFrame],
    readings: pl.DataFrame,
    expected: Expected,
    horizon: pl.Series,
    now: datetime,
) -> Outlook:
    """Return the `outlook` of these devices on their newest readings and these forecasts.

    Raises `EnvelopeError` where the forecasts do not cover the horizon.
    """
    start = horizon[0]
    with runtime.warehouse.read() as connection:
        before = connection.frame(
            "defs_schedule_in_force", start=now - timedelta(hours=1), end_=start, as_of=now
        )
        scores = connection.frame("dispatch_delivery_scores", since=now - MEMORY, as_of=now)
    states = usable_states(devices, readings, now, TELEMETRY_MAX_AGE)
    envelopes = device_envelopes(
        devices,
        project(states, devices, before, start),
        expected.profiles,
        expected.sessions,
        # A building is planned for a cold day: a night colder than the median is no discomfort.
        expected.temperatures.select(
            site_id="subject_id", interval_start="interval_start", temperature_c="p10"
        ),
        horizon,
        now,
        deratings(scores),
    )
    return Outlook(devices, states, envelopes)


def stored_forecasts(runtime: Runtime, horizon: pl.Series, now: datetime) -> Expected:
    """Return what was forecast of the horizon by `now`, the newest of each."""
    span: dict[str, Any] = {
        "start": horizon[0],
        "end_": horizon[-1] + market_day.STEP,
        "as_of": now,
    }
    with runtime.warehouse.read() as connection:
        return Expected(
            profiles=pl.concat(
                [
                    connection.frame("warehouse_forecasts", target=target, **span)
                    for target in ("load", "pv", "wind")
                ]
            ),
            temperatures=connection.frame("warehouse_forecasts", target="temperature", **span),
            sessions=connection.frame("warehouse_session_forecasts", **span),
        )


def rest_of_day(now: datetime, until: datetime) -> pl.Series:
    """Return the quarter-hours from the running one to the end of the delivery day of `until`."""
    last = market_day.delivery_day_of(until - timedelta(microseconds=1), MARKET_TZ)
    return market_day.intervals(
        market_day.floor_interval(now), market_day.bounds(last, MARKET_TZ)[1]
    )
