"""What each device could do from now on, on what is known now.

Belongs here: reading telemetry, forecasts, the plan in force and delivery scores, and making
envelopes of them. Does not: the envelopes themselves (`flexibility`), storing them (`defs`).
"""

from __future__ import annotations

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

    from vpp_pipeline.runtime import Runtime


def outlook(runtime: Runtime, horizon: pl.Series, now: datetime) -> Outlook:
    """Return the fleet, what may be believed of it at `now`, and its envelopes over `horizon`.

    Raises `EnvelopeError` where the forecasts known at `now` do not cover the horizon.
    """
    start, end = horizon[0], horizon[-1] + market_day.STEP
    devices = runtime.devices(now)
    with runtime.warehouse.read() as connection:
        span: dict[str, Any] = {"start": start, "end_": end, "as_of": now}
        forecasts = pl.concat(
            [
                connection.frame("warehouse_forecasts", target=target, **span)
                for target in ("load", "pv", "wind")
            ]
        )
        temperatures = connection.frame("warehouse_forecasts", target="temperature", **span)
        sessions = connection.frame("warehouse_session_forecasts", **span)
        before = connection.frame(
            "defs_schedule_in_force", start=now - timedelta(hours=1), end_=start, as_of=now
        )
        scores = connection.frame("dispatch_delivery_scores", since=now - MEMORY, as_of=now)
    states = usable_states(devices, runtime.believed_telemetry(now), now, TELEMETRY_MAX_AGE)
    envelopes = device_envelopes(
        devices,
        project(states, devices, before, start),
        forecasts,
        sessions,
        # A building is planned for a cold day: a night colder than the median is no discomfort.
        temperatures.select(
            site_id="subject_id", interval_start="interval_start", temperature_c="p10"
        ),
        horizon,
        now,
        deratings(scores),
    )
    return Outlook(devices, states, envelopes)


def rest_of_day(now: datetime, until: datetime) -> pl.Series:
    """Return the quarter-hours from the running one to the end of the delivery day of `until`."""
    last = market_day.delivery_day_of(until - timedelta(microseconds=1), MARKET_TZ)
    return market_day.intervals(
        market_day.floor_interval(now), market_day.bounds(last, MARKET_TZ)[1]
    )
