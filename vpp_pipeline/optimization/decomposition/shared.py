"""The portfolio as rows that all blocks share, with variables of its own.

Belongs here: position and imbalance, peak, events and blocks of reserve as a small dense
programme. Does not: the same to be read (`model`), solving it (`coupled`, `master`).

Rows: the fleet's power in each of T quarter-hours, then, where reserve is wanted, its reserve up
and down; after these, rows of the portfolio alone. Row t says: power of all blocks + base =
position + what is beyond it. A row's price, EUR a kW, is what one more kW is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places, Portfolio, Problem


@dataclass(frozen=True)
class Shared:
    """minimise cost'v over  blocks' part + matrix v = right,  low <= v <= high."""

    links: int  # rows that blocks take part in
    matrix: Floats  # (rows, variables)
    right: Floats  # (rows,)
    cost: Floats  # (variables,)
    low: Floats
    high: Floats
    fixed_eur: float  # what the position costs, whatever is done


def shared_rows(
    problem: Problem, base_kw: Floats, least_kw: Floats, most_kw: Floats, held_kw: Floats
) -> Shared:
    """Return the portfolio's rows, for blocks whose power lies in [least, most] (T,) kW.

    `base_kw` (T,) is what comes on top of the blocks, loads and devices outside of them; `held_kw`
    is the reserve outside of them, up and then down, where any is wanted.
    """
    portfolio, steps = problem.portfolio, len(base_kw)
    rows = _Rows(problem.links, np.concatenate([portfolio.position_kw - base_kw, -held_kw]))
    sold_eur = STEP_H * float(problem.price_eur_per_kwh @ portfolio.position_kw)
    beyond = _beyond(rows, portfolio, least_kw + base_kw, most_kw + base_kw)
    room_kw = most_kw - least_kw + 1.0
    if portfolio.peak_eur_per_kw > 0:
        highest = max(float(np.max(-least_kw - base_kw)) - portfolio.peak_free_kw, 0.0) + 1.0
        peak = rows.variables(np.array([portfolio.peak_eur_per_kw]), 0.0, highest)
        new = rows.new(-portfolio.position_kw - portfolio.peak_free_kw)
        rows.couple(new, beyond, 1.0)
        rows.matrix_part(new, np.repeat(peak, steps), 1.0)
        slack = np.maximum(most_kw + base_kw + portfolio.peak_free_kw, 0.0) + highest + 1.0
        rows.matrix_part(new, rows.variables(np.zeros(steps), 0.0, slack), -1.0)
    for limit, sign in ((portfolio.event_min_kw, 1.0), (portfolio.event_max_kw, -1.0)):
        at = np.flatnonzero(np.isfinite(limit) & (portfolio.event_eur_per_kwh > 0))
        if not len(at):
            continue
        new = rows.new(sign * (limit - portfolio.position_kw)[at])
        rows.couple(new, tuple((v[at], s) for v, s in beyond), sign)
        reach = np.abs(limit[at]) + np.abs(least_kw + base_kw)[at] + np.abs(most_kw + base_kw)[at]
        penalty = portfolio.event_eur_per_kwh[at] * STEP_H
        rows.matrix_part(new, rows.variables(penalty, 0.0, reach + 1.0), 1.0)
        rows.matrix_part(new, rows.variables(np.zeros(len(at)), 0.0, reach + 1.0), -1.0)
    if portfolio.wants_reserve:
        _reserve(rows, portfolio, float(room_kw.max() + held_kw.max()))
    return rows.made(-sold_eur)


class _Rows:
    """Rows and variables as they are added."""

    def __init__(self, links: int, link_right: Floats) -> None:
        self.links = links
        self.right = [link_right]
        self.count = links
        self.entries: list[tuple[Places, Places, Floats]] = []
        self.cost: list[Floats] = []
        self.low: list[Floats] = []
        self.high: list[Floats] = []
        self.size = 0

    def new(self, right: Floats) -> Places:
        self.right.append(right)
        self.count += len(right)
        return np.arange(self.count - len(right), self.count)

    def variables(self, cost: Floats, low: Floats | float, high: Floats | float) -> Places:
        self.cost.append(cost)
        self.low.append(np.broadcast_to(low, cost.shape))
        self.high.append(np.broadcast_to(high, cost.shape))
        self.size += len(cost)
        return np.arange(self.size - len(cost), self.size)

    def matrix_part(self, rows: Places, variables: Places, value: float) -> None:
        self.entries.append((rows, variables, np.full(len(rows), value)))

    def couple(self, rows: Places, beyond: tuple[tuple[Places, float], ...], sign: float) -> None:
        for variables, value in beyond:
            chosen = variables >= 0
            self.matrix_part(rows[chosen], variables[chosen], sign * value)

    def made(self, fixed_eur: float) -> Shared:
        matrix = np.zeros((self.count, self.size))
        for rows, variables, values in self.entries:
            np.add.at(matrix, (rows, variables), values)
        return Shared(
            links=self.links,
            matrix=matrix,
            right=np.concatenate(self.right),
            cost=np.concatenate(self.cost),
            low=np.concatenate(self.low),
            high=np.concatenate(self.high),
            fixed_eur=fixed_eur,
        )


def _beyond(
    rows: _Rows, portfolio: Portfolio, least_kw: Floats, most_kw: Floats
) -> tuple[tuple[Places, float], ...]:
    """Add what is sold beyond the position; return its variables (T,), -1 for none, with signs.

    Where surplus and shortage have one price, one variable of either sign does.
    """
    steps = len(least_kw)
    more = np.maximum(most_kw - portfolio.position_kw, 0.0) + 1.0
    less = np.maximum(portfolio.position_kw - least_kw, 0.0) + 1.0
    one = portfolio.surplus_eur_per_kwh == portfolio.shortage_eur_per_kwh
    at = np.arange(steps)
    surplus = rows.variables(
        -portfolio.surplus_eur_per_kwh * STEP_H, np.where(one, -less, 0.0), more
    )
    rows.matrix_part(at, surplus, -1.0)
    shortage = np.full(steps, -1)
    shortage[~one] = rows.variables(
        (portfolio.shortage_eur_per_kwh * STEP_H)[~one], 0.0, less[~one]
    )
    rows.matrix_part(at[~one], shortage[~one], 1.0)
    return ((surplus, 1.0), (shortage, -1.0))


def _reserve(rows: _Rows, portfolio: Portfolio, most_kw: float) -> None:
    """Add a quantity a block of quarter-hours and direction, held in each of them."""
    steps = len(portfolio.reserve_block)
    _, block = np.unique(portfolio.reserve_block, return_inverse=True)
    paid: list[Floats] = [
        np.bincount(block, -price * STEP_H).astype(np.float64)
        for price in (portfolio.reserve_up_eur_per_kwh, portfolio.reserve_down_eur_per_kwh)
    ]
    if portfolio.reserve_symmetric:
        held = rows.variables(paid[0] + paid[1], 0.0, most_kw)
        quantities = [held, held]
    else:
        quantities = [rows.variables(price, 0.0, most_kw) for price in paid]
    for way, quantity in enumerate(quantities):
        row = (1 + way) * steps + np.arange(steps)
        rows.matrix_part(row, quantity[block], -1.0)
        rows.matrix_part(row, rows.variables(np.zeros(steps), 0.0, most_kw), -1.0)
