"""Which stores and sources are solved together, and their inputs in the order they are solved in.

Belongs here: cutting a problem into blocks. Does not: a block's variables and rows (`assembly`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem

_Value = TypeVar("_Value", np.float64, np.bool_)
_LEAST_CURVATURE = 1e-7  # EUR/kW²h; responses are unique even where the problem asks for nothing


class Part(NamedTuple):
    """Chosen blocks' inputs: contiguous rows of T values a store (S), source (G) or block (B)."""

    store_first: Places  # (B+1,) block b has the stores [store_first[b], store_first[b+1])
    source_first: Places  # (B+1,)
    limited: Bools  # (B,) whether the block is a site whose limits are to be kept
    charge_min_kw: Floats  # (S, T) and so on
    charge_max_kw: Floats
    discharge_min_kw: Floats
    discharge_max_kw: Floats
    starts: Bools
    initial_kwh: Floats
    present: Bools
    drift_kwh: Floats
    floor_kwh: Floats
    ceiling_kwh: Floats
    wished_kwh: Floats
    shortfall_eur_per_kwh: Floats
    comfort_kwh: Floats
    excess_eur_per_kwh: Floats
    retention: Floats  # (S,) and so on
    charge_efficiency: Floats
    discharge_efficiency: Floats
    wear_eur_per_kwh: Floats
    store_curvature: Floats
    end_value_eur_per_kwh: Floats
    reserve: Bools
    source_min_kw: Floats  # (G, T)
    source_max_kw: Floats
    source_cost: Floats  # (G,) and so on
    source_ramp_kw: Floats
    source_curvature: Floats
    curtailable: Bools
    base_kw: Floats  # (B, T)
    import_limit_kw: Floats  # (B,)
    export_limit_kw: Floats
    import_overload_kw: Floats  # (B, T)
    export_overload_kw: Floats
    overload_eur_per_kwh: float
    sustain_h: float


@dataclass(frozen=True)
class Cut:
    """The blocks of some sites of a problem."""

    store: Places  # (S,) the problem's stores in the blocks' order
    source: Places  # (G,)
    store_first: Places  # (B+1,)
    source_first: Places
    limited: Bools  # (B,)
    site: Places  # (B,)


def cut(problem: Problem, sites: Bools, limited: Bools) -> Cut:
    """Cut the chosen sites (K,) into blocks.

    A limited site is one block; elsewhere every store and every source is one of its own.
    """
    together = sites & limited
    store_site, source_site = problem.stores.site, problem.sources.site
    joint = np.flatnonzero(together)
    stores = np.flatnonzero(together[store_site])
    stores = stores[np.argsort(store_site[stores], kind="stable")]
    sources = np.flatnonzero(together[source_site])
    sources = sources[np.argsort(source_site[sources], kind="stable")]
    store_first = np.searchsorted(store_site[stores], joint)
    source_first = np.searchsorted(source_site[sources], joint)

    alone = sites & ~limited
    single_stores = np.flatnonzero(alone[store_site])
    single_sources = np.flatnonzero(alone[source_site])
    ns, ng = len(single_stores), len(single_sources)
    return Cut(
        store=np.concatenate([stores, single_stores]),
        source=np.concatenate([sources, single_sources]),
        store_first=np.concatenate(
            [store_first, len(stores) + np.arange(ns), np.full(ng + 1, len(stores) + ns)]
        ).astype(np.int64),
        source_first=np.concatenate(
            [source_first, np.full(ns, len(sources)), len(sources) + np.arange(ng + 1)]
        ).astype(np.int64),
        limited=np.concatenate([np.ones(len(joint), np.bool_), np.zeros(ns + ng, np.bool_)]),
        site=np.concatenate([joint, store_site[single_stores], source_site[single_sources]]),
    )


def piece(whole: Cut, first: int, last: int) -> Cut:
    """Return the blocks [first, last)."""
    s0, s1 = whole.store_first[first], whole.store_first[last]
    g0, g1 = whole.source_first[first], whole.source_first[last]
    return Cut(
        store=whole.store[s0:s1],
        source=whole.source[g0:g1],
        store_first=whole.store_first[first : last + 1] - s0,
        source_first=whole.source_first[first : last + 1] - g0,
        limited=whole.limited[first:last],
        site=whole.site[first:last],
    )


def pack(problem: Problem, blocks: Cut) -> Part:
    """Return the blocks' inputs."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    s, g, k = blocks.store, blocks.source, blocks.site
    reserve = stores.reserve[s] & problem.portfolio.wants_reserve
    return Part(
        store_first=blocks.store_first,
        source_first=blocks.source_first,
        limited=blocks.limited,
        charge_min_kw=_rows(stores.charge_min_kw, s),
        charge_max_kw=_rows(stores.charge_max_kw, s),
        discharge_min_kw=_rows(stores.discharge_min_kw, s),
        discharge_max_kw=_rows(stores.discharge_max_kw, s),
        starts=_rows(stores.starts, s),
        initial_kwh=_rows(stores.initial_kwh, s),
        present=_rows(stores.present, s),
        drift_kwh=_rows(stores.drift_kwh, s),
        floor_kwh=_rows(stores.floor_kwh, s),
        ceiling_kwh=_rows(stores.ceiling_kwh, s),
        wished_kwh=_rows(stores.wished_kwh, s),
        shortfall_eur_per_kwh=_rows(stores.shortfall_eur_per_kwh, s),
        comfort_kwh=_rows(stores.comfort_kwh, s),
        excess_eur_per_kwh=_rows(stores.excess_eur_per_kwh, s),
        retention=stores.retention[s],
        charge_efficiency=stores.charge_efficiency[s],
        discharge_efficiency=stores.discharge_efficiency[s],
        wear_eur_per_kwh=stores.wear_eur_per_kwh[s],
        store_curvature=np.maximum(stores.curvature_eur_per_kw2h[s], _LEAST_CURVATURE),
        end_value_eur_per_kwh=stores.end_value_eur_per_kwh[s],
        reserve=reserve,
        source_min_kw=_rows(sources.min_kw, g),
        source_max_kw=_rows(sources.max_kw, g),
        source_cost=sources.cost_eur_per_kwh[g],
        source_ramp_kw=sources.ramp_kw[g],
        source_curvature=np.maximum(sources.curvature_eur_per_kw2h[g], _LEAST_CURVATURE),
        curtailable=sources.curtailable[g],
        base_kw=_rows(sites.base_kw, k),
        import_limit_kw=sites.import_limit_kw[k],
        export_limit_kw=sites.export_limit_kw[k],
        import_overload_kw=_rows(sites.import_overload_kw, k),
        export_overload_kw=_rows(sites.export_overload_kw, k),
        overload_eur_per_kwh=problem.overload_eur_per_kwh,
        sustain_h=problem.portfolio.reserve_sustain_h,
    )


def _rows(values: NDArray[_Value], chosen: Places) -> NDArray[_Value]:
    """Return the chosen columns of a time-major array as contiguous rows."""
    return np.ascontiguousarray(values.T[chosen])
