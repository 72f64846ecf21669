"""What each grid connection surely leaves for a device that has to be on.

Belongs here: the room beside what all other devices do at least, a battery's help, and the runs
under way that find it. Does not: who takes the rest (`runs`, `directions`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import by_site, select

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem, Stores

DONE_KWH = 1e-3  # a load that lacks less has done its work
_ROUNDING = 1e-9


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


def begun_runs_kw(problem: Problem) -> Floats:
    """Return what loads draw (T, S) whose run has begun and has to go on; 0 of all others.

    It has to where its bounds let it, and the connection surely has the power for all such loads
    of its site, to their runs' end.
    """
    stores, sites = problem.stores, problem.sites
    begun = stores.unbroken & (stores.initial_kwh[0] > DONE_KWH)
    drawn_kw = np.zeros_like(stores.drift_kwh)
    if not begun.any():
        return drawn_kw
    loads = select(stores, begun)
    here = np.cumsum(loads.starts[1:], axis=0) == 0
    here = np.vstack([np.ones_like(loads.starts[:1]), here])
    need = np.max(loads.ceiling_kwh, axis=0, where=here, initial=0.0)
    energy = loads.initial_kwh[0]
    rated_kw = np.floor(loads.charge_max_kw * 1000 + 1e-6) / 1000  # whole watts, as it is told
    kw = np.zeros_like(loads.drift_kwh)
    fits = np.ones(len(energy), dtype=np.bool_)
    for t in range(len(kw)):
        idle = loads.retention * energy + loads.drift_kwh[t]
        left = np.where(here[t] & (need - idle > DONE_KWH), need - idle, 0.0)
        kw[t] = np.minimum(rated_kw[t], left / (loads.charge_efficiency * STEP_H))
        energy = idle + kw[t] * loads.charge_efficiency * STEP_H
        within = (energy >= loads.floor_kwh[t]) & (energy <= loads.ceiling_kwh[t] + _ROUNDING)
        fits &= within | ~here[t]
    kw[:, ~fits] = 0.0
    others = replace(problem, stores=select(stores, ~stores.unbroken))
    nobody = np.zeros(len(others.stores.site), dtype=np.bool_)
    asked = by_site(kw, loads.site, len(sites.import_limit_kw))
    short = (asked > 0) & (asked > room_at_sites(others, nobody).import_kw.T + _ROUNDING)
    over = np.flatnonzero(short.any(axis=0))
    drawn_kw[:, begun] = np.where(np.isin(loads.site, over), 0.0, kw)
    return drawn_kw


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
