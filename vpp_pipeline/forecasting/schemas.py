"""The frames that forecasting makes.

Belongs here: what a forecast is and its quantiles' rule. Does not: how it is made.
"""

from __future__ import annotations

from typing import Any

import dataframely as dy
import polars as pl

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class Forecasts(dy.Schema):
    """One row a target, subject, quarter-hour and the moment it was made.

    Targets: `load`, `pv`, `wind` (signed kW of device `subject_id`: a load is negative),
    `site_load`, `group_load` (the loads of a site or a group together; a plan reads the devices
    alone), `temperature` (outdoor °C, subject a site), `price` (EUR/MWh, subject a market).
    """

    target = dy.Enum(
        ["load", "site_load", "group_load", "pv", "wind", "temperature", "price"], primary_key=True
    )
    subject_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    p10 = dy.Float64()
    p50 = dy.Float64()
    p90 = dy.Float64()
    model = dy.String(description="which model, or which fallback, answered")
    known_at = dy.Datetime(primary_key=True, **_UTC)

    @dy.rule()
    def quantiles_ascend(cls) -> pl.Expr:  # noqa: N805
        """p10 <= p50 <= p90."""
        return (pl.col("p10") <= pl.col("p50")) & (pl.col("p50") <= pl.col("p90"))


class SessionForecasts(dy.Schema):
    """One row an expected EV session; `probability` that it happens at all.

    `energy_*` is what the vehicle will ask to be charged (kWh in the vehicle). A row of probability
    0 is no session: it says from when to when the charger was forecast.
    """

    device_id = dy.String(primary_key=True)
    arrival_p10 = dy.Datetime(**_UTC)
    arrival_p50 = dy.Datetime(primary_key=True, **_UTC)
    arrival_p90 = dy.Datetime(**_UTC)
    departure_p10 = dy.Datetime(**_UTC)
    departure_p50 = dy.Datetime(**_UTC)
    departure_p90 = dy.Datetime(**_UTC)
    energy_p10_kwh = dy.Float64(min=0)
    energy_p50_kwh = dy.Float64(min=0)
    energy_p90_kwh = dy.Float64(min=0)
    probability = dy.Float64(min=0, max=1)
    model = dy.String()
    known_at = dy.Datetime(primary_key=True, **_UTC)


class ForecastErrors(dy.Schema):
    """One row a target, subject and delivery day: how wrong the forecast was."""

    target = dy.String(primary_key=True)
    subject_id = dy.String(primary_key=True)
    delivery_day = dy.Date(primary_key=True)
    model = dy.String(primary_key=True)
    known_at = dy.Datetime(primary_key=True, description="when the forecast was made", **_UTC)
    intervals = dy.Int64(min=1)
    mae = dy.Float64(min=0)
    bias = dy.Float64()
    pinball = dy.Float64(min=0)
    coverage_p10_p90 = dy.Float64(min=0, max=1)


class ChallengerForecasts(Forecasts):
    """What a candidate that no plan stands on would have said: `Forecasts`, and whose."""

    forecaster = dy.String(primary_key=True)


class ChallengerSessions(SessionForecasts):
    """What a candidate that no plan stands on would have said: `SessionForecasts`, and whose."""

    forecaster = dy.String(primary_key=True)


class ForecastSkill(dy.Schema):
    """One row a delivery day, target and candidate: how good its forecast was.

    Targets: `load`, `site_load`, `group_load`, `generation` (PV and wind), `temperature`, `price`,
    `sessions` (whether a vehicle is there, 1 or 0, so that few values lie beyond p10 and p90),
    `session_arrival` and `session_departure` (hours after midnight), `session_energy` (kWh asked
    for). A session is an interval of the last three.
    """

    delivery_day = dy.Date(primary_key=True)
    target = dy.String(primary_key=True)
    forecaster = dy.String(primary_key=True)
    champion = dy.Bool(description="the plan stood on it")
    subjects = dy.Int64(min=1)
    intervals = dy.Int64(min=1)
    mae = dy.Float64(min=0)
    rmae = dy.Float64(
        min=0, nullable=True, description="of the naive rule's; null: the rule has no answer"
    )
    pinball = dy.Float64(min=0)
    coverage_p10_p90 = dy.Float64(min=0, max=1)
    euros_lost = dy.Float64(
        nullable=True, description="null: it left a quarter-hour out, or is not planned on"
    )
    forecast_known_at = dy.Datetime(**_UTC)
    known_at = dy.Datetime(primary_key=True, **_UTC)
