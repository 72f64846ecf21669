"""What any program's schedule costs, and how far it is from keeping the laws.

Belongs here: plain NumPy over charge, discharge, energy and source powers as they were told,
charging and discharging at once included. Does not: integers, which the peers don't keep either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.instance import STEP_H, by_site, products

if TYPE_CHECKING:
    from types import SimpleNamespace


@dataclass(frozen=True)
class Judgement:
    """The cost under the whole objective, the quadratic part of it, and the worst violations."""

    objective_eur: float
    fairness_eur: float
    violation_kw: float
    violation_kwh: float


def judge(problem: SimpleNamespace, answer: dict[str, np.ndarray]) -> Judgement:
    """Return cost and violations of a schedule."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    charge, discharge = answer["charge_kw"], answer["discharge_kw"]
    energy, source = answer["energy_kwh"], answer["source_kw"]
    up, down = (_of_all(stores, answer.get(f"reserve_{way}_kw")) for way in ("up", "down"))
    power = discharge - charge
    site_kw = sites.base_kw + by_site(problem, power, source)
    idle = np.zeros(source.shape)
    over = site_kw + by_site(problem, up, idle) - sites.export_limit_kw
    under = by_site(problem, down, idle) - site_kw - sites.import_limit_kw
    before = np.vstack([stores.initial_kwh[:1], energy[:-1]])
    follows = (
        stores.retention * np.where(stores.starts, stores.initial_kwh, before)
        + STEP_H * (charge * stores.charge_efficiency - discharge / stores.discharge_efficiency)
        + stores.drift_kwh
    )
    sustained = problem.portfolio.reserve_sustain_h
    kw = (
        charge - stores.charge_max_kw,
        stores.charge_min_kw - charge,
        discharge - stores.discharge_max_kw,
        stores.discharge_min_kw - discharge,
        source - sources.max_kw,
        sources.min_kw - source,
        np.abs(np.diff(source, axis=0)) - sources.ramp_kw,
        over - sites.export_overload_kw,
        under - sites.import_overload_kw,
        power + up - stores.discharge_max_kw,
        down - power - stores.charge_max_kw,
    )
    kwh = (
        np.abs(energy - follows),
        stores.floor_kwh - energy + up * sustained / stores.discharge_efficiency,
        energy + down * sustained * stores.charge_efficiency - stores.ceiling_kwh,
    )
    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    curtailed = np.where(sources.curtailable, sources.max_kw - source, source)
    fairness = (
        STEP_H
        / 2
        * float(
            np.sum(stores.curvature_eur_per_kw2h * (charge**2 + discharge**2))
            + np.sum(sources.curvature_eur_per_kw2h * curtailed**2)
        )
    )
    objective = (
        np.sum(wear * (charge + discharge))
        + np.sum(sources.cost_eur_per_kwh * source) * STEP_H
        + np.sum(stores.shortfall_eur_per_kwh * np.maximum(stores.wished_kwh - energy, 0))
        + np.sum(stores.excess_eur_per_kwh * np.maximum(energy - stores.comfort_kwh, 0))
        + stores.end_value_eur_per_kwh @ (_brought_kwh(stores) - energy[-1])
        + problem.overload_eur_per_kwh * STEP_H * np.sum(np.maximum(over, 0) + np.maximum(under, 0))
        + fairness
        + portfolio_eur(problem, site_kw.sum(axis=1), up.sum(axis=1), down.sum(axis=1))
    )
    return Judgement(float(objective), fairness, _worst(kw), _worst(kwh))


def portfolio_eur(
    problem: SimpleNamespace, total_kw: np.ndarray, up_kw: np.ndarray, down_kw: np.ndarray
) -> float:
    """Return what the summed power and the reserve held (T,) come to."""
    portfolio = problem.portfolio
    position = portfolio.position_kw
    earned = (
        problem.price_eur_per_kwh @ position
        + portfolio.surplus_eur_per_kwh @ np.maximum(total_kw - position, 0)
        - portfolio.shortage_eur_per_kwh @ np.maximum(position - total_kw, 0)
    )
    outside = np.maximum(portfolio.event_min_kw - total_kw, 0)
    outside += np.maximum(total_kw - portfolio.event_max_kw, 0)
    product = products(portfolio)
    sold_up, sold_down = (np.full(product.max() + 1, np.inf) for _ in range(2))
    np.minimum.at(sold_up, product, up_kw)
    np.minimum.at(sold_down, product, down_kw)
    if portfolio.reserve_symmetric:
        sold_up = sold_down = np.minimum(sold_up, sold_down)
    earned += portfolio.reserve_up_eur_per_kwh @ sold_up[product]
    earned += portfolio.reserve_down_eur_per_kwh @ sold_down[product]
    peak_kw = max(float(-total_kw.min()) - portfolio.peak_free_kw, 0.0)
    return float(
        STEP_H * (portfolio.event_eur_per_kwh @ outside - earned)
        + portfolio.peak_eur_per_kw * peak_kw
    )


def _of_all(stores: SimpleNamespace, held_kw: np.ndarray | None) -> np.ndarray:
    """Return what every store holds ready (T, S), from what those tell that may (T, R)."""
    of_all = np.zeros(stores.drift_kwh.shape)
    if held_kw is not None:
        of_all[:, stores.reserve] = held_kw
    return of_all


def _brought_kwh(stores: SimpleNamespace) -> np.ndarray:
    last = len(stores.starts) - 1 - np.argmax(stores.starts[::-1], axis=0)
    return stores.initial_kwh[last, np.arange(len(last))]


def _worst(violations: tuple[np.ndarray, ...]) -> float:
    return max(float(np.max(v, initial=0.0)) for v in violations)
