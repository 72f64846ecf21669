"""Power held ready: who may, for which product, and how much a schedule leaves.

Belongs here: the meaning of `Portfolio`'s reserve fields, and the most reserve beside given
powers. Does not: trading reserve for energy (`model`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.problem import by_site, select, site_kw

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import (
        Bools,
        Floats,
        Places,
        Portfolio,
        Problem,
    )
    from vpp_pipeline.optimization.repair import Setpoints


def products(portfolio: Portfolio) -> Places:
    """Return the number of each quarter-hour's product (T,), counted from 0."""
    return np.unique(portfolio.reserve_block, return_inverse=True)[1]


def asked(portfolio: Portfolio) -> Bools:
    """Return the quarter-hours (T,) of products that are paid for at all."""
    paid = portfolio.reserve_up_eur_per_kwh + portfolio.reserve_down_eur_per_kwh
    product = products(portfolio)
    of_asked: Bools = (np.bincount(product, paid) > 0)[product]
    return of_asked


def ready_stores(problem: Problem) -> Bools:
    """Return the stores (S,) that may hold reserve in this problem."""
    return problem.stores.reserve & problem.portfolio.wants_reserve


def sold_kw(portfolio: Portfolio, up_kw: Floats, down_kw: Floats) -> tuple[Floats, Floats]:
    """Return the quantity sold up and down (T,) where the fleet holds `up_kw`, `down_kw` (T,)."""
    product, wanted = products(portfolio), asked(portfolio)

    def lowest(ready_kw: Floats) -> Floats:
        least = np.full(product.max() + 1, np.inf)
        np.minimum.at(least, product, ready_kw)
        return np.where(wanted, least[product], 0.0)

    up, down = lowest(up_kw), lowest(down_kw)
    if portfolio.reserve_symmetric:
        up = down = np.minimum(up, down)
    return up, down


def held(problem: Problem, setpoints: Setpoints) -> Setpoints:
    """Return the set-points with the most reserve that they leave room for, told per store.

    Exact for the powers given: at a site the stores' room is cut in proportion to what the
    connection leaves, and no other choice adds up to more.
    """
    ready = ready_stores(problem)
    if not ready.any():
        return setpoints
    stores, sites = select(problem.stores, ready), problem.sites
    power, energy = setpoints.store_kw[:, ready], setpoints.energy_kwh[:, ready]
    count = sites.base_kw.shape[1]
    at_sites_kw = site_kw(problem, setpoints.store_kw, setpoints.source_kw)

    def room(own_kw: Floats, kwh: Floats, kw_per_kwh: Floats, left_kw: Floats) -> Floats:
        sustain = problem.portfolio.reserve_sustain_h
        if sustain > 0:
            own_kw = np.minimum(own_kw, kwh * kw_per_kwh / sustain)
        own_kw = np.maximum(own_kw, 0)
        wish = by_site(own_kw, stores.site, count)
        share = np.divide(np.maximum(left_kw, 0), wish, out=np.ones_like(wish), where=wish > 0)
        return own_kw * np.minimum(share, 1)[:, stores.site]

    up = room(
        stores.discharge_max_kw - power,
        energy - stores.floor_kwh,
        stores.discharge_efficiency,
        sites.export_limit_kw - at_sites_kw,
    )
    down = room(
        stores.charge_max_kw + power,
        stores.ceiling_kwh - energy,
        1 / stores.charge_efficiency,
        sites.import_limit_kw + at_sites_kw,
    )
    up_kw, down_kw = up.sum(axis=1), down.sum(axis=1)
    sold_up, sold_down = sold_kw(problem.portfolio, up_kw, down_kw)
    return replace(
        setpoints,
        reserve_up_kw=up * _ratio(sold_up, up_kw),
        reserve_down_kw=down * _ratio(sold_down, down_kw),
    )


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return ratio[:, None]
