"""A plan judged by code that did not make it: what it costs and what it breaks.

Belongs here: plain NumPy over powers and energies, in chunks. Does not: mending (`repair`), the
bound (`bound`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.optimization.problem import by_site, chunks, select
from vpp_pipeline.optimization.reserves import ready_stores, sold_kw
from vpp_pipeline.optimization.room import begun_runs_kw
from vpp_pipeline.optimization.verify_runs import hasty_kw, interrupted_kw
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem, Stores
    from vpp_pipeline.optimization.repair import Setpoints

_BURNT_KWH = 1e-6
_TOLD_KWH = 1e-3  # less than a watt-hour owed is rounding


@dataclass(frozen=True)
class Verdict:
    """What the set-points come to; the fields are `Certificate`'s."""

    objective_eur: float
    worst_violation_kw: float
    worst_violation_kwh: float
    worst_violation_c: float
    simultaneous_steps: int
    unmet_kwh: float
    overload_kw: float


@dataclass(frozen=True)
class _Found:
    """What one part of the problem costs and breaks."""

    cost_eur: float
    kw: float = 0.0
    kwh: float = 0.0
    c: float = 0.0
    simultaneous_steps: int = 0
    unmet_kwh: float = 0.0
    overload_kw: float = 0.0


def verify(problem: Problem, setpoints: Setpoints) -> Verdict:
    """Recompute cost, violations and debts from the powers.

    A store whose stated energy is below what its net power leaves would have to charge and
    discharge at once. What a site's own load, or a CHP that must run, is beyond its connection
    is told as overload; a violation is what the plan adds to that. Reserve counts as if it were called.
    """
    sites = problem.sites
    count = len(sites.import_limit_kw)
    site_kw = by_site(setpoints.store_kw, problem.stores.site, count)
    site_kw += by_site(setpoints.source_kw, problem.sources.site, count)
    site_kw += sites.base_kw
    nothing = np.zeros((len(site_kw), int(ready_stores(problem).sum())))
    up_kw = setpoints.reserve_up_kw if setpoints.reserve_up_kw.size else nothing
    down_kw = setpoints.reserve_down_kw if setpoints.reserve_down_kw.size else nothing
    begun: Bools = np.any(begun_runs_kw(problem) > 0, axis=0)
    found = [
        *side_by_side(
            partial(_stores, problem, setpoints, begun), chunks(len(problem.stores.site))
        ),
        *side_by_side(partial(_sources, problem, setpoints), chunks(len(problem.sources.site))),
        _reserve(problem, setpoints, up_kw, down_kw),
        _sites(problem, site_kw, up_kw, down_kw),
        _Found(cost_eur=_settled_eur(problem, site_kw.sum(axis=1))),
    ]
    return Verdict(
        objective_eur=sum(part.cost_eur for part in found),
        worst_violation_kw=max(part.kw for part in found),
        worst_violation_kwh=max(part.kwh for part in found),
        worst_violation_c=max(part.c for part in found),
        simultaneous_steps=sum(part.simultaneous_steps for part in found),
        unmet_kwh=sum(part.unmet_kwh for part in found),
        overload_kw=max(part.overload_kw for part in found),
    )


def unmet(problem: Problem, setpoints: Setpoints) -> pl.DataFrame:
    """Return (device_id, owed_by, unmet_kwh): what is owed by an instant and not delivered."""
    stores = problem.stores
    found = []
    for part in chunks(len(stores.site)):
        debt = _debt(select(stores, part), setpoints.energy_kwh[:, part])
        step, store = np.nonzero(debt)
        found.append(np.stack([stores.place[part][store], step, debt[step, store]]))
    place, step, kwh = np.concatenate([np.zeros((3, 0)), *found], axis=1)
    return pl.DataFrame(
        {
            "device_id": problem.device_ids.gather(place.astype(np.int64)),
            "owed_by": problem.intervals.gather(step.astype(np.int64)) + STEP,
            "unmet_kwh": kwh,
        }
    ).sort("device_id", "owed_by")


def _stores(problem: Problem, setpoints: Setpoints, under_way: Bools, part: slice) -> _Found:
    stores = select(problem.stores, part)
    power, energy = setpoints.store_kw[:, part], setpoints.energy_kwh[:, part]
    drawn, given = np.maximum(-power, 0), np.maximum(power, 0)
    before = np.vstack([stores.initial_kwh[:1], energy[:-1]])
    before = np.where(stores.starts, stores.initial_kwh, before)
    follows = (
        stores.retention * before
        + drawn * (stores.charge_efficiency * STEP_H)
        - given * (STEP_H / stores.discharge_efficiency)
        + stores.drift_kwh
    )
    short = np.maximum(stores.wished_kwh - energy, 0)
    above = np.maximum(energy - stores.comfort_kwh, 0)
    begun = len(stores.starts) - 1 - np.argmax(stores.starts[::-1], axis=0)
    brought = stores.initial_kwh[begun, np.arange(len(begun))]
    size = np.abs(power)
    building = np.isfinite(stores.kwh_per_c)
    warmer = np.where(stores.excess_eur_per_kwh > 0, above, 0.0)
    outside_kwh = np.maximum(short, warmer)[:, building]
    return _Found(
        cost_eur=float(
            0.5
            * STEP_H
            * np.sum((stores.wear_eur_per_kwh + stores.curvature_eur_per_kw2h * size) * size)
            + np.sum(stores.shortfall_eur_per_kwh * short)
            + np.sum(stores.excess_eur_per_kwh * above)
            + stores.end_value_eur_per_kwh @ (brought - energy[-1])
        ),
        kw=_worst(
            drawn - stores.charge_max_kw,
            given - stores.discharge_max_kw,
            _below_least(size, stores.min_active_kw),
            interrupted_kw(stores, drawn, before, under_way[part]),
        ),
        kwh=_worst(
            energy - stores.ceiling_kwh, stores.floor_kwh - energy, np.abs(energy - follows)
        ),
        c=_worst(outside_kwh / stores.kwh_per_c[building]),
        simultaneous_steps=int(np.sum(follows - energy > _BURNT_KWH)),
        unmet_kwh=float(_debt(stores, energy).sum()),
    )


def _sources(problem: Problem, setpoints: Setpoints, part: slice) -> _Found:
    sources, power = select(problem.sources, part), setpoints.source_kw[:, part]
    curved = np.where(sources.curtailable, sources.max_kw - power, power)
    return _Found(
        cost_eur=STEP_H
        * float(
            np.sum(sources.cost_eur_per_kwh * power)
            + 0.5 * np.sum(sources.curvature_eur_per_kw2h * curved**2)
        ),
        kw=_worst(
            power - sources.max_kw,
            sources.min_kw - power,
            _below_least(power, sources.min_active_kw),
            np.abs(np.diff(power, axis=0)) - sources.ramp_kw,
            hasty_kw(sources, power),
        ),
    )


def _sites(problem: Problem, site_kw: Floats, up_kw: Floats, down_kw: Floats) -> _Found:
    sites, at_ready = problem.sites, problem.stores.site[ready_stores(problem)]
    count = len(sites.import_limit_kw)
    out_kw = site_kw + by_site(up_kw, at_ready, count)
    in_kw = by_site(down_kw, at_ready, count) - site_kw
    over = np.maximum(out_kw - sites.export_limit_kw, 0)
    under = np.maximum(in_kw - sites.import_limit_kw, 0)
    own_over = np.maximum(sites.base_kw - sites.export_limit_kw, sites.export_overload_kw)
    own_under = np.maximum(-sites.base_kw - sites.import_limit_kw, sites.import_overload_kw)
    return _Found(
        cost_eur=problem.overload_eur_per_kwh * STEP_H * float(over.sum() + under.sum()),
        kw=_worst(over - own_over, under - own_under),
        overload_kw=_worst(np.minimum(over, own_over), np.minimum(under, own_under)),
    )


def _reserve(problem: Problem, setpoints: Setpoints, up_kw: Floats, down_kw: Floats) -> _Found:
    """Judge power promised as ready: within the devices' power, with the energy to sustain it."""
    portfolio, ready = problem.portfolio, ready_stores(problem)
    stores = select(problem.stores, ready)
    power, energy = setpoints.store_kw[:, ready], setpoints.energy_kwh[:, ready]
    sustained = portfolio.reserve_sustain_h
    sold_up, sold_down = sold_kw(portfolio, up_kw.sum(axis=1), down_kw.sum(axis=1))
    return _Found(
        cost_eur=-STEP_H
        * float(
            portfolio.reserve_up_eur_per_kwh @ sold_up
            + portfolio.reserve_down_eur_per_kwh @ sold_down
        ),
        kw=_worst(
            -up_kw,
            -down_kw,
            power + up_kw - stores.discharge_max_kw,
            down_kw - power - stores.charge_max_kw,
        ),
        kwh=_worst(
            up_kw * (sustained / stores.discharge_efficiency) - (energy - stores.floor_kwh),
            down_kw * (sustained * stores.charge_efficiency) - (stores.ceiling_kwh - energy),
        ),
    )


def _settled_eur(problem: Problem, power_kw: Floats) -> float:
    """Return what the fleet's summed power (T,) costs: position, imbalance, peak, events."""
    portfolio = problem.portfolio
    beyond = power_kw - portfolio.position_kw
    earned = (
        problem.price_eur_per_kwh * portfolio.position_kw
        + portfolio.surplus_eur_per_kwh * np.maximum(beyond, 0)
        - portfolio.shortage_eur_per_kwh * np.maximum(-beyond, 0)
    )
    outside = np.maximum(portfolio.event_min_kw - power_kw, 0)
    outside += np.maximum(power_kw - portfolio.event_max_kw, 0)
    peak_kw = max(float(np.max(-power_kw)) - portfolio.peak_free_kw, 0.0)
    energy_eur = STEP_H * float(np.sum(portfolio.event_eur_per_kwh * outside - earned))
    return energy_eur + portfolio.peak_eur_per_kw * peak_kw


def _debt(stores: Stores, energy_kwh: Floats) -> Floats:
    """Return what is owed and missing at each quarter-hour's end (T, S); rounding is none."""
    debt = np.where(stores.owed, np.maximum(stores.wished_kwh - energy_kwh, 0), 0.0)
    return np.where(debt > _TOLD_KWH, debt, 0.0)


def _below_least(power: Floats, least: Floats) -> Floats:
    """Return how far a running device is from either 0 or its least power."""
    return np.where(power > 0, np.minimum(power, least - power), 0.0)


def _worst(*violations: Floats | float) -> float:
    return max(float(np.max(v, initial=0.0)) for v in violations)
