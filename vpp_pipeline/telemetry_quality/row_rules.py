"""Rules on when a reading was measured and when it came.

Belongs here: gaps, doubles, order, clocks and the change of the clocks; each rule is an
expression, true where it is broken. Does not: what a reading says (`value_rules`).

All stand on readings by `device`, `measured_at`, `known_at`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from vpp_pipeline.telemetry_quality.settings import QualitySettings

_AROUND_CHANGE = timedelta(minutes=90)
_at = pl.col("measured_at")
_SAME_DEVICE = pl.col("device") == pl.col("device").shift()


def gap(settings: QualitySettings) -> pl.Expr:
    """The device said nothing for longer than it may, until this reading."""
    return _SAME_DEVICE & (_at - _at.shift() > settings.gap_after)


def duplicate() -> pl.Expr:
    """The instant was told before: this reading corrects or repeats another."""
    return _SAME_DEVICE & (_at == _at.shift())


def clock_future(settings: QualitySettings) -> pl.Expr:
    """Measured after it was known: the device's clock runs ahead."""
    return _at > pl.col("known_at") + settings.clock_ahead


def arrival_rules(ordered: pl.DataFrame) -> pl.DataFrame:
    """Return (row, rule) of readings that came after one that was measured later.

    A heartbeat that went on meanwhile tells a clock that was set back (`clock_back`); else the
    reading was only late (`out_of_order`). Readings of one arrival have no order.
    """
    told = ordered.select("row", "device", "measured_at", "known_at", "heartbeat")
    overtook = _SAME_DEVICE & (pl.col("known_at") < pl.col("known_at").shift())
    if told.select(overtook.any()).item():
        arrivals = told.sort("device", "known_at", "measured_at", "heartbeat")
    else:
        arrivals = told.clear()
    before = pl.col("measured_at").cum_max().shift().over("device")
    beats = pl.col("heartbeat").cum_max().shift().over("device")
    return (
        arrivals.with_columns(newest=before, beats=beats)
        .filter(pl.col("measured_at") < pl.col("newest"))
        .filter(pl.col("known_at") > pl.col("known_at").min().over("device"))
        .select(
            "row",
            rule=pl.when(pl.col("heartbeat") > pl.col("beats"))
            .then(pl.lit("clock_back"))
            .otherwise(pl.lit("out_of_order")),
        )
    )


def clock_change_rules(suspects: pl.DataFrame) -> pl.DataFrame:
    """Return (row, rule) of gaps and doubles that the change of the clocks made.

    `suspects` has row, timezone, measured_at and rule. Around the instant at which the device's
    timezone changes its offset, a double is the repeated hour (`dst_double`) and a gap the hour
    left out (`dst_missing`).
    """
    changed = [
        rows.filter(
            _offset(_at - _AROUND_CHANGE, str(timezone))
            != _offset(_at + _AROUND_CHANGE, str(timezone))
        )
        for (timezone,), rows in suspects.drop_nulls("timezone").group_by("timezone")
    ]
    return pl.concat([suspects.clear(), *changed]).select(
        "row",
        rule=pl.when(pl.col("rule") == "gap")
        .then(pl.lit("dst_missing"))
        .otherwise(pl.lit("dst_double")),
    )


def _offset(at: pl.Expr, timezone: str) -> pl.Expr:
    local = at.dt.convert_time_zone(timezone)
    return local.dt.base_utc_offset() + local.dt.dst_offset()
