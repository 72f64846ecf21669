"""The day as it would have been planned by someone who knew it all.

Belongs here: the planner fed with what happened. Does not: the planner (`optimization`), what
the day cost (`cost`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.forecasting.schemas import SessionForecasts
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.portfolio import PortfolioTerms
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.settlement.actuals import believed
from vpp_pipeline.settlement.cost import end_values, imbalance_terms

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.flexibility.schemas import States
    from vpp_pipeline.optimization.problem import Problem
    from vpp_pipeline.optimization.settings import PlanSettings
    from vpp_pipeline.settlement.schemas import ActualDay
    from vpp_pipeline.settlement.stores import Floats


@dataclass(frozen=True)
class Foresight:
    """The best that could have been done."""

    power_kw: Floats
    """(T, N), positive injects."""
    gap: float | None
    """How far from the proven optimum, as `Certificate.gap`; None: not proven."""


def perfect_foresight(
    devices: dy.DataFrame[DeviceFrame], day: ActualDay, settings: PlanSettings
) -> Foresight:
    """Plan the day by the pipeline's own envelopes and solver, with actuals for forecasts.

    It knows what was sold ahead, too, and what it costs to be off it (`ActualDay.commitment`).
    One thing differs from a plan of the pipeline: every store is worth its end value at the
    day's end, as `cost` accounts for it, and a one-way vehicle is worth filling to its target.
    """
    start = day.intervals[0]
    envelopes = device_envelopes(
        devices,
        _states(devices, day),
        _certain(devices, day, start),
        _sessions(devices, day, start),
        day.temperatures,
        day.intervals,
        start,
    )
    settled = imbalance_terms(day)
    terms = None if settled is None else PortfolioTerms(quarter_hours=settled)
    problem = _worth_at_end(
        build(devices, envelopes, day.prices, settings, terms), devices, day, settings
    )
    found = solve(problem, settings)
    power_kw = problem.fixed_kw.copy()
    power_kw[:, problem.stores.place] = found.setpoints.store_kw
    power_kw[:, problem.sources.place] = found.setpoints.source_kw
    return Foresight(power_kw, found.gap)


def _worth_at_end(
    problem: Problem, devices: pl.DataFrame, day: ActualDay, settings: PlanSettings
) -> Problem:
    stores = problem.stores
    there = stores.present[-1]
    value = end_values(devices, day, settings)[stores.place]
    placed = (
        day.stays.filter("was_there")
        .join(devices.with_row_index("place"), on="device_id")
        .filter(pl.col("device_type").cast(pl.String) == "ev_charger", pl.col("max_inject_kw") == 0)
        .with_columns(most=pl.max_horizontal("initial_kwh", "target_kwh"))
    )
    enough = np.full((len(day.intervals), devices.height), np.inf)
    stays = np.arange(len(day.intervals))[:, None] < placed["end_step"].to_numpy()
    enough[:, placed["place"].to_numpy()] = np.where(stays, placed["most"].to_numpy(), np.inf)
    ceiling = np.fmax(stores.floor_kwh, np.fmin(stores.ceiling_kwh, enough[:, stores.place]))
    return replace(
        problem,
        stores=replace(
            stores, end_value_eur_per_kwh=np.where(there, value, 0.0), ceiling_kwh=ceiling
        ),
    )


def _states(devices: pl.DataFrame, day: ActualDay) -> dy.DataFrame[States]:
    start = day.intervals[0]
    there = day.stays.filter("was_there").select(
        "device_id",
        stay_kwh="initial_kwh",
        target_energy_kwh="target_kwh",
        deadline="departure",
    )
    kind = pl.col("device_type").cast(pl.String)
    known = (
        devices.select("device_id", "device_type")
        .join(day.start_kwh, on="device_id", how="left", maintain_order="left")
        .join(day.start_kw, on="device_id", how="left", maintain_order="left")
        .join(there, on="device_id", how="left", maintain_order="left")
        .with_columns(
            energy_kwh=pl.coalesce("energy_kwh", "stay_kwh"),
            plugged_in=pl.when(kind == "ev_charger").then(pl.col("stay_kwh").is_not_null()),
        )
        .with_columns(
            available=~kind.is_in(["battery", "heat_pump"]) | pl.col("energy_kwh").is_not_null()
        )
    )
    return believed(known.drop("device_type", "stay_kwh"), start)


def _certain(devices: pl.DataFrame, day: ActualDay, start: datetime) -> pl.DataFrame:
    return day.profiles.join(devices.select("device_id", "device_type"), on="device_id").select(
        "interval_start",
        target=pl.col("device_type").cast(pl.String),
        subject_id="device_id",
        p10="available_kw",
        p50="available_kw",
        p90="available_kw",
        model=pl.lit("actual"),
        known_at=pl.lit(start, pl.Datetime("us", "UTC")),
    )


def _sessions(
    devices: pl.DataFrame, day: ActualDay, start: datetime
) -> dy.DataFrame[SessionForecasts]:
    vehicles = day.stays.filter(~pl.col("was_there")).join(
        devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger"),
        on="device_id",
        how="semi",
    )
    asked = (pl.col("target_kwh") - pl.col("initial_kwh")).clip(lower_bound=0.0)
    arrival = start + pl.col("first_step") * pl.lit(STEP)
    return SessionForecasts.validate(
        vehicles.select(
            "device_id",
            *(arrival.alias(f"arrival_{q}") for q in ("p10", "p50", "p90")),
            *(pl.col("departure").alias(f"departure_{q}") for q in ("p10", "p50", "p90")),
            *(asked.alias(f"energy_{q}_kwh") for q in ("p10", "p50", "p90")),
            probability=pl.lit(1.0),
            model=pl.lit("actual"),
            known_at=pl.lit(start, pl.Datetime("us", "UTC")),
        ),
        cast=True,
    )
