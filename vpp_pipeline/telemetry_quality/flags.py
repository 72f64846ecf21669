"""Judging readings: which rule each one breaks.

Belongs here: the order in which the rules are asked, and flags as frames. Does not: a rule
(`row_rules`, `power_rules`, `store_rules`), what stands in for a doubted value (`repair`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.telemetry_quality import power_rules, row_rules, store_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vpp_pipeline.telemetry_quality.settings import QualitySettings

SIGNALS = ("power_kw", "available_power_kw", "energy_kwh", "temperature_c")
READING = "reading"
DOUBTS_TIME = ("clock_future", "clock_back", "clock_behind")
"""Rules on a reading that leave none of its values in place."""

_CONTEXT: dict[str, pl.DataType | type[pl.DataType]] = {
    "setpoint_kw": pl.Float64,
    "plugged_in": pl.Boolean,
    "deadline": pl.Datetime("us", "UTC"),
    "heartbeat": pl.Int64,
    **dict.fromkeys(SIGNALS, pl.Float64),
}
_OF_DEVICE = ("longitude", "timezone", "max_inject_kw", "max_draw_kw", "energy_capacity_kwh")
_FOUND = {"row": pl.UInt32, "signal": pl.String, "rule": pl.String}


def broken_rules(
    readings: pl.DataFrame, devices: pl.DataFrame, settings: QualitySettings
) -> pl.DataFrame:
    """Return `row` (its place in `readings`), `signal` and `rule`, sorted, each once.

    `readings` has `device_id`, `measured_at` and any of the other columns of `Telemetry`, in
    any order of rows; `devices` is the fleet's frame. A reading of a device that is not in the
    fleet is judged by its times alone. Of several readings of an instant the last known one is
    judged by its values, of those known together the last row. Only what is in `readings` is judged
    against: a few hours of them show what stands still, a few days what is shifted.
    """
    ordered = _ordered(readings, devices)
    by_time = _by_time(ordered, settings)
    of_instant = (pl.col("device") == pl.col("device").shift(-1)) & (
        pl.col("measured_at") == pl.col("measured_at").shift(-1)
    )
    off_clock = by_time.filter(pl.col("rule").is_in(DOUBTS_TIME)).select("row")
    told = ordered.filter(~of_instant.fill_null(value=False)).join(
        off_clock, on="row", how="anti", maintain_order="left"
    )
    found = [
        by_time,
        *(_by_power(told, signal, settings) for signal in SIGNALS if signal.endswith("power_kw")),
        _by_content(told, settings),
    ]
    return pl.concat(found).unique().sort("row", "signal", "rule")


def _ordered(readings: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Return what the rules read, by device and time; `device` is a number, quick to compare."""
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in _CONTEXT.items()]
    numbered = devices.select("device_id", *_OF_DEVICE, kind="device_type").with_row_index("device")
    known_at = [] if "known_at" in readings.columns else [pl.col("measured_at").alias("known_at")]
    rows = (
        readings.with_columns(
            *(column for column in absent if column.meta.output_name() not in readings.columns),
            *known_at,
        )
        .select("device_id", "measured_at", "known_at", *_CONTEXT)
        .with_columns(pl.col(pl.Float64).fill_nan(None))
        .with_row_index("row")
        .join(numbered, on="device_id", how="left", maintain_order="left")
    )
    strangers = pl.col("device_id").rank("dense") + devices.height
    if rows["device"].null_count():
        rows = rows.with_columns(pl.coalesce("device", strangers))
    rows = rows.drop("device_id")
    key = ["device", "measured_at"]
    rises = (pl.col("device") > pl.col("device").shift()) | (
        (pl.col("device") == pl.col("device").shift())
        & (pl.col("measured_at") > pl.col("measured_at").shift())
    )
    if not rows.select(rises.all()).item():
        rows = rows.sort(*key, "known_at", maintain_order=True)
    return rows.with_columns(pl.col("device").set_sorted())  # its groups are runs, quick to find


def _by_time(ordered: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    rules = {
        "gap": row_rules.gap(settings),
        "duplicate": row_rules.duplicate(),
        "clock_future": row_rules.clock_future(settings),
    }
    held = _broken(ordered, rules)
    came = row_rules.arrivals(ordered)
    arrived = row_rules.arrival_rules(came)
    behind = row_rules.clock_behind(came, settings)
    suspects = pl.concat([held, arrived]).filter(pl.col("rule") != "clock_future")
    changed = row_rules.clock_change_rules(
        suspects.join(ordered.select("row", "timezone", "measured_at"), on="row")
    )
    return _found(pl.concat([held, arrived, behind, changed]), READING)


def _by_power(told: pl.DataFrame, signal: str, settings: QualitySettings) -> pl.DataFrame:
    readings = power_rules.sized(
        told.select(
            "row",
            "device",
            "measured_at",
            "kind",
            "longitude",
            "max_inject_kw",
            "max_draw_kw",
            setpoint_kw="setpoint_kw" if signal == "power_kw" else pl.lit(None, pl.Float64),
            value=signal,
        ).drop_nulls("value")
    )
    if readings.is_empty():
        return pl.DataFrame(schema=_FOUND)
    readings = power_rules.with_usual(readings).with_columns(
        still=power_rules.still(readings, settings)
    )
    rules = {
        "frozen": power_rules.frozen(settings),
        "spike": power_rules.spike(settings),
        "sign_flip": power_rules.sign_flip(settings),
    }
    judged = readings.with_columns(**rules)
    broken = _where_broken(judged, rules)
    days = power_rules.on_solar_day(
        judged.filter(pl.col("kind").is_in(["pv", "load"])).select(
            "row", "device", "measured_at", "kind", "longitude", "size", "still", *rules
        )
    )
    if days.is_empty():
        return _found(broken, signal)
    spoilt = (pl.col("spike") | pl.col("sign_flip")).fill_null(value=False)
    hours = power_rules.by_hour(days.filter(~spoilt), settings)
    shifted = days.join(power_rules.shifted(hours, settings), on=["device", "day"], how="semi")
    idle = power_rules.idle_by_day(days, hours, settings)
    return pl.concat(
        [
            _found(broken, signal),
            _found(shifted.with_columns(rule=pl.lit("shifted")), signal),
            _found(idle.with_columns(rule=pl.lit("frozen")), signal),
        ]
    )


def _by_content(told: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    is_room = pl.col("kind") == "heat_pump"
    stores = told.filter(
        pl.col("kind").is_in(["battery", "ev_charger", "flexible_load", "heat_pump"])
    )
    if stores.is_empty():
        return pl.DataFrame(schema=_FOUND)
    readings = store_rules.with_stays(
        stores.select(
            "row",
            "device",
            "measured_at",
            "kind",
            "power_kw",
            "plugged_in",
            "deadline",
            rating_kw=pl.max_horizontal("max_inject_kw", "max_draw_kw"),
            capacity=pl.when(~is_room).then("energy_capacity_kwh"),
            value=pl.when(is_room).then("temperature_c").otherwise("energy_kwh"),
        ).drop_nulls("value")
    )
    content = pl.concat(
        [
            readings.filter(store_rules.frozen(readings, settings)).select(
                "row", rule=pl.lit("frozen")
            ),
            store_rules.jumped(readings, settings),
        ]
    ).join(readings.select("row", "kind"), on="row")
    return pl.concat(
        [
            _found(content.filter(is_room), "temperature_c"),
            _found(content.filter(~is_room), "energy_kwh"),
            _found(_broken(readings, {"sign_flip": store_rules.sign_flip()}), "power_kw"),
        ]
    )


def _broken(readings: pl.DataFrame, rules: dict[str, pl.Expr]) -> pl.DataFrame:
    return _where_broken(readings.select("row", **rules), rules)


def _where_broken(judged: pl.DataFrame, rules: Iterable[str]) -> pl.DataFrame:
    return pl.concat(
        [judged.filter(pl.col(rule)).select("row", rule=pl.lit(rule)) for rule in rules]
    )


def _found(broken: pl.DataFrame, signal: str) -> pl.DataFrame:
    return broken.select("row", signal=pl.lit(signal), rule="rule")
