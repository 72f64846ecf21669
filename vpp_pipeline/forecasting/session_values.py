"""Sessions as numbers: when the nth of a day comes, when one leaves, and what it asks for.

Belongs here: expected and past sessions as values that can be held against each other. Does not:
making either (`sessions`, `stays`), the measures (`skill`), where a vehicle is expected by the
quarter-hour (`presence`).

A charger's nth arrival of a day is held against the nth that was expected, and so is its nth
departure. Departures count on the day they fall on, so that when it is over all of them are known.
The nth of a day stands at the nth quarter-hour of it.
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.presence import EXPECTED_FROM
from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.forecasting.stays import asked_kwh

TARGETS = ("session_arrival", "session_departure", "session_energy")
"""Hours after midnight of arrivals and of departures; kWh asked for by those that arrive."""
_ARRIVAL, _DEPARTURE, _ENERGY = TARGETS
_HOUR = pl.duration(hours=1)


def expected(sessions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Return what is told of sessions as likely as not: `Forecasts` of `TARGETS`, no `model`.

    `sessions` are `SessionForecasts` of one moment; hours are of the day that the median falls on.
    """
    planned_for = sessions.filter(pl.col("probability") >= EXPECTED_FROM)
    coming = _nth(planned_for, "arrival_p50", timezone)
    leaving = _nth(planned_for, "departure_p50", timezone)
    return pl.concat(
        [
            _row(coming, _ARRIVAL, {q: _hours(f"arrival_{q}") for q in QUANTILES}, "known_at"),
            _row(leaving, _DEPARTURE, {q: _hours(f"departure_{q}") for q in QUANTILES}, "known_at"),
            _row(coming, _ENERGY, {q: pl.col(f"energy_{q}_kwh") for q in QUANTILES}, "known_at"),
        ]
    )


def happened(sessions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Return what came of `past_sessions`: `target`, `subject_id`, `interval_start`, `value`.

    A vehicle that is still there has not left, and one that did not say what it needs has asked
    for nothing that could be told (null).
    """
    coming = _nth(sessions, "arrival", timezone)
    leaving = _nth(sessions.filter(~pl.col("ongoing")), "departure", timezone)
    return pl.concat(
        [
            _row(coming, _ARRIVAL, {"value": _hours("arrival")}),
            _row(leaving, _DEPARTURE, {"value": _hours("departure")}),
            _row(coming, _ENERGY, {"value": asked_kwh()}),
        ]
    )


def _row(nth: pl.DataFrame, target: str, values: dict[str, pl.Expr], *others: str) -> pl.DataFrame:
    return nth.select(
        "interval_start", *others, target=pl.lit(target), subject_id="device_id", **values
    )


def _hours(moment: str) -> pl.Expr:
    return (pl.col(moment) - pl.col("midnight")) / _HOUR


def _nth(sessions: pl.DataFrame, moment: str, timezone: str) -> pl.DataFrame:
    """Return the sessions with `midnight` before a moment of theirs, and where their number stands."""
    local = pl.col(moment).dt.convert_time_zone(timezone)
    return (
        sessions.sort("device_id", moment)
        .with_columns(midnight=local.dt.truncate("1d").dt.convert_time_zone("UTC"))
        .with_columns(
            interval_start=pl.col("midnight")
            + STEP * pl.int_range(pl.len()).over("device_id", "midnight")
        )
    )
