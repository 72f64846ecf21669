"""Weather forecasts from Open-Meteo, `GET /v1/forecast`, or a service that answers as it does.

Belongs here: asking for them and reading the answer. Does not: what is made of them
(`forecasting`), storing them.

The answer has an object a place, in the order of the question, or the object alone for one place:
`hourly` with `time` (Unix seconds), `temperature_2m` at that time and `shortwave_radiation`, the
mean of the hour before it (https://open-meteo.com/en/docs).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.markets.feeds import FeedError
from vpp_pipeline.markets.schemas import Weather
from vpp_pipeline.markets.web import LATER, ask, json_of

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy
    import requests

_NAME = "open_meteo"
_DECIMALS = 1
"""Of a degree: sites some 10 km apart share a forecast, whose own grid is hardly finer."""
_PLACES_AT_ONCE = 100
_DAYS = 3
_HOUR = timedelta(hours=1)
_QUARTERS = _HOUR // STEP
_UNITS = {"time": "unixtime", "temperature_2m": "°C", "shortwave_radiation": "W/m²"}
_SOUND = {"temperature_2m": (-60.0, 60.0), "shortwave_radiation": (0.0, 1600.0)}


def fetch_weather(
    session: requests.Session,
    url: str,
    sites: pl.DataFrame,
    known_at: datetime,
    timeout_s: float = 20.0,
) -> dy.DataFrame[Weather]:
    """Return what is foretold of `sites` (`site_id`, `latitude`, `longitude`) from `known_at` on.

    The rows are quarter-hours of today and the two days after it: irradiance that of their hour,
    temperature between those of the hours beside. The session is kept from following redirects
    and from taking proxies or credentials out of the environment; `timeout_s` limits connecting
    and each wait for data. Raises `FeedError` if there is no usable answer.
    """
    cell = pl.col("latitude", "longitude").round(_DECIMALS)
    placed = sites.select("site_id", cell)
    cells = placed.select("latitude", "longitude").unique().sort("latitude", "longitude")
    told = pl.concat(
        _told(session, url, some, timeout_s) for some in cells.iter_slices(_PLACES_AT_ONCE)
    )
    share = (pl.col("quarter") + 0.5) / _QUARTERS
    rows = (
        placed.join(_by_hour(told), on=["latitude", "longitude"])
        .join(pl.DataFrame({"quarter": range(_QUARTERS)}), how="cross")
        .select(
            "site_id",
            interval_start=pl.col("hour") + pl.col("quarter") * pl.lit(STEP),
            temperature_c=pl.col("begins_c") + share * (pl.col("ends_c") - pl.col("begins_c")),
            ghi_w_per_m2="ghi_w_per_m2",
            kind=pl.lit("forecast"),
            source=pl.lit(_NAME),
            known_at=pl.lit(known_at, pl.Datetime("us", "UTC")),
        )
        .filter(pl.col("interval_start") >= known_at)
    )
    return Weather.validate(rows.sort("site_id", "interval_start"), cast=True)


def _by_hour(told: pl.DataFrame) -> pl.DataFrame:
    """Return each place's hours: the temperature as one begins and ends, irradiance within."""
    place = ["latitude", "longitude"]
    temperature = pl.col("temperature_2m")
    return (
        told.sort(*place, "time")
        .select(
            *place,
            hour=pl.from_epoch("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC") - _HOUR,
            follows=pl.col("time").diff().over(place) == _HOUR.total_seconds(),
            begins_c=temperature.shift().over(place),
            ends_c=temperature,
            ghi_w_per_m2="shortwave_radiation",
        )
        .filter("follows")
        .drop_nulls(["begins_c", "ends_c"])
    )


def _told(
    session: requests.Session, url: str, cells: pl.DataFrame, timeout_s: float
) -> pl.DataFrame:
    """Return what the service tells of some places: a row a place and hour."""
    asked: dict[str, str | int] = {
        **{name: ",".join(map(str, cells[name])) for name in ("latitude", "longitude")},
        "hourly": ",".join(_SOUND),
        "forecast_days": _DAYS,
        "timeformat": "unixtime",
        "timezone": "GMT",
    }
    response = ask(session, url, asked, timeout_s, url, lambda _: LATER)
    remedy = "check that the address is an Open-Meteo forecast API; its format may have changed"
    answer = json_of(response, url, remedy)
    places = answer if isinstance(answer, list) else [answer]
    if len(places) != cells.height:
        raise FeedError(url, f"told of {len(places)} places, asked of {cells.height}", remedy)
    try:
        return pl.concat(
            _of_place(place, latitude, longitude)
            for place, (latitude, longitude) in zip(places, cells.iter_rows(), strict=True)
        )
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise FeedError(url, f"answered in another form ({error})", remedy) from error


def _of_place(place: dict[str, Any], latitude: float, longitude: float) -> pl.DataFrame:
    """Return a place's hours; raises where a list, a unit or a value is not what it should be."""
    for name, unit in _UNITS.items():
        if place["hourly_units"][name] != unit:
            raise ValueError(f"{name} in {place['hourly_units'][name]!r}, not in {unit}")
    hours = pl.DataFrame(
        {name: place["hourly"][name] for name in _UNITS},
        {name: pl.Int64 if name == "time" else pl.Float64 for name in _UNITS},
    )
    for name, (least, most) in _SOUND.items():
        wrong = hours.filter(~pl.col(name).is_between(least, most))
        if wrong.height:
            raise ValueError(f"{name} {wrong[name][0]} at {latitude}, {longitude}")
    return hours.with_columns(latitude=pl.lit(latitude), longitude=pl.lit(longitude))
