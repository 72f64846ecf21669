"""Rules on powers: what no device gives, and what this one does not do.

Belongs here: frozen, spiked, turned and shifted powers. Does not: what stores hold
(`store_rules`), repair.

All stand on one signal's readings by `device` and `measured_at`, one an instant, with `value`
(kW), `setpoint_kw`, `kind`, `max_inject_kw`, `max_draw_kw`, `longitude`; `size` is what they
make of it: the share of the rating, positive in the direction the device has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vpp_pipeline.telemetry_quality.settings import QualitySettings

_size, _at = pl.col("size"), pl.col("measured_at")
_SAME_DEVICE = pl.col("device") == pl.col("device").shift()
_VARIES = pl.col("kind").is_in(["pv", "wind", "load"])
_HOURS_PER_DEGREE = 1 / 15
_WHOLE_DAY_H = 20
_HOUR_S = 3600
_HOUR_US = 3_600_000_000
_DAY_H = 24
_HELD_SHARE = 0.02
_USUAL = 0.95
_NORMAL_MAD = 1.4826  # of a normal distribution: standard deviation over median deviation


def sized(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `size`, the share of the rating; null where the registry has no rating."""
    inject, draw = pl.col("max_inject_kw"), pl.col("max_draw_kw")
    signed = pl.when(inject > 0).then(pl.col("value") / inject).otherwise(-pl.col("value") / draw)
    return readings.with_columns(size=pl.when(pl.max_horizontal(inject, draw) > 0).then(signed))


def still(readings: pl.DataFrame, settings: QualitySettings) -> pl.Series:
    """Tell which powers stood at one value for hours, from the first reading of the run."""
    first = _begin_of_runs(readings, _size)
    count = np.diff(first, append=readings.height)
    at_us = readings["measured_at"].to_physical().to_numpy()
    lasted_us = at_us[first + count - 1] - at_us[first]
    long = (lasted_us >= settings.frozen_after // settings.frozen_after.resolution) & (
        count >= settings.frozen_readings
    )
    return pl.Series(np.repeat(long, count))


def frozen(settings: QualitySettings) -> pl.Expr:
    """Sun, wind and people vary: a power that stands still for hours (`still`) is an old one.

    Not frozen: at standby, at the nameplate, or at a set-point that holds it.
    """
    rating = pl.max_horizontal("max_inject_kw", "max_draw_kw")
    held = (pl.col("value") - pl.col("setpoint_kw")).abs() <= _HELD_SHARE * rating
    between = _size.abs().is_between(
        settings.standby_share, settings.at_rating_share, closed="none"
    )
    return pl.col("still") & _VARIES & between & ~held.fill_null(value=False)


def idle_by_day(days: pl.DataFrame, hours: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    """Return `row` of PV at standby, still for hours that are bright on most of its days.

    A sensor that froze at night. An exact zero may be an outage or snow, and is believed. `days`
    are `on_solar_day`, `hours` what those of them that may be believed make (`by_hour`).
    """
    bright_hours = (
        hours.filter(pl.col("kind") == "pv")
        .group_by("device", "hour")
        .agg(bright=(pl.col("most") > settings.bright_share).mean(), days=pl.len())
        .filter(pl.col("bright") >= settings.night_majority, pl.col("days") >= settings.shift_days)
    )
    return (
        days.filter(
            pl.col("kind") == "pv",
            pl.col("still") & (_size != 0.0) & (_size.abs() <= settings.standby_share),
        )
        .join(bright_hours, on=["device", "hour"], how="semi")
        .filter(
            pl.col("hour").n_unique().over("device", "day")
            >= settings.frozen_after.total_seconds() / _HOUR_S
        )
        .select("row")
    )


def spike(settings: QualitySettings) -> pl.Expr:
    """More than the nameplate allows, or alone far above what the device is used to.

    `usual` is the device's 95th percentile of its size (`with_usual`).
    """
    from_before = pl.when(_SAME_DEVICE).then(_size - _size.shift())
    same_after = pl.col("device") == pl.col("device").shift(-1)
    from_after = pl.when(same_after).then(_size - _size.shift(-1))
    alone = pl.min_horizontal(from_before.abs(), from_after.abs())
    same_side = (from_before * from_after > 0).fill_null(value=True)
    far = alone > settings.spike_of_usual * pl.max_horizontal("usual", settings.standby_share)
    return (_size.abs() > settings.beyond_rating_share) | (_VARIES & same_side & far)


def with_usual(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `usual`, the 95th percentile of the device's `size`, whatever its sign."""
    usual = readings.group_by("device").agg(usual=_size.abs().quantile(_USUAL))
    return readings.join(usual, on="device", how="left", maintain_order="left")


def sign_flip(settings: QualitySettings) -> pl.Expr:
    """Generation of what only draws, or consumption of what only injects."""
    one_way = pl.min_horizontal("max_inject_kw", "max_draw_kw") == 0
    return one_way & (_size < -settings.wrong_sign_share)


def shifted(hours: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    """Return (device, day) of solar days whose level or time is shifted.

    PV: bright in hours that are dark on most of the device's days. PV and loads: a least size of
    the day that is off the device's usual one by more than the days' own spread (median absolute
    deviation). `hours` are `by_hour` of readings that neither a spike nor a turned sign spoils.
    """
    enough = pl.col("day").n_unique().over("device") >= settings.shift_days
    of_sun = hours.filter(pl.col("kind") == "pv").drop_nulls("brightest")
    dark = (pl.col("brightest") <= settings.dark_share).mean().over("device", "hour")
    by_night = (
        of_sun.filter(enough & (dark >= settings.night_majority))
        .group_by("device", "day")
        .agg(pl.col("bright").sum())
        .filter(pl.col("bright") >= settings.bright_readings)
    )
    floors = (
        hours.group_by("device", "day")
        .agg(floor=pl.col("least").min(), hours=pl.len())
        .filter(pl.col("hours") >= _WHOLE_DAY_H)
    )
    off = pl.col("off")
    by_floor = floors.with_columns(
        off=(pl.col("floor") - pl.col("floor").median().over("device")).abs()
    ).filter(
        enough,
        off > settings.floor_share,
        off > settings.floor_of_usual * _NORMAL_MAD * off.median().over("device"),
    )
    return pl.concat([by_night.select("device", "day"), by_floor.select("device", "day")]).unique()


def on_solar_day(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `day` and `hour` by mean solar time, which no change of clocks moves."""
    ahead_us = (pl.col("longitude") * _HOURS_PER_DEGREE * _HOUR_US).cast(pl.Int64)
    hour = pl.col("hour")
    # the hours since 1970: numbers are told apart several times as fast as a calendar's dates
    return readings.with_columns(hour=(_at.to_physical() + ahead_us) // _HOUR_US).with_columns(
        day=(hour // _DAY_H).cast(pl.Int32), hour=(hour % _DAY_H).cast(pl.Int8)
    )


def by_hour(days: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    """Return one row a device and solar hour of `days` (`on_solar_day`) that hold any.

    `least` and `most` size; `brightest` and how many are `bright` of those that tell of the sun:
    above standby, what stands `still` tells nothing of its time.
    """
    first = _begin_of_runs(days, pl.col("hour"))
    size = days["size"].to_numpy()
    of_sun = np.where(days["still"].to_numpy() & (size > settings.standby_share), np.nan, size)
    return days.select("device", "kind", "day", "hour")[first].with_columns(
        least=pl.Series(np.fmin.reduceat(size, first)).fill_nan(None),
        most=pl.Series(np.fmax.reduceat(size, first)).fill_nan(None),
        brightest=pl.Series(np.fmax.reduceat(of_sun, first)).fill_nan(None),
        bright=pl.Series(np.add.reduceat(of_sun > settings.bright_share, first, dtype=np.int64)),
    )


def _begin_of_runs(readings: pl.DataFrame, value: pl.Expr) -> NDArray[np.int64]:
    """Return the places where another device, or another value of it, begins."""
    begins = readings.select((~_SAME_DEVICE | (value != value.shift())).fill_null(value=True))
    return np.flatnonzero(begins.to_series().to_numpy())
