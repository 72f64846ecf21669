"""Chosen sites and the portfolio solved together, the rest of the fleet held still.

Belongs here: from a problem to its blocks and shared rows, and back to answers and prices. Does
not: the method (`coupled`), which sites to choose (`decompose`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.decomposition.answers import Prices
from vpp_pipeline.optimization.decomposition.assembly import assemble
from vpp_pipeline.optimization.decomposition.blocks import cut, pack
from vpp_pipeline.optimization.decomposition.coupled import solve_coupled
from vpp_pipeline.optimization.decomposition.shared import shared_rows

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.answers import Answers
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem


@dataclass(frozen=True)
class Together:
    """The prices at which everything fits, and how power follows them."""

    prices: Prices
    answer: Floats  # (links, links) kW for a EUR/kW more in a quarter-hour
    steps: int


def solve_together(  # noqa: PLR0917 - a part of a problem
    problem: Problem, sites: Bools, rest_kw: Floats, tolerance: float, into: Answers
) -> Together:
    """Solve the sites (K,) beside the power of all others (T,), and fill in their answers.

    Raises `CoupledError` where the method breaks down.
    """
    blocks = cut(problem, sites, sites)
    programmes = assemble(pack(problem, blocks))
    stores, sources = problem.stores, problem.sources
    least = sources.min_kw[:, blocks.source].sum(axis=1)
    most = sources.max_kw[:, blocks.source].sum(axis=1)
    shared = shared_rows(
        problem,
        problem.sites.base_kw[:, sites].sum(axis=1) + rest_kw,
        least - stores.charge_max_kw[:, blocks.store].sum(axis=1),
        most + stores.discharge_max_kw[:, blocks.store].sum(axis=1),
    )
    found = solve_coupled(programmes, shared, tolerance)
    into.fill(blocks, programmes, found.blocks)
    return Together(_prices(problem, found.price, shared.links), found.answer, found.steps)


def _prices(problem: Problem, price: Floats, links: int) -> Prices:
    steps = len(problem.price_eur_per_kwh)
    peaks = problem.portfolio.peak_eur_per_kw > 0
    nothing = np.zeros(steps)
    reserved = links > steps
    return Prices(
        energy_eur_per_kwh=price[:steps] / STEP_H,
        peak_eur_per_kw=price[links : links + steps] if peaks else nothing,
        reserve_up_eur_per_kwh=price[steps : 2 * steps] / STEP_H if reserved else nothing,
        reserve_down_eur_per_kwh=price[2 * steps : links] / STEP_H if reserved else nothing,
    )
