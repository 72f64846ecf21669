"""Frames → `Problem`, or an error that says what is wrong with which row.

Belongs here: checks of a plan's inputs, and the meaning of device types in the problem. Does
not: the mathematics (`model`), the inputs' freshness (`inputs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.optimization.aligned import aligned
from vpp_pipeline.optimization.feasible import resting, viable, within_ramps
from vpp_pipeline.optimization.portfolio import portfolio_of
from vpp_pipeline.optimization.problem import (
    Bools,
    Floats,
    Places,
    Problem,
    ProblemError,
    Sites,
    Sources,
    Stores,
    by_site,
)

if TYPE_CHECKING:
    import dataframely as dy
    from numpy.typing import NDArray

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.portfolio import PortfolioTerms
    from vpp_pipeline.optimization.settings import PlanSettings

_ENVELOPES_REMEDY = "make the envelopes of this horizon again"
_PRICES_REMEDY = "give one finite price for every quarter-hour of the horizon"
_STEP_MINUTES = STEP.total_seconds() / 60


def build(
    devices: dy.DataFrame[DeviceFrame],
    envelopes: pl.DataFrame,
    prices: pl.DataFrame,
    settings: PlanSettings,
    terms: PortfolioTerms | None = None,
) -> Problem:
    """Return the problem over the envelopes' horizon.

    `envelopes` (`Envelopes`) hold every device in every quarter-hour; `prices` are
    (interval_start, price_eur_per_mwh) and cover the horizon, further rows are not read. Raises
    `ProblemError` for what is missing, doubled, unknown, misaligned or not finite.
    """
    _check_devices(devices)
    intervals = _horizon(envelopes)
    grid = _Grid.over(devices["device_id"], intervals, envelopes)
    price = _prices(prices, intervals)

    site_ids = devices["site_id"].unique(maintain_order=True)
    limits = devices.unique("site_id", keep="first", maintain_order=True)
    site = (
        devices.select("site_id")
        .join(site_ids.to_frame().with_row_index("site"), on="site_id", maintain_order="left")[
            "site"
        ]
        .to_numpy()
        .astype(np.int64)
    )
    kind = devices["device_type"].cast(pl.String).to_numpy()
    is_store = ~np.isnan(grid["min_energy_kwh"]).all(axis=0)
    is_source = np.isin(kind, ["pv", "wind", "chp"]) & grid.available
    fixed_kw = np.where(is_store | is_source, 0.0, grid["expected_power_kw"])

    sources = _sources(devices, grid, np.flatnonzero(is_source), site, kind, settings)
    base_kw = by_site(fixed_kw, site, len(site_ids))
    least_kw = base_kw + by_site(sources.min_kw, sources.site, len(site_ids))
    most_kw = base_kw + by_site(
        np.where(sources.curtailable, sources.max_kw, sources.min_kw), sources.site, len(site_ids)
    )
    import_kw = limits["site_import_limit_kw"].to_numpy()
    export_kw = limits["site_export_limit_kw"].to_numpy()
    return Problem(
        device_ids=devices["device_id"],
        intervals=intervals,
        price_eur_per_kwh=price,
        fixed_kw=fixed_kw,
        curtailable_up_to_kw=np.where(
            np.isin(kind, ["pv", "wind"]), devices["max_inject_kw"].to_numpy(), np.nan
        ),
        stores=_stores(
            devices, grid, np.flatnonzero(is_store), site, kind, price, intervals, settings
        ),
        sources=sources,
        sites=Sites(
            base_kw=base_kw,
            import_limit_kw=import_kw,
            export_limit_kw=export_kw,
            import_overload_kw=np.maximum(-most_kw - import_kw, 0),
            export_overload_kw=np.maximum(least_kw - export_kw, 0),
        ),
        portfolio=portfolio_of(terms, intervals, price),
        overload_eur_per_kwh=settings.overload_eur_per_kwh,
    )


@dataclass(frozen=True)
class _Grid:
    """The envelopes' columns as (T, N) arrays, in the devices' order."""

    columns: dict[str, Floats]
    available: Bools  # (N,)

    def __getitem__(self, column: str) -> Floats:
        return self.columns[column]

    @classmethod
    def over(cls, ids: pl.Series, intervals: pl.Series, envelopes: pl.DataFrame) -> _Grid:
        places = envelopes.with_row_index("row").join(
            pl.DataFrame({"device_id": ids, "place": np.arange(len(ids))}),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        stranger = places.filter(pl.col("place").is_null()).head(1)
        if stranger.height:
            raise ProblemError(
                f"envelopes row {stranger['row'][0]}: device_id {stranger['device_id'][0]!r} is "
                "not in the fleet: make the envelopes with the fleet that is planned"
            )
        steps = intervals.search_sorted(places["interval_start"]).to_numpy()
        cell = places["place"].to_numpy().astype(np.int64) * len(intervals) + steps
        times = np.bincount(cell, minlength=len(ids) * len(intervals))
        for fault, cells in (("is missing", times == 0), ("is there twice", times > 1)):
            if cells.any():
                place, step = divmod(int(np.flatnonzero(cells)[0]), len(intervals))
                raise ProblemError(
                    f"envelopes: device_id {ids[place]!r}, interval_start "
                    f"{intervals[step]} {fault}: {_ENVELOPES_REMEDY}"
                )
        order = np.argsort(cell, kind="stable")
        columns = {}
        for name, dtype in envelopes.schema.items():
            if not dtype.is_float():
                continue
            values = places[name].to_numpy().astype(np.float64)
            optional = name.endswith("energy_kwh") or name == "required_end_kwh"
            unknown = places[name].is_null().to_numpy() if optional else np.zeros(len(values), bool)
            faulty = np.flatnonzero(~np.isfinite(values) & ~unknown)
            if len(faulty):
                row = int(faulty[0])
                at = places.row(row, named=True)
                raise ProblemError(
                    f"envelopes row {row}: {name} is {at[name]} for device_id {at['device_id']!r}, "
                    f"interval_start {at['interval_start']}: not a finite number: "
                    f"{_ENVELOPES_REMEDY}"
                )
            columns[name] = values[order].reshape(len(ids), len(intervals)).T
        crossed = np.argwhere((columns["min_power_kw"] > columns["max_power_kw"]).T)
        if len(crossed):
            place, step = (int(at) for at in crossed[0])
            raise ProblemError(
                f"envelopes: device_id {ids[place]!r}, interval_start {intervals[step]}: "
                f"min_power_kw {columns['min_power_kw'][step, place]} is above max_power_kw "
                f"{columns['max_power_kw'][step, place]}: {_ENVELOPES_REMEDY}"
            )
        available = places["available"].to_numpy()[order].reshape(len(ids), -1)
        return cls(columns, np.logical_and.reduce(available, axis=1))


def _check_devices(devices: pl.DataFrame) -> None:
    """Refuse a fleet with a figure that no schedule can be computed with."""
    numbers = [name for name, dtype in devices.schema.items() if dtype.is_float()]
    efficiencies = [name for name in numbers if name.endswith("_efficiency")]
    for field in numbers:
        wrong = ~pl.col(field).is_finite()
        if field in efficiencies:
            wrong |= pl.col(field) <= 0
        row = devices.with_row_index("row").filter(wrong).head(1)
        if row.height:
            raise ProblemError(
                f"devices row {row['row'][0]}: {field} is {row[field][0]} for device_id "
                f"{row['device_id'][0]!r}: not a usable number: correct the fleet's registry"
            )
    if devices.is_empty():
        raise ProblemError("devices: there is no row: register a device")


def _horizon(envelopes: pl.DataFrame) -> pl.Series:
    intervals = envelopes["interval_start"].unique().sort()
    if intervals.is_empty():
        raise ProblemError(f"envelopes: there is no row: {_ENVELOPES_REMEDY}")
    uneven = (intervals.diff().slice(1) != STEP).arg_true()
    if len(uneven):
        at = int(uneven[0])
        raise ProblemError(
            f"envelopes: interval_start {intervals[at + 1]} does not follow {intervals[at]} by a "
            f"quarter-hour: {_ENVELOPES_REMEDY}"
        )
    return intervals


def _prices(prices: pl.DataFrame, intervals: pl.Series) -> Floats:
    """Return the horizon's prices in EUR/kWh (T,)."""
    rows = aligned(prices, intervals, "prices", _PRICES_REMEDY)
    faulty = rows.filter(~pl.col("price_eur_per_mwh").is_finite().fill_null(value=False))
    if faulty.height:
        first = faulty.row(0, named=True)
        raise ProblemError(
            f"prices row {first['row']}: interval_start {first['interval_start']}, "
            f"price_eur_per_mwh {first['price_eur_per_mwh']} is not a finite number: "
            f"{_PRICES_REMEDY}"
        )
    return rows["price_eur_per_mwh"].to_numpy() / 1000


def _sources(  # noqa: PLR0917 - the parts of one problem
    devices: pl.DataFrame,
    grid: _Grid,
    place: Places,
    site: Places,
    kind: NDArray[np.object_],
    settings: PlanSettings,
) -> Sources:
    of = devices[place]
    active = of["min_active_kw"].to_numpy()
    ramp = of["ramp_kw_per_min"].fill_null(np.inf).to_numpy() * _STEP_MINUTES
    ramp_kw = np.where(kind[place] == "chp", np.maximum(ramp, active), np.inf)
    min_kw, max_kw = grid["min_power_kw"][:, place], grid["max_power_kw"][:, place]
    # One that must run runs at its least power at least, or not at all where it can't.
    runs_at_kw = np.where(max_kw < active, 0.0, np.maximum(min_kw, active))
    min_kw = np.where(min_kw > 0, runs_at_kw, min_kw)
    return Sources(
        place=place,
        site=site[place],
        curtailable=kind[place] != "chp",
        min_kw=within_ramps(min_kw, max_kw, ramp_kw),
        max_kw=max_kw,
        cost_eur_per_kwh=of["marginal_cost_eur_per_mwh"].fill_null(0.0).to_numpy() / 1000,
        ramp_kw=ramp_kw,
        min_active_kw=active,
        curvature_eur_per_kw2h=_curvature(settings, of["max_inject_kw"].to_numpy()),
        min_run_steps=_whole_steps(of["min_run_h"]),
        min_rest_steps=_whole_steps(of["min_rest_h"]),
    )


def _stores(  # noqa: PLR0917 - the parts of one problem
    devices: pl.DataFrame,
    grid: _Grid,
    place: Places,
    site: Places,
    kind: NDArray[np.object_],
    price: Floats,
    intervals: pl.Series,
    settings: PlanSettings,
) -> Stores:
    of = devices[place]

    def number(column: str, absent: float) -> Floats:
        return of[column].fill_null(absent).to_numpy().astype(np.float64)

    low, high = grid["min_energy_kwh"][:, place], grid["max_energy_kwh"][:, place]
    initial, required = grid["initial_energy_kwh"][:, place], grid["required_end_kwh"][:, place]
    present = ~np.isnan(low)
    starts = ~np.isnan(initial)
    arrives = present & ~np.vstack([np.zeros_like(present[:1]), present[:-1]])
    if (arrives & ~starts).any():
        store, step = np.argwhere((arrives & ~starts).T)[0]
        raise ProblemError(
            f"envelopes: device_id {of['device_id'][int(store)]!r}, interval_start "
            f"{intervals[int(step)]}: initial_energy_kwh is null where min_energy_kwh begins: an "
            f"unknown content is not an empty one: {_ENVELOPES_REMEDY}"
        )
    starts[0] = True  # a store that is not there yet begins as an empty one that can't move
    initial = np.nan_to_num(initial)
    begun = np.maximum.accumulate(np.where(starts, np.arange(len(starts))[:, None], 0), axis=0)
    begun_with = np.take_along_axis(initial, begun, axis=0)

    battery, building = kind[place] == "battery", kind[place] == "heat_pump"
    promised = np.isin(kind[place], ["ev_charger", "flexible_load"])
    charge_kw = np.where(present, np.maximum(-grid["min_power_kw"][:, place], 0), 0.0)
    discharge_kw = np.where(present, np.maximum(grid["max_power_kw"][:, place], 0), 0.0)
    retention, drift = grid["retention"][0, place], grid["drift_kwh"][:, place]
    charge_efficiency = number("charge_efficiency", 1.0)
    discharge_efficiency = number("discharge_efficiency", 1.0)
    idle = resting(starts, initial, retention, drift)
    floor = np.where(promised, np.fmin(number("min_energy_kwh", 0.0), begun_with), low)
    floor = np.where(building, idle, floor)
    gain = charge_kw * STEP_H * charge_efficiency
    ceiling = np.where(building, resting(starts, initial, retention, drift + gain), high)
    away = ~present
    floor = np.where(away, np.fmin(np.fmin.reduce(floor), 0), floor)
    ceiling = np.where(away, np.fmax(np.fmax.reduce(ceiling), 0), ceiling)
    # Whatever was measured, resting keeps the bounds: at any site, without any price.
    floor, ceiling = viable(
        np.minimum(floor, idle),
        np.maximum.reduce([floor, ceiling, idle]),
        starts,
        retention,
        gain + drift,
        discharge_kw * STEP_H / discharge_efficiency - drift,
    )

    comfort = number("comfort_max_c", 0.0) - number("comfort_min_c", 0.0)
    comfort *= number("thermal_capacity_kwh_per_k", 0.0)
    owed = promised & ~np.isnan(required)
    unmet = number("unmet_cost_eur_per_kwh", 0.0)
    two_way = np.isin(kind[place], ["battery", "ev_charger"]) & (of["max_inject_kw"].to_numpy() > 0)
    value = settings.stored_energy_eur_per_mwh
    value_per_kwh = max(float(np.median(price)), 0.0) if value is None else value / 1000
    return Stores(
        place=place,
        site=site[place],
        charge_min_kw=np.zeros_like(low),
        charge_max_kw=charge_kw,
        discharge_min_kw=np.zeros_like(low),
        discharge_max_kw=discharge_kw,
        starts=starts,
        initial_kwh=initial,
        present=present,
        drift_kwh=drift,
        floor_kwh=floor,
        ceiling_kwh=ceiling,
        wished_kwh=np.where(building, np.fmin(high, 0), np.where(owed, required, 0.0)),
        shortfall_eur_per_kwh=np.where(building, unmet * STEP_H, np.where(owed, unmet, 0.0)),
        comfort_kwh=np.where(building, np.fmax(low, comfort), np.nan_to_num(ceiling)),
        excess_eur_per_kwh=np.where(building & present, unmet * STEP_H, 0.0),
        owed=owed,
        retention=retention,
        charge_efficiency=charge_efficiency,
        discharge_efficiency=discharge_efficiency,
        wear_eur_per_kwh=number("wear_cost_eur_per_kwh", 0.0),
        end_value_eur_per_kwh=np.where(two_way & present[-1], value_per_kwh, 0.0),
        min_active_kw=of["min_active_kw"].to_numpy(),
        curvature_eur_per_kw2h=_curvature(
            settings, np.maximum(of["max_draw_kw"].to_numpy(), of["max_inject_kw"].to_numpy())
        ),
        kwh_per_c=np.where(building, number("thermal_capacity_kwh_per_k", np.nan), np.nan),
        unbroken=~of["interruptible"].to_numpy(),
        reserve=battery,
    )


def _whole_steps(hours: pl.Series) -> Places:
    return np.ceil(hours.to_numpy() / STEP_H).astype(np.int64)


def _curvature(settings: PlanSettings, rated_kw: Floats) -> Floats:
    """Return what makes the marginal kWh at rated power `fairness_eur_per_kwh` dearer."""
    return settings.fairness_eur_per_kwh / np.maximum(rated_kw, 1e-3)
