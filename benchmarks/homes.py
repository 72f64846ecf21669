"""The recorded homes as a season of hours, and what our models forecast of it hour by hour.

Belongs here: reading the homes, them as devices and readings, forecasts issued anew every hour.
Does not: planning on them, what that costs (`forecast_value`).
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.forecasting import load_model, pv_model
from vpp_pipeline.optimization.behind_meter import Batteries
from vpp_pipeline.optimization.uncertainty import summed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BEGINS = datetime(2016, 8, 1, 7, tzinfo=UTC)
HOUR, DAY_H = timedelta(hours=1), 24
HOMES = 5
PROCESSES = 2
_DATA = Path(__file__).parent / "data"
_CLOCK = "Etc/GMT+8"  # the data's: Pacific standard time, all year
_LATITUDE, _LONGITUDE = 34.1, -117.4  # Fontana, California
_CONNECTION_KW = 20.0
_WEEK_H = 168
_POISON_KW = 1e4


@dataclass(frozen=True)
class Season:
    """The homes, and after them all five behind one meter; hours run from `BEGINS`."""

    names: tuple[str, ...]
    load_kw: Array  # (hours, homes), magnitudes
    pv_kw: Array
    tariff: Array  # (hours,) per kWh
    pv_kwp: Array  # (homes,)
    batteries: Batteries

    @property
    def power_kw(self) -> Array:
        """The sites' power without their batteries, positive injects."""
        return self.pv_kw - self.load_kw


@cache
def season() -> Season:
    """Read the recorded homes."""
    homes = pl.read_parquet(_DATA / "citylearn2022_b1-5_days0-239_60min.parquet")
    context = pl.read_parquet(_DATA / "citylearn2022_context_days0-239_60min.parquet")
    rated = json.loads((_DATA / "citylearn2022_devices.json").read_text())["buildings"]
    order = homes.sort("hour_index", "building")

    def each(column: str) -> Array:
        hourly = order[column].to_numpy().reshape(-1, HOMES)  # kWh in an hour: mean kW
        return np.column_stack([hourly, hourly.sum(axis=1)])

    def of(field: str) -> Array:
        values = [float(home["battery"][field]) for home in rated.values()]
        return np.array([*values, sum(values)])

    one_way = np.sqrt(np.array([*(h["battery"]["efficiency"] for h in rated.values()), 0.0]))
    one_way[-1] = one_way[0]  # all five are alike
    plants = [float(home["pv_kwp"]) for home in rated.values()]
    nothing = np.zeros(HOMES + 1)
    return Season(
        names=(*(f"home-{n + 1}" for n in range(HOMES)), "together"),
        load_kw=each("load_kwh"),
        pv_kw=each("pv_kwh"),
        tariff=context.sort("hour_index")["electricity_pricing_usd_per_kwh"].to_numpy(),
        pv_kwp=np.array([*plants, sum(plants)]),
        batteries=Batteries(
            floor_kwh=nothing,
            ceiling_kwh=of("capacity"),
            initial_kwh=nothing,
            charge_max_kw=of("nominal_power"),
            discharge_max_kw=of("nominal_power"),
            charge_efficiency=one_way,
            discharge_efficiency=one_way,
            wear_eur_per_kwh=nothing,
            end_value_eur_per_kwh=nothing,
        ),
    )


def forecast(scored: range) -> Array:
    """Return the sites' power as forecast at each scored hour: (hours, quantiles, 24, homes).

    Raises `AssertionError` where absurd readings from the first hour on change its forecast.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes share the cores already
    weeks = [scored[a : a + _WEEK_H] for a in range(0, len(scored), _WEEK_H)]
    first = scored[0]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        blind = pool.submit(_issued, range(first, first + 1), absurd_from=first)
        made = np.concatenate(list(pool.map(_issued, weeks)))
    if not np.array_equal(made[0], blind.result()[0]):
        raise AssertionError(f"the forecast of hour {first} changed with readings of its future")
    return made


def _issued(hours: range, absurd_from: int | None = None) -> Array:
    """Train on what was known when the first hour began, and forecast anew every hour."""
    homes = season()
    devices = _devices(homes)
    loads, sun = devices.filter(device_type="load"), devices.filter(device_type="pv")
    drawn = _readings(homes, "load", -homes.load_kw, absurd_from)
    given = _readings(homes, "pv", homes.pv_kw, absurd_from)
    weather = _no_weather()
    trained = BEGINS + hours[0] * HOUR
    of_load = load_model.train(drawn, _CLOCK, trained, HOUR)
    of_sun = pv_model.train(sun, given, weather, _CLOCK, trained, HOUR)
    made = []
    for hour in hours:
        now = BEGINS + hour * HOUR
        ahead = pl.datetime_range(now, now + (DAY_H - 1) * HOUR, HOUR, eager=True)
        asked = ahead.cast(pl.Datetime("us", "UTC")).alias("interval_start")
        parts = (
            load_model.issue(of_load, loads, drawn, asked, _CLOCK, now),
            pv_model.issue(of_sun, sun, given, weather, asked, _CLOCK, now),
        )
        made.append(summed(np.stack([_quantiles(part) for part in parts], axis=1)))
    return np.stack(made)


def _quantiles(forecasts: pl.DataFrame) -> Array:
    """Return (quantiles, 24, homes); the subjects' names sort as the homes do."""
    rows = forecasts.sort("subject_id", "interval_start")
    return np.stack([rows[name].to_numpy().reshape(-1, DAY_H).T for name in ("p10", "p50", "p90")])


def _devices(homes: Season) -> pl.DataFrame:
    count = len(homes.names)
    return pl.DataFrame(
        {
            "device_id": [f"{kind}-{name}" for kind in ("load", "pv") for name in homes.names],
            "site_id": [*homes.names] * 2,
            "device_type": ["load"] * count + ["pv"] * count,
            "latitude": _LATITUDE,
            "longitude": _LONGITUDE,
            "max_draw_kw": [_CONNECTION_KW] * HOMES + [HOMES * _CONNECTION_KW] + [0.0] * count,
            "max_inject_kw": [0.0] * count + homes.pv_kwp.tolist(),
        }
    ).with_columns(tilt_deg=pl.lit(None, pl.Float64), azimuth_deg=pl.lit(None, pl.Float64))


def _readings(homes: Season, kind: str, power_kw: Array, absurd_from: int | None) -> pl.DataFrame:
    told = power_kw.copy()
    if absurd_from is not None:
        told[absurd_from:] = _POISON_KW
    hours = pl.int_range(len(told), eager=True)
    starts = pl.select((pl.lit(BEGINS) + hours * HOUR).cast(pl.Datetime("us", "UTC"))).to_series()
    return pl.concat(
        pl.DataFrame(
            {"device_id": f"{kind}-{name}", "interval_start": starts, "power_kw": told[:, n]}
        )
        for n, name in enumerate(homes.names)
    )


def _no_weather() -> pl.DataFrame:
    instant = pl.Datetime("us", "UTC")
    return pl.DataFrame(
        schema={
            "site_id": pl.String,
            "interval_start": instant,
            "ghi_w_per_m2": pl.Float64,
            "kind": pl.String,
            "known_at": instant,
        }
    )
