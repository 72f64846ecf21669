"""A plan judged by code that did not make it: what it costs and what it breaks.

Belongs here: plain NumPy over powers and energies. Does not: mending (`repair`), the bound
(`bound`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import constant_eur

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Problem
    from vpp_pipeline.optimization.repair import Setpoints

_BURNT_KWH = 1e-6
_TOLD_KWH = 1e-3  # less than a watt-hour owed is rounding


@dataclass(frozen=True)
class Verdict:
    """What the set-points come to; the fields are `Certificate`'s."""

    objective_eur: float
    worst_violation_kw: float
    worst_violation_kwh: float
    simultaneous_steps: int
    unmet_kwh: float
    overload_kw: float


def verify(problem: Problem, setpoints: Setpoints) -> Verdict:
    """Recompute cost, violations and debts from the powers.

    A store whose stated energy is below what its net power leaves would have to charge and
    discharge at once. What a site's own load is beyond its connection is told as overload; a
    violation is what the plan adds to that.
    """
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    power, source = setpoints.store_kw, setpoints.source_kw
    drawn, given = np.maximum(-power, 0), np.maximum(power, 0)
    before = np.vstack([stores.initial_kwh[:1], setpoints.energy_kwh[:-1]])
    before = np.where(stores.starts, stores.initial_kwh, before)
    follows = (
        stores.retention * before
        + drawn * stores.charge_efficiency * STEP_H
        - given / stores.discharge_efficiency * STEP_H
        + stores.drift_kwh
    )
    energy = setpoints.energy_kwh
    site_kw = sites.base_kw.copy()
    np.add.at(site_kw.T, stores.site, power.T)
    np.add.at(site_kw.T, sources.site, source.T)
    over = np.maximum(site_kw - sites.export_limit_kw, 0)
    under = np.maximum(-site_kw - sites.import_limit_kw, 0)
    own_over = np.maximum(sites.base_kw - sites.export_limit_kw, 0)
    own_under = np.maximum(-sites.base_kw - sites.import_limit_kw, 0)
    short = np.maximum(stores.wished_kwh - energy, 0)
    debt = np.where(stores.owed, short, 0.0)

    price = problem.price_eur_per_kwh[:, None] * STEP_H
    objective = (
        np.sum((price + 0.5 * STEP_H * stores.wear_eur_per_kwh) * drawn)
        + np.sum((0.5 * STEP_H * stores.wear_eur_per_kwh - price) * given)
        + np.sum((sources.cost_eur_per_kwh * STEP_H - price) * source)
        + np.sum(stores.shortfall_eur_per_kwh * short)
        + np.sum(stores.excess_eur_per_kwh * np.maximum(energy - stores.comfort_kwh, 0))
        - stores.end_value_eur_per_kwh @ energy[-1]
        + problem.overload_eur_per_kwh * STEP_H * (over.sum() + under.sum())
        + constant_eur(problem)
    )
    change = np.abs(np.diff(source, axis=0))
    return Verdict(
        objective_eur=float(objective),
        worst_violation_kw=_worst(
            over - own_over,
            under - own_under,
            drawn - stores.charge_max_kw,
            given - stores.discharge_max_kw,
            _below_least(np.abs(power), stores.min_active_kw),
            source - sources.max_kw,
            sources.min_kw - source,
            _below_least(source, sources.min_active_kw),
            change - sources.ramp_kw,
        ),
        worst_violation_kwh=_worst(
            energy - stores.ceiling_kwh, stores.floor_kwh - energy, np.abs(energy - follows)
        ),
        simultaneous_steps=int(np.sum(follows - energy > _BURNT_KWH)),
        unmet_kwh=float(debt[debt > _TOLD_KWH].sum()),
        overload_kw=_worst(np.minimum(over, own_over), np.minimum(under, own_under)),
    )


def _below_least(power: Floats, least: Floats) -> Floats:
    """Return how far a running device is from either 0 or its least power."""
    return np.where(power > 0, np.minimum(power, least - power), 0.0)


def _worst(*violations: Floats) -> float:
    return max(float(np.max(v, initial=0.0)) for v in violations)
