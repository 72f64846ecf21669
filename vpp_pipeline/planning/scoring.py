"""How good the candidates' forecasts of a day that is over were, in their own unit and in euros.

Belongs here: reading what was said and what came of it, and scoring it. Does not: the measures
(`forecasting.skill`, `settlement.forecast_loss`), who answers next (`champions`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting import groups, session_values
from vpp_pipeline.forecasting.naive import naive
from vpp_pipeline.forecasting.presence import TARGET, presence
from vpp_pipeline.forecasting.schemas import ForecastSkill
from vpp_pipeline.forecasting.skill import SCORED_AS, skill
from vpp_pipeline.forecasting.stays import past_sessions
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.planning.candidates import told_by_chargers
from vpp_pipeline.planning.champions import issued, issued_sessions
from vpp_pipeline.planning.records import day_devices, day_records, measured
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.settlement.forecast_loss import euros_lost

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.runtime import Runtime
    from vpp_pipeline.settlement.schemas import ActualDay

_RULE_LOOKS_BACK = timedelta(days=8)
_PROFILED = ["load", "pv", "wind"]


def day_skill(runtime: Runtime, day: date, as_of: datetime) -> dy.DataFrame[ForecastSkill]:
    """Return the skill of champions and challengers on a day that is over, as known at `as_of`.

    No rows where no forecast was made before the day began.
    """
    start, end = market_day.bounds(day, MARKET_TZ)
    intervals = market_day.day_intervals(day, MARKET_TZ)
    devices = day_devices(runtime, day, as_of)
    sessions = _sessions_said(runtime, day, as_of)
    said = pl.concat(
        [_said(runtime, day, as_of), *_by_value(devices, sessions, intervals)],
        how="diagonal_relaxed",
    )
    if said.is_empty():
        return ForecastSkill.create_empty()
    known = pl.concat(
        _known(runtime, start, moment, targets)
        for moment, targets in said.filter("champion")
        .group_by("known_at", maintain_order=True)
        .agg(pl.col("target").unique().sort())
        .iter_rows()
    )
    records = day_records(runtime, devices, day, as_of)
    stays = session_values.happened(past_sessions(records.telemetry), MARKET_TZ)
    return skill(
        said,
        pl.concat([actuals(runtime, devices, start, end, as_of), stays], how="diagonal"),
        naive(known, intervals, MARKET_TZ),
        _euros(runtime, devices, records.happened(devices, intervals), said, sessions),
        day,
        as_of,
    )


def actuals(
    runtime: Runtime, devices: pl.DataFrame, start: datetime, end: datetime, as_of: datetime
) -> pl.DataFrame:
    """Return what came in [start, end), as known at a moment, of what is forecast.

    The columns are `target`, `subject_id`, `interval_start`, `value`. Loads, sun and wind are those
    of `devices`, and so are sites and groups: the quarter-hours that models learn from and days
    are settled on.
    """
    with runtime.warehouse.read() as connection:
        told = connection.frame(
            "defs_forecast_actuals", market=MARKET, start=start, end_=end, as_of=as_of
        )
    profiled = devices.select("device_id", target=pl.col("device_type").cast(pl.String)).filter(
        pl.col("target").is_in(_PROFILED)
    )
    judged = devices.join(profiled, on="device_id", how="semi")
    came = (
        measured(runtime, judged, "warehouse_power_readings", start, end, as_of)
        .filter(pl.col("interval_start") >= start)
        .join(profiled, on="device_id")
        .select(
            "target",
            "interval_start",
            subject_id="device_id",
            # what sun and wind could have given, where the device tells it
            value=pl.coalesce("available_power_kw", "power_kw"),
        )
        .drop_nulls("value")
    )
    return groups.actuals_with_sums(
        pl.concat([told, came.select(told.columns)]), groups.members(devices)
    )


def _said(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of champions and challengers, with `forecaster` and `champion`."""
    rivals = _challengers(runtime, "planning_challenger_forecasts", day, as_of)
    return _together(issued(runtime, day, as_of), rivals, ["target", "known_at"])


def _sessions_said(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `SessionForecasts` of champion and challengers, likewise."""
    rivals = _challengers(runtime, "planning_challenger_sessions", day, as_of)
    return _together(issued_sessions(runtime, day, as_of), rivals, ["known_at"])


def _challengers(runtime: Runtime, query: str, day: date, as_of: datetime) -> pl.DataFrame:
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        return connection.frame(query, start=start, end_=end, as_of=as_of)


def _together(champions: pl.DataFrame, rivals: pl.DataFrame, spoke: list[str]) -> pl.DataFrame:
    """Return champions and those of their `rivals` that `spoke` of the same, at the same moment."""
    return pl.concat(
        [
            champions.rename({"champion": "forecaster"}).with_columns(champion=pl.lit(value=True)),
            rivals.join(champions.select(spoke).unique(), on=spoke).with_columns(
                champion=pl.lit(value=False)
            ),
        ],
        how="diagonal_relaxed",
    )


def _by_value(
    devices: pl.DataFrame, sessions: pl.DataFrame, intervals: pl.Series
) -> list[pl.DataFrame]:
    """Return each forecaster's sessions beside `Forecasts`: where a vehicle is, and their numbers."""
    chargers = devices.filter(pl.col("device_type") == "ev_charger")["device_id"]
    in_the_day = pl.col("interval_start").is_in(intervals.implode())
    return [
        values.with_columns(forecaster=pl.lit(name), champion=pl.lit(champion))
        for (name, champion), of_one in sorted(
            sessions.partition_by("forecaster", "champion", as_dict=True).items()
        )
        for values in (
            presence(of_one, chargers, intervals),
            session_values.expected(of_one, MARKET_TZ).filter(in_the_day),
        )
    ]


def _known(runtime: Runtime, start: datetime, moment: datetime, targets: list[str]) -> pl.DataFrame:
    """Return what the naive rule looks back on from a day's `start`, of `targets`, by a moment."""
    named = {"load" if target in groups.TARGETS else target for target in targets}
    devices = runtime.known_devices(moment).filter(
        pl.col("device_type").cast(pl.String).is_in(named)
    )
    known = [actuals(runtime, devices, start - _RULE_LOOKS_BACK, start, moment)]
    if not set(targets).isdisjoint(session_values.TARGETS):
        told = past_sessions(told_by_chargers(runtime, moment))
        known.append(session_values.happened(told, MARKET_TZ))
    return pl.concat(known, how="diagonal").filter(pl.col("target").is_in(targets))


def _euros(
    runtime: Runtime,
    devices: dy.DataFrame[DeviceFrame],
    happened: ActualDay,
    said: pl.DataFrame,
    sessions: pl.DataFrame,
) -> pl.DataFrame:
    return euros_lost(
        devices,
        happened,
        said.with_columns(target=pl.col("target").cast(pl.String).replace_strict(SCORED_AS)).filter(
            ~pl.col("target").is_in([*groups.TARGETS, TARGET, *session_values.TARGETS])
        ),
        PlanSettings(),
        runtime.settings.imbalance_spread_eur_per_mwh,
        sessions=sessions,
    )
