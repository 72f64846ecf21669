"""The planning problem as arrays: what may move, within what, at what price.

Belongs here: the problem's shape, and a part of it by sites. Does not: reading it out of frames
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
    import polars as pl

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]


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
    overload_eur_per_kwh: float


Fleet = TypeVar("Fleet", Stores, Sources, Sites)


def select(fleet: Fleet, chosen: Bools) -> Fleet:
    """Return only the chosen stores, sources or sites."""
    return replace(
        fleet, **{field.name: getattr(fleet, field.name)[..., chosen] for field in fields(fleet)}
    )


def at_sites(problem: Problem, sites: Bools) -> Problem:
    """Return the part of the problem that lies at the chosen sites (K,).

    Sites share nothing but the prices, so the parts' optima together are the whole's.
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
