"""Stores that would charge and discharge at once behind one connection, made to take turns.

Belongs here: from shares of a quarter-hour to whole quarter-hours one way, staggered over the
stores of a site. Does not: stores whose prices alone tell what is best (`directions`).

Where a connection binds at negative prices, one store burns energy while its neighbour stores it.
At prices alone all would do the same; an error diffusion keeps each store's shares over time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places, Stores

_TOLD_SHARE = 1e-3
_MOST_DEBT = 2.0  # quarter-hours


def taking_turns(stores: Stores, charge_kw: Floats, discharge_kw: Floats) -> Floats:
    """Return which way each store goes (T, S): 1 discharges, -1 charges.

    Of the powers (T, S) of a convex answer each store keeps its shares of charging and
    discharging as they add up; a site's stores begin at different points of their turn.
    """
    into = charge_kw / np.maximum(stores.charge_max_kw, _TOLD_SHARE)
    out = discharge_kw / np.maximum(stores.discharge_max_kw, _TOLD_SHARE)
    both = np.minimum(into, out) > _TOLD_SHARE
    owed = _staggered(stores.site)
    ways = np.empty_like(into)
    for t in range(len(into)):
        owes = owed + into[t] - out[t]
        charges = np.where(both[t], owes > 0, into[t] >= out[t])
        done = np.where(charges, 1.0, -1.0) * np.minimum(into[t] + out[t], 1.0)
        owed = np.where(both[t], np.clip(owes - done, -_MOST_DEBT, _MOST_DEBT), owed)
        ways[t] = np.where(charges, -1.0, 1.0)
    return ways


def _staggered(site: Places) -> Floats:
    """Return each store's point between -1 and 1, evenly spread over its site's stores."""
    order = np.argsort(site, kind="stable")
    first = np.searchsorted(site[order], site)
    rank = np.empty(len(site), dtype=np.int64)
    rank[order] = np.arange(len(site))
    count = np.bincount(site)[site]
    spread: Floats = 2 * (rank - first) / np.maximum(count - 1, 1) - 1
    return spread
