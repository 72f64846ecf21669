"""What the constraints of a problem are worth: the prices that a plan is proven with.

Belongs here: their shape, their defaults, and making inexact ones consistent with the portfolio.
Does not: the bound they give (`bound`), finding them (`relaxed`, `decomposition`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.reserves import asked, products, ready_stores

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem


@dataclass(frozen=True)
class Multipliers:
    """Prices of the constraints; any numbers at all give a valid bound.

    T quarter-hours, S stores, G sources, K sites; R are the `reserves.ready_stores`. Those of
    inequalities count from 0 up.
    """

    store_law: Floats  # (T, S) EUR/kWh
    over_export: Floats  # (T, K) EUR/kW
    over_import: Floats  # (T, K)
    ramp_up: Floats  # (T-1, G)
    ramp_down: Floats  # (T-1, G)
    energy_eur_per_kwh: Floats  # (T,) the value of a kWh more of the fleet's power
    peak_eur_per_kw: Floats  # (T,) of the quarter-hour's draw being the horizon's highest
    reserve_up_eur_per_kwh: Floats  # (T,) the value of a kW held ready for an hour
    reserve_down_eur_per_kwh: Floats
    power_up: Floats  # (T, R) EUR/kW: a reserve's power beside what is scheduled
    power_down: Floats
    energy_up: Floats  # (T, R) EUR/kWh: a reserve's energy within the store's bounds
    energy_down: Floats

    @classmethod
    def price_taker(
        cls,
        problem: Problem,
        store_law: Floats,
        *,
        over_export: Floats | None = None,
        over_import: Floats | None = None,
        ramp_up: Floats | None = None,
        ramp_down: Floats | None = None,
    ) -> Multipliers:
        """Return those of a fleet that sells at the market; what is not given is worth nothing."""
        steps, sites = problem.sites.base_kw.shape
        ready = int(ready_stores(problem).sum())
        ramps = (steps - 1, problem.sources.max_kw.shape[1])
        portfolio = problem.portfolio

        def nothing(*shape: int) -> Floats:
            return np.broadcast_to(0.0, shape)

        return cls(
            store_law=store_law,
            over_export=nothing(steps, sites) if over_export is None else over_export,
            over_import=nothing(steps, sites) if over_import is None else over_import,
            ramp_up=nothing(*ramps) if ramp_up is None else ramp_up,
            ramp_down=nothing(*ramps) if ramp_down is None else ramp_down,
            energy_eur_per_kwh=np.clip(
                problem.price_eur_per_kwh,
                portfolio.surplus_eur_per_kwh,
                portfolio.shortage_eur_per_kwh,
            ),
            peak_eur_per_kw=nothing(steps),
            reserve_up_eur_per_kwh=nothing(steps),
            reserve_down_eur_per_kwh=nothing(steps),
            power_up=nothing(steps, ready),
            power_down=nothing(steps, ready),
            energy_up=nothing(steps, ready),
            energy_down=nothing(steps, ready),
        )

    def at_sites(self, problem: Problem, sites: Bools) -> Multipliers:
        """Return those of `problem.at_sites(problem, sites)`."""
        stores, sources = sites[problem.stores.site], sites[problem.sources.site]
        ready = stores[ready_stores(problem)]
        return replace(
            self,
            store_law=self.store_law[:, stores],
            over_export=self.over_export[:, sites],
            over_import=self.over_import[:, sites],
            ramp_up=self.ramp_up[:, sources],
            ramp_down=self.ramp_down[:, sources],
            power_up=self.power_up[:, ready],
            power_down=self.power_down[:, ready],
            energy_up=self.energy_up[:, ready],
            energy_down=self.energy_down[:, ready],
        )


def consistent(problem: Problem, multipliers: Multipliers) -> Multipliers:
    """Return the same with the portfolio's prices moved into what the portfolio can pay.

    An inexact solver leaves them a little outside, where the bound loses the whole fleet's
    power times the error.
    """
    portfolio = problem.portfolio
    peak = np.maximum(multipliers.peak_eur_per_kw, 0)
    peak = peak * (portfolio.peak_eur_per_kw / max(peak.sum(), portfolio.peak_eur_per_kw, 1e-300))
    ahead = portfolio.event_eur_per_kwh
    at_peak = peak / STEP_H
    below, above = np.isfinite(portfolio.event_min_kw), np.isfinite(portfolio.event_max_kw)
    up, down = _reserve_prices(problem, multipliers)
    return replace(
        multipliers,
        energy_eur_per_kwh=np.clip(
            multipliers.energy_eur_per_kwh,
            portfolio.surplus_eur_per_kwh - ahead * above + at_peak,
            portfolio.shortage_eur_per_kwh + ahead * below + at_peak,
        ),
        peak_eur_per_kw=peak,
        reserve_up_eur_per_kwh=up,
        reserve_down_eur_per_kwh=down,
    )


def _reserve_prices(problem: Problem, multipliers: Multipliers) -> tuple[Floats, Floats]:
    """Raise the prices of each product's quarter-hours to what the product is paid at least."""
    portfolio = problem.portfolio
    product = products(portfolio)
    up = np.maximum(multipliers.reserve_up_eur_per_kwh, 0)
    down = np.maximum(multipliers.reserve_down_eur_per_kwh, 0)

    def raised(prices: Floats, paid: Floats, worth: Floats) -> Floats:
        asked_of, found = np.bincount(product, paid), np.bincount(product, worth)
        missing = np.maximum(asked_of - found, 0) / np.maximum(np.bincount(product), 1)
        return np.where(asked(portfolio), prices + missing[product], prices)

    pay_up, pay_down = portfolio.reserve_up_eur_per_kwh, portfolio.reserve_down_eur_per_kwh
    if portfolio.reserve_symmetric:
        return raised(up, pay_up + pay_down, up + down), down
    return raised(up, pay_up, up), raised(down, pay_down, down)
