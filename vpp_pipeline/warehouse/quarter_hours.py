"""Readings as quarter-hours: what a device did and said from one boundary to the next.

Belongs here: the aggregation, one pass over sorted arrays (SQL takes ten times as long for the
weeks of a large fleet). Does not: which readings count (`sql/queries/warehouse_readings.sql`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP

_Places = NDArray[np.int64]
_STEP_US = STEP // STEP.resolution
_BY_SEVERITY = pl.Enum(["ok", "local", "fault", "offline"])
_OFFLINE = 3
_MEANS = ("power_kw", "available_power_kw")
_LAST_TOLD = ("energy_kwh", "temperature_c", "plugged_in")
# Null says something here (none in force, nothing owed), unless nobody was there to say it.
_LAST_WORD = ("setpoint_kw", "target_energy_kwh", "deadline")


def quarter_hours(readings: pl.DataFrame) -> pl.DataFrame:
    """Return one row a device and quarter-hour of readings by device, `measured_at`, `known_at`.

    Powers are time-weighted: a reading counts until the next one or the quarter-hour's end. Of
    energy, temperature and plug the last that was told counts; of set-point, target and deadline
    the last word, null or not, of a device that was not offline; of `status` the worst; what
    `readings` does not hold of these is left out. Of several readings of one instant the last
    row is the correction; `readings` counts the others.
    """
    device, at = pl.col("device_id"), pl.col("measured_at")
    same_instant = (device == device.shift(-1)) & (at == at.shift(-1))
    corrected = readings.select(same_instant.fill_null(value=False)).to_series()
    told = readings.filter(~corrected) if corrected.any() else readings
    at_us = told["measured_at"].to_physical().to_numpy()
    quarter = at_us // _STEP_US
    begins = _beginnings(told, quarter)
    first = np.flatnonzero(begins)
    until_us = (quarter + 1) * _STEP_US
    until_us[:-1] = np.where(begins[1:], until_us[:-1], at_us[1:])
    weight = (until_us - at_us).astype(np.float64)
    severity = told["status"].cast(_BY_SEVERITY).to_physical().to_numpy().astype(np.int64)
    present = severity < _OFFLINE
    columns = {
        "device_id": told["device_id"].filter(pl.Series(begins)),
        "interval_start": pl.Series(quarter[first] * _STEP_US).cast(told.schema["measured_at"]),
    }
    for name in told.columns:
        values = told[name]
        if name in _MEANS:
            columns[name] = _mean(values, weight, first)
        elif name in _LAST_TOLD:
            columns[name] = _last(values, values.is_not_null().to_numpy(), first)
        elif name in _LAST_WORD:
            columns[name] = _last(values, present, first)
    columns["status"] = _BY_SEVERITY.categories.gather(_over(np.maximum, severity, first))
    columns["readings"] = pl.Series(np.diff(first, append=len(at_us)))
    return pl.DataFrame(columns)


def _beginnings(told: pl.DataFrame, quarter: _Places) -> NDArray[np.bool_]:
    begins = np.ones(len(quarter), np.bool_)
    device = pl.col("device_id")
    changed = told.select((device != device.shift()).fill_null(value=True)).to_series().to_numpy()
    begins[1:] = (quarter[1:] != quarter[:-1]) | changed[1:]
    return begins


def _mean(values: pl.Series, weight: NDArray[np.float64], first: _Places) -> pl.Series:
    counts = np.where(values.is_not_null().to_numpy(), weight, 0.0)
    weighted = values.fill_null(0.0).to_numpy() * counts
    total = _over(np.add, counts, first)
    mean = np.divide(
        _over(np.add, weighted, first), total, out=np.full(len(first), np.nan), where=total > 0
    )
    return pl.Series(mean).fill_nan(None)


def _last(values: pl.Series, counts: NDArray[np.bool_], first: _Places) -> pl.Series:
    place = _over(np.maximum, np.where(counts, np.arange(len(counts)), -1), first)
    found = values.gather(np.maximum(place, 0))
    return found.set(pl.Series(place < 0), None)


def _over(how: np.ufunc, values: NDArray[Any], first: _Places) -> NDArray[Any]:
    # most devices tell each quarter-hour once: a value by itself is what it comes to
    return how.reduceat(values, first) if len(first) < len(values) else values
