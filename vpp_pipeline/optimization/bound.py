"""The proof of how good a plan can be: a lower bound from any prices of the constraints.

Belongs here: the Lagrangian bound, in plain NumPy. Does not: finding good prices (`model`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Problem
    from vpp_pipeline.optimization.relaxed import Multipliers


def lower_bound_eur(problem: Problem, multipliers: Multipliers) -> float:
    """Return a cost, EUR, below which no feasible plan is.

    Weak duality: with the constraints priced instead of kept, every variable is cheapest on its
    own within its box, and that sum is a bound whatever the prices are. So it does not matter
    how exact a solver was; the better its prices, the tighter the bound.
    """
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    price = problem.price_eur_per_kwh[:, None] * STEP_H
    law = multipliers.store_law
    export = np.maximum(multipliers.over_export, 0)
    imports = np.maximum(multipliers.over_import, 0)
    site_price = export - imports  # EUR for a kW more at the site

    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    at_store = site_price[:, stores.site]
    charge = price + wear - law * stores.charge_efficiency * STEP_H - at_store
    discharge = wear - price + law * STEP_H / stores.discharge_efficiency + at_store
    keeps = np.where(stores.starts, 0.0, stores.retention)
    energy = law.copy()
    energy[:-1] -= keeps[1:] * law[1:]
    energy[-1] -= stores.end_value_eur_per_kwh
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)

    source = sources.cost_eur_per_kwh * STEP_H - price + site_price[:, sources.site]
    ramped = np.isfinite(sources.ramp_kw)
    up = np.where(ramped, np.maximum(multipliers.ramp_up, 0), 0.0)
    down = np.where(ramped, np.maximum(multipliers.ramp_down, 0), 0.0)
    source[1:] += up - down
    source[:-1] -= up - down
    ramp_kw = np.where(ramped, sources.ramp_kw, 0.0)

    overload = problem.overload_eur_per_kwh * STEP_H
    return float(
        _cheapest(charge, stores.charge_min_kw, stores.charge_max_kw)
        + _cheapest(discharge, stores.discharge_min_kw, stores.discharge_max_kw)
        + _cheapest_energy(problem, energy)
        + _cheapest(source, sources.min_kw, sources.max_kw)
        + _cheapest(overload - export, 0.0, sites.export_overload_kw)
        + _cheapest(overload - imports, 0.0, sites.import_overload_kw)
        - np.sum(law * (begins + stores.drift_kwh))
        + np.sum(site_price * sites.base_kw)
        - np.sum(export * sites.export_limit_kw + imports * sites.import_limit_kw)
        - np.sum((up + down) * ramp_kw)
        + constant_eur(problem)
    )


def constant_eur(problem: Problem) -> float:
    """Return what no decision changes, EUR: the base's energy, and the end value brought along."""
    stores = problem.stores
    begun = np.maximum.accumulate(
        np.where(stores.starts, np.arange(len(stores.starts))[:, None], 0), axis=0
    )[-1]
    brought = stores.initial_kwh[begun, np.arange(len(begun))]
    energy_eur = -STEP_H * float(problem.price_eur_per_kwh @ problem.sites.base_kw.sum(axis=1))
    return energy_eur + float(stores.end_value_eur_per_kwh @ brought)


def _cheapest(cost: Floats, low: Floats | float, high: Floats) -> float:
    return float(np.sum(np.where(cost > 0, cost * low, cost * high)))


def _cheapest_energy(problem: Problem, cost: Floats) -> float:
    """Minimise cost·e + shortfall + excess over [floor, ceiling]: at an end or a kink."""
    stores = problem.stores

    def at(energy: Floats) -> Floats:
        return (
            cost * energy
            + stores.shortfall_eur_per_kwh * np.maximum(stores.wished_kwh - energy, 0)
            + stores.excess_eur_per_kwh * np.maximum(energy - stores.comfort_kwh, 0)
        )

    low, high = stores.floor_kwh, stores.ceiling_kwh
    kinks = (np.clip(stores.wished_kwh, low, high), np.clip(stores.comfort_kwh, low, high))
    return float(np.sum(np.minimum.reduce([at(low), at(high), *map(at, kinks)])))
