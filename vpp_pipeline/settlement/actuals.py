"""What really happened on a day, read from what was stored: telemetry, prices, weather, forecasts.

Belongs here: telemetry → `ActualDay`. Does not: any way to run that day, its cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.flexibility.episodes import load_windows
from vpp_pipeline.flexibility.schemas import States
from vpp_pipeline.forecasting.stays import past_sessions
from vpp_pipeline.settlement.schemas import ActualDay, Stays

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

_FLOWS_KW = 0.02
"""Less than this through a charger is its own consumption."""
_AT_LIMIT = 0.02
"""As near to its limit, as a share of its rating, a generator is taken to be held by it."""
_PROFILED = ["load", "pv", "wind"]
_ROW = ["device_id", "interval_start"]
_UTC = pl.Datetime("us", "UTC")


def actual_day(
    devices: pl.DataFrame,
    telemetry: pl.DataFrame,
    prices: pl.DataFrame,
    weather: pl.DataFrame,
    forecasts: pl.DataFrame,
    *,
    intervals: pl.Series,
) -> ActualDay:
    """Return what happened to the fleet in `intervals`, a whole day's quarter-hours.

    - `telemetry`: the warehouse's quarter-hours (`warehouse.quarter_hours`), beginning at least
      one before the day, better a day before it, so that vehicles that came before are known;
    - `prices`: (interval_start, price_eur_per_mwh);
    - `weather`: `markets.schemas.Weather`; observed rows count;
    - `forecasts`: `Forecasts` for the day; their p50 fills what nobody measured: missing loads,
      the sun and wind that a limit cut off, missing temperatures. The last known one counts.
    """
    start = intervals[0]
    guesses = (
        forecasts.sort("known_at")
        .with_columns(pl.col("target").cast(pl.String))
        .unique(["target", "subject_id", "interval_start"], keep="last")
    )
    return ActualDay(
        intervals=intervals,
        prices=prices.select("interval_start", "price_eur_per_mwh"),
        profiles=_profiles(devices, telemetry, guesses, intervals),
        temperatures=_temperatures(devices, weather, guesses, intervals),
        stays=Stays.validate(
            pl.concat(
                [
                    _vehicle_stays(devices, telemetry, intervals),
                    _load_stays(devices, telemetry, intervals),
                ]
            ),
            cast=True,
        ),
        start_kwh=_before(contents_told(devices, telemetry), start).drop("interval_start"),
        start_kw=_before(telemetry.drop_nulls("power_kw"), start).select("device_id", "power_kw"),
    )


def believed(known: pl.DataFrame, at: datetime) -> dy.DataFrame[States]:
    """Return what is known for certain as `States` at a moment; missing columns are null."""
    states = pl.concat(
        [States.create_empty(), known.with_columns(valid_at=pl.lit(at, _UTC))],
        how="diagonal_relaxed",
    )
    return States.validate(
        states.with_columns(available=pl.lit(value=True), why=pl.lit("")), cast=True
    )


def contents_told(devices: pl.DataFrame, telemetry: pl.DataFrame) -> pl.DataFrame:
    """Return what batteries and buildings told they held: device_id, interval_start, energy_kwh.

    A building's content is kWh thermal above `comfort_min_c`.
    """
    above_k = pl.col("temperature_c") - pl.col("comfort_min_c")
    return (
        telemetry.select("device_id", "interval_start", "energy_kwh", "temperature_c")
        .join(
            devices.filter(
                pl.col("device_type").cast(pl.String).is_in(["battery", "heat_pump"])
            ).select("device_id", "device_type", "comfort_min_c", "thermal_capacity_kwh_per_k"),
            on="device_id",
        )
        .select(
            "device_id",
            "interval_start",
            energy_kwh=pl.when(pl.col("device_type").cast(pl.String) == "battery")
            .then("energy_kwh")
            .otherwise(above_k * pl.col("thermal_capacity_kwh_per_k")),
        )
        .drop_nulls()
    )


def _before(rows: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """Return each device's last row before the day, else its first one in it."""
    before = pl.col("interval_start") < start
    ordered = rows.sort("interval_start")
    return pl.concat(
        [
            ordered.filter(before).unique("device_id", keep="last"),
            ordered.filter(~before).unique("device_id", keep="first"),
        ]
    ).unique("device_id", keep="first", maintain_order=True)


def _profiles(
    devices: pl.DataFrame, telemetry: pl.DataFrame, guesses: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    kind = pl.col("device_type").cast(pl.String)
    rated = pl.col("max_inject_kw")
    limited = (pl.col("setpoint_kw") < rated) & (
        pl.col("power_kw") > pl.col("setpoint_kw") - _AT_LIMIT * rated
    )
    free = pl.when(~limited.fill_null(value=False)).then("power_kw")
    generated = pl.coalesce("available_power_kw", free, pl.max_horizontal("power_kw", "p50")).clip(
        0.0, rated
    )
    drawn = pl.coalesce("power_kw", "p50").clip(upper_bound=0.0)
    return (
        devices.filter(kind.is_in(_PROFILED))
        .select("device_id", "device_type", "max_inject_kw")
        .join(intervals.alias("interval_start").to_frame(), how="cross")
        .join(
            telemetry.select(*_ROW, "power_kw", "available_power_kw", "setpoint_kw"),
            on=_ROW,
            how="left",
        )
        .join(
            guesses.filter(pl.col("target").is_in(_PROFILED)).select(
                "interval_start", "p50", device_id="subject_id"
            ),
            on=_ROW,
            how="left",
        )
        .select(
            *_ROW,
            available_kw=pl.when(kind == "load").then(drawn).otherwise(generated).fill_null(0.0),
        )
    )


def _temperatures(
    devices: pl.DataFrame, weather: pl.DataFrame, guesses: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    site = ["site_id", "interval_start"]
    observed = (
        weather.filter(pl.col("kind").cast(pl.String) == "observed")
        .sort("known_at")
        .unique(site, keep="last")
    )
    guessed = guesses.filter(pl.col("target") == "temperature")
    return (
        devices.select(pl.col("site_id").unique())
        .join(intervals.alias("interval_start").to_frame(), how="cross")
        .join(observed.select(*site, "temperature_c"), on=site, how="left")
        .join(guessed.select("interval_start", "p50", site_id="subject_id"), on=site, how="left")
        .select(*site, temperature_c=pl.coalesce("temperature_c", "p50"))
        .drop_nulls()
    )


def _load_stays(
    devices: pl.DataFrame, telemetry: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    start, end = intervals[0], intervals[-1] + STEP
    loads = devices.filter(pl.col("device_type").cast(pl.String) == "flexible_load")
    before = telemetry.filter(pl.col("interval_start") < start, pl.col("deadline") > start)
    # what was drawn for the window at hand is more exact than what was told of it
    begun = before.group_by("device_id", "deadline").agg(
        energy_kwh=pl.max_horizontal(
            pl.col("energy_kwh").max().fill_null(0.0), -pl.col("power_kw").sum() * STEP_H
        )
    )
    states = (
        loads.select("device_id", "required_energy_kwh")
        .join(begun, on="device_id", how="left")
        .select(
            "device_id",
            energy_kwh=pl.min_horizontal(
                pl.col("energy_kwh").fill_null(0.0), "required_energy_kwh"
            ),
        )
    )
    windows = load_windows(loads, believed(states, start), start, end)
    return (
        windows.join(loads.select("device_id", "required_energy_kwh"), on="device_id")
        .with_columns(target=pl.col("required_energy_kwh"))
        .select(
            "device_id",
            "first_step",
            "end_step",
            departure=pl.lit(None, _UTC),
            initial_kwh="initial_kwh",
            target_kwh="target",
            leaves=(pl.col("required_kwh") == pl.col("target")).fill_null(value=False),
            was_there=~pl.col("arrives"),
        )
    )


def _vehicle_stays(
    devices: pl.DataFrame, telemetry: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    start, end = intervals[0], intervals[-1] + STEP
    rows = _plugged(devices, telemetry)
    at, told = pl.col("interval_start"), pl.col("energy_kwh").is_not_null()
    stored, energy = pl.col("stored_kwh"), pl.col("energy_kwh")
    after_first = energy.filter(told).first() + stored.filter(at > at.filter(told).min()).sum()
    after_last = energy.filter(told).last() + stored.filter(at > at.filter(told).max()).sum()
    contents = (
        past_sessions(rows)
        .join(rows.select(*_ROW, "stored_kwh", "energy_kwh"), on="device_id")
        .filter(at >= pl.col("arrival"), at < pl.col("departure"))
        .sort(_ROW)
        .group_by("device_id", "arrival", "departure", "deadline", "target_energy_kwh", "ongoing")
        .agg(
            # telling at a quarter-hour's start or end, one of the two misses no charge
            leaves_with=pl.coalesce(pl.max_horizontal(after_first, after_last), stored.sum()),
            charged=stored.sum(),
            charged_before=stored.filter(at < start).sum(),
        )
    )
    known_until = pl.when("ongoing").then(pl.max_horizontal("departure", "deadline"))
    departure = pl.coalesce(known_until, "departure")
    quarter_us = STEP // STEP.resolution

    def step(moment: pl.Expr) -> pl.Expr:
        return (moment - pl.lit(start)).dt.total_microseconds() // quarter_us

    return (
        contents.with_columns(departure=departure)
        .filter(pl.col("departure") >= start + STEP, pl.col("arrival") < end)
        .select(
            "device_id",
            first_step=step(pl.col("arrival")).clip(lower_bound=0),
            end_step=step(pl.col("departure")).clip(upper_bound=len(intervals)),
            departure="departure",
            initial_kwh=(pl.col("leaves_with") - pl.col("charged") + pl.col("charged_before")).clip(
                lower_bound=0.0
            ),
            target_kwh=pl.coalesce("target_energy_kwh", "leaves_with"),
            leaves=(pl.col("departure") <= end)
            & ~(pl.col("ongoing") & pl.col("deadline").is_null()),
            was_there=pl.col("arrival") < start,
        )
    )


def _plugged(devices: pl.DataFrame, telemetry: pl.DataFrame) -> pl.DataFrame:
    """Return the chargers' rows, plugged in wherever power flowed, with what was stored.

    A vehicle that comes or leaves within a quarter-hour may be told as absent though it charged.
    """
    flows = pl.col("power_kw").abs() > _FLOWS_KW
    unseen = flows.fill_null(value=False) & ~pl.col("plugged_in").fill_null(value=False)
    deadline = pl.col("deadline")
    neighbour = pl.coalesce(
        deadline.shift(1).over("device_id"), deadline.shift(-1).over("device_id")
    )
    drawn, injected = (-pl.col("power_kw")).clip(lower_bound=0), pl.col("power_kw").clip(0)
    stored = STEP_H * (
        drawn * pl.col("charge_efficiency") - injected / pl.col("discharge_efficiency")
    )
    return (
        telemetry.join(
            devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger").select(
                "device_id",
                pl.col("charge_efficiency", "discharge_efficiency").fill_null(1.0),
            ),
            on="device_id",
        )
        .sort(_ROW)
        .with_columns(
            plugged_in=pl.col("plugged_in") | unseen,
            deadline=pl.when(unseen).then(neighbour).otherwise(deadline),
            stored_kwh=stored.fill_null(0.0),
        )
    )
