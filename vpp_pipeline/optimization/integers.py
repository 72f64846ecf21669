"""From a convex answer to one that every device can follow: its switches fixed, the rest re-solved.

Belongs here: which devices an answer asks too much of, the problem narrowed so that a convex
solver keeps all their rules, and what the rules are known to cost. Does not: a device's best
pattern (`directions`, `runs`), milliwatts (`repair`), a MILP (`exact`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.directions import best_directions
from vpp_pipeline.optimization.found import followed
from vpp_pipeline.optimization.problem import Fleet, at_sites, no_portfolio, select
from vpp_pipeline.optimization.relaxed import SolverError, solve_relaxed
from vpp_pipeline.optimization.room import room_at_sites
from vpp_pipeline.optimization.runs import (
    broken_runs,
    in_one_run,
    switched,
    with_runs,
    with_switches,
)
from vpp_pipeline.optimization.turns import taking_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vpp_pipeline.optimization.multipliers import Multipliers
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem
    from vpp_pipeline.optimization.relaxed import Relaxed
    from vpp_pipeline.optimization.repair import Setpoints
    from vpp_pipeline.optimization.settings import Solver
    from vpp_pipeline.optimization.verify import Verdict

_TOLD_KW = 1e-3
_ROUNDS = 7  # patterns: at the convex prices, in turns, then parts at the best plan's prices
_PARTS = 3  # of the loose devices, so that not all answer the same price the same way
_SAME_EUR_PER_KWH = 1e-6
_STORE_BOUNDS = ("charge_min_kw", "charge_max_kw", "discharge_min_kw", "discharge_max_kw")
_SOURCE_BOUNDS = ("min_kw", "max_kw")


class Wish(Protocol):
    """A convex answer: `Relaxed` is one."""

    @property
    def charge_kw(self) -> Floats:
        """(T, S)."""

    @property
    def discharge_kw(self) -> Floats:
        """(T, S)."""

    @property
    def energy_kwh(self) -> Floats:
        """(T, S)."""

    @property
    def source_kw(self) -> Floats:
        """(T, G)."""


@dataclass(frozen=True)
class Loose:
    """The devices of which an answer asks what they can't do."""

    stores: Bools  # (S,)
    sources: Bools  # (G,)

    def __or__(self, other: Loose) -> Loose:
        """Return the devices of either."""
        return Loose(self.stores | other.stores, self.sources | other.sources)

    def sites(self, problem: Problem) -> Bools:
        """Return the sites (K,) where there is one."""
        sites: Bools = np.zeros(len(problem.sites.import_limit_kw), dtype=np.bool_)
        sites[problem.stores.site[self.stores]] = True
        sites[problem.sources.site[self.sources]] = True
        return sites

    def any(self) -> bool:
        """Return whether there is one."""
        return bool(self.stores.any() or self.sources.any())


@dataclass(frozen=True)
class Patterned:
    """A problem of which every solution keeps the rules of the patterned devices."""

    problem: Problem
    proven: Loose  # those whose least cost at the given prices is known for sure
    least_eur: float  # what the proven ones cost at least, all together


@dataclass(frozen=True)
class Settled:
    """A plan that keeps all rules, and what no plan costs less than."""

    setpoints: Setpoints
    verdict: Verdict
    bound_eur: float


def loose_devices(problem: Problem, wish: Wish) -> Loose:
    """Return the devices that would go both ways at once, below their least power, or on and off.

    What breaks a run or rest time, or interrupts a load that is not to be, counts too.
    """
    stores, sources = problem.stores, problem.sources
    stray = (
        (np.minimum(wish.charge_kw, wish.discharge_kw) > _TOLD_KW)
        | too_little(wish.charge_kw, stores.min_active_kw)
        | too_little(wish.discharge_kw, stores.min_active_kw)
    ).any(axis=0)
    short = too_little(wish.source_kw, sources.min_active_kw).any(axis=0)
    loads, timed = broken_runs(problem, wish.charge_kw, wish.energy_kwh, wish.source_kw)
    return Loose(stray | loads, short | timed)


def local_price(multipliers: Multipliers) -> Floats:
    """Return what a kWh is worth at each site (T, K): the fleet's price, and the connection's."""
    connection = np.maximum(multipliers.over_export, 0) - np.maximum(multipliers.over_import, 0)
    price: Floats = multipliers.energy_eur_per_kwh[:, None] - connection / STEP_H
    return price


def patterned(problem: Problem, loose: Loose, price_eur_per_kwh: Floats) -> Patterned:
    """Narrow the loose devices' bounds to their best switches at local prices (T, K).

    The problem that is left has a solution if the given one has: a device takes for its pattern
    only what its connection surely has. One that has no pattern within its hard bounds stays as
    it is.
    """
    stores, sources = problem.stores, problem.sources
    at_loose = np.isin(stores.site, stores.site[loose.stores])
    two_way = (stores.discharge_max_kw > 0).any(axis=0)
    room = room_at_sites(problem, at_loose & two_way & ~loose.stores)
    loads = np.flatnonzero(loose.stores & stores.unbroken)
    free = np.flatnonzero(loose.stores & ~stores.unbroken)
    chps = np.flatnonzero(loose.sources & ~sources.curtailable)

    at_chp = price_eur_per_kwh[:, sources.site[chps]]
    switches = switched(problem, chps, at_chp, room)
    runs = in_one_run(problem, loads, price_eur_per_kwh[:, stores.site[loads]], room)
    ways = best_directions(problem, free, price_eur_per_kwh[:, stores.site[free]], room)

    narrowed = with_switches(problem, chps[switches.possible], switches.kw[:, switches.possible])
    narrowed = with_runs(narrowed, loads[runs.possible], runs.kw[:, runs.possible])
    kept = ways.possible
    narrowed = _with_ways(narrowed, free[kept], ways.kw[:, kept], ways.tends[:, kept])
    proven = Loose(np.zeros_like(loose.stores), np.zeros_like(loose.sources))
    proven.stores[loads] = True
    proven.sources[chps] = True
    begun = len(stores.starts) - 1 - np.argmax(stores.starts[::-1, loads], axis=0)
    brought_eur = stores.end_value_eur_per_kwh[loads] @ stores.initial_kwh[begun, loads]
    return Patterned(
        problem=narrowed,
        proven=proven,
        least_eur=float(switches.least_eur.sum() + runs.least_eur.sum() + brought_eur),
    )


def proven_bound_eur(problem: Problem, multipliers: Multipliers, pattern: Patterned) -> float:
    """Return `bound.lower_bound_eur`, with the exact cost of the devices for which it is known.

    `pattern` is of the same problem at `local_price` of the same multipliers.
    """
    whole = lower_bound_eur(problem, multipliers, switches=True)
    alone = replace(problem, portfolio=no_portfolio(multipliers.energy_eur_per_kwh))

    def of(stores: Bools, sources: Bools) -> float:
        part = replace(
            alone, stores=select(alone.stores, stores), sources=select(alone.sources, sources)
        )
        prices = replace(
            multipliers,
            store_law=multipliers.store_law[:, stores],
            ramp_up=multipliers.ramp_up[:, sources],
            ramp_down=multipliers.ramp_down[:, sources],
        )
        return lower_bound_eur(part, prices, switches=True)

    proven = pattern.proven
    nobody = of(np.zeros_like(proven.stores), np.zeros_like(proven.sources))
    gain = pattern.least_eur - (of(proven.stores, proven.sources) - nobody)
    return whole + max(gain, 0.0)


@dataclass(frozen=True)
class Part:
    """The bounds of some devices: a problem of these alone, and which they are in the whole."""

    problem: Problem
    stores: Bools  # (S,) of the whole
    sources: Bools  # (G,)

    @classmethod
    def of(cls, problem: Problem, stores: Bools, sources: Bools) -> Part:
        """Return some devices of a whole problem."""
        part = replace(
            problem,
            stores=select(problem.stores, stores),
            sources=select(problem.sources, sources),
        )
        return cls(part, stores, sources)


def with_bounds(problem: Problem, parts: Sequence[Part]) -> Problem:
    """Return the problem in which the parts' devices have the parts' bounds."""
    if not parts:
        return problem
    of_stores = [(part.stores, part.problem.stores) for part in parts]
    of_sources = [(part.sources, part.problem.sources) for part in parts]
    return replace(
        problem,
        stores=_written(problem.stores, of_stores, _STORE_BOUNDS),
        sources=_written(problem.sources, of_sources, _SOURCE_BOUNDS),
    )


def _written(fleet: Fleet, parts: Sequence[tuple[Bools, Fleet]], names: tuple[str, ...]) -> Fleet:
    """Return the fleet with these fields (T, n) of some devices as the parts have them."""
    fields = {name: np.array(getattr(fleet, name)) for name in names}
    for chosen, part in parts:
        for name, whole in fields.items():
            whole[:, chosen] = getattr(part, name)
    return replace(fleet, **fields)


def settled(problem: Problem, relaxed: Relaxed, solver: Solver, time_limit_s: float) -> Settled:
    """Return the best plan that keeps all rules, from a convex answer to the same problem.

    Devices that break a rule get their best pattern at the answer's prices, and the problem is
    solved again within it. Where that moves the prices, some of the devices get a new one, as
    long as it helps. Where a solver gives up, what is there so far stands.
    """
    best = followed(problem, relaxed.energy_kwh, relaxed.source_kw)
    loose = loose_devices(problem, relaxed)
    price = local_price(relaxed.multipliers)
    bound = lower_bound_eur(problem, relaxed.multipliers, switches=True)
    if not loose.any():
        return Settled(*best, bound)
    pattern = patterned(problem, loose, price)
    bound = max(bound, proven_bound_eur(problem, relaxed.multipliers, pattern))
    kept = narrowed = pattern.problem
    lowest = np.inf
    open_sites = loose.sites(problem) | problem.portfolio.couples  # all, if the fleet couples
    energy, source = relaxed.energy_kwh.copy(), relaxed.source_kw.copy()
    for nth in range(_ROUNDS):
        part = at_sites(narrowed, open_sites)
        try:
            answer = solve_relaxed(part, solver, time_limit_s / _ROUNDS)
        except SolverError:
            break
        energy[:, open_sites[problem.stores.site]] = answer.energy_kwh
        source[:, open_sites[problem.sources.site]] = answer.source_kw
        found = followed(problem, energy, source)
        best = min(best, found, key=lambda plan: plan[1].objective_eur)
        if found[1].objective_eur < lowest:
            lowest, kept = found[1].objective_eur, narrowed
            moved = local_price(answer.multipliers) - price[:, open_sites]
            price[:, open_sites] += moved
            if np.abs(moved).max() <= _SAME_EUR_PER_KWH:
                break
        if nth == 0:
            narrowed = _in_turns(problem, kept, relaxed)
        else:
            some = _part_of(loose, nth % _PARTS)
            narrowed = patterned(_released(problem, kept, some), some, price).problem
    return Settled(*best, bound)


def _in_turns(problem: Problem, narrowed: Problem, relaxed: Relaxed) -> Problem:
    """Have those stores take turns that would go both ways at once behind a priced connection."""
    stores, multipliers = problem.stores, relaxed.multipliers
    priced = np.maximum(multipliers.over_export, multipliers.over_import).max(axis=0)
    both_kw = np.minimum(relaxed.charge_kw, relaxed.discharge_kw).max(axis=0, initial=0.0)
    both = (
        (both_kw > _TOLD_KW)
        & (priced[stores.site] > _SAME_EUR_PER_KWH)
        & (stores.min_active_kw <= 0)
    )
    chosen = np.flatnonzero(both)
    ways = taking_turns(
        select(stores, both), relaxed.charge_kw[:, chosen], relaxed.discharge_kw[:, chosen]
    )
    nothing = np.zeros(len(problem.sources.site), dtype=np.bool_)
    released = _released(problem, narrowed, Loose(both, nothing))
    return _with_ways(released, chosen, ways, ways < 0)


def _part_of(loose: Loose, nth: int) -> Loose:
    """Return every third of the loose devices, beginning with the nth."""
    stores, sources = loose.stores.copy(), loose.sources.copy()
    for devices in (stores, sources):
        places = np.flatnonzero(devices)
        devices[places[np.arange(len(places)) % _PARTS != nth]] = False
    return Loose(stores, sources)


def _released(problem: Problem, narrowed: Problem, devices: Loose) -> Problem:
    """Return the narrowed problem with these devices' own bounds."""
    return with_bounds(narrowed, [Part.of(problem, devices.stores, devices.sources)])


def too_little(power_kw: Floats, least_kw: Floats) -> Bools:
    """Return where powers (T, n) are some, but less than the devices' least."""
    little: Bools = (power_kw > _TOLD_KW) & (power_kw < least_kw - _TOLD_KW)
    return little


def _with_ways(problem: Problem, chosen: Places, kw: Floats, tends: Bools) -> Problem:
    """Let these stores charge, discharge or rest only as they do at `kw` (T, chosen).

    One without a least power may also rest, and where it rests, move as it tends to.
    """
    stores = problem.stores
    least = np.broadcast_to(stores.min_active_kw[chosen], kw.shape)
    may_rest = least <= 0
    may_charge = (kw < 0) | ((kw == 0) & may_rest & tends)
    may_discharge = (kw > 0) | ((kw == 0) & may_rest & ~tends)
    low_in, high_in = np.array(stores.charge_min_kw), np.array(stores.charge_max_kw)
    low_out, high_out = np.array(stores.discharge_min_kw), np.array(stores.discharge_max_kw)
    low_in[:, chosen] = np.where(may_charge, np.maximum(low_in[:, chosen], least), 0.0)
    high_in[:, chosen] = np.where(may_charge, high_in[:, chosen], 0.0)
    low_out[:, chosen] = np.where(may_discharge, np.maximum(low_out[:, chosen], least), 0.0)
    high_out[:, chosen] = np.where(may_discharge, high_out[:, chosen], 0.0)
    return replace(
        problem,
        stores=replace(
            stores,
            charge_min_kw=low_in,
            charge_max_kw=high_in,
            discharge_min_kw=low_out,
            discharge_max_kw=high_out,
        ),
    )
