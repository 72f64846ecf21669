"""Made-up planning problems of any size, for measuring the planner and for its property tests.

Belongs here: drawing a fleet, its day and its market straight as the problem's arrays. Does not:
problems of a registered fleet (`build`), made-up registries (`fleet.sample`).

A row means here what it means when `build` makes it. Arrays that do not change with time are
views without a stride, the others device-major, and blocks of zeros are never touched: so a
million devices fit.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H, intervals
from vpp_pipeline.optimization.problem import (
    Portfolio,
    Problem,
    Sites,
    Sources,
    no_portfolio,
)
from vpp_pipeline.optimization.sample_stores import curvature, sample_stores
from vpp_pipeline.optimization.settings import PlanSettings

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places, Stores

Market = Literal["none", "peak", "peak_and_event", "position", "reserve"]

FEWEST = 5
_START = datetime(2026, 1, 15, tzinfo=UTC)
_HOMES_SHARE = 0.24  # a battery, a charger, a heat pump and PV each
_CHP_SHARE = 0.01
_TIGHT_SHARE = 0.35
_SHORT_SHARE, _SHORT_LOAD = 0.04, 5.0  # of the tight ones: so much load that it alone breaks them
_RESERVE_BLOCK_STEPS = 16


def sample_problem(
    devices: int,
    rng: np.random.Generator,
    *,
    steps: int = 96,
    site_limits: bool = True,
    portfolio: Market = "none",
) -> Problem:
    """Return a feasible problem of so many devices over `steps` quarter-hours from midnight.

    About 24 sites to a hundred devices, each with a battery, a charger (30 % both ways), a heat
    pump, PV and a load of its own that is no device; the rest are CHPs (1 %), shiftable loads and
    wind. With `site_limits`, 35 % of the connections are too small for all devices at once, some
    for the load alone; without, none binds.

    `portfolio`: "none" sells at the market; "peak" adds a price for the highest draw;
    "peak_and_event" an event in the evening; "reserve" also symmetric reserve in four-hour
    blocks; "position" is a committed position with two imbalance prices, and nothing else.
    Raises ValueError below 5 devices or 8 quarter-hours.
    """
    if devices < FEWEST or steps < 8:  # noqa: PLR2004 - told in the docstring
        raise ValueError(
            f"{devices} devices over {steps} quarter-hours are too few for a sample; ask for "
            f"{FEWEST} devices and 8 quarter-hours or more"
        )
    homes = min(max(1, round(_HOMES_SHARE * devices)), devices // 4)
    others = devices - 4 * homes
    chps = min(max(1, round(_CHP_SHARE * devices)), others)
    winds = (others - chps) // 3
    load_site, chp_site, wind_site = (
        np.sort(rng.integers(homes, size=count)) for count in (others - chps - winds, chps, winds)
    )
    price = _day_ahead(steps, rng)
    outdoor_c = 3.0 + 4.0 * np.cos(2 * np.pi * (_hours(steps) - 15) / 24) + rng.normal(0, 1)
    stores = sample_stores(homes, load_site, price, outdoor_c, rng)
    sources, rated_kw = _sources(homes, chp_site, wind_site, steps, rng)
    sources = replace(sources, place=sources.place + len(stores.place))
    up_to_kw = np.full(devices, np.nan)
    up_to_kw[len(stores.place) :] = np.where(sources.curtailable, rated_kw, np.nan)
    sites = _sites(homes, stores, sources, rng, limited=site_limits)
    problem = Problem(
        device_ids=_ids(homes, len(load_site), chps, winds),
        intervals=intervals(_START, _START + steps * STEP),
        price_eur_per_kwh=price,
        fixed_kw=np.broadcast_to(0.0, (steps, devices)),
        curtailable_up_to_kw=up_to_kw,
        stores=stores,
        sources=sources,
        sites=sites,
        portfolio=no_portfolio(price),
        overload_eur_per_kwh=PlanSettings().overload_eur_per_kwh,
    )
    return replace(problem, portfolio=_portfolio(problem, portfolio, rng))


def perturbed(problem: Problem, rng: np.random.Generator) -> Problem:
    """Return the problem as it looks some hours later: a little off in all that was forecast.

    Prices move by about 3 EUR/MWh, heat losses and energies by 3 %, the position by 2 %. Doing
    nothing stays possible for every store.
    """
    stores = problem.stores
    steps, count = len(stores.drift_kwh), len(stores.place)
    change = rng.normal(0, 0.003, steps)
    drift = stores.drift_kwh * (1 + 0.03 * rng.normal(size=count).clip(-3, 3))
    initial = stores.initial_kwh * (1 + 0.03 * rng.normal(size=count).clip(-3, 3))
    resting = _resting(replace(stores, drift_kwh=drift, initial_kwh=initial))
    portfolio = problem.portfolio
    return replace(
        problem,
        price_eur_per_kwh=problem.price_eur_per_kwh + change,
        stores=replace(
            stores,
            drift_kwh=drift,
            initial_kwh=initial,
            floor_kwh=np.minimum(stores.floor_kwh, resting),
            ceiling_kwh=np.maximum(stores.ceiling_kwh, resting),
        ),
        portfolio=replace(
            portfolio,
            position_kw=portfolio.position_kw * (1 + rng.normal(0, 0.02, steps)),
            surplus_eur_per_kwh=portfolio.surplus_eur_per_kwh + change,
            shortage_eur_per_kwh=portfolio.shortage_eur_per_kwh + change,
        ),
    )


def committed(problem: Problem, position_kw: Floats, rng: np.random.Generator) -> Problem:
    """Return the problem with a sold position (T,) and imbalance prices on both sides of the market."""
    price = problem.price_eur_per_kwh
    steps = len(price)
    return replace(
        problem,
        portfolio=replace(
            problem.portfolio,
            position_kw=position_kw,
            surplus_eur_per_kwh=price - rng.uniform(0.01, 0.05, steps),
            shortage_eur_per_kwh=price + rng.uniform(0.01, 0.05, steps),
        ),
    )


def _hours(steps: int) -> Floats:
    return STEP_H * np.arange(steps, dtype=np.float64)


def _bell(hour: Floats, at: Floats | float, width: float) -> Floats:
    away = (hour - at + 12) % 24 - 12
    bell: Floats = np.exp(-0.5 * (away / width) ** 2)
    return bell


def _day_ahead(steps: int, rng: np.random.Generator) -> Floats:
    """Return prices with a morning and an evening peak and a dip at noon, EUR/kWh (T,)."""
    hour = _hours(steps)
    shape = 0.09 + 0.05 * _bell(hour, 8, 1.5) + 0.09 * _bell(hour, 18.5, 1.8)
    prices: Floats = shape - 0.05 * _bell(hour, 13, 2.0) + rng.normal(0, 0.004, steps)
    return prices


def _ids(homes: int, loads: int, chps: int, winds: int) -> pl.Series:
    counts = [homes, homes, homes, loads, homes, chps, winds]
    kinds = pl.Series(["battery", "ev", "heat_pump", "load", "pv", "chp", "wind"])
    number = pl.Series(np.concatenate([np.arange(count) for count in counts]))
    return pl.select(
        device_id=pl.format(
            "{}-{}",
            kinds.gather(np.repeat(np.arange(len(counts)), counts)),
            number.cast(pl.String).str.zfill(6),
        )
    )["device_id"]


def _sources(
    homes: int, chp_site: Places, wind_site: Places, steps: int, rng: np.random.Generator
) -> tuple[Sources, Floats]:
    """Return PV at every home, CHPs and wind, placed from 0 on; and their rated power (G,)."""
    chps, winds = len(chp_site), len(wind_site)
    count = homes + chps + winds
    sun, chp, wind = slice(0, homes), slice(homes, homes + chps), slice(homes + chps, count)
    rated = np.empty(count)
    rated[sun] = rng.uniform(4, 12, homes)
    rated[chp] = rng.uniform(5, 30, chps)
    rated[wind] = rng.uniform(3, 12, winds)
    clouds = rng.uniform(0.3, 1.0, (16, steps))  # as many skies
    blows = np.clip(rng.normal(0.35, 0.2, (16, steps)), 0, 1)
    max_kw = np.empty((count, steps))
    max_kw[sun] = clouds[rng.integers(16, size=homes)]
    max_kw[sun] *= 0.7 * (_bell(_hours(steps), 12.5, 2.2) - 0.1).clip(min=0)  # a low winter sun
    max_kw[chp] = 1.0
    max_kw[wind] = blows[rng.integers(16, size=winds)]
    max_kw *= rated[:, None]
    least = np.zeros(count)
    least[chp] = rated[chp] / 2
    ramp = np.full(count, np.inf)
    ramp[chp] = np.maximum(rated[chp] * rng.uniform(0.2, 0.8, chps), least[chp])
    cost = np.zeros(count)
    cost[chp] = rng.uniform(0.07, 0.12, chps)
    none = np.zeros(count, dtype=np.int64)
    sources = Sources(
        place=np.arange(count),
        site=np.concatenate([np.arange(homes), chp_site, wind_site]),
        curtailable=np.isinf(ramp),
        min_kw=np.broadcast_to(0.0, (steps, count)),
        max_kw=max_kw.T,
        cost_eur_per_kwh=cost,
        ramp_kw=ramp,
        min_active_kw=least,
        curvature_eur_per_kw2h=curvature(rated),
        min_run_steps=none,
        min_rest_steps=none,
    )
    return sources, rated


def _sites(
    homes: int, stores: Stores, sources: Sources, rng: np.random.Generator, *, limited: bool
) -> Sites:
    steps = len(stores.drift_kwh)
    hour = _hours(steps)
    shape = 0.3 + 0.4 * _bell(hour, 7.5, 1.0) + 0.8 * _bell(hour, 19, 2.0)
    base = rng.normal(1, 0.15, (homes, steps)).clip(min=0.3)
    base *= shape * -rng.lognormal(0, 0.4, homes)[:, None]
    tight = (rng.random(homes) < _TIGHT_SHARE) & limited
    short = tight & (rng.random(homes) < _SHORT_SHARE)
    base[short] *= _SHORT_LOAD

    def at_sites(site: Places, power_kw: Floats) -> Floats:
        return np.bincount(site, power_kw, homes).astype(np.float64)

    base_peak = -base.min(axis=1)
    drawn = at_sites(stores.site, stores.charge_max_kw.max(axis=0))
    given = at_sites(stores.site, stores.discharge_max_kw.max(axis=0)) + at_sites(
        sources.site, sources.max_kw.max(axis=0)
    )
    import_kw, export_kw = base_peak + drawn, given
    # A vehicle can be charged at its least power, but not much else beside it.
    shared = base_peak + at_sites(stores.site, stores.min_active_kw)
    shared += drawn * rng.uniform(0.05, 0.35, homes)
    import_kw = np.where(tight, shared, import_kw)
    import_kw = np.where(short, base_peak * rng.uniform(0.8, 0.95, homes), import_kw)
    export_kw = np.where(tight, given * rng.uniform(0.3, 1, homes), export_kw)
    natural = base.copy()
    sun_and_wind = sources.curtailable
    np.add.at(natural, sources.site[sun_and_wind], sources.max_kw.T[sun_and_wind])
    overload = np.zeros((homes, steps))  # beyond what sun and wind at their most leave of the base
    over = -natural.min(axis=1) > import_kw
    overload[over] = np.maximum(-natural[over] - import_kw[over, None], 0)
    return Sites(
        base_kw=base.T,
        import_limit_kw=import_kw,
        export_limit_kw=export_kw,
        import_overload_kw=overload.T,
        export_overload_kw=np.broadcast_to(0.0, (steps, homes)),
    )


def _portfolio(problem: Problem, market: Market, rng: np.random.Generator) -> Portfolio:
    if market == "none":
        return problem.portfolio
    if market == "position":
        return committed(problem, _by_rule(problem), rng).portfolio
    steps = len(problem.price_eur_per_kwh)
    portfolio = replace(problem.portfolio, peak_eur_per_kw=0.15)
    if market == "peak":
        return portfolio
    hour = _hours(steps) % 24
    evening = (hour >= 17) & (hour < 18.5)  # noqa: PLR2004 - o'clock
    ready_kw = problem.stores.discharge_max_kw[:, problem.stores.reserve].sum(axis=1)
    least_kw = problem.sites.base_kw.sum(axis=1) + 0.8 * ready_kw
    portfolio = replace(
        portfolio,
        event_min_kw=np.where(evening, least_kw, -np.inf),
        event_eur_per_kwh=np.where(evening, 0.4, 0.0),
    )
    if market == "peak_and_event":
        return portfolio
    block = np.arange(steps) // _RESERVE_BLOCK_STEPS
    return replace(
        portfolio,
        reserve_up_eur_per_kwh=rng.uniform(0.004, 0.012, block[-1] + 1)[block],
        reserve_down_eur_per_kwh=rng.uniform(0.002, 0.006, block[-1] + 1)[block],
        reserve_block=block,
        reserve_sustain_h=0.5,
        reserve_symmetric=True,
    )


def _by_rule(problem: Problem) -> Floats:
    """Return a position (T,) that a trader might have sold without an optimiser.

    Sun, wind and load as forecast, heat as it is lost, everything else drawn in the cheapest
    eighth of the day; half of the batteries' power given back in the dearest.
    """
    stores, sources = problem.stores, problem.sources
    rank = np.argsort(np.argsort(problem.price_eur_per_kwh)) / len(problem.price_eur_per_kwh)
    cheap, dear = rank < 1 / 8, rank >= 7 / 8
    heat_kw = (stores.drift_kwh / stores.charge_efficiency).sum(axis=1) / STEP_H
    drawn_kw = stores.charge_max_kw[:, np.isnan(stores.kwh_per_c)].sum(axis=1)
    given_kw = stores.discharge_max_kw[:, stores.reserve].sum(axis=1)
    position: Floats = (
        problem.sites.base_kw.sum(axis=1)
        + sources.max_kw[:, sources.curtailable].sum(axis=1)
        + heat_kw
        + 0.5 * (given_kw * dear - drawn_kw * cheap)
    )
    return position


def _resting(stores: Stores) -> Floats:
    """Return the energies (T, S) of stores that nobody charges or discharges."""
    energy = np.empty_like(stores.drift_kwh)
    before = stores.initial_kwh[0]
    for t in range(len(energy)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], before)
        energy[t] = before = stores.retention * start + stores.drift_kwh[t]
    return energy
