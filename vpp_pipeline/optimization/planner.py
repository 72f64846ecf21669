"""Frames in, schedules and their certificate out: what the pipeline calls.

Belongs here: the way in and out. Does not: the inputs' checks (`build`), finding the plan
(`solve`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.found import Prices
from vpp_pipeline.optimization.portfolio import PortfolioTerms
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.optimization.schemas import Certificate, PlanPrices, Schedules
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.verify import unmet

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.found import Found
    from vpp_pipeline.optimization.problem import Problem
    from vpp_pipeline.optimization.repair import Setpoints

__all__ = ["Plan", "PlanSettings", "PortfolioTerms", "ProblemError", "plan"]

_CURTAILED_KW = 1e-3


@dataclass(frozen=True)
class Plan:
    """What every device is to do, and how good that is."""

    schedules: dy.DataFrame[Schedules]
    certificate: Certificate
    prices: dy.DataFrame[PlanPrices]
    unmet: pl.DataFrame
    """(device_id, owed_by, unmet_kwh): what is owed by an instant and not delivered."""


def plan(  # noqa: PLR0917 - a frame each; callers name none of them differently
    devices: dy.DataFrame[DeviceFrame],
    envelopes: pl.DataFrame,
    prices: pl.DataFrame,
    settings: PlanSettings | None = None,
    terms: PortfolioTerms | None = None,
    warm: pl.DataFrame | None = None,
) -> Plan:
    """Plan the envelopes' horizon: a schedule for every device, in any case.

    `envelopes` are `Envelopes`, `prices` (interval_start, price_eur_per_mwh); `terms` are what
    the fleet as a whole is asked for, nothing but to sell at those prices without; `warm` are the
    `PlanPrices` of a plan like this one, to begin from. The same inputs
    give the same schedules, unless the time limit cut a solver short. Raises `ProblemError` for
    inputs that can't be planned on.
    """
    started = time.perf_counter()
    settings = settings or PlanSettings()
    problem = build(devices, envelopes, prices, settings, terms)
    built = time.perf_counter()
    found = solve(problem, settings, _begin_from(problem, warm))
    done = time.perf_counter()
    return Plan(
        schedules=schedules_of(problem, found.setpoints),
        certificate=certificate_of(
            found, settings, {"build": built - started} | _stages(found, done - built)
        ),
        prices=prices_of(problem, found.prices),
        unmet=unmet(problem, found.setpoints),
    )


def certificate_of(
    found: Found, settings: PlanSettings, stage_seconds: dict[str, float]
) -> Certificate:
    """Return what is known of a plan that took so long, in the stages told."""
    return Certificate(
        label=_label(found, settings, sum(stage_seconds.values())),
        method=found.method,
        solver=found.solver,
        solver_status=found.status,
        objective_eur=found.verdict.objective_eur,
        bound_eur=found.bound_eur,
        gap=found.gap,
        relaxed_gap=found.relaxed_gap,
        worst_violation_kw=found.verdict.worst_violation_kw,
        worst_violation_kwh=found.verdict.worst_violation_kwh,
        worst_violation_c=found.verdict.worst_violation_c,
        simultaneous_steps=found.verdict.simultaneous_steps,
        unmet_kwh=found.verdict.unmet_kwh,
        overload_kw=found.verdict.overload_kw,
        passes=found.passes,
        solve_seconds=sum(stage_seconds.values()),
        stage_seconds=stage_seconds,
    )


def prices_of(problem: Problem, prices: Prices) -> dy.DataFrame[PlanPrices]:
    """Return what more of the fleet's power and reserve is worth in a plan, a row a quarter-hour."""
    return PlanPrices.validate(
        pl.DataFrame({"interval_start": problem.intervals, **vars(prices)}), cast=True
    )


def _begin_from(problem: Problem, warm: pl.DataFrame | None) -> Prices | None:
    """Return another plan's prices on this horizon, where they cover it."""
    if warm is None:
        return None
    horizon = problem.intervals.alias("interval_start").to_frame()
    rows = horizon.join(warm, on="interval_start", how="inner", maintain_order="left")
    if rows.height < horizon.height:
        return None
    return Prices(**{name: rows[name].to_numpy() for name in Prices.__annotations__})


def _stages(found: Found, solve_seconds: float) -> dict[str, float]:
    """Return what solving took, by stage, and what none of them is."""
    told = found.stages.seconds
    return {"solve": solve_seconds - sum(told.values())} | told


def _label(found: Found, settings: PlanSettings, solve_seconds: float) -> str:
    if found.gap is not None and found.gap <= settings.gap_tolerance:
        return "optimal"  # proven, even where the greedy plan was the best to be had
    if found.solver == "greedy":
        return f"fallback: {'; '.join(found.complaints) or 'no solver found a better plan'}"
    if solve_seconds >= settings.time_limit_s:
        return "deadline: the best plan found in time"
    return "feasible"


def schedules_of(problem: Problem, setpoints: Setpoints) -> dy.DataFrame[Schedules]:
    """Return a row a device and quarter-hour: what set-points mean for every device."""
    stores, sources = problem.stores, problem.sources
    power = problem.fixed_kw.copy()
    power[:, stores.place] = setpoints.store_kw
    power[:, sources.place] = setpoints.source_kw
    energy = np.full(power.shape, np.nan)
    energy[:, stores.place] = np.where(stores.present, setpoints.energy_kwh, np.nan)
    limit = np.broadcast_to(problem.curtailable_up_to_kw, power.shape).copy()
    curtailed = sources.curtailable & (setpoints.source_kw < sources.max_kw - _CURTAILED_KW)
    limit[:, sources.place] = np.where(curtailed, setpoints.source_kw, limit[:, sources.place])
    steps, count = power.shape
    return Schedules.validate(
        pl.DataFrame(
            {
                "device_id": problem.device_ids.gather(np.repeat(np.arange(count), steps)),
                "interval_start": problem.intervals.gather(np.tile(np.arange(steps), count)),
                "power_kw": (power + 0.0).T.ravel(),  # no negative zero
                "limit_kw": limit.T.ravel(),
                "energy_kwh": energy.T.ravel(),
            }
        ).with_columns(pl.col("limit_kw", "energy_kwh").fill_nan(None))
    )
