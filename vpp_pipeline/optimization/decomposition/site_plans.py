"""What the devices of a fleet do, and what that costs at each site by itself, at given prices.

Belongs here: the problem of sites that share nothing but prices, and its cost a site. Does not: a
whole plan's verdict (`verify`), finding what devices do (`at_prices`, `diving`, `exact`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import no_portfolio, site_kw
from vpp_pipeline.optimization.reserves import ready_stores

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.answers import Answers
    from vpp_pipeline.optimization.multipliers import Multipliers
    from vpp_pipeline.optimization.problem import Floats, Problem
    from vpp_pipeline.optimization.repair import Setpoints


@dataclass(frozen=True)
class SitePlans:
    """Powers and energies, time first; R stores may hold reserve."""

    charge_kw: Floats  # (T, S)
    discharge_kw: Floats
    energy_kwh: Floats
    source_kw: Floats  # (T, G)
    up_kw: Floats  # (T, R)
    down_kw: Floats

    @classmethod
    def of_answers(cls, problem: Problem, answers: Answers) -> SitePlans:
        """Return convex answers, which may ask for both ways at once."""
        return cls(
            answers.charge_kw.T,
            answers.discharge_kw.T,
            answers.energy_kwh.T,
            answers.source_kw.T,
            *answers.ready_kw(problem),
        )

    @classmethod
    def of_setpoints(cls, plan: Setpoints) -> SitePlans:
        """Return what devices are told."""
        return cls(
            np.maximum(-plan.store_kw, 0),
            np.maximum(plan.store_kw, 0),
            plan.energy_kwh,
            plan.source_kw,
            plan.reserve_up_kw,
            plan.reserve_down_kw,
        )

    def costs_eur(self, problem: Problem) -> Floats:
        """Return what each site of a problem of `each_alone` costs (K,), base load left out."""
        stores, sources, sites = problem.stores, problem.sources, problem.sites
        portfolio, price = problem.portfolio, problem.price_eur_per_kwh
        charge, discharge, source = self.charge_kw, self.discharge_kw, self.source_kw
        moved = np.where(sources.curtailable, sources.max_kw - source, source)
        of_stores = (
            STEP_H * (price @ (charge - discharge))
            + 0.5 * STEP_H * stores.wear_eur_per_kwh * (charge + discharge).sum(axis=0)
            + 0.5 * STEP_H * stores.curvature_eur_per_kw2h * (charge**2 + discharge**2).sum(axis=0)
            + _beyond(stores.shortfall_eur_per_kwh, stores.wished_kwh - self.energy_kwh)
            + _beyond(stores.excess_eur_per_kwh, self.energy_kwh - stores.comfort_kwh)
            - stores.end_value_eur_per_kwh * self.energy_kwh[-1]
        )
        of_sources = STEP_H * (
            sources.cost_eur_per_kwh * source.sum(axis=0)
            - price @ source
            + 0.5 * sources.curvature_eur_per_kw2h * (moved**2).sum(axis=0)
        )
        out_kw = site_kw(problem, discharge - charge, source)
        over_kw = np.maximum(out_kw - sites.export_limit_kw, 0)
        over_kw += np.maximum(-out_kw - sites.import_limit_kw, 0)
        total: Floats = problem.overload_eur_per_kwh * STEP_H * over_kw.sum(axis=0)
        np.add.at(total, stores.site, of_stores)
        np.add.at(total, sources.site, of_sources)
        if self.up_kw.size:
            earned = portfolio.reserve_up_eur_per_kwh @ self.up_kw
            earned += portfolio.reserve_down_eur_per_kwh @ self.down_kw
            np.add.at(total, stores.site[ready_stores(problem)], -STEP_H * earned)
        return total


def each_alone(problem: Problem, prices: Multipliers) -> Problem:
    """Return the problem of sites that sell power, and reserve by the quarter-hour, at the fleet's
    prices, and have no more to do with each other.
    """
    price, portfolio = prices.energy_eur_per_kwh, problem.portfolio
    paid = no_portfolio(price)
    if portfolio.wants_reserve:
        paid = replace(
            paid,
            reserve_up_eur_per_kwh=prices.reserve_up_eur_per_kwh,
            reserve_down_eur_per_kwh=prices.reserve_down_eur_per_kwh,
            reserve_block=np.arange(len(price)),
            reserve_sustain_h=portfolio.reserve_sustain_h,
        )
    return replace(problem, price_eur_per_kwh=price, portfolio=paid)


def _beyond(eur_per_kwh: Floats, kwh: Floats) -> Floats:
    cost: Floats = (eur_per_kwh * np.maximum(kwh, 0)).sum(axis=0)
    return cost
