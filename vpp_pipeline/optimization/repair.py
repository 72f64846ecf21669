"""From a solver's answer to powers that devices can follow.

Belongs here: tracking energies within every hard bound, one direction at a time, at least the
least power, whole milliwatts. Does not: where an answer can't be followed (`integers`), solving
(`relaxed`, `exact`), judging (`verify`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import at_sites, by_site, site_kw
from vpp_pipeline.optimization.runs import keeping_runs

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem

_MILLIWATTS = 1e6  # in a kW; a driver rounds to what its device can hold
_OVER_KW = 1e-9  # less is what adding up comes to
_LENT_KW = 1e-5  # by each store that draws, for what a solver calls nothing
_ROUNDING = 1e-6  # so that 5 kW is five million of them, whatever the last bit says
# A wish for less than this share of the least power is dropped, a larger one is rounded up; the
# excess is made good in the steps that follow, because energies are tracked, not powers.
_WORTH_STARTING = 0.1


@dataclass(frozen=True)
class Setpoints:
    """What each device is to do. Positive power injects."""

    store_kw: Floats  # (T, S)
    energy_kwh: Floats  # (T, S) at the quarter-hour's end
    source_kw: Floats  # (T, G)
    reserve_up_kw: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    reserve_down_kw: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """(T, R) held ready by `reserves.ready_stores`, as `reserves.held` tells; empty for none."""


def track(problem: Problem, energy_kwh: Floats, source_kw: Floats) -> Setpoints:
    """Follow an energy path (T, S) and source powers (T, G) as closely as is feasible.

    Whatever the goal, the result keeps the stores' and devices' bounds, and the sites' limits as
    far as its devices can. Whatever the goal, too, loads that may not be interrupted run in one
    go, and CHPs keep their times on and off; what a problem's least charging asks for is done.
    """
    if not problem.stores.unbroken.any():
        return _followed(problem, energy_kwh, source_kw, np.zeros_like(problem.sites.base_kw))
    plan = _followed(problem, energy_kwh, source_kw, _given_kw(problem, energy_kwh))
    short = _short(problem, plan)
    if short.any():
        part = at_sites(problem, short)
        stores, sources = short[problem.stores.site], short[problem.sources.site]
        again = _followed(
            part, energy_kwh[:, stores], source_kw[:, sources], np.zeros_like(part.sites.base_kw)
        )
        _replace(plan, again, stores, sources)
    return plan


def _followed(
    problem: Problem, energy_kwh: Floats, source_kw: Floats, help_kw: Floats
) -> Setpoints:
    """Follow the path, with runs for which stores may give `help_kw` (T, K)."""
    problem = keeping_runs(problem, energy_kwh, source_kw, help_kw)
    chps = np.zeros(len(problem.sites.export_limit_kw), dtype=np.bool_)
    chps[problem.sources.site[np.isfinite(problem.sources.ramp_kw)]] = True
    at_chps = at_sites(problem, chps)
    stores, sources = chps[problem.stores.site], chps[problem.sources.site]
    most_kw = np.full(problem.sources.max_kw.shape, np.inf)
    most_kw[:, sources] = _with_way_down(at_chps, _drawn_kw(at_chps, energy_kwh[:, stores]))
    plan = _tracked(problem, energy_kwh, source_kw, most_kw)
    chps[chps] = _stuck(at_chps, plan.store_kw[:, stores], plan.source_kw[:, sources])
    if chps.any():
        part = at_sites(problem, chps)
        stores, sources = chps[problem.stores.site], chps[problem.sources.site]
        surely_kw = _with_way_down(part, np.zeros_like(part.sites.base_kw))
        again = _tracked(part, energy_kwh[:, stores], source_kw[:, sources], surely_kw)
        _replace(plan, again, stores, sources)
    return plan


def _replace(plan: Setpoints, part: Setpoints, stores: Bools, sources: Bools) -> None:
    """Write what some stores (S,) and sources (G,) do instead into a plan."""
    plan.store_kw[:, stores] = part.store_kw
    plan.energy_kwh[:, stores] = part.energy_kwh
    plan.source_kw[:, sources] = part.source_kw


def _tracked(problem: Problem, energy_kwh: Floats, source_kw: Floats, most_kw: Floats) -> Setpoints:
    """Follow the path with sources at no more than `most_kw` (T, G)."""
    stores, sources = problem.stores, problem.sources
    power = np.zeros_like(stores.drift_kwh)
    energy = np.zeros_like(power)
    source = np.zeros_like(sources.max_kw)
    for t in range(len(power)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], energy[t - 1])
        idle = stores.retention * start + stores.drift_kwh[t]
        most_draw = _floored(
            np.minimum(stores.charge_max_kw[t], _charging(problem, stores.ceiling_kwh[t] - idle))
        )
        most_given = _floored(
            np.minimum(
                stores.discharge_max_kw[t], _discharging(problem, idle - stores.floor_kwh[t])
            )
        )
        wish = _discharging(problem, idle - energy_kwh[t]) - _charging(
            problem, energy_kwh[t] - idle
        )
        # Never ahead of the path: a last quarter-hour at the least power must still find room.
        wish = _ceiled(wish)
        must_draw = np.minimum(stores.charge_min_kw[t], most_draw)
        wish = np.where(must_draw > 0, np.minimum(wish, -must_draw), wish)
        wish = np.clip(wish, -most_draw, most_given)
        wish = _active(wish, stores.min_active_kw, most_draw, most_given)
        # Where the bounds themselves ask for power, they are kept to less than a milliwatt.
        must_draw = _charging(problem, stores.floor_kwh[t] - idle)
        must_give = _discharging(problem, idle - stores.ceiling_kwh[t])
        wish = np.where(must_draw > 0, np.minimum(wish, -must_draw), wish)
        wish = np.where(must_give > 0, np.maximum(wish, must_give), wish)
        wish = np.clip(wish, -stores.charge_max_kw[t], stores.discharge_max_kw[t])
        low, high = _within_ramp(problem, source[t - 1] if t else None, t)
        high = np.maximum(np.minimum(high, most_kw[t]), low)
        given = _source_wish(problem, np.clip(source_kw[t], low, high), low, high)
        power[t], source[t] = _within_site(
            problem, t, wish, given, most_draw, most_given, (low, high)
        )
        energy[t] = idle + STEP_H * (
            np.maximum(-power[t], 0) * stores.charge_efficiency
            - np.maximum(power[t], 0) / stores.discharge_efficiency
        )
    return Setpoints(power, energy, source)


def _charging(problem: Problem, energy_kwh: Floats) -> Floats:
    """Return the charging power that adds this much in a quarter-hour."""
    draw: Floats = np.maximum(energy_kwh, 0) / (STEP_H * problem.stores.charge_efficiency)
    return draw


def _discharging(problem: Problem, energy_kwh: Floats) -> Floats:
    """Return the discharging power that takes this much in a quarter-hour."""
    given: Floats = np.maximum(energy_kwh, 0) * problem.stores.discharge_efficiency / STEP_H
    return given


def _active(power: Floats, least: Floats, most_draw: Floats, most_given: Floats) -> Floats:
    """Move powers below the least to it, or to 0 where it is not worth it or not possible."""
    size = np.abs(power)
    room = np.where(power < 0, most_draw, most_given)
    start = (size >= _WORTH_STARTING * least) & (room >= least)
    return np.where(size >= least, power, np.where(start, np.sign(power) * least, 0.0))


def _drawn_kw(problem: Problem, energy_kwh: Floats) -> Floats:
    """Return what the stores draw at each site (T, K) on their path."""
    stores = problem.stores
    before = np.where(stores.starts, stores.initial_kwh, np.roll(energy_kwh, 1, axis=0))
    gain_kwh = energy_kwh - stores.retention * before - stores.drift_kwh
    drawn = np.minimum(_charging(problem, gain_kwh), stores.charge_max_kw)
    return by_site(drawn, stores.site, len(problem.sites.export_limit_kw))


def _given_kw(problem: Problem, energy_kwh: Floats) -> Floats:
    """Return what the stores give at each site (T, K) on their path, or a little more."""
    stores = problem.stores
    before = np.where(stores.starts, stores.initial_kwh, np.roll(energy_kwh, 1, axis=0))
    loss_kwh = stores.retention * before + stores.drift_kwh - energy_kwh
    given = _discharging(problem, loss_kwh)
    given = np.where(given > 0, np.minimum(given + _LENT_KW, stores.discharge_max_kw), 0.0)
    return by_site(given, stores.site, len(problem.sites.export_limit_kw))


def _short(problem: Problem, plan: Setpoints) -> Bools:
    """Return the sites (K,) of loads in one run to which stores did not give what was counted on."""
    sites = problem.sites
    over_kw = -site_kw(problem, plan.store_kw, plan.source_kw)
    over_kw -= sites.import_limit_kw + sites.import_overload_kw
    short: Bools = np.any(over_kw > _OVER_KW, axis=0)
    return short


def _with_way_down(problem: Problem, drawn_kw: Floats) -> Floats:
    """Return the most of each source (T, G) from which it can ramp to what its site takes later.

    What a site takes is what is left beside `drawn_kw` (T, K), with sun and wind curtailed, shared
    by its CHPs; where that is below a CHP's least power, nothing.
    """
    sources, sites = problem.sources, problem.sites
    ramped = np.isfinite(sources.ramp_kw)
    shared = np.maximum(np.bincount(sources.site, ramped, len(sites.export_limit_kw)), 1)
    count = len(sites.export_limit_kw)
    most_kw = np.full(sources.max_kw.shape, np.inf)
    takes = most_kw[-1]
    for t in range(len(most_kw) - 1, -1, -1):
        most_kw[t] = np.where(ramped, takes + sources.ramp_kw, np.inf)
        kept = np.bincount(sources.site, np.where(ramped, 0.0, sources.min_kw[t]), count)
        room = sites.export_limit_kw + sites.export_overload_kw[t] - sites.base_kw[t] - kept
        room_kw = ((room + drawn_kw[t]) / shared)[sources.site]
        least = sources.min_active_kw
        room_kw = np.where(room_kw < least - _LENT_KW, 0.0, np.maximum(room_kw, least))
        takes = np.minimum(room_kw, most_kw[t])
    return most_kw


def _stuck(problem: Problem, store_kw: Floats, source_kw: Floats) -> Bools:
    """Return the sites (K,) whose CHPs could not ramp down as fast as stores stopped drawing."""
    sites = problem.sites
    over_kw = site_kw(problem, store_kw, source_kw)
    over_kw -= sites.export_limit_kw + sites.export_overload_kw
    stuck: Bools = np.any(over_kw > _OVER_KW, axis=0)
    return stuck


def _within_ramp(problem: Problem, before: Floats | None, t: int) -> tuple[Floats, Floats]:
    sources = problem.sources
    low, high = sources.min_kw[t], sources.max_kw[t]
    if before is None:
        return low, high
    return (
        np.clip(before - sources.ramp_kw, low, high),
        np.clip(before + sources.ramp_kw, low, high),
    )


def _source_wish(problem: Problem, wish: Floats, low: Floats, high: Floats) -> Floats:
    """Round to whole milliwatts, uncurtailed output excepted; CHPs off, or at least at their least."""
    least = problem.sources.min_active_kw
    watts = np.round(wish * _MILLIWATTS) / _MILLIWATTS
    watts = np.where(np.abs(wish - least) < 1 / _MILLIWATTS, least, watts)
    watts = np.where(high - wish < 1 / _MILLIWATTS, high, np.clip(watts, low, high))
    on = (watts >= 0.5 * least) | (low > 0)
    return np.where(watts >= least, watts, np.where(on & (high >= least), least, low.clip(max=0)))


def _within_site(  # noqa: PLR0917 - one quarter-hour's state
    problem: Problem,
    t: int,
    power: Floats,
    source: Floats,
    most_draw: Floats,
    most_given: Floats,
    source_range: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Hold the sites' limits.

    Short of power: uncurtail, charge less, discharge more, stop charging. Too much: draw a little
    more, curtail, discharge less, turn CHPs down. A device that stops at its least power may turn
    one into the other: after two turns none is left that could.
    """
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    at_store, at_source = stores.site, sources.site
    free = sources.curtailable
    low, high = source_range

    def site_kw() -> Floats:
        count = len(sites.import_limit_kw)
        total: Floats = sites.base_kw[t] + np.bincount(at_store, power, count)
        return total + np.bincount(at_source, source, count)

    def missing() -> Floats:
        most_kw = sites.import_limit_kw + sites.import_overload_kw[t]
        excess: Floats = np.maximum(-site_kw() - most_kw, 0)
        return excess

    def surplus() -> Floats:
        most_kw = sites.export_limit_kw + sites.export_overload_kw[t]
        excess: Floats = np.maximum(site_kw() - most_kw, 0)
        return excess

    def add_power() -> None:
        nonlocal power, source
        source = source + _share(missing(), np.where(free, high - source, 0.0), at_source)
        must_draw = stores.charge_min_kw[t]
        spare = np.maximum(-power - np.maximum(must_draw, stores.min_active_kw), 0)
        power = power + np.minimum(_ceiled(_share(missing(), spare, at_store)), spare)
        room = np.where((power >= 0) & (must_draw <= 0), most_given - power, 0.0)
        more = np.minimum(power + _ceiled(_share(missing(), room, at_store)), most_given)
        power = np.where((room > 0) & (more >= stores.min_active_kw), more, power)
        can_stop = (stores.min_active_kw > 0) & (must_draw <= 0)
        cut = _share(missing(), np.where(can_stop, np.maximum(-power, 0), 0.0), at_store)
        power = np.where(cut > _ROUNDING / _MILLIWATTS, 0.0, power)

    def take_power() -> None:
        nonlocal power, source
        # Rounding, a solver's and ours, is not to cost a device its least power.
        draws = power <= -np.maximum(stores.min_active_kw, _LENT_KW)
        spare = np.where(draws, np.clip(most_draw + power, 0, _LENT_KW), 0.0)
        power = power - np.minimum(_ceiled(_share(surplus(), spare, at_store)), spare)
        cut = _ceiled(_share(surplus(), np.where(free, source - low, 0.0), at_source))
        source = np.where(cut > 0, np.maximum(source - cut, low), source)
        cut = _ceiled(_share(surplus(), np.maximum(power, 0), at_store))
        less = np.maximum(power - cut, 0)
        kept = np.where(less >= stores.min_active_kw, less, 0.0)
        power = np.where((power > 0) & (cut > 0), kept, power)
        cut = _ceiled(_share(surplus(), np.where(free, 0.0, source - low), at_source))
        less = np.maximum(source - cut, low)
        # One that can't ramp down to nothing stays on, whatever its connection takes.
        stays = np.where(low > 0, np.maximum(less, sources.min_active_kw), low)
        kept = np.where(less >= sources.min_active_kw, less, stays)
        source = np.where(cut > 0, kept, source)

    for _ in range(2):
        if missing().any():
            add_power()
        if not surplus().any():
            return power, source
        take_power()
    if missing().any():
        add_power()
    return power, source


def _share(amount: Floats, room: Floats, site: Places) -> Floats:
    """Spread each site's amount over its devices in proportion to their room."""
    total = np.bincount(site, room, len(amount))
    ratio = np.divide(amount, total, out=np.zeros_like(amount), where=total > 0)
    return room * np.minimum(ratio, 1)[site]


def _ceiled(power: Floats) -> Floats:
    return np.ceil(power * _MILLIWATTS - _ROUNDING) / _MILLIWATTS


def _floored(power: Floats) -> Floats:
    return np.floor(power * _MILLIWATTS + _ROUNDING) / _MILLIWATTS
