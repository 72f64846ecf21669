"""What the loads of a site or a group draw together: a series of its own beside theirs.

Belongs here: which loads make up a sum, its past, and telling its forecasts from theirs. Does not:
the models, which forecast a sum as they do any other load.

The p10 of a sum is not the sum of p10s, for its loads err in different directions. So a sum is
learnt and issued beside its loads, which teach each other. Loads are not moved to add up to it: on
recorded homes that errs more, and their bands then hold seven tenths instead of eight
(docs/benchmarks/site_forecasts.md). A sum of one load is that load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.schemas import Forecasts

if TYPE_CHECKING:
    import dataframely as dy

TARGETS = ("site_load", "group_load")
"""The targets of `Forecasts` that are sums of loads: of sites, of groups."""
_LEAST_TOLD = 0.8
"""Of a sum's rated draw; a quarter-hour of which less was told has no sum."""
_MARK = "~"
"""Before target and name of a sum in a model's words: no identifier has it, and it sorts after all
of them, so that a history by device stays in order when the sums' is put behind it."""
_MILLIWATTS = 1e6
"""Whole numbers add up to the same whatever their order."""


def members(devices: pl.DataFrame) -> pl.DataFrame:
    """Return which loads of a fleet make up which sum: `sum_id`, `device_id`, `max_draw_kw`.

    `devices` is the fleet's frame (`DeviceFrame`). A site's loads are a sum, and so are a group's.
    """
    loads = devices.filter(pl.col("device_type").cast(pl.String) == "load")
    of_sites = loads.select("device_id", "max_draw_kw", named="site_id")
    of_groups = loads.explode("groups").drop_nulls("groups")
    by_target = zip(
        TARGETS,
        [of_sites, of_groups.select("device_id", "max_draw_kw", named="groups")],
        strict=True,
    )
    return pl.concat(
        rows.select(
            "device_id", "max_draw_kw", sum_id=pl.lit(f"{_MARK}{target}{_MARK}") + pl.col("named")
        )
        for target, rows in by_target
    ).sort("sum_id", "device_id")


def sums(history: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return the sums of `history` (`device_id`, `interval_start`, `power_kw`), in its columns.

    A quarter-hour that not all loads of a sum have told, or told no number of, is scaled up by the
    rated draw of those that have; where they are less than four fifths of it there is no sum.
    Powers are added to the milliwatt.
    """
    named = members.select("sum_id").unique().sort("sum_id").with_row_index("place")
    of_sums = members.join(named, on="sum_id").select(
        "place", "device_id", max_draw=_milliwatts("max_draw_kw")
    )
    rated = of_sums.group_by("place").agg(rated=pl.col("max_draw").sum()).join(named, on="place")
    told = pl.col("max_draw") / pl.col("rated")
    return (
        history.lazy()
        .filter(pl.col("power_kw").is_finite())
        .select("device_id", "interval_start", power=_milliwatts("power_kw"))
        .join(of_sums.lazy(), on="device_id")
        .group_by("place", "interval_start")
        .agg(pl.col("power", "max_draw").sum())
        .join(rated.lazy(), on="place")
        .filter(told >= _LEAST_TOLD)
        .sort("place", "interval_start")
        .select("interval_start", pl.col("power") / _MILLIWATTS / told, device_id="sum_id")
        .select("device_id", "interval_start", power_kw="power")
        .collect()
    )


def with_sums(
    loads: pl.DataFrame, history: pl.DataFrame, members: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return loads and history with the sums of two or more, as though each were a load.

    Loads come as `device_id`, `device_type`, `max_draw_kw`, what a forecast of them reads.
    """
    several = members.filter(pl.len().over("sum_id") > 1)
    as_loads = several.group_by("sum_id", maintain_order=True).agg(pl.col("max_draw_kw").sum())
    columns = ["device_id", "device_type", "max_draw_kw"]
    return (
        pl.concat(
            [
                loads.select(columns).cast({"device_type": pl.String}),
                as_loads.select(
                    "max_draw_kw", device_id="sum_id", device_type=pl.lit("load")
                ).select(columns),
            ]
        ),
        pl.concat(
            [history.select("device_id", "interval_start", "power_kw"), sums(history, several)]
        ),
    )


def told_apart(forecasts: pl.DataFrame, members: pl.DataFrame) -> dy.DataFrame[Forecasts]:
    """Return forecasts of loads `with_sums` with each sum under its own target and name.

    A sum of one load is given that load's forecast.
    """
    alone = members.filter(pl.len().over("sum_id") == 1).select("sum_id", subject_id="device_id")
    copied = forecasts.join(alone, on="subject_id").with_columns(subject_id="sum_id")
    said = pl.concat([forecasts, copied.select(forecasts.columns)])
    return Forecasts.validate(
        _named(said.with_columns(pl.col("target").cast(pl.String)))
        .select(Forecasts.column_names())
        .sort("target", "subject_id", "interval_start"),
        cast=True,
    )


def actuals_with_sums(actuals: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return what came of forecasts with what came of the sums.

    `actuals` holds `target`, `subject_id`, `interval_start`, `value`; of its loads the sums are
    made as those a model learns from.
    """
    of_loads = actuals.filter(pl.col("target") == "load").select(
        "interval_start", device_id="subject_id", power_kw="value"
    )
    of_sums = sums(of_loads, members).select(
        "interval_start", target=pl.lit("load"), subject_id="device_id", value="power_kw"
    )
    return pl.concat([actuals, _named(of_sums).select(actuals.columns)])


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the target and the name of a sum in place of its `sum_id`."""
    parts = pl.col("subject_id").str.split_exact(_MARK, 2).struct
    name = parts.field("field_2")
    return rows.with_columns(
        target=pl.when(name.is_null()).then("target").otherwise(parts.field("field_1")),
        subject_id=pl.coalesce(name, "subject_id"),
    )


def _milliwatts(power_kw: str) -> pl.Expr:
    return (pl.col(power_kw) * _MILLIWATTS).round().cast(pl.Int64)
