"""What each device does at given prices, exactly: the fleet's response, and what it costs.

Belongs here: whole fleets of stores and sources, chunks over threads, sums over sites. Does not:
the recursion for one store (`marginal_value`), site limits and reserves, CHPs with ramps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.decomposition.marginal_value import (
    LEAST_BEND_EUR_PER_KWH,
    LEAST_POWER_KW,
    compiled,
)
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places, Sources, Stores

_CHUNK = 500  # stores; what they answer stays in a processor's cache until it is summed


@dataclass(frozen=True)
class Response:
    """The stores' answer to prices. Where they were not kept, the last four are (T, 0)."""

    power_kw: Floats  # (T,) of all
    site_kw: Floats  # (T, K)
    cost_eur: float  # of all: energy, wear, curvature, shortfall, excess, less the end value
    charge_kw: Floats  # (T, S)
    discharge_kw: Floats  # (T, S)
    energy_kwh: Floats  # (T, S)
    law_eur_per_kwh: Floats  # (T, S) the energy law's multipliers, as `bound` wants them


@dataclass(frozen=True)
class SourceResponse:
    """The sources' answer to prices."""

    power_kw: Floats  # (T,) of all
    site_kw: Floats  # (T, K)
    cost_eur: float
    source_kw: Floats  # (T, G)


def respond(
    stores: Stores, price_eur_per_kwh: Floats, column: Places, sites: int, *, keep: bool
) -> Response:
    """Return each store's cheapest schedule on its own, and the sums over the `sites` sites.

    A store is paid the prices in its `column` (S,) of `price_eur_per_kwh` (T, columns). It
    minimises  h·[(price + wear/2)·c + (wear/2 - price)·g + curvature/2·(c² + g²)] + shortfall +
    excess - end value  within its powers, floor and ceiling; without curvature, with one so
    small (1e-8 EUR/kWh at full power) that it only decides between equals. A store whose floor
    or ceiling can't be kept goes as near as it can. Raises `ValueError` for prices, columns or
    sites that don't fit the stores.
    """
    _check(stores.drift_kwh.shape, price_eur_per_kwh, column, stores.site, sites)
    steps, count = stores.drift_kwh.shape
    kept = np.empty((4, count if keep else 0, steps))
    power_kw, site_kw = np.zeros(steps), np.zeros((sites, steps))
    kernel, add = compiled()
    arrays = _arrays(stores, price_eur_per_kwh)

    def answer(first: int) -> tuple[int, Floats, float]:
        last = min(first + _CHUNK, count)
        out = kept[:, first:last] if keep else np.empty((4, last - first, steps))
        return first, out, kernel(*arrays, column, first, last, out)

    cost_eur = 0.0
    # Summed in order, whichever is ready first: the same inputs give the same plan.
    for first, out, chunk_eur in side_by_side(answer, range(0, count, _CHUNK)):
        add(out, stores.site, first, power_kw, site_kw)
        cost_eur += chunk_eur
    return Response(power_kw, site_kw.T, cost_eur, kept[0].T, kept[1].T, kept[2].T, kept[3].T)


def respond_sources(
    sources: Sources, price_eur_per_kwh: Floats, column: Places, sites: int
) -> SourceResponse:
    """Return the cheapest output of sun and wind; what is curtailed costs its curvature.

    Each minimises  h·[(cost - price)·p + curvature/2·(max - p)²]  over [min, max]. Raises
    `ValueError` for a source that is not curtailable, or for prices, columns or
    sites that don't fit.
    """
    _check(sources.max_kw.shape, price_eur_per_kwh, column, sources.site, sites)
    if not sources.curtailable.all():
        place = int(sources.place[np.argmin(sources.curtailable)])
        raise ValueError(
            f"the source at place {place} is a CHP: only sun and wind answer quarter-hour by "
            "quarter-hour: solve it with its ramps"
        )
    least = LEAST_BEND_EUR_PER_KWH / np.maximum(sources.max_kw, LEAST_POWER_KW)
    margin = sources.cost_eur_per_kwh - price_eur_per_kwh[:, column]
    curvature = sources.curvature_eur_per_kw2h
    curtailed = np.clip(margin / np.maximum(curvature, least), 0.0, sources.max_kw - sources.min_kw)
    power = sources.max_kw - curtailed
    site_kw = np.zeros((sites, len(power)))
    np.add.at(site_kw, sources.site, power.T)
    cost_eur = STEP_H * float(np.sum(margin * power + 0.5 * curvature * curtailed**2))
    return SourceResponse(power.sum(axis=1), site_kw.T, cost_eur, power)


def _check(
    shape: tuple[int, ...], price_eur_per_kwh: Floats, column: Places, site: Places, sites: int
) -> None:
    """Refuse what a compiled kernel would read, or write, beyond its arrays."""
    steps, count = shape
    if price_eur_per_kwh.shape[:1] != (steps,) or price_eur_per_kwh.ndim != len(shape):
        raise ValueError(
            f"the prices have the shape {price_eur_per_kwh.shape}, the devices {steps} "
            "quarter-hours: give (quarter-hours, columns)"
        )
    if column.shape != (count,):
        raise ValueError(
            f"there are {count} devices and columns of the shape {column.shape}: give every "
            "device one"
        )
    for what, number, size in (
        ("price column", column, price_eur_per_kwh.shape[1]),
        ("site", site, sites),
    ):
        wrong = np.flatnonzero((number < 0) | (number >= size))
        if len(wrong):
            raise ValueError(
                f"device {wrong[0]} has the {what} {number[wrong[0]]} of {size}: number them from 0"
            )


def _arrays(stores: Stores, price_eur_per_kwh: Floats) -> tuple[Any, ...]:
    """Return the kernel's arrays, (T, S) and then (S,), whatever their layout in memory."""
    return (
        price_eur_per_kwh,
        stores.charge_min_kw,
        stores.charge_max_kw,
        stores.discharge_min_kw,
        stores.discharge_max_kw,
        stores.starts,
        stores.initial_kwh,
        stores.drift_kwh,
        stores.floor_kwh,
        stores.ceiling_kwh,
        stores.wished_kwh,
        stores.shortfall_eur_per_kwh,
        stores.comfort_kwh,
        stores.excess_eur_per_kwh,
        stores.retention,
        stores.charge_efficiency,
        stores.discharge_efficiency,
        stores.wear_eur_per_kwh,
        stores.end_value_eur_per_kwh,
        stores.curvature_eur_per_kw2h,
    )
