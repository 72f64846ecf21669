"""What stands in for a doubted value; the reading itself is kept as it came.

Belongs here: readings → readings that may be believed, and the flags that tell what was done.
Does not: the rules (`flags`).

A turned sign is turned back (`negated`). A spike, bridged by believed readings of one device on
both sides over at most `interpolate_steps` readings, becomes the line between them
(`interpolated`). What is `shifted` is told and `kept`. All else is null (`withheld`): the models
take gaps, and a device without a content is left out of the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.telemetry_quality.flags import DOUBTS_TIME, READING, SIGNALS, broken_rules
from vpp_pipeline.telemetry_quality.schemas import ROW_RULES, TOLD_ONLY, TelemetryFlags

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.telemetry_quality.settings import QualitySettings

_DOUBT = "doubt"


def trusted(
    readings: pl.DataFrame, devices: pl.DataFrame, settings: QualitySettings
) -> pl.DataFrame:
    """Return the same rows in the same order, doubted values repaired or null, and `doubt`.

    `doubt` tells which values are not as they came and why (`energy_kwh frozen`), or is null.
    `readings` and `devices` are as for `flags.broken_rules`.
    """
    return _with_repairs(readings, _repairs(readings, devices, settings))


def telemetry_flags(
    readings: pl.DataFrame, devices: pl.DataFrame, settings: QualitySettings, known_at: datetime
) -> dy.DataFrame[TelemetryFlags]:
    """Return every rule that a reading breaks, with the raw value and what stands in for it.

    `readings` has all columns of `Telemetry`.
    """
    found = broken_rules(readings, devices, settings)
    repairs = _repairs_of(found, readings, settings)
    flagged_rows = readings.with_row_index("row").join(found, on="row", how="semi")
    raw = flagged_rows.select("row", *SIGNALS).unpivot(
        index="row", variable_name="signal", value_name="raw_value"
    )
    rows = flagged_rows.select("row", "device_id", "measured_at", reading_known_at="known_at")
    flagged = (
        found.join(rows, on="row")
        .join(repairs, on=["row", "signal"], how="left")
        .join(raw, on=["row", "signal"], how="left")
        .with_columns(
            repair=pl.when(pl.col("rule").is_in(DOUBTS_TIME))
            .then(pl.lit("withheld"))
            .otherwise(pl.col("repair").fill_null("kept")),
            known_at=pl.lit(known_at),
        )
        # the same reading, landed twice, is one reading
        .sort("row")
        .unique(
            ["device_id", "measured_at", "reading_known_at", "signal", "rule"],
            keep="last",
            maintain_order=True,
        )
        .sort("device_id", "measured_at", "reading_known_at", "signal", "rule")
    )
    return TelemetryFlags.validate(flagged.select(TelemetryFlags.column_names()), cast=True)


def _repairs(
    readings: pl.DataFrame, devices: pl.DataFrame, settings: QualitySettings
) -> pl.DataFrame:
    return _repairs_of(broken_rules(readings, devices, settings), readings, settings)


def _repairs_of(
    found: pl.DataFrame, readings: pl.DataFrame, settings: QualitySettings
) -> pl.DataFrame:
    """Return row, signal, rules, repair and `repaired_value` of every value that is doubted."""
    signals = [name for name in SIGNALS if name in readings.columns]
    rules = pl.col("rule").sort().str.join(", ")
    off_clock = found.filter(pl.col("rule").is_in(DOUBTS_TIME))
    doubted = (
        pl.concat(
            [
                found.filter(~pl.col("rule").is_in([*ROW_RULES, *TOLD_ONLY])),
                *(off_clock.with_columns(signal=pl.lit(signal)) for signal in signals),
            ]
        )
        .filter(pl.col("signal") != READING)
        .group_by("row", "signal")
        .agg(rules=rules)
        .sort("row", "signal")
    )
    return pl.concat(
        [
            doubted.with_columns(
                repair=pl.lit(None, pl.String), repaired_value=pl.lit(None, pl.Float64)
            ).clear(),
            *(
                _repaired(doubted.filter(pl.col("signal") == signal), readings, signal, settings)
                for signal in signals
            ),
        ]
    )


def _repaired(
    doubted: pl.DataFrame, readings: pl.DataFrame, signal: str, settings: QualitySettings
) -> pl.DataFrame:
    if doubted.is_empty():
        return doubted.with_columns(
            repair=pl.lit(None, pl.String), repaired_value=pl.lit(None, pl.Float64)
        )
    touched = readings.gather(doubted["row"]).select(pl.col("device_id").unique())
    series = (
        readings.with_row_index("row")
        .select("row", "device_id", "measured_at", raw=signal)
        .join(touched, on="device_id", how="semi")
        .join(doubted.select("row", "rules"), on="row", how="left")
        .sort("device_id", "measured_at", "row")
        .with_columns(sound=pl.when(pl.col("rules").is_null()).then(pl.col("raw").fill_nan(None)))
        .filter(pl.col("raw").is_not_null() | pl.col("rules").is_not_null())
        .with_columns(
            line=pl.col("sound").interpolate_by("measured_at").over("device_id"),
            bridged=pl.len().over("device_id", pl.col("sound").is_not_null().rle_id()),
        )
    )
    line = pl.when(
        (pl.col("rules") == "spike") & (pl.col("bridged") <= settings.interpolate_steps)
    ).then("line")
    turned = pl.when(pl.col("rules") == "sign_flip").then(-pl.col("raw"))
    return series.drop_nulls("rules").select(
        "row",
        signal=pl.lit(signal),
        rules="rules",
        repair=pl.when(turned.is_not_null())
        .then(pl.lit("negated"))
        .when(line.is_not_null())
        .then(pl.lit("interpolated"))
        .otherwise(pl.lit("withheld")),
        repaired_value=pl.coalesce(turned, line),
    )


def _with_repairs(readings: pl.DataFrame, repairs: pl.DataFrame) -> pl.DataFrame:
    doubts = (
        repairs.filter(pl.col("repair") == "withheld")
        .sort("row", "signal")
        .group_by("row", maintain_order=True)
        .agg(pl.format("{} {}", "signal", "rules").str.join("; ").alias(_DOUBT))
    )
    told = readings.with_columns(pl.lit(None, pl.String).alias(_DOUBT))
    changes = {signal: rows for (signal,), rows in repairs.group_by("signal")}
    return told.with_columns(
        told[_DOUBT].scatter(doubts["row"], doubts[_DOUBT]),
        *(
            told[str(signal)].scatter(rows["row"], rows["repaired_value"])
            for signal, rows in changes.items()
        ),
    )
