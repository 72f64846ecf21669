"""The frames that come from outside: prices, what moves them, and weather.

Belongs here: what a price, a market forecast and a weather row are. Does not: where they come from (the feeds).
"""

from __future__ import annotations

from typing import Any

import dataframely as dy

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class Prices(dy.Schema):
    """One row a market, quarter-hour and the moment it became known (bitemporal).

    An hourly auction price stands on each of its four quarter-hours.
    """

    market = dy.String(primary_key=True, description="e.g. DE-LU")
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    price_eur_per_mwh = dy.Float64(min=-5000, max=20000)
    resolution_minutes = dy.Int64(check=lambda c: c.is_in([15, 30, 60]))
    source = dy.String()
    known_at = dy.Datetime(primary_key=True, **_UTC)


class MarketForecasts(dy.Schema):
    """One row a market, quarter-hour and the moment it became known: what moves its price.

    The system operators' forecasts, means over the quarter-hour, in MW: load, and what wind and
    sun will give of it.
    """

    market = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    load_mw = dy.Float64(min=0, max=1e6)
    renewables_mw = dy.Float64(min=0, max=1e6)
    resolution_minutes = dy.Int64(check=lambda c: c.is_in([15, 30, 60]))
    source = dy.String()
    known_at = dy.Datetime(primary_key=True, **_UTC)


class Weather(dy.Schema):
    """One row a site, quarter-hour and the moment it became known."""

    site_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    temperature_c = dy.Float64(min=-60, max=60)
    ghi_w_per_m2 = dy.Float64(min=0, max=1600, nullable=True)
    kind = dy.Enum(["observed", "forecast"])
    source = dy.String()
    known_at = dy.Datetime(primary_key=True, **_UTC)
