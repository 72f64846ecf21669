"""The charging sessions that were, read from what the chargers told.

Belongs here: quarter-hours of telemetry → sessions. Does not: sessions to come (`sessions`).
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.forecasting.rows import in_time_order

_TOLD = [
    "device_id",
    "interval_start",
    "power_kw",
    "plugged_in",
    "energy_kwh",
    "target_energy_kwh",
    "deadline",
]


def past_sessions(telemetry: pl.DataFrame) -> pl.DataFrame:
    """Return one row a session: from the first plugged-in quarter-hour to the end of the last.

    `telemetry` holds `device_id`, `interval_start`, `power_kw`, `plugged_in`, `energy_kwh`,
    `target_energy_kwh`, `deadline` (energies and states as last told in the quarter-hour). A
    session begins where the quarter-hour told before was not plugged in, or where its deadline
    has passed and another one is told: one vehicle followed the other. Quarter-hours that were
    not told neither end a session nor begin one.

    Returns `device_id`, `arrival`, `departure`, `first_energy_kwh` and `first_power_kw` (of the
    first quarter-hour that told them), `last_energy_kwh`, `target_energy_kwh`, `deadline` and
    `ongoing` (the charger's last word was plugged in).
    """
    told = in_time_order(telemetry.select(_TOLD).filter(pl.col("plugged_in").is_not_null()))
    same = pl.col("device_id") == pl.col("device_id").shift()
    was_there, before = (pl.col(name).shift() for name in ("plugged_in", "deadline"))
    followed = (pl.col("deadline") != before) & (pl.col("interval_start") >= before)
    goes_on = same & was_there & ~followed.fill_null(value=False)
    is_last = (pl.col("device_id") != pl.col("device_id").shift(-1)).fill_null(value=True)
    return (
        told.with_columns(begins=~goes_on.fill_null(value=False), is_last=is_last)
        .filter("plugged_in")
        .group_by("device_id", nth=pl.col("begins").cum_sum())
        .agg(
            arrival=pl.col("interval_start").min(),
            departure=pl.col("interval_start").max() + STEP,
            first_energy_kwh=pl.col("energy_kwh").drop_nulls().first(),
            first_power_kw=pl.col("power_kw").filter(pl.col("energy_kwh").is_not_null()).first(),
            last_energy_kwh=pl.col("energy_kwh").drop_nulls().last(),
            target_energy_kwh=pl.col("target_energy_kwh").drop_nulls().last(),
            deadline=pl.col("deadline").drop_nulls().last(),
            ongoing=pl.col("is_last").any(),
        )
        .drop("nth")
        .sort("device_id", "arrival")
    )


def words_and_outcomes(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return `past_sessions` as `stay_model.train` takes them, and `ongoing`.

    What a vehicle said is its last word: its deadline, and its target less what it came with.
    """
    charged = pl.col("last_energy_kwh") - pl.col("first_energy_kwh") + _charged_at_once_kwh()
    return sessions.select(
        "device_id",
        "arrival",
        "departure",
        "ongoing",
        charged_kwh=charged.clip(lower_bound=0.0),
        stated_departure="deadline",
        stated_kwh=asked_kwh(),
    )


def asked_kwh() -> pl.Expr:
    """Return what the vehicle of a row of `past_sessions` asked to be charged, kWh in it."""
    asked = pl.col("target_energy_kwh") - pl.col("first_energy_kwh") + _charged_at_once_kwh()
    return asked.clip(lower_bound=0.0)


def _charged_at_once_kwh() -> pl.Expr:
    """Return what went in within the quarter-hour that first told the vehicle's content."""
    return -pl.col("first_power_kw").fill_null(0.0).clip(upper_bound=0.0) * STEP_H
