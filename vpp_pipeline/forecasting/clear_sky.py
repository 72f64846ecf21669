"""The sun's best: what a plane would get from a cloudless sky.

Belongs here: the sun's path and clear-sky irradiance, for many planes at once. Does not: clouds
and what a plant makes of its irradiance (`generation`).

Every formula is pvlib's and works element by element, so one call serves a fleet: Spencer's
declination and equation of time (within 0.2 degrees of the sun), Ineichen's clear sky at Linke
turbidity 3, an isotropic sky over the tilted plane.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP

_LINKE_TURBIDITY = 3.0
_ALBEDO = 0.2
_NIGHT_ZENITH_DEG = 89.5


def clear_sky(planes: pl.DataFrame) -> pl.DataFrame:
    """Add `ghi_clear_w_per_m2` and `poa_clear_w_per_m2` (in the plane) at each interval's middle.

    `planes` holds `interval_start`, `latitude`, `longitude`, `tilt_deg`, `azimuth_deg`.
    """
    from pvlib import (  # noqa: PLC0415 - slow; a push does without
        atmosphere,
        clearsky,
        irradiance,
        solarposition,
    )

    times = planes.select(interval_start=pl.col("interval_start").unique().sort())
    middle = pl.col("interval_start") + STEP / 2
    sun = times.select(
        day=middle.dt.ordinal_day().cast(pl.Float64),
        hour=(middle - middle.dt.truncate("1d")).dt.total_seconds() / 3600.0,
    )
    day, hour = sun["day"].to_numpy(), sun["hour"].to_numpy()
    minutes = solarposition.equation_of_time_spencer71(day)
    at = times["interval_start"].search_sorted(planes["interval_start"]).to_numpy()
    latitude, longitude, tilt, facing = (
        planes[name].to_numpy() for name in ("latitude", "longitude", "tilt_deg", "azimuth_deg")
    )
    hour_angle = (15.0 * (hour - 12.0) + minutes / 4.0)[at] + longitude
    hour_angle = np.radians((hour_angle + 180.0) % 360.0 - 180.0)
    declination = solarposition.declination_spencer71(day)[at]
    zenith_rad = solarposition.solar_zenith_analytical(
        np.radians(latitude), hour_angle, declination
    )
    up = np.flatnonzero(np.degrees(zenith_rad) < _NIGHT_ZENITH_DEG)
    azimuth = solarposition.solar_azimuth_analytical(
        np.radians(latitude[up]), hour_angle[up], declination[up], zenith_rad[up]
    )
    zenith = np.degrees(zenith_rad[up])
    sky = clearsky.ineichen(zenith, atmosphere.get_relative_airmass(zenith), _LINKE_TURBIDITY)
    plane = irradiance.get_total_irradiance(
        tilt[up],
        facing[up],
        zenith,
        np.degrees(azimuth),
        sky["dni"],
        sky["ghi"],
        sky["dhi"],
        albedo=_ALBEDO,
    )
    ghi, poa = np.zeros(len(at)), np.zeros(len(at))
    ghi[up], poa[up] = sky["ghi"], plane["poa_global"]
    return planes.with_columns(
        pl.Series("ghi_clear_w_per_m2", ghi), pl.Series("poa_clear_w_per_m2", poa)
    )
