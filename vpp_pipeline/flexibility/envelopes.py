"""What each device could do in each quarter-hour: states and forecasts → envelopes.

Belongs here: power bounds by device type, the stores' energies, sums over groups. Does not: what
is worth doing (`optimization`), which readings count (`states`), when stores exist (`episodes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.flexibility.derating import narrowed
from vpp_pipeline.flexibility.episodes import load_windows, standing, vehicle_sessions
from vpp_pipeline.flexibility.reach import Stores, viable_energies
from vpp_pipeline.flexibility.schemas import Envelopes, GroupEnvelopes, States

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FORECAST = ("load", "pv", "wind")
_STORES = ("battery", "ev_charger", "heat_pump", "flexible_load")
_STEP_MINUTES = STEP.total_seconds() / 60


class EnvelopeError(ValueError):
    """An input from which no envelope can be made; the text names it and the remedy."""


def device_envelopes(  # noqa: PLR0917 - a frame each; callers name none of them differently
    devices: dy.DataFrame[DeviceFrame],
    states: dy.DataFrame[States],
    forecasts: pl.DataFrame,
    sessions: pl.DataFrame,
    temperatures: pl.DataFrame,
    intervals: pl.Series,
    as_of: datetime,
    derating: pl.DataFrame | None = None,
) -> dy.DataFrame[Envelopes]:
    """Return one row a device and quarter-hour, in the order of `devices`.

    `forecasts` (`Forecasts`) hold loads, sun and wind in signed kW; `sessions`
    (`SessionForecasts`) the vehicles; of both, rows known after `as_of` are not read, and of
    several for one quarter-hour the newest counts. `temperatures` are (site_id, interval_start,
    temperature_c). `intervals` are consecutive quarter-hours. `derating` (`Deratings`) narrows
    the powers of devices that are in service; None narrows none.

    Raises `EnvelopeError` where a load, PV, wind or heat pump has no finite forecast.
    """
    steps = len(intervals)
    start, end = intervals[0], intervals[-1] + STEP
    kind = devices["device_type"].cast(pl.String).to_numpy()
    of_devices = devices.select("device_id").join(
        states, on="device_id", how="left", validate="1:1", maintain_order="left"
    )
    available = of_devices["available"].fill_null(value=False).to_numpy()

    natural = _natural_kw(devices, kind, forecasts, intervals, as_of)
    min_kw, max_kw = _power_bounds(devices, of_devices, kind, natural, start)
    min_kw, max_kw, why_derated = narrowed(devices, min_kw, max_kw, natural, derating)
    why_derated = why_derated.zip_with(
        pl.Series(available), pl.repeat(None, len(kind), dtype=pl.String, eager=True)
    )
    episodes = pl.concat(
        [
            standing(devices, of_devices, steps),
            vehicle_sessions(devices, of_devices, _newest(sessions, as_of), start, end),
            load_windows(devices, of_devices, start, end),
        ]
    )
    present, arrives, initial_kwh, required_kwh = _occupied(devices, episodes, steps)
    pinned = ~available | (np.isin(kind, _STORES) & ~present)
    min_kw = np.where(pinned, natural, min_kw)
    max_kw = np.where(pinned, natural, max_kw)

    retention, drift_kwh = _building(devices, kind, temperatures, intervals)
    floor_kwh, ceiling_kwh = _wished(devices, kind, present, initial_kwh, required_kwh)
    low, high = viable_energies(
        Stores(
            present=present,
            starts=~np.isnan(initial_kwh),
            initial_kwh=np.nan_to_num(initial_kwh),
            floor_kwh=floor_kwh,
            ceiling_kwh=ceiling_kwh,
            charge_kw=-np.minimum(min_kw, 0),
            discharge_kw=np.maximum(max_kw, 0),
            charge_efficiency=_numbers(devices, "charge_efficiency", 1.0),
            discharge_efficiency=_numbers(devices, "discharge_efficiency", 1.0),
            retention=retention,
            drift_kwh=drift_kwh,
        )
    )
    return Envelopes.validate(
        pl.DataFrame(
            {
                "device_id": devices["device_id"].gather(np.repeat(np.arange(len(kind)), steps)),
                "interval_start": intervals.gather(np.tile(np.arange(steps), len(kind))),
                "min_power_kw": min_kw.T.ravel(),
                "max_power_kw": max_kw.T.ravel(),
                "expected_power_kw": natural.T.ravel(),
                "min_energy_kwh": low.T.ravel(),
                "max_energy_kwh": high.T.ravel(),
                "initial_energy_kwh": initial_kwh.T.ravel(),
                "session_start": arrives.T.ravel(),
                "retention": np.repeat(retention, steps),
                "drift_kwh": drift_kwh.T.ravel(),
                "required_end_kwh": required_kwh.T.ravel(),
                "available": np.repeat(available, steps),
                "derated": why_derated.gather(np.repeat(np.arange(len(kind)), steps)),
            }
        ).with_columns(pl.col("^.*energy_kwh|required_end_kwh$").fill_nan(None)),
        cast=True,
    )


def group_envelopes(
    devices: dy.DataFrame[DeviceFrame], envelopes: dy.DataFrame[Envelopes] | pl.DataFrame
) -> dy.DataFrame[GroupEnvelopes]:
    """Return each group's outer bound: what its devices could do if nothing tied them together."""
    energies = ("min_energy_kwh", "max_energy_kwh")
    return GroupEnvelopes.validate(
        devices.select("device_id", group_id="groups")
        .explode("group_id", empty_as_null=False)
        .drop_nulls("group_id")
        .join(envelopes, on="device_id")
        .group_by("group_id", "interval_start")
        .agg(
            pl.len().cast(pl.Int64).alias("devices"),
            pl.col("min_power_kw", "max_power_kw", "expected_power_kw").sum(),
            *(pl.when(pl.col(e).count() > 0).then(pl.col(e).sum()).alias(e) for e in energies),
        )
        .sort("group_id", "interval_start"),
        cast=True,
    )


def _newest(rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Return each device's sessions as last forecast by `as_of`."""
    known = rows.filter(pl.col("known_at") <= as_of)
    return known.filter(pl.col("known_at") == pl.col("known_at").max().over("device_id"))


def _numbers(devices: pl.DataFrame, column: str, absent: float) -> Floats:
    return devices[column].fill_null(absent).to_numpy().astype(np.float64)


def _on_grid(
    rows: pl.DataFrame, ids: pl.Series, key: str, value: str, intervals: pl.Series
) -> Floats:
    """Spread (key, interval_start, value) over (T, N): of several rows the last, of none NaN."""
    places = (
        rows.select(key, "interval_start", value)
        .join(pl.DataFrame({key: ids, "place": np.arange(len(ids))}), on=key, maintain_order="left")
        .join(
            pl.DataFrame({"interval_start": intervals, "step": np.arange(len(intervals))}),
            on="interval_start",
            maintain_order="left",
        )
    )
    grid = np.full((len(intervals), len(ids)), np.nan)
    grid[places["step"].to_numpy(), places["place"].to_numpy()] = places[value].to_numpy()
    return grid


def _refuse_gaps(
    grid: Floats, ids: pl.Series, intervals: pl.Series, what: str, remedy: str
) -> None:
    gaps = np.argwhere(~np.isfinite(grid))
    if len(gaps):
        step, place = gaps[0]
        raise EnvelopeError(
            f"{what} of {ids[int(place)]} at {intervals[int(step)]:%Y-%m-%d %H:%M} UTC is "
            f"missing or not finite ({len(gaps)} such quarter-hours in all): {remedy}"
        )


def _natural_kw(
    devices: pl.DataFrame,
    kind: NDArray[np.object_],
    forecasts: pl.DataFrame,
    intervals: pl.Series,
    as_of: datetime,
) -> Floats:
    """Return what each device does if nobody steers (T, N): forecast load, sun and wind, else 0."""
    grid = np.zeros((len(intervals), len(kind)))
    is_forecast = np.isin(kind, _FORECAST)
    ids = devices["device_id"].filter(is_forecast)
    known = forecasts.filter(
        pl.col("known_at") <= as_of, pl.col("target").cast(pl.String).is_in(_FORECAST)
    ).sort("known_at")
    p50 = _on_grid(known, ids, "subject_id", "p50", intervals)
    _refuse_gaps(p50, ids, intervals, "the p50 forecast", "forecast the whole horizon again")
    nameplate = devices.filter(is_forecast)
    grid[:, is_forecast] = np.clip(
        p50, 0 - nameplate["max_draw_kw"].to_numpy(), nameplate["max_inject_kw"].to_numpy()
    )
    return grid


def _power_bounds(
    devices: pl.DataFrame,
    states: pl.DataFrame,
    kind: NDArray[np.object_],
    natural: Floats,
    start: datetime,
) -> tuple[Floats, Floats]:
    """Return least and most power (T, N) of devices that are in service and have their store."""
    shape = natural.shape
    min_kw = np.broadcast_to(0 - devices["max_draw_kw"].to_numpy(), shape).copy()
    max_kw = np.broadcast_to(devices["max_inject_kw"].to_numpy(), shape).copy()
    load, curtailable = kind == "load", np.isin(kind, ["pv", "wind"])
    min_kw[:, load] = max_kw[:, load] = natural[:, load]
    min_kw[:, curtailable] = np.minimum(natural[:, curtailable], 0)
    max_kw[:, curtailable] = natural[:, curtailable]

    ramp_kw = np.maximum(
        _numbers(devices, "ramp_kw_per_min", np.inf) * _STEP_MINUTES,
        devices["min_active_kw"].to_numpy(),
    )
    now_kw = states["power_kw"].to_numpy().astype(np.float64)
    ramping = (kind == "chp") & np.isfinite(ramp_kw) & np.isfinite(now_kw)
    elapsed = (start - states["valid_at"]).dt.total_minutes().fill_null(
        0
    ).to_numpy() / _STEP_MINUTES
    way = ramp_kw[ramping] * (elapsed[ramping] + np.arange(1, shape[0] + 1)[:, None])
    least, most = min_kw[:, ramping], max_kw[:, ramping]
    min_kw[:, ramping] = np.clip(now_kw[ramping] - way, least, most)
    max_kw[:, ramping] = np.clip(now_kw[ramping] + way, least, most)
    return min_kw, max_kw


def _occupied(
    devices: pl.DataFrame, episodes: pl.DataFrame, steps: int
) -> tuple[Bools, Bools, Floats, Floats]:
    """Return where stores are, where they arrive, what they begin with, what they owe (T, N).

    A vehicle that may leave early owes twice: by then, and at its deadline.
    """
    placed = episodes.join(devices.select("device_id").with_row_index("place"), on="device_id")
    place = placed["place"].to_numpy()
    first, end = placed["first_step"].to_numpy(), placed["end_step"].to_numpy()
    begun = np.zeros((steps + 1, devices.height), dtype=np.int64)
    np.add.at(begun, (first, place), 1)
    np.add.at(begun, (end, place), -1)
    present = begun.cumsum(axis=0)[:steps] > 0
    arrives = np.zeros(present.shape, dtype=np.bool_)
    arrives[first, place] = placed["arrives"].to_numpy()
    initial_kwh = np.full(present.shape, np.nan)
    initial_kwh[first, place] = placed["initial_kwh"].to_numpy()
    required_kwh = np.full(present.shape, np.nan)
    wary = placed.drop_nulls("ready_step")
    required_kwh[wary["ready_step"].to_numpy() - 1, wary["place"].to_numpy()] = wary["ready_kwh"]
    required_kwh[end - 1, place] = placed["required_kwh"].to_numpy()
    return present, arrives, initial_kwh, required_kwh


def _building(
    devices: pl.DataFrame,
    kind: NDArray[np.object_],
    temperatures: pl.DataFrame,
    intervals: pl.Series,
) -> tuple[Floats, Floats]:
    """Return the stores' retention (N,) and drift (T, N); only buildings lose or gain heat."""
    retention = np.ones(len(kind))
    drift_kwh = np.zeros((len(intervals), len(kind)))
    heated = kind == "heat_pump"
    homes = devices.filter(heated)
    capacity = homes["thermal_capacity_kwh_per_k"].to_numpy()
    retention[heated] = np.exp(
        -STEP_H / (homes["thermal_resistance_k_per_kw"].to_numpy() * capacity)
    )
    sites = homes["site_id"].unique(maintain_order=True)
    outdoor = _on_grid(temperatures, sites, "site_id", "temperature_c", intervals)
    _refuse_gaps(outdoor, sites, intervals, "the temperature", "forecast the whole horizon again")
    site = homes.join(sites.to_frame().with_row_index("site"), on="site_id", maintain_order="left")
    above = outdoor[:, site["site"].to_numpy()] - homes["comfort_min_c"].to_numpy()
    drift_kwh[:, heated] = above * capacity * (1 - retention[heated])
    return retention, drift_kwh


def _wished(
    devices: pl.DataFrame,
    kind: NDArray[np.object_],
    present: Bools,
    initial_kwh: Floats,
    required_kwh: Floats,
) -> tuple[Floats, Floats]:
    """Return the energies wished for (T, N): the store's own window, comfort, and what is owed.

    A store found outside its window may stay there, but go no further; a vehicle may be larger
    than the registry says.
    """
    floor = _numbers(devices, "min_energy_kwh", 0.0)
    ceiling = devices.select(
        pl.coalesce("max_energy_kwh", "required_energy_kwh", "energy_capacity_kwh").fill_null(0.0)
    ).to_series()
    comfort = (devices["comfort_max_c"] - devices["comfort_min_c"]) * devices[
        "thermal_capacity_kwh_per_k"
    ]
    heated = kind == "heat_pump"
    load = kind == "flexible_load"
    floor = np.where(heated | load, 0.0, floor)
    top = np.where(heated, comfort.fill_null(0.0).to_numpy(), ceiling.to_numpy())
    top = np.where(load, _numbers(devices, "required_energy_kwh", 0.0), top)

    begun_with = _carried(initial_kwh)
    owed_at_end = _carried(required_kwh[::-1])[::-1]
    least = np.where(heated, floor, np.fmin(floor, begun_with))
    most = np.where(heated, top, np.fmax(top, np.fmax(begun_with, owed_at_end)))
    return np.where(present, np.fmax(least, required_kwh), np.nan), np.where(present, most, np.nan)


def _carried(marks: Floats) -> Floats:
    """Return each row's last mark above or at it (T, N); NaN before the first."""
    last = np.where(np.isnan(marks), -1, np.arange(len(marks))[:, None])
    last = np.maximum.accumulate(last, axis=0)
    return np.where(last < 0, np.nan, np.take_along_axis(marks, np.maximum(last, 0), axis=0))
