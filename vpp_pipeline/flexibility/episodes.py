"""From when to when a store exists, what it begins with and what it owes at its end.

Belongs here: a battery's and a building's whole horizon, a vehicle's sessions, a flexible load's
windows, each as one row. Does not: powers and energies on the grid of quarter-hours
(`envelopes`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import dataframely as dy
import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.forecasting.presence import EXPECTED_FROM

_HOUR = pl.duration(hours=1)


class Episodes(dy.Schema):
    """One row a store's life within the horizon: quarter-hours [first_step, end_step)."""

    device_id = dy.String()
    first_step = dy.Int64(min=0)
    end_step = dy.Int64(min=1)
    initial_kwh = dy.Float64()
    required_kwh = dy.Float64(nullable=True, description="owed at the last quarter-hour's end")
    ready_step = dy.Int64(
        min=1, nullable=True, description="by when it had better hold `ready_kwh`"
    )
    ready_kwh = dy.Float64(nullable=True)
    arrives = dy.Bool(description="false: the store exists before the horizon's start")


def standing(devices: pl.DataFrame, states: pl.DataFrame, steps: int) -> dy.DataFrame[Episodes]:
    """Return the stores that are always there: batteries and the buildings behind heat pumps."""
    return Episodes.validate(
        devices.filter(pl.col("device_type").cast(pl.String).is_in(["battery", "heat_pump"]))
        .select("device_id")
        .join(states.filter("available"), on="device_id")
        .select(
            "device_id",
            first_step=pl.lit(0, pl.Int64),
            end_step=pl.lit(steps, pl.Int64),
            initial_kwh="energy_kwh",
            required_kwh=pl.lit(None, pl.Float64),
            ready_step=pl.lit(None, pl.Int64),
            ready_kwh=pl.lit(None, pl.Float64),
            arrives=pl.lit(value=False),
        )
    )


def vehicle_sessions(
    devices: pl.DataFrame,
    states: pl.DataFrame,
    forecasts: pl.DataFrame,
    start: datetime,
    end: datetime,
) -> dy.DataFrame[Episodes]:
    """Return the vehicles' sessions in [start, end): the one plugged in, and those expected.

    What a vehicle has said is a promise to it: plugged in, it is to hold its own target at its own
    deadline, whatever is learned of it. What is learned of a session under way (its forecast
    arrival lies before the forecast) can only ask for more: where the vehicle may well be gone
    before (`departure_p10`), it is to hold by then what it can by charging at once, and it stays
    for the plan until its deadline all the same. What a vehicle does not say is filled in: a
    deadline by the forecast session that covers `start`, else it stays to the end; a target by
    what such sessions charge at most (`energy_p90_kwh`), else it is to be full. It stays for the
    first quarter-hour at least, also where its deadline is over or in it: what it lacks is owed
    at once. Expected sessions (`SessionForecasts`, probability >= 0.5, median times) begin after
    the state was valid and don't overlap; their vehicles arrive so empty that they leave full. Of a session that begins between the state and `start`, the vehicle is taken
    to have charged at once, as a charger does by itself.
    """
    chargers = (
        devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger")
        .select(
            "device_id",
            "max_draw_kw",
            "charge_efficiency",
            full_kwh=pl.coalesce("max_energy_kwh", "energy_capacity_kwh"),
        )
        .join(states.filter("available"), on="device_id")
    )
    expected = (
        forecasts.filter(pl.col("probability") >= EXPECTED_FROM)
        .select(
            "device_id",
            arrival="arrival_p50",
            departure="departure_p50",
            asked_kwh="energy_p50_kwh",
        )
        .filter(pl.col("departure") > start, pl.col("arrival") < end)
        .sort("device_id", "arrival")
    )
    covering = (
        expected.filter(pl.col("arrival") <= start)
        .group_by("device_id")
        .agg(forecast_deadline=pl.col("departure").first())
    )
    under_way = (
        forecasts.filter(pl.col("arrival_p90") < pl.col("known_at"))
        .sort("device_id", "arrival_p50")
        .group_by("device_id")
        .agg(pl.col("departure_p10", "energy_p90_kwh").last())
        .select("device_id", ready_by="departure_p10", still_asked_kwh="energy_p90_kwh")
    )
    present = (
        chargers.filter(pl.col("energy_kwh").is_not_null())
        .join(covering, on="device_id", how="left")
        .join(under_way, on="device_id", how="left")
        .with_columns(
            departure=pl.coalesce(
                "deadline",
                "forecast_deadline",
                pl.when("plugged_in").then(pl.lit(end, pl.Datetime("us", "UTC"))),
            )
        )
        .with_columns(
            departure=pl.when("plugged_in")
            .then(pl.col("departure").clip(lower_bound=start + STEP))
            .otherwise("departure")
        )
        .filter(pl.col("departure") > start)
        .select(
            "device_id",
            "departure",
            "max_draw_kw",
            "charge_efficiency",
            arrival=pl.lit(start, pl.Datetime("us", "UTC")),
            initial_kwh="energy_kwh",
            target_kwh=pl.coalesce(
                "target_energy_kwh",
                pl.when(pl.col("still_asked_kwh").is_not_null()).then(
                    pl.min_horizontal(pl.col("energy_kwh") + pl.col("still_asked_kwh"), "full_kwh")
                ),
                "full_kwh",
            ),
            ready_by=pl.when(pl.col("ready_by") < pl.col("departure")).then("ready_by"),
            arrives=pl.lit(value=False),
        )
    )
    head_start_h = (pl.lit(start) - pl.col("arrival")).dt.total_seconds() / 3600
    arrived_kwh = (pl.col("full_kwh") - pl.col("asked_kwh")).clip(lower_bound=0)
    future = (
        chargers.join(
            present.select("device_id", busy_until="departure"), on="device_id", how="left"
        )
        .with_columns(busy_until=pl.coalesce("busy_until", "valid_at"))
        .join(expected, on="device_id")
        .filter(pl.col("arrival") >= pl.col("busy_until"))
        .sort("device_id", "arrival")
        .with_columns(
            earlier=pl.col("departure").cum_max().shift(1).over("device_id"),
            charged_kwh=head_start_h.clip(lower_bound=0)
            * pl.col("max_draw_kw")
            * pl.col("charge_efficiency"),
        )
        .filter((pl.col("arrival") >= pl.col("earlier")).fill_null(value=True))
        .select(
            "device_id",
            "departure",
            "max_draw_kw",
            "charge_efficiency",
            arrival=pl.col("arrival").clip(lower_bound=start),
            initial_kwh=pl.min_horizontal(arrived_kwh + pl.col("charged_kwh"), "full_kwh"),
            target_kwh=pl.min_horizontal(arrived_kwh + pl.col("asked_kwh"), "full_kwh"),
            ready_by=pl.lit(None, pl.Datetime("us", "UTC")),
            arrives=pl.col("arrival") >= start,
        )
    )
    sessions = pl.concat([present, future.select(present.columns)])
    return _on_grid(sessions, start, end)


def load_windows(
    devices: pl.DataFrame, states: pl.DataFrame, start: datetime, end: datetime
) -> dy.DataFrame[Episodes]:
    """Return the flexible loads' windows in [start, end), by each site's own clock.

    A window whose end is not after its start ends on the next day. Where a day lacks
    the hour, a window starts an hour earlier or ends an hour later; where it has the hour twice,
    the window has both. In a window that began
    after the state was valid, the load is taken to have run at once, as it does by itself; one
    that runs now with an unknown content is not planned.
    """
    loads = (
        devices.filter(pl.col("device_type").cast(pl.String) == "flexible_load")
        .select(
            "device_id",
            "timezone",
            "max_draw_kw",
            "charge_efficiency",
            "window_start",
            "window_end",
            target_kwh="required_energy_kwh",
        )
        .join(states.filter("available"), on="device_id")
    )
    windows = pl.concat(
        [
            _windows_in_zone(of_zone, str(zone), start, end)
            for (zone,), of_zone in loads.partition_by("timezone", as_dict=True).items()
        ]
        or [_windows_in_zone(loads, "UTC", start, end)]
    )
    elapsed_h = (pl.lit(start) - pl.col("arrival")).dt.total_seconds() / 3600
    by_itself = pl.min_horizontal("target_kwh", elapsed_h * pl.col("max_draw_kw"))
    return _on_grid(
        windows.with_columns(
            ready_by=pl.lit(None, pl.Datetime("us", "UTC")),
            arrives=pl.col("arrival") >= start,
            initial_kwh=pl.when(pl.col("arrival") >= start)
            .then(0.0)
            .when(pl.col("arrival") > pl.col("valid_at"))
            .then(by_itself)
            .otherwise("energy_kwh"),
        )
        .with_columns(arrival=pl.col("arrival").clip(lower_bound=start))
        .filter(pl.col("initial_kwh").is_not_null()),
        start,
        end,
    )


def _windows_in_zone(
    loads: pl.DataFrame, zone: str, start: datetime, end: datetime
) -> pl.DataFrame:
    horizon = pl.Series([start, end]).dt.convert_time_zone(zone).dt.date()
    days = pl.date_range(horizon[0] - timedelta(days=1), horizon[1], "1d", eager=True).alias("day")
    local_start = pl.col("day").dt.combine(pl.col("window_start"), "us")
    end_day = (
        pl.when(pl.col("window_end") <= pl.col("window_start"))
        .then(pl.col("day").dt.offset_by("1d"))
        .otherwise("day")
    )
    local_end = end_day.dt.combine(pl.col("window_end"), "us")
    return (
        loads.join(days.to_frame(), how="cross")
        .with_columns(
            arrival=_instant(local_start, zone, "earliest"),
            departure=_instant(local_end, zone, "latest"),
        )
        .filter(pl.col("departure") > start, pl.col("arrival") < end)
    )


def _instant(local: pl.Expr, zone: str, side: Literal["earliest", "latest"]) -> pl.Expr:
    def told(moment: pl.Expr) -> pl.Expr:
        return moment.dt.replace_time_zone(zone, ambiguous=side, non_existent="null")

    beyond_gap = local - _HOUR if side == "earliest" else local + _HOUR
    return pl.coalesce(told(local), told(beyond_gap)).dt.convert_time_zone("UTC")


def _on_grid(sessions: pl.DataFrame, start: datetime, end: datetime) -> dy.DataFrame[Episodes]:
    """Round sessions inwards to whole quarter-hours; what is owed later, reduce to what is now.

    A session that outlasts the horizon owes at the horizon's end what can't be charged after it.
    """
    step_us = STEP // STEP.resolution

    def steps(moment: pl.Expr) -> pl.Expr:
        return (moment - pl.lit(start)).dt.total_microseconds()

    first = -(-steps(pl.col("arrival")) // step_us)
    last = steps(pl.lit(end)) // step_us
    power_kwh = STEP_H * pl.col("max_draw_kw") * pl.col("charge_efficiency")

    def owed_kwh(whole_end: pl.Expr) -> pl.Expr:
        return pl.col("target_kwh") - (whole_end - last).clip(lower_bound=0) * power_kwh

    whole_end = steps(pl.col("departure")) // step_us
    owed = owed_kwh(whole_end)
    whole_ready = steps(pl.col("ready_by")) // step_us
    ready_step = pl.min_horizontal(whole_ready, last)
    charged_at_once = pl.col("initial_kwh") + (ready_step - first) * power_kwh
    ready_kwh = pl.min_horizontal(owed_kwh(whole_ready), charged_at_once)
    asks = (ready_step > first) & (ready_kwh > pl.col("initial_kwh"))
    return Episodes.validate(
        sessions.select(
            "device_id",
            first_step=first,
            end_step=pl.min_horizontal(whole_end, last),
            initial_kwh="initial_kwh",
            required_kwh=pl.when((whole_end <= last) | (owed > pl.col("initial_kwh"))).then(owed),
            ready_step=pl.when(pl.col("ready_by").is_not_null() & asks).then(ready_step),
            ready_kwh=pl.when(pl.col("ready_by").is_not_null() & asks).then(ready_kwh),
            arrives="arrives",
        ).filter(pl.col("first_step") < pl.col("end_step"))
    )
