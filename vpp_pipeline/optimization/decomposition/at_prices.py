"""What the whole fleet does at given prices: every device alone, and together where a site binds.

Belongs here: one pass over a fleet. Does not: a store's own answer (`oracle`), a block's
(`interior_point`), finding the prices (`decompose`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.decomposition.answers import Answers, link_prices
from vpp_pipeline.optimization.decomposition.assembly import assemble
from vpp_pipeline.optimization.decomposition.blocks import cut, pack, piece
from vpp_pipeline.optimization.decomposition.interior_point import begin, solve_alone
from vpp_pipeline.optimization.decomposition.oracle import respond, respond_sources
from vpp_pipeline.optimization.problem import by_site, select
from vpp_pipeline.optimization.reserves import ready_stores
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem

_BLOCKS_AT_A_TIME = 32
_SOURCES_AT_A_TIME = 20_000
_START_EUR = 1e-2  # blocks alone know the prices: near them from the start
_GAP_EUR = 1e-5  # of one site's day
_BOUND_KW = 1e-6
_WHOLE = 1.0
_FEW = 2_500  # devices
_NEAR_LIMIT = 0.7  # of a limit: at other prices it may be reached
_FEW_TIGHT = 0.5  # of the sites


def answer(problem: Problem, prices: Prices) -> tuple[Answers, Bools]:
    """Return what all devices do at these prices, and the sites (K,) where limits decided."""
    answers, site_kw = _alone(problem, prices, keep=True)
    together = using(problem, site_kw, _WHOLE)
    together[problem.sources.site[~problem.sources.curtailable]] = True
    together |= _reserving(problem)
    solve_sites(problem, together, prices, answers)
    return answers, together


def binding_sites(problem: Problem, prices: Prices) -> Bools:
    """Return the sites (K,) whose limits may bind at these prices or near them.

    Of few devices, or where few sites are so tight, all whose limits may bind at any prices: that
    is quicker than asking every device, or than solving all again.
    """
    tight = _tight(problem) | _reserving(problem)
    if are_few(problem) or tight.sum() <= _FEW_TIGHT * len(tight):
        return tight
    _, site_kw = _alone(problem, prices, keep=False)
    return (using(problem, site_kw, _NEAR_LIMIT) & tight) | _reserving(problem)


def are_few(problem: Problem) -> bool:
    """Tell whether the devices are few enough to be solved again, all together, for one limit."""
    return problem.steered <= _FEW


def _tight(problem: Problem) -> Bools:
    """Return the sites (K,) whose devices could exceed a limit, whatever the prices."""
    stores, sources, base_kw = problem.stores, problem.sources, problem.sites.base_kw
    count = base_kw.shape[1]
    most_kw = base_kw + by_site(stores.discharge_max_kw, stores.site, count)
    most_kw += by_site(sources.max_kw, sources.site, count)
    least_kw = base_kw - by_site(stores.charge_max_kw, stores.site, count)
    least_kw += by_site(sources.min_kw, sources.site, count)
    return using(problem, most_kw, _WHOLE) | using(problem, least_kw, _WHOLE)


def _reserving(problem: Problem) -> Bools:
    """Return the sites (K,) with stores that may hold reserve: what is ready needs room too."""
    reserving: Bools = np.zeros(len(problem.sites.import_limit_kw), dtype=np.bool_)
    reserving[problem.stores.site[ready_stores(problem)]] = True
    return reserving


def _alone(problem: Problem, prices: Prices, *, keep: bool) -> tuple[Answers, Floats]:
    """Return what every device does by itself, CHPs excepted, and the sites' power (T, K)."""
    sites = problem.sites.base_kw.shape[1]
    column = np.zeros(len(problem.stores.place), dtype=np.int64)
    price = prices.energy_eur_per_kwh[:, None]
    alone = respond(problem.stores, price, column, sites, keep=keep)
    answers = Answers.around(
        problem,
        charge_kw=alone.charge_kw.T,
        discharge_kw=alone.discharge_kw.T,
        energy_kwh=alone.energy_kwh.T,
        law=alone.law_eur_per_kwh.T,
    )
    site_kw = alone.site_kw + problem.sites.base_kw
    free = np.flatnonzero(problem.sources.curtailable)
    for first in range(0, len(free), _SOURCES_AT_A_TIME):
        chosen = free[first : first + _SOURCES_AT_A_TIME]
        part = select(problem.sources, chosen)
        given = respond_sources(part, price, np.zeros(len(chosen), dtype=np.int64), sites)
        answers.source_kw[chosen] = given.source_kw.T
        site_kw += given.site_kw
    return answers, site_kw


def using(problem: Problem, site_kw: Floats, share: float) -> Bools:
    """Return the sites (K,) whose power (T, K) takes more than a share of a limit at any time."""
    sites = problem.sites
    over = np.any(site_kw > share * sites.export_limit_kw + _BOUND_KW, axis=0)
    under = np.any(site_kw < -share * sites.import_limit_kw - _BOUND_KW, axis=0)
    used: Bools = np.logical_or(over, under)
    return used


def solve_sites(problem: Problem, sites: Bools, prices: Prices, into: Answers) -> None:
    """Solve the sites (K,) at these prices, each with its limits, and fill in their answers."""
    whole = cut(problem, sites, sites)
    link_price: Floats = np.zeros(3 * len(prices.energy_eur_per_kwh))
    told = link_prices(problem, prices)
    link_price[: len(told)] = told

    def solve(first: int) -> None:
        blocks = piece(whole, first, min(first + _BLOCKS_AT_A_TIME, len(whole.site)))
        programmes = assemble(pack(problem, blocks))
        at = begin(programmes, _START_EUR)
        solve_alone(programmes, at, 0, len(blocks.site), link_price, _GAP_EUR)
        into.fill(blocks, programmes, at)

    list(side_by_side(solve, range(0, len(whole.site), _BLOCKS_AT_A_TIME)))
