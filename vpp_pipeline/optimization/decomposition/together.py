"""Sites and the portfolio solved together, the rest of the fleet held still.

Belongs here: from a problem to its blocks and shared rows, and back to answers and prices. Does
not: the method (`coupled`), which sites to take together (`decompose`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.decomposition.answers import Answers, link_prices
from vpp_pipeline.optimization.decomposition.assembly import assemble
from vpp_pipeline.optimization.decomposition.at_prices import are_few, solve_sites, using
from vpp_pipeline.optimization.decomposition.blocks import cut, pack
from vpp_pipeline.optimization.decomposition.coupled import Aim, solve_coupled
from vpp_pipeline.optimization.decomposition.shared import shared_rows
from vpp_pipeline.optimization.found import Prices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.optimization.decomposition.shared import Shared
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem


@dataclass(frozen=True)
class Together:
    """What the devices do, the prices at which it fits, and how power follows prices."""

    answers: Answers
    prices: Prices
    follows: Floats  # (links, links) kW for a EUR/kW more in a quarter-hour


def solve_together(
    problem: Problem, limited: Bools, rest_kw: Floats, near: Prices | None, tolerance: float
) -> Together:
    """Solve a problem's sites beside the power of others (T,), and keep every limit.

    `near` are the prices of a problem like this one, to begin from. `limited` (K,) tells the sites
    whose limits may bind. Where others turn out to, few devices are solved again, all together; of
    many only those sites, at the same prices, and the portfolio is that little off. Raises
    `CoupledError` where the method breaks down.
    """
    return next(nearer_together(problem, limited, rest_kw, near, (Aim(tolerance),)))


def nearer_together(
    problem: Problem,
    limited: Bools,
    rest_kw: Floats,
    near: Prices | None,
    aims: tuple[Aim, ...],
) -> Iterator[Together]:
    """Yield what `solve_together` returns, for one aim after the other."""
    blocks = cut(problem, np.ones_like(limited), limited)
    programmes = assemble(pack(problem, blocks))
    shared = shared_of(problem, rest_kw)
    begin = None if near is None else _row_prices(problem, near, len(shared.right))
    for nth, found in enumerate(solve_coupled(programmes, shared, begin, aims)):
        answers = Answers.blank(problem)
        answers.fill(blocks, programmes, found.at)
        prices = prices_of(problem, found.price)
        missed = using(problem, answers.site_kw(problem), 1.0) & ~limited
        if missed.any() and are_few(problem):
            yield from nearer_together(problem, limited | missed, rest_kw, prices, aims[nth:])
            return
        solve_sites(problem, missed, prices, answers)
        yield Together(answers, prices, found.answer)


def shared_of(problem: Problem, rest_kw: Floats) -> Shared:
    """Return the rows that the problem's devices share, beside what others put on them (links,)."""
    stores, sources = problem.stores, problem.sources
    return shared_rows(
        problem,
        problem.sites.base_kw.sum(axis=1) + rest_kw[: len(problem.price_eur_per_kwh)],
        sources.min_kw.sum(axis=1) - stores.charge_max_kw.sum(axis=1),
        sources.max_kw.sum(axis=1) + stores.discharge_max_kw.sum(axis=1),
        rest_kw[len(problem.price_eur_per_kwh) :],
    )


def _row_prices(problem: Problem, prices: Prices, rows: int) -> Floats:
    """Return the portfolio's prices as the shared rows' (rows,): what `prices_of` makes of them."""
    price = np.zeros(rows)
    price[: problem.links] = link_prices(problem, prices)
    if problem.portfolio.peak_eur_per_kw > 0:
        price[problem.links :][: len(prices.peak_eur_per_kw)] = prices.peak_eur_per_kw
    return price


def prices_of(problem: Problem, price: Floats) -> Prices:
    """Return the shared rows' prices (rows,), EUR/kW in a quarter-hour, as the portfolio's."""
    steps, links, portfolio = len(problem.price_eur_per_kwh), problem.links, problem.portfolio
    nothing = np.zeros(steps)
    up, down = nothing, nothing
    if portfolio.wants_reserve:
        up, down = price[steps : 2 * steps] / STEP_H, price[2 * steps : links] / STEP_H
    return Prices(
        energy_eur_per_kwh=price[:steps] / STEP_H,
        peak_eur_per_kw=price[links : links + steps] if portfolio.peak_eur_per_kw > 0 else nothing,
        reserve_up_eur_per_kwh=up,
        reserve_down_eur_per_kwh=down,
    )
