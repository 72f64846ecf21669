"""When a store charges, discharges or rests, alone at given prices: a compiled dynamic programme.

Belongs here: one store's switches at a time, over a fine grid of energies. Does not: what runs in
one go (`runs`), the powers in the end (a convex solver finds them within these directions).

The value of an energy is kept at the grid's points and taken as linear between them; forwards the
store moves from its true energy, within its true bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.directions_kernel import best_powers
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem
    from vpp_pipeline.optimization.room import Room

GRID_POINTS = 81
_STORES_AT_A_TIME = 500


@dataclass(frozen=True)
class Directions:
    """What the chosen stores do (T, chosen), each alone at its prices."""

    kw: Floats  # positive discharges
    tends: Bools  # whether a small power would rather charge
    possible: Bools  # (chosen,) whether all hard bounds are kept
    cost_eur: Floats  # (chosen,) of what they do


def best_directions(
    problem: Problem,
    chosen: Places,
    price_eur_per_kwh: Floats,
    room: Room,
    grid_points: int = GRID_POINTS,
) -> Directions:
    """Return what these stores do at `price_eur_per_kwh` (T, chosen), what a kWh is worth there.

    No store does both at once, or less than its least power. A store that has a least power, or
    can't just rest, takes its share of the sites' room.
    """
    stores, steps = problem.stores, len(problem.price_eur_per_kwh)
    kw, tends = np.zeros((len(chosen), steps)), np.zeros((len(chosen), steps), dtype=np.bool_)
    possible, cost = np.ones(len(chosen), dtype=np.bool_), np.zeros(len(chosen))
    # A site's stores share its room, so they stay in one thread.
    order = np.argsort(stores.site[chosen], kind="stable")
    sites = stores.site[chosen][order]
    cuts = np.unique(np.searchsorted(sites, sites[::_STORES_AT_A_TIME]))[1:]

    def solve(part: Places) -> None:
        at, own = chosen[part], np.ascontiguousarray
        kw[part], tends[part], possible[part], cost[part] = best_powers(
            stores.site[at],
            own(price_eur_per_kwh[:, part].T),
            own(stores.charge_max_kw[:, at].T),
            own(stores.discharge_max_kw[:, at].T),
            own(stores.starts[:, at].T),
            own(stores.initial_kwh[:, at].T),
            own(stores.drift_kwh[:, at].T),
            own(stores.floor_kwh[:, at].T),
            own(stores.ceiling_kwh[:, at].T),
            own(stores.wished_kwh[:, at].T),
            own(stores.shortfall_eur_per_kwh[:, at].T),
            own(stores.comfort_kwh[:, at].T),
            own(stores.excess_eur_per_kwh[:, at].T),
            stores.retention[at],
            stores.charge_efficiency[at],
            stores.discharge_efficiency[at],
            stores.wear_eur_per_kwh[at],
            stores.end_value_eur_per_kwh[at],
            stores.min_active_kw[at],
            stores.curvature_eur_per_kw2h[at],
            room.import_kw,
            room.export_kw,
            room.support_kw,
            room.support_kwh,
            grid_points,
        )

    list(side_by_side(solve, np.split(order, cuts)))
    return Directions(kw.T, tends.T, possible, cost)
