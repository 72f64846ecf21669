"""Work that sites need nothing of each other for, done for some of them at a time.

Belongs here: cutting a problem into runs of sites, and putting their set-points together. Does
not: what is done with a piece.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.problem import select
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.threads import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vpp_pipeline.optimization.problem import Places, Problem

_STORES_AT_A_TIME = 4_000  # so that a piece stays in a processor's cache


def piecewise(problem: Problem, work: Callable[[Problem, Places, Places], Setpoints]) -> Setpoints:
    """Return the set-points of all sites, from those of each piece.

    `work` gets a piece, and which of the problem's stores and sources it has, in its order.
    """
    stores, sources = problem.stores, problem.sources
    pieces = -(-len(stores.site) // _STORES_AT_A_TIME)
    if pieces <= 1:
        return work(problem, np.arange(len(stores.site)), np.arange(len(sources.site)))
    of_store = np.argsort(stores.site, kind="stable")
    of_source = np.argsort(sources.site, kind="stable")
    marks = np.linspace(0, len(problem.sites.import_limit_kw), pieces + 1).astype(np.int64)
    steps = len(stores.drift_kwh)
    power, energy = (np.empty((len(stores.site), steps)) for _ in range(2))
    source = np.empty((len(sources.site), steps))

    def done(first: int, last: int) -> None:
        mine = of_store[slice(*np.searchsorted(stores.site[of_store], (first, last)))]
        given = of_source[slice(*np.searchsorted(sources.site[of_source], (first, last)))]
        own, out = select(stores, mine), select(sources, given)
        part = replace(
            problem,
            stores=replace(own, site=own.site - first),
            sources=replace(out, site=out.site - first),
            sites=select(problem.sites, np.arange(first, last)),
        )
        made = work(part, mine, given)
        power[mine], energy[mine] = made.store_kw.T, made.energy_kwh.T
        source[given] = made.source_kw.T

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(done, marks[:-1], marks[1:]))
    return Setpoints(power.T, energy.T, source.T)
