"""What each grid connection surely leaves for a device that has to be on.

Belongs here: the room beside what all other devices do at least, and a battery's help. Does not:
who takes it (`runs`, `directions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.problem import by_site, select

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem, Stores


@dataclass(frozen=True)
class Room:
    """What may still be drawn and injected at each site, whatever else its devices do (K, T).

    Patterns take their share of it in place.
    """

    import_kw: Floats
    export_kw: Floats
    support_kw: Floats  # what one store there could add to the import's room
    support_kwh: Floats  # (K,) and for how long


def room_at_sites(problem: Problem, helpers: Bools) -> Room:
    """Return the room that is left when every device does the least it must, and the sun shines.

    Of the helpers (S,) the one with most energy supports each site: with what it holds now, above
    its floor, if it does nothing else.
    """
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    count = len(sites.import_limit_kw)
    must = by_site(stores.discharge_min_kw - stores.charge_min_kw, stores.site, count)
    must += sites.base_kw
    least = must + by_site(sources.min_kw, sources.site, count)
    helped_kw = np.where(sources.curtailable, sources.max_kw, sources.min_kw)
    most = must + by_site(helped_kw, sources.site, count)

    places = np.flatnonzero(helpers)
    spare_kwh = _spare_kwh(select(stores, helpers))
    order = np.argsort(spare_kwh)
    support_kw, support_kwh = np.zeros_like(least), np.zeros(count)
    site = stores.site[places[order]]  # where several stand, the last and largest is kept
    support_kw[:, site] = stores.discharge_max_kw[:, places[order]]
    support_kwh[site] = spare_kwh[order]
    return Room(
        import_kw=_rows(sites.import_limit_kw + sites.import_overload_kw + most),
        export_kw=_rows(sites.export_limit_kw + sites.export_overload_kw - least),
        support_kw=_rows(support_kw),
        support_kwh=support_kwh,
    )


def _spare_kwh(stores: Stores) -> Floats:
    """Return what each store can give in all (n,), whenever it is asked; 0 if it can't just rest."""
    energy, spare = stores.initial_kwh[0], np.full(len(stores.site), np.inf)
    free = (stores.min_active_kw <= 0) & ~stores.starts[1:].any(axis=0)
    for t in range(len(stores.starts)):
        energy = stores.retention * energy + stores.drift_kwh[t]
        spare = np.minimum(spare, energy - stores.floor_kwh[t])
        free &= energy <= stores.ceiling_kwh[t]
    return np.where(free, np.maximum(spare, 0) * stores.discharge_efficiency, 0.0)


def _rows(of: Floats) -> Floats:
    rows: Floats = np.ascontiguousarray(of.T)
    return rows
