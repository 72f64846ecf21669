"""Power that is known only as p10, p50 and p90, as the few cases that a plan weighs.

Belongs here: the cases and their weights, sums of what errs, and what imbalance is expected to
cost. Does not: forecasting the quantiles, planning on the cases (`behind_meter`, `model`).

A set-point is chosen before it is known what loads and sun will do. A plan on p50 alone takes the
last kWh of a surplus for certain; weighed over the cases it is worth what it is likely to save.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Portfolio

TAIL = 0.3
WEIGHTS = np.array([TAIL, 1 - 2 * TAIL, TAIL])
"""How likely p10, p50 and p90 are taken to be: of all weights on these three, those that keep the
mean of most distributions (Swanson's rule: Hurst, Brown and Swanson, AAPG Bulletin 84, 2000)."""


def summed(parts: Floats) -> Floats:
    """Return p10, p50 and p90 (3, ...) of a sum, for those of its parts (3, parts, ...).

    The parts are taken to err independently of each other: their distances from p50 add up as
    squares. What errs together, such as the sun on neighbouring roofs, is to be summed before it
    is forecast.
    """
    middle = parts[1].sum(axis=0)
    below, above = (np.sqrt(((parts[side] - parts[1]) ** 2).sum(axis=0)) for side in (0, 2))
    return np.stack([middle - below, middle, middle + above])


def hedged(portfolio: Portfolio, lower_by_kw: Floats, higher_by_kw: Floats) -> Portfolio:
    """Return a portfolio whose settlement is what the given one's is expected to be.

    The fleet's power may turn out lower than planned by `lower_by_kw` (its p50 less its p10) or
    higher by `higher_by_kw` (T,), 0 where it is certain. The expected price of a planned kW then
    falls from the shortage to the surplus price in three steps instead of one: at the position
    plus `lower_by_kw`, at the position, and at the position less `higher_by_kw`. The outer two
    stand where an event's limits would, so there can be none in the same quarter-hour. The
    objective is short of the expectation by a constant that no plan changes.
    """
    uncertain = lower_by_kw + higher_by_kw > 0
    shared = np.where(
        uncertain, TAIL * (portfolio.shortage_eur_per_kwh - portfolio.surplus_eur_per_kwh), 0.0
    )
    position = portfolio.position_kw
    return replace(
        portfolio,
        surplus_eur_per_kwh=portfolio.surplus_eur_per_kwh + shared,
        shortage_eur_per_kwh=portfolio.shortage_eur_per_kwh - shared,
        event_min_kw=np.where(uncertain, position - higher_by_kw, portfolio.event_min_kw),
        event_max_kw=np.where(uncertain, position + lower_by_kw, portfolio.event_max_kw),
        event_eur_per_kwh=np.where(uncertain, shared, portfolio.event_eur_per_kwh),
    )
