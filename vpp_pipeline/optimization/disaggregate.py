"""A target for a group → what each of its devices is to do, at least cost.

Belongs here: the target as a plan of its own, and what of it can't be reached. Does not: how
plans are found (`solve`), a group's certain flexibility (`flexibility.aggregate`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.fleet.frame import DeviceFrame
from vpp_pipeline.flexibility.tubes import tubes
from vpp_pipeline.optimization.balance import balanced
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.planner import certificate_of, schedules_of
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.optimization.schemas import Schedules
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.verify import verify

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.optimization.problem import Bools, Floats, Problem
    from vpp_pipeline.optimization.schemas import Certificate

# A kWh of the target is worth this many of the dearest ways to give it, and a kWh that someone
# needs this many of the target's: needs come first, then the target, then cost.
_FIRST = 10.0
_LEAST_EUR_PER_KWH = 0.1
_ROUNDING_KW = 1e-6


@dataclass(frozen=True)
class Disaggregation:
    """What each device is to do for a target, and how near to it that is."""

    schedules: dy.DataFrame[Schedules]  # of the group's devices
    reached: pl.DataFrame  # interval_start, target_kw, reached_kw, shortfall_kw (target - reached)
    skipped: pl.DataFrame  # device_id, why: its devices that do what they do by themselves
    certificate: Certificate
    """Of the plan that the target is; its objective counts the shortfall at a penalty."""


def disaggregate(  # noqa: PLR0917 - a frame each, as `plan` takes them
    devices: dy.DataFrame[DeviceFrame],
    envelopes: pl.DataFrame,
    prices: pl.DataFrame,
    target: pl.DataFrame,
    group_id: str | None = None,
    settings: PlanSettings | None = None,
) -> Disaggregation:
    """Return the cheapest way for a group, or the whole fleet, to sum to a target.

    `target` is (interval_start, target_kw) over the envelopes' horizon: the sum of all the
    group's devices, its loads included. Every device stays within its envelope (`Envelopes`) and
    every site within its connection, its other devices as expected. What someone needs comes
    before the target, also where it is needed after the last quarter-hour: a store holds then
    what its envelope asks for at least. Where the target can't be reached, the nearest that can
    is. `prices` are (interval_start, price_eur_per_mwh). Raises
    `ProblemError` for inputs that can't be planned on, and for a group that has no device.
    """
    started = time.perf_counter()
    settings = settings or PlanSettings()
    of_group, at_sites = _members(devices, group_id)
    held = _held(envelopes, devices, of_group, at_sites)
    problem = build(at_sites, held, prices, settings)
    asked_kw = _asked(target, problem.intervals)
    others = ~at_sites["device_id"].is_in(of_group.implode()).to_numpy()
    tube = tubes(at_sites, held)
    place = problem.stores.place
    low_kwh, high_kwh = tube.low_kwh[place].T, tube.high_kwh[place].T
    position_kw = asked_kw + problem.fixed_kw[:, others].sum(axis=1)
    needs = at_sites["unmet_cost_eur_per_kwh"].fill_null(0.0).to_numpy()[place] > 0
    problem = _tracking(problem, position_kw, np.where(needs, low_kwh[-1], np.nan))
    built = time.perf_counter()
    found = solve(problem, settings)
    solved = time.perf_counter()

    setpoints = balanced(problem, found.setpoints, low_kwh, high_kwh)
    verdict = verify(problem, setpoints)
    if verdict.objective_eur < found.verdict.objective_eur:
        found = replace(found, setpoints=setpoints, verdict=verdict)
    stages = {
        "build": built - started,
        "solve": solved - built,
        "balance": time.perf_counter() - solved,
    }
    schedules = Schedules.cast(
        schedules_of(problem, found.setpoints).filter(pl.col("device_id").is_in(of_group.implode()))
    )
    return Disaggregation(
        schedules=schedules,
        reached=_reached(schedules, problem.intervals, asked_kw),
        skipped=_skipped(at_sites, held, problem, others),
        certificate=certificate_of(found, settings, stages),
    )


def _members(
    devices: dy.DataFrame[DeviceFrame], group_id: str | None
) -> tuple[pl.Series, dy.DataFrame[DeviceFrame]]:
    """Return the group's device ids, and all devices at the sites where it has any."""
    chosen = pl.lit(value=True) if group_id is None else pl.col("groups").list.contains(group_id)
    of_group = devices.filter(chosen)
    if of_group.is_empty():
        known = ", ".join(devices["groups"].explode().drop_nulls().unique().sort().head(10))
        raise ProblemError(
            f"group_id {group_id!r} has no device: give one of the fleet's groups ({known}), or "
            "none for the whole fleet"
        )
    at_sites = devices.join(of_group, on="site_id", how="semi", maintain_order="left")
    return of_group["device_id"], DeviceFrame.cast(at_sites)


def _held(
    envelopes: pl.DataFrame,
    devices: pl.DataFrame,
    of_group: pl.Series,
    at_sites: pl.DataFrame,
) -> pl.DataFrame:
    """Return the envelopes at the sites; those outside the group are held to what they expect."""
    stranger = ~pl.col("device_id").is_in(of_group.implode())
    expected = pl.col("expected_power_kw")
    energies = ("min_energy_kwh", "max_energy_kwh", "initial_energy_kwh", "required_end_kwh")
    elsewhere = devices.join(at_sites, on="device_id", how="anti").select("device_id")
    return envelopes.join(
        elsewhere, on="device_id", how="anti", maintain_order="left"
    ).with_columns(
        min_power_kw=pl.when(stranger).then(expected).otherwise("min_power_kw"),
        max_power_kw=pl.when(stranger).then(expected).otherwise("max_power_kw"),
        available=pl.col("available") & ~stranger,
        **{name: pl.when(~stranger).then(pl.col(name)) for name in energies},
    )


def _asked(target: pl.DataFrame, intervals: pl.Series) -> Floats:
    """Return the target over the horizon (T,), or say what is wrong with which row."""
    doubled = target.filter(pl.col("interval_start").is_duplicated()).head(1)
    if doubled.height:
        raise ProblemError(
            f"target: interval_start {doubled['interval_start'][0]} is there more than once: give "
            "one target_kw for every quarter-hour"
        )
    rows = (
        intervals.alias("interval_start")
        .to_frame()
        .join(target, on="interval_start", how="left", maintain_order="left")
    )
    asked = rows["target_kw"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    unknown = np.flatnonzero(~np.isfinite(asked))
    if len(unknown):
        at = int(unknown[0])
        raise ProblemError(
            f"target: interval_start {intervals[at]} has target_kw {rows['target_kw'][at]}: give "
            "a finite number for every quarter-hour of the envelopes"
        )
    return asked


def _tracking(problem: Problem, position_kw: Floats, left_kwh: Floats) -> Problem:
    """Return the problem whose fleet is to sum to a position, before all but what devices owe.

    At the horizon's end they owe `left_kwh` (S,), for what is needed later; NaN owes nothing.
    """
    stores, sources, price = problem.stores, problem.sources, problem.price_eur_per_kwh
    dearest = max(
        _LEAST_EUR_PER_KWH,
        float(np.max(np.abs(price))),
        float(np.max(sources.cost_eur_per_kwh, initial=0.0)),
        float(np.max(stores.wear_eur_per_kwh, initial=0.0)),
    )
    missed = _FIRST * dearest
    need = _FIRST * missed
    wished, shortfall = stores.wished_kwh.copy(), stores.shortfall_eur_per_kwh.copy()
    owed = stores.owed.copy()
    later = left_kwh > np.maximum(wished[-1], stores.floor_kwh[-1])
    wished[-1, later] = left_kwh[later]
    shortfall[-1, later] = need
    owed[-1] |= later & np.isnan(
        stores.kwh_per_c
    )  # what a building lacks is no debt but discomfort
    return replace(
        problem,
        stores=replace(
            stores,
            wished_kwh=wished,
            owed=owed,
            shortfall_eur_per_kwh=np.where(shortfall > 0, np.maximum(shortfall, need), 0.0),
            excess_eur_per_kwh=np.where(
                stores.excess_eur_per_kwh > 0, np.maximum(stores.excess_eur_per_kwh, need), 0.0
            ),
        ),
        portfolio=replace(
            problem.portfolio,
            position_kw=position_kw,
            surplus_eur_per_kwh=price - missed,
            shortage_eur_per_kwh=price + missed,
        ),
    )


def _reached(schedules: pl.DataFrame, intervals: pl.Series, asked_kw: Floats) -> pl.DataFrame:
    total = schedules.group_by("interval_start").agg(reached_kw=pl.col("power_kw").sum())
    shortfall = pl.col("target_kw") - pl.col("reached_kw")
    return (
        pl.DataFrame({"interval_start": intervals, "target_kw": asked_kw})
        .join(total, on="interval_start", maintain_order="left")
        .with_columns(
            shortfall_kw=pl.when(shortfall.abs() > _ROUNDING_KW).then(shortfall).otherwise(0.0)
        )
    )


def _skipped(
    devices: pl.DataFrame, envelopes: pl.DataFrame, problem: Problem, others: Bools
) -> pl.DataFrame:
    fixed = ~others
    fixed[problem.stores.place] = False
    fixed[problem.sources.place] = False
    usable = envelopes.group_by("device_id").agg(pl.col("available").all())
    return (
        devices.select("device_id", "controllable")
        .filter(pl.Series(fixed))
        .join(usable, on="device_id", how="left", maintain_order="left")
        .select(
            "device_id",
            why=pl.when(~pl.col("controllable"))
            .then(pl.lit("not controllable: it does what is expected of it"))
            .when(~pl.col("available"))
            .then(pl.lit("out of service, or its readings are stale"))
            .otherwise(pl.lit("no vehicle, or no window, within the horizon")),
        )
    )
