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
from pvlib import atmosphere, clearsky, irradiance, solarposition

from vpp_pipeline.delivery_day import STEP

_LINKE_TURBIDITY = 3.0
_ALBEDO = 0.2
_NIGHT_ZENITH_DEG = 89.5


def clear_sky(planes: pl.DataFrame) -> pl.DataFrame:
    """Add `ghi_clear_w_per_m2` and `poa_clear_w_per_m2` (in the plane) at each interval's middle.

    `planes` holds `interval_start`, `latitude`, `longitude`, `tilt_deg`, `azimuth_deg`.
    """
    middle = pl.col("interval_start") + STEP / 2
    at = planes.select(
        "latitude",
        "longitude",
        "tilt_deg",
        "azimuth_deg",
        day=middle.dt.ordinal_day().cast(pl.Float64),
        hour=(middle - middle.dt.truncate("1d")).dt.total_seconds() / 3600.0,
    ).to_dict()
    day, hour, latitude, tilt, facing = (
        at[name].to_numpy() for name in ("day", "hour", "latitude", "tilt_deg", "azimuth_deg")
    )
    minutes = solarposition.equation_of_time_spencer71(day)
    hour_angle = 15.0 * (hour - 12.0) + at["longitude"].to_numpy() + minutes / 4.0
    hour_angle = (hour_angle + 180.0) % 360.0 - 180.0
    declination = solarposition.declination_spencer71(day)
    sun = np.radians(latitude), np.radians(hour_angle), declination
    zenith_rad = solarposition.solar_zenith_analytical(*sun)
    azimuth = np.degrees(solarposition.solar_azimuth_analytical(*sun, zenith_rad))
    zenith = np.degrees(zenith_rad)
    up = zenith < _NIGHT_ZENITH_DEG

    air_mass = atmosphere.get_relative_airmass(np.where(up, zenith, _NIGHT_ZENITH_DEG))
    sky = clearsky.ineichen(np.where(up, zenith, _NIGHT_ZENITH_DEG), air_mass, _LINKE_TURBIDITY)
    plane = irradiance.get_total_irradiance(
        tilt, facing, zenith, azimuth, sky["dni"], sky["ghi"], sky["dhi"], albedo=_ALBEDO
    )
    return planes.with_columns(
        pl.Series("ghi_clear_w_per_m2", np.where(up, sky["ghi"], 0.0)),
        pl.Series("poa_clear_w_per_m2", np.where(up, plane["poa_global"], 0.0)),
    )
