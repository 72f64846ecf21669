"""The proof of how good a plan can be: a lower bound from any prices of the constraints.

Belongs here: the Lagrangian bound, in plain NumPy and in chunks. Does not: the prices' shape
(`multipliers`), finding good ones (`relaxed`, `decomposition`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import chunks, select
from vpp_pipeline.optimization.reserves import products, ready_stores
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.multipliers import Multipliers
    from vpp_pipeline.optimization.problem import Floats, Problem, Stores


def lower_bound_eur(problem: Problem, multipliers: Multipliers, *, switches: bool = False) -> float:
    """Return a cost, EUR, below which no feasible plan is.

    With `switches` it is of plans in which no store goes both ways at once or below its least
    power, and no CHP below its own: never lower, and no bound of the convex problem.

    Weak duality: with the constraints priced instead of kept, every variable is cheapest on its
    own within its box, and that sum is a bound whatever the prices are. So it does not matter
    how exact a solver was; the better its prices, the tighter the bound.
    """
    of_stores = partial(_of_stores, problem, multipliers, switches=switches)
    of_sources = partial(_of_sources, problem, multipliers, switches=switches)
    of_sites = partial(_of_sites, problem, multipliers)
    return (
        sum(side_by_side(of_stores, chunks(len(problem.stores.retention))))
        + sum(side_by_side(of_sources, chunks(len(problem.sources.site))))
        + sum(side_by_side(of_sites, chunks(len(problem.sites.import_limit_kw))))
        + _of_fleet(problem, multipliers)
        + _of_reserve(problem, multipliers)
        + constant_eur(problem)
    )


def constant_eur(problem: Problem) -> float:
    """Return what no decision changes, EUR.

    That is the position and the base's energy, and the end value brought along.
    """
    stores, portfolio = problem.stores, problem.portfolio
    begun = len(stores.starts) - 1 - np.argmax(stores.starts[::-1], axis=0)
    brought = stores.initial_kwh[begun, np.arange(len(begun))]
    surplus = portfolio.surplus_eur_per_kwh
    sold = (problem.price_eur_per_kwh - surplus) @ portfolio.position_kw
    return float(
        stores.end_value_eur_per_kwh @ brought
        - STEP_H * (sold + surplus @ problem.sites.base_kw.sum(axis=1))
    )


def _of_stores(problem: Problem, multipliers: Multipliers, part: slice, *, switches: bool) -> float:
    stores = select(problem.stores, part)
    paid = multipliers.energy_eur_per_kwh[:, None] * STEP_H
    law = multipliers.store_law[:, part]
    # What a kW out of the store is worth at its site, in EUR a quarter-hour.
    worth = paid - _site_price(multipliers, stores)
    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    charge = worth + wear - law * stores.charge_efficiency * STEP_H
    discharge = wear - worth + law * (STEP_H / stores.discharge_efficiency)
    keeps = np.where(stores.starts, 0.0, stores.retention)
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    energy = law.copy()
    energy[:-1] -= keeps[1:] * law[1:]
    energy[-1] -= stores.end_value_eur_per_kwh
    ready_eur = 0.0
    ready = ready_stores(problem)
    if ready.any():
        here, before = ready[part], int(ready[: part.start].sum())
        own = slice(before, before + int(here.sum()))
        power_price = _positive(multipliers.power_up[:, own])
        power_price -= _positive(multipliers.power_down[:, own])
        charge[:, here] -= power_price
        discharge[:, here] += power_price
        energy[:, here] += _positive(multipliers.energy_down[:, own])
        energy[:, here] -= _positive(multipliers.energy_up[:, own])
        ready_eur = _of_ready(problem, multipliers, select(stores, here), own)
    curvature = STEP_H * stores.curvature_eur_per_kw2h
    either = _cheapest_way if switches else _cheapest_both_ways
    return float(
        np.sum(either(stores, charge, discharge, curvature))
        + _cheapest_energy(stores, energy)
        - np.sum(law * (begins + stores.drift_kwh))
        + ready_eur
    )


def _of_ready(problem: Problem, multipliers: Multipliers, stores: Stores, own: slice) -> float:
    """Minimise over the power held ready by these stores, `own` among the R."""
    sustained = problem.portfolio.reserve_sustain_h
    power_up, power_down = (
        _positive(multipliers.power_up[:, own]),
        _positive(multipliers.power_down[:, own]),
    )
    energy_up, energy_down = (
        _positive(multipliers.energy_up[:, own]),
        _positive(multipliers.energy_down[:, own]),
    )
    export, imports = (
        _positive(multipliers.over_export[:, stores.site]),
        _positive(multipliers.over_import[:, stores.site]),
    )
    up = power_up + energy_up * (sustained / stores.discharge_efficiency) + export
    up -= STEP_H * _positive(multipliers.reserve_up_eur_per_kwh)[:, None]
    down = power_down + energy_down * (sustained * stores.charge_efficiency) + imports
    down -= STEP_H * _positive(multipliers.reserve_down_eur_per_kwh)[:, None]
    most_kw = stores.charge_max_kw + stores.discharge_max_kw
    return float(
        np.sum((np.minimum(up, 0) + np.minimum(down, 0)) * most_kw)
        - np.sum(power_up * stores.discharge_max_kw + power_down * stores.charge_max_kw)
        + np.sum(energy_up * stores.floor_kwh - energy_down * stores.ceiling_kwh)
    )


def _of_sources(
    problem: Problem, multipliers: Multipliers, part: slice, *, switches: bool
) -> float:
    sources = select(problem.sources, part)
    paid = multipliers.energy_eur_per_kwh[:, None] * STEP_H
    cost = sources.cost_eur_per_kwh * STEP_H - paid
    cost += _positive(multipliers.over_export[:, sources.site])
    cost -= _positive(multipliers.over_import[:, sources.site])
    ramped = np.isfinite(sources.ramp_kw)
    up = np.where(ramped, _positive(multipliers.ramp_up[:, part]), 0.0)
    down = np.where(ramped, _positive(multipliers.ramp_down[:, part]), 0.0)
    cost[1:] += up - down
    cost[:-1] -= up - down
    curvature = STEP_H * sources.curvature_eur_per_kw2h
    curtails = sources.curtailable
    cut, run = cost[:, curtails], cost[:, ~curtails]
    low, high = sources.min_kw, sources.max_kw
    free = high[:, curtails] - low[:, curtails]
    least = sources.min_active_kw[~curtails] if switches else np.zeros(int((~curtails).sum()))
    return float(
        np.sum(cut * high[:, curtails])
        + np.sum(_cheapest(-cut, curvature[curtails], np.zeros_like(free), free))
        + np.sum(
            _cheapest_on_or_off(
                run, curvature[~curtails], low[:, ~curtails], high[:, ~curtails], least
            )
        )
        - np.sum((up + down) * np.where(ramped, sources.ramp_kw, 0.0))
    )


def _of_sites(problem: Problem, multipliers: Multipliers, part: slice) -> float:
    sites = select(problem.sites, part)
    export = _positive(multipliers.over_export[:, part])
    imports = _positive(multipliers.over_import[:, part])
    overload = problem.overload_eur_per_kwh * STEP_H
    return float(
        np.sum(np.minimum(overload - export, 0) * sites.export_overload_kw)
        + np.sum(np.minimum(overload - imports, 0) * sites.import_overload_kw)
        + np.sum((export - imports) * sites.base_kw)
        - np.sum(export * sites.export_limit_kw + imports * sites.import_limit_kw)
    )


def _of_fleet(problem: Problem, multipliers: Multipliers) -> float:
    """Minimise over the summed power within what the devices can add up to: at an end or a kink."""
    portfolio, stores, sources = problem.portfolio, problem.stores, problem.sources
    base = problem.sites.base_kw.sum(axis=1)
    low = base + stores.discharge_min_kw.sum(axis=1) - stores.charge_max_kw.sum(axis=1)
    low += sources.min_kw.sum(axis=1)
    high = base + stores.discharge_max_kw.sum(axis=1) - stores.charge_min_kw.sum(axis=1)
    high += sources.max_kw.sum(axis=1)
    surplus, position = portfolio.surplus_eur_per_kwh, portfolio.position_kw
    missing = portfolio.shortage_eur_per_kwh - surplus
    beyond = multipliers.energy_eur_per_kwh - surplus
    # The highest draw costs at least any average of draws: prices of at most its own in all.
    peak = _positive(multipliers.peak_eur_per_kw)
    peak *= portfolio.peak_eur_per_kw / max(peak.sum(), portfolio.peak_eur_per_kw, 1e-300)

    def at(power: Floats) -> Floats:
        short = np.maximum(position - power, 0)
        outside = np.maximum(portfolio.event_min_kw - power, 0)
        outside += np.maximum(power - portfolio.event_max_kw, 0)
        energy = beyond * power + missing * short + portfolio.event_eur_per_kwh * outside
        return STEP_H * energy - peak * (power + portfolio.peak_free_kw)

    kinks = (position, portfolio.event_min_kw, portfolio.event_max_kw)
    cheapest = np.minimum.reduce([at(low), at(high), *(at(np.clip(k, low, high)) for k in kinks)])
    return float(cheapest.sum() - STEP_H * beyond @ base)


def _of_reserve(problem: Problem, multipliers: Multipliers) -> float:
    """Minimise over the reserve sold, within what all stores can hold."""
    portfolio, ready = problem.portfolio, ready_stores(problem)
    if not ready.any():
        return 0.0
    stores, product = problem.stores, products(portfolio)
    can_kw = stores.charge_max_kw.sum(axis=1, where=ready)
    can_kw += stores.discharge_max_kw.sum(axis=1, where=ready)
    most_kw = np.full(product.max() + 1, np.inf)
    np.minimum.at(most_kw, product, can_kw)
    up = _positive(multipliers.reserve_up_eur_per_kwh) - portfolio.reserve_up_eur_per_kwh
    down = _positive(multipliers.reserve_down_eur_per_kwh) - portfolio.reserve_down_eur_per_kwh
    loss_up, loss_down = np.bincount(product, up), np.bincount(product, down)
    if portfolio.reserve_symmetric:
        per_kw = np.minimum(loss_up + loss_down, 0)
    else:
        per_kw = np.minimum(loss_up, 0) + np.minimum(loss_down, 0)
    return STEP_H * float(per_kw @ most_kw)


def _site_price(multipliers: Multipliers, stores: Stores) -> Floats:
    """Return the price of a kW more at the stores' sites (T, n)."""
    price = _positive(multipliers.over_export[:, stores.site])
    price -= _positive(multipliers.over_import[:, stores.site])
    return price


def _positive(prices: Floats) -> Floats:
    positive: Floats = np.maximum(prices, 0)
    return positive


def _cheapest_both_ways(
    stores: Stores, charge: Floats, discharge: Floats, curvature: Floats
) -> Floats:
    return _cheapest(charge, curvature, stores.charge_min_kw, stores.charge_max_kw) + _cheapest(
        discharge, curvature, stores.discharge_min_kw, stores.discharge_max_kw
    )


def _cheapest_way(stores: Stores, charge: Floats, discharge: Floats, curvature: Floats) -> Floats:
    """Minimise over resting, charging or discharging, whichever the bounds allow."""
    least = stores.min_active_kw
    drawn = _cheapest_on_or_off(
        charge, curvature, stores.charge_min_kw, stores.charge_max_kw, least
    )
    given = _cheapest_on_or_off(
        discharge, curvature, stores.discharge_min_kw, stores.discharge_max_kw, least
    )
    must_draw, must_give = stores.charge_min_kw > 0, stores.discharge_min_kw > 0
    return np.select(
        [must_draw & must_give, must_draw, must_give],
        [drawn + given, drawn, given],
        np.minimum(drawn, given),
    )


def _cheapest_on_or_off(
    cost: Floats, curvature: Floats, low: Floats, high: Floats, least: Floats
) -> Floats:
    """Minimise the same over 0, where the bounds allow it, and [max(low, least), high]."""
    floor = np.where(low < 0, low, np.maximum(low, least))
    possible = floor <= high
    on = _cheapest(cost, curvature, np.where(possible, floor, low), high)
    return np.where(low > 0, on, np.where(possible, np.minimum(on, 0.0), 0.0))


def _cheapest(cost: Floats, curvature: Floats, low: Floats, high: Floats) -> Floats:
    """Minimise cost·x + ½·curvature·x² over [low, high]."""
    best = np.copysign(np.inf, -cost)
    np.divide(-cost, curvature, out=best, where=curvature > 0)
    np.clip(best, low, high, out=best)
    return (cost + 0.5 * curvature * best) * best


def _cheapest_energy(stores: Stores, cost: Floats) -> float:
    """Minimise cost·e + shortfall + excess over [floor, ceiling]: at an end or a kink."""

    def at(energy: Floats) -> Floats:
        return (
            cost * energy
            + stores.shortfall_eur_per_kwh * np.maximum(stores.wished_kwh - energy, 0)
            + stores.excess_eur_per_kwh * np.maximum(energy - stores.comfort_kwh, 0)
        )

    low, high = stores.floor_kwh, stores.ceiling_kwh
    kinks = (np.clip(stores.wished_kwh, low, high), np.clip(stores.comfort_kwh, low, high))
    return float(np.sum(np.minimum.reduce([at(low), at(high), *map(at, kinks)])))
