"""The planning problem as arrays: what may move, within what, at what price.

Belongs here: the problem's shape, a part of it by sites, sums over sites. Does not: reading it out of frames
(`build`), the mathematics of solving it (`model`), judging a plan (`verify`).

Arrays are time-major: T quarter-hours, S stores, G sources, K sites, N devices. Powers kW,
energies kWh, prices EUR/kWh. Positive power injects; charge and discharge are magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]

_AT_A_TIME = 4096  # columns: a temporary of a day is 3 MB


class ProblemError(ValueError):
    """An input that no plan can be made on; the text names row, field, value and remedy."""


@dataclass(frozen=True)
class Stores:
    """Everything with an energy: batteries, vehicles, buildings, shiftable loads.

    The last axis is the store. `floor_kwh` and `ceiling_kwh` are hard; below `wished_kwh` each
    kWh costs `shortfall_eur_per_kwh`, above `comfort_kwh` `excess_eur_per_kwh`. Where `owed`,
    the shortfall is a debt to a driver or a load.
    """

    place: Places  # (S,) the device
    site: Places  # (S,)
    charge_min_kw: Floats
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
    owed: Bools
    retention: Floats  # (S,) and so on
    charge_efficiency: Floats
    discharge_efficiency: Floats
    wear_eur_per_kwh: Floats  # for a kWh in and out again; half of it each way
    end_value_eur_per_kwh: Floats
    min_active_kw: Floats
    curvature_eur_per_kw2h: Floats  # charging or discharging at p kW costs half of it times p² more
    kwh_per_c: Floats  # heat capacity of a building, NaN elsewhere
    unbroken: Bools  # once begun it runs at its rated power until it is done
    reserve: Bools  # may hold power ready


@dataclass(frozen=True)
class Sources:
    """Everything else that can be steered: sun and wind (curtailed), CHP. Last axis: the source."""

    place: Places  # (G,) the device
    site: Places  # (G,)
    curtailable: Bools  # (G,) sun and wind; false for a CHP
    min_kw: Floats
    max_kw: Floats
    cost_eur_per_kwh: Floats  # (G,) and so on
    ramp_kw: Floats  # most change from one quarter-hour to the next; infinite without a limit
    min_active_kw: Floats
    curvature_eur_per_kw2h: Floats  # of what is curtailed; of a CHP's output
    min_run_steps: Places  # once on, on for so many quarter-hours; 0 without a rule
    min_rest_steps: Places  # once off, off for so many


@dataclass(frozen=True)
class Sites:
    """The grid connections. Last axis: the site.

    Where a site's base alone breaks a limit, the limit is passed by at most that much, at
    `overload_eur_per_kwh`; elsewhere it is hard.
    """

    base_kw: Floats  # loads, and devices out of service
    import_limit_kw: Floats  # (K,)
    export_limit_kw: Floats  # (K,)
    import_overload_kw: Floats
    export_overload_kw: Floats


@dataclass(frozen=True)
class Portfolio:
    """What the fleet's summed power P (kW) is paid, charged and held to; arrays are (T,).

    The position is sold at `Problem.price_eur_per_kwh`. What is beyond it is paid the surplus
    price, what is missing costs the shortage price, which is never the lower one. Without a
    position (0), with both prices equal to the market's, all power is sold at the market.

    A kW of reserve, promised for all quarter-hours of its block, is held ready by devices that
    may (`Stores.reserve`): within their power, and with energy to keep it up for
    `reserve_sustain_h` from a quarter-hour's end.
    """

    position_kw: Floats
    surplus_eur_per_kwh: Floats
    shortage_eur_per_kwh: Floats
    peak_eur_per_kw: float  # for the highest draw of the horizon beyond `peak_free_kw`
    peak_free_kw: float
    event_min_kw: Floats  # P is to be at least this; -inf without an event
    event_max_kw: Floats  # and at most this
    event_eur_per_kwh: Floats  # for what is not kept to
    reserve_up_eur_per_kwh: Floats  # for a kW ready over an hour; 0 where none is asked for
    reserve_down_eur_per_kwh: Floats
    reserve_block: Places  # which product a quarter-hour belongs to
    reserve_sustain_h: float
    reserve_symmetric: bool  # a kW up is sold together with a kW down

    @property
    def couples(self) -> bool:
        """Whether the whole is more than the sum of its sites, each at the market by itself."""
        fleets = (
            (self.shortage_eur_per_kwh > self.surplus_eur_per_kwh)
            | (self.event_eur_per_kwh > 0)
            | (self.position_kw != 0)
        )
        return bool(fleets.any()) or self.peak_eur_per_kw > 0 or self.wants_reserve

    @property
    def wants_reserve(self) -> bool:
        """Whether any reserve is paid for."""
        paid = (self.reserve_up_eur_per_kwh > 0) | (self.reserve_down_eur_per_kwh > 0)
        return bool(paid.any())


@dataclass(frozen=True)
class Problem:
    """One horizon to plan. Build it with `build.build`, which checks the inputs."""

    device_ids: pl.Series
    intervals: pl.Series
    price_eur_per_kwh: Floats  # (T,)
    fixed_kw: Floats  # (T, N); 0 where a store or source decides
    curtailable_up_to_kw: Floats  # (N,) rated power of sun and wind, else NaN
    stores: Stores
    sources: Sources
    sites: Sites
    portfolio: Portfolio
    overload_eur_per_kwh: float

    @property
    def steered(self) -> int:
        """Return how many stores and sources there are."""
        return len(self.stores.place) + len(self.sources.place)

    @property
    def links(self) -> int:
        """Return how many sums all devices share: power and, where wanted, reserve up and down."""
        return len(self.price_eur_per_kwh) * (3 if self.portfolio.wants_reserve else 1)


def no_portfolio(price_eur_per_kwh: Floats) -> Portfolio:
    """Return the portfolio of one who sells all power at the market's prices (T,)."""
    steps = len(price_eur_per_kwh)
    none = np.zeros(steps)
    return Portfolio(
        position_kw=none,
        surplus_eur_per_kwh=price_eur_per_kwh,
        shortage_eur_per_kwh=price_eur_per_kwh,
        peak_eur_per_kw=0.0,
        peak_free_kw=0.0,
        event_min_kw=np.full(steps, -np.inf),
        event_max_kw=np.full(steps, np.inf),
        event_eur_per_kwh=none,
        reserve_up_eur_per_kwh=none,
        reserve_down_eur_per_kwh=none,
        reserve_block=np.zeros(steps, dtype=np.int64),
        reserve_sustain_h=0.0,
        reserve_symmetric=False,
    )


Fleet = TypeVar("Fleet", Stores, Sources, Sites)


def select(fleet: Fleet, chosen: Bools | Places | slice) -> Fleet:
    """Return only the chosen stores, sources or sites; for a slice as views."""
    return replace(
        fleet, **{field.name: getattr(fleet, field.name)[..., chosen] for field in fields(fleet)}
    )


def at_sites(problem: Problem, sites: Bools) -> Problem:
    """Return the part of the problem that lies at the chosen sites (K,).

    The portfolio stays as it is: where it does more than price energy, a part's optimum is not
    the whole's.
    """
    number = np.cumsum(sites) - 1
    stores = select(problem.stores, sites[problem.stores.site])
    sources = select(problem.sources, sites[problem.sources.site])
    return replace(
        problem,
        stores=replace(stores, site=number[stores.site]),
        sources=replace(sources, site=number[sources.site]),
        sites=select(problem.sites, sites),
    )


def by_site(power_kw: Floats, site: Places, sites: int) -> Floats:
    """Return the sums (T, sites) of powers (T, n) that lie at the sites (n,)."""
    total = np.zeros((len(power_kw), sites))
    for t, power in enumerate(power_kw):
        total[t] = np.bincount(site, power, sites)
    return total


def site_kw(problem: Problem, store_kw: Floats, source_kw: Floats) -> Floats:
    """Return the sites' power (T, K), base included, where devices have these powers (T, n)."""
    count = len(problem.sites.import_limit_kw)
    total: Floats = problem.sites.base_kw + by_site(store_kw, problem.stores.site, count)
    return total + by_site(source_kw, problem.sources.site, count)


def chunks(count: int) -> Iterator[slice]:
    """Yield slices that together cover `count` columns, for work with small temporaries."""
    return (slice(a, min(a + _AT_A_TIME, count)) for a in range(0, count, _AT_A_TIME))
