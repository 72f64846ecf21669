"""A day's stays as they were expected, beside the vehicles that were there already.

Belongs here: `SessionForecasts` as the stays of an `ActualDay`. Does not: what believing them cost
(`forecast_loss`), the stays that were (`actuals`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.presence import EXPECTED_FROM
from vpp_pipeline.settlement.schemas import Stays

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.settlement.schemas import ActualDay


def expected_stays(
    devices: pl.DataFrame, day: ActualDay, sessions: pl.DataFrame
) -> dy.DataFrame[Stays]:
    """Return the day's stays with those that begin in it as `sessions` told, of one moment.

    A plan expects a session (`SessionForecasts`) that is as likely as not, at its median times, of
    a vehicle that comes so empty that it leaves full, once the charger is free. What is owed to a
    vehicle that is there as the day begins, its driver has said: it stays as it was, and so do
    flexible loads.
    """
    start, end = day.intervals[0], day.intervals[-1] + STEP
    chargers = devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger").select(
        "device_id", full_kwh=pl.coalesce("max_energy_kwh", "energy_capacity_kwh")
    )
    known = day.stays.join(chargers, on="device_id", how="left").filter(
        pl.col("was_there") | pl.col("full_kwh").is_null()
    )
    quarter_us = STEP // STEP.resolution
    arrives_us, leaves_us = (
        (pl.col(name) - pl.lit(start)).dt.total_microseconds()
        for name in ("arrival_p50", "departure_p50")
    )
    busy = known.group_by("device_id").agg(free_step=pl.col("end_step").max())
    before = pl.col("end_step").cum_max().shift(1).over("device_id").fill_null(0)
    to_come = (
        sessions.filter(
            pl.col("probability") >= EXPECTED_FROM,
            pl.col("arrival_p50").is_between(start, end, "left"),
        )
        .join(chargers, on="device_id")
        .join(busy, on="device_id", how="left")
        .with_columns(
            first_step=-(-arrives_us // quarter_us),
            end_step=pl.min_horizontal(leaves_us // quarter_us, len(day.intervals)),
            initial_kwh=(pl.col("full_kwh") - pl.col("energy_p50_kwh")).clip(lower_bound=0.0),
        )
        .filter(
            pl.col("first_step") >= pl.col("free_step").fill_null(0),
            pl.col("first_step") < pl.col("end_step"),
        )
        .sort("device_id", "first_step")
        .filter(pl.col("first_step") >= before)
        .select(
            "device_id",
            "first_step",
            "end_step",
            "initial_kwh",
            departure="departure_p50",
            target_kwh=pl.min_horizontal(
                pl.col("initial_kwh") + pl.col("energy_p50_kwh"), "full_kwh"
            ),
            leaves=pl.col("departure_p50") <= end,
            was_there=pl.lit(value=False),
        )
    )
    return Stays.validate(
        pl.concat([known.select(Stays.column_names()), to_come.select(Stays.column_names())]),
        cast=True,
    )
