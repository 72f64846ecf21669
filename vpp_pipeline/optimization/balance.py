"""A fleet's sum made exact, by what devices can still do beside their set-points.

Belongs here: sharing what whole milliwatts, or a solver's tolerance, left over. Does not: finding
the set-points (`solve`), following an energy path (`repair`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import by_site

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places, Problem, Stores
    from vpp_pipeline.optimization.repair import Setpoints

_SMALLEST_RETENTION = 1e-9
_TOLERANCE_KW = 1e-9


def balanced(
    problem: Problem, setpoints: Setpoints, low_kwh: Floats, high_kwh: Floats
) -> Setpoints:
    """Return the set-points moved as little as makes the fleet's power the position, if possible.

    Quarter-hour by quarter-hour, each device moves in proportion to its room: within its power,
    its site's connection, and the energies `low_kwh` to `high_kwh` (T, S; NaN without a store)
    from which all that follows can be kept. Nothing that runs is stopped, nothing that rests and
    has a least power is started; CHPs and loads that may not be interrupted stay as they are.
    """
    # Where the set-points are outside already, they may stay where they are.
    low = np.fmin(low_kwh, setpoints.energy_kwh)
    high = np.fmax(high_kwh, setpoints.energy_kwh)
    strict_low, strict_high = _leaving_the_rest(problem.stores, setpoints.energy_kwh, low, high)
    # A store that leaves its path may have to catch up later, which a least power forbids, or
    # the connection: there it may move only as far as the rest of its path can stay.
    strict = problem.stores.min_active_kw > 0
    before = _beyond_kw(problem, setpoints)
    while True:
        moved = _moved(
            problem,
            setpoints,
            np.where(strict, strict_low, low),
            np.where(strict, strict_high, high),
        )
        breaks = (_beyond_kw(problem, moved) > before + _TOLERANCE_KW)[problem.stores.site]
        if not np.any(breaks & ~strict):
            return moved
        strict = strict | breaks


def _leaving_the_rest(
    stores: Stores, energy_kwh: Floats, low_kwh: Floats, high_kwh: Floats
) -> tuple[Floats, Floats]:
    """Return the energies (T, S) from which a store's later powers can stay as they are."""
    below, above = energy_kwh - low_kwh, high_kwh - energy_kwh
    kept = np.maximum(stores.retention, _SMALLEST_RETENTION)
    for t in range(len(energy_kwh) - 2, -1, -1):
        onward = ~stores.starts[t + 1]
        below[t] = np.where(onward, np.minimum(below[t], below[t + 1] / kept), below[t])
        above[t] = np.where(onward, np.minimum(above[t], above[t + 1] / kept), above[t])
    return energy_kwh - below, energy_kwh + above


def _beyond_kw(problem: Problem, setpoints: Setpoints) -> Floats:
    """Return by how much each site is beyond its connection at worst (K,)."""
    sites = problem.sites
    count = len(sites.import_limit_kw)
    site_kw = sites.base_kw + by_site(setpoints.store_kw, problem.stores.site, count)
    site_kw += by_site(setpoints.source_kw, problem.sources.site, count)
    over = site_kw - sites.export_limit_kw - sites.export_overload_kw
    under = -site_kw - sites.import_limit_kw - sites.import_overload_kw
    beyond: Floats = np.maximum(over, under).max(axis=0).clip(min=0)
    return beyond


def _moved(problem: Problem, setpoints: Setpoints, low: Floats, high: Floats) -> Setpoints:
    """Move towards the position, with the stores' energies (T, S) between `low` and `high`."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    power, energy = setpoints.store_kw.copy(), setpoints.energy_kwh.copy()
    source = setpoints.source_kw.copy()
    at_device = np.concatenate([stores.site, sources.site])
    fixed = ~sources.curtailable | (sources.min_active_kw > 0)
    count = len(sites.import_limit_kw)
    for t in range(len(power)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], energy[t - 1])
        idle = stores.retention * start + stores.drift_kwh[t]
        can = (-stores.charge_max_kw[t], stores.discharge_max_kw[t])
        least, most = (np.clip(_reaching(stores, idle, end[t]), *can) for end in (high, low))
        free = ~stores.unbroken & (stores.min_active_kw == 0)
        kept = np.where(free, np.clip(power[t], least, np.maximum(least, most)), power[t])
        bottom, top = _running(stores, kept, least, most)
        moving = np.concatenate([kept, source[t]])
        lowest = np.concatenate([bottom, np.where(fixed, source[t], sources.min_kw[t])])
        highest = np.concatenate([top, np.where(fixed, source[t], sources.max_kw[t])])
        site_kw = sites.base_kw[t] + np.bincount(at_device, moving, count)
        missing = problem.portfolio.position_kw[t] - site_kw.sum()
        if missing > 0:
            left = sites.export_limit_kw + sites.export_overload_kw[t] - site_kw
            moving = moving + _shared(missing, highest - moving, left, at_device)
        else:
            left = sites.import_limit_kw + sites.import_overload_kw[t] + site_kw
            moving = moving - _shared(-missing, moving - lowest, left, at_device)
        power[t], source[t] = moving[: len(kept)], moving[len(kept) :]
        energy[t] = idle + STEP_H * (
            np.maximum(-power[t], 0) * stores.charge_efficiency
            - np.maximum(power[t], 0) / stores.discharge_efficiency
        )
    return replace(setpoints, store_kw=power, energy_kwh=energy, source_kw=source)


def _reaching(stores: Stores, idle_kwh: Floats, end_kwh: Floats) -> Floats:
    """Return the power that takes each store from its idle energy to another within a step."""
    change = end_kwh - idle_kwh
    power: Floats = -np.where(
        change > 0, change / stores.charge_efficiency, change * stores.discharge_efficiency
    )
    return power / STEP_H


def _running(
    stores: Stores, power: Floats, lowest: Floats, highest: Floats
) -> tuple[Floats, Floats]:
    """Return the range in which a device with a least power neither stops, starts, nor turns."""
    least_kw = stores.min_active_kw
    free = least_kw == 0
    bottom = np.where(free | (power < 0), lowest, np.where(power > 0, least_kw, power))
    top = np.where(free | (power > 0), highest, np.where(power < 0, -least_kw, power))
    return (
        np.where(stores.unbroken, power, bottom),
        np.where(stores.unbroken, power, np.minimum(top, highest)),
    )


def _shared(amount: float, room: Floats, left: Floats, site: Places) -> Floats:
    """Spread an amount over devices in proportion to their room, within what sites have left."""
    room = np.maximum(room, 0)
    at_site = np.bincount(site, room, len(left))
    ratio = np.divide(np.maximum(left, 0), at_site, out=np.ones_like(left), where=at_site > 0)
    room = room * np.minimum(ratio, 1)[site]
    total = float(room.sum())
    return room * min(amount / total, 1.0) if total > 0 else room
