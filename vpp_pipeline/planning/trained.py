"""The models that learn once a day: what had happened by midnight, learnt for the day that follows.

Belongs here: which rows a model learns from, and not learning the same ones twice. Does not: any
model (`forecasting`), reading the rows (`candidates`).

A model is a function of its rows and nothing else: kept by their content, it is the same whether
it was kept or learnt anew, now or by a replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting import load_model, pv_model, stay_model
from vpp_pipeline.settings import MARKET_TZ

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.forecasting.global_model import GlobalModel
    from vpp_pipeline.forecasting.stay_model import StayModel

_LEARNT = timedelta(days=27)
"""A whole day less than what is read, so that a day's issues all learn from the same rows."""


@dataclass(frozen=True)
class _Rows:
    """Frames that are equal by their content."""

    content: tuple[int, ...]
    frames: tuple[pl.DataFrame, ...] = field(compare=False, repr=False)

    @classmethod
    def of(cls, *frames: pl.DataFrame) -> _Rows:
        return cls(tuple(int(frame.hash_rows().sum()) for frame in frames), frames)


def load_model_at(history: pl.DataFrame, as_of: datetime) -> GlobalModel | None:
    """Return what the loads of `history` (`load_model`) had taught by midnight before `as_of`."""
    midnight = _midnight(as_of)
    told = history.select("device_id", "interval_start", "power_kw")
    return _loads(_Rows.of(_until(told, midnight)), midnight)


def pv_model_at(
    devices: pl.DataFrame, history: pl.DataFrame, weather: pl.DataFrame, as_of: datetime
) -> GlobalModel | None:
    """Return what the plants of `history` (`pv_model`) had taught by midnight before `as_of`."""
    midnight = _midnight(as_of)
    plants = devices.select(
        pl.col("device_id", "site_id", "latitude", "longitude", "tilt_deg", "azimuth_deg"),
        pl.col("device_type").cast(pl.String),
        "max_inject_kw",
    )
    told = history.select(
        "device_id", "interval_start", "power_kw", "available_power_kw", "setpoint_kw"
    )
    foretold = _until(weather, midnight).filter(pl.col("known_at") <= midnight)
    return _plants(_Rows.of(plants, _until(told, midnight), foretold), midnight)


def stay_model_at(ended: pl.DataFrame, as_of: datetime) -> StayModel | None:
    """Return what the `ended` stays (`stay_model.train`) had taught by midnight before `as_of`."""
    return _stays(_Rows.of(ended.filter(pl.col("departure") <= _midnight(as_of))))


@lru_cache(maxsize=2)
def _loads(rows: _Rows, midnight: datetime) -> GlobalModel | None:
    (history,) = rows.frames
    return load_model.train(history, MARKET_TZ, midnight)


@lru_cache(maxsize=2)
def _plants(rows: _Rows, midnight: datetime) -> GlobalModel | None:
    devices, history, weather = rows.frames
    return pv_model.train(devices, history, weather, MARKET_TZ, midnight)


@lru_cache(maxsize=2)
def _stays(rows: _Rows) -> StayModel | None:
    (ended,) = rows.frames
    return stay_model.train(ended, MARKET_TZ)


def _midnight(as_of: datetime) -> datetime:
    return market_day.bounds(market_day.delivery_day_of(as_of, MARKET_TZ), MARKET_TZ)[0]


def _until(rows: pl.DataFrame, midnight: datetime) -> pl.DataFrame:
    return rows.filter(
        pl.col("interval_start").is_between(midnight - _LEARNT, midnight, closed="left")
    )
