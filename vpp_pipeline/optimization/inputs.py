"""What must be true of a plan's inputs before anything is solved.

Belongs here: finding stale, missing, non-finite or misaligned inputs, in words. Does not:
deciding what then happens (the blocking check), shaping the problem (`build`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBLEMS = {
    "subject": pl.String,
    "field": pl.String,
    "value": pl.String,
    "problem": pl.String,
    "remedy": pl.String,
}
# Below this share of devices with a usable reading, a plan would be guesswork.
_LEAST_USABLE_SHARE = 0.5
_PRICES_STALE_AFTER = timedelta(days=8)


def problems(
    devices: pl.DataFrame,
    envelopes: pl.DataFrame,
    prices: pl.DataFrame,
    intervals: pl.Series,
    *,
    newest_price_known_at: datetime | None,
    as_of: datetime,
) -> pl.DataFrame:
    """Return what is wrong, one row each; empty when a plan may be made.

    `envelopes`: `Envelopes`; `prices`: (interval_start, price_eur_per_mwh); `intervals`: the
    horizon's quarter-hours. Returns (subject, field, value, problem, remedy), all strings.
    """
    return pl.concat(
        [
            _non_finite(envelopes, "device_id", "materialise flexibility_envelopes again"),
            _non_finite(
                prices.with_columns(subject=pl.lit("market")),
                "subject",
                "materialise day_ahead_prices and price_forecast again",
            ),
            _misaligned(devices, envelopes, intervals),
            _misaligned_prices(prices, intervals),
            _stale(envelopes, newest_price_known_at, as_of),
        ]
    )


def _non_finite(frame: pl.DataFrame, subject: str, remedy: str) -> pl.DataFrame:
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    return (
        frame.filter(pl.any_horizontal(~pl.col(name).is_finite() for name in floats))
        .select(pl.col(subject).alias("subject"), "interval_start", *floats)
        .unpivot(floats, index=["subject", "interval_start"], variable_name="field")
        .filter(pl.col("value").is_nan() | pl.col("value").is_infinite())
        .select(
            "subject",
            "field",
            pl.format("{} at {}", "value", "interval_start").alias("value"),
            problem=pl.lit("is not a finite number"),
            remedy=pl.lit(remedy),
        )
    )


def _misaligned(
    devices: pl.DataFrame, envelopes: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    keys = ["device_id", "interval_start"]
    ids = devices.select("device_id").with_row_index("place")
    wanted = intervals.alias("interval_start").to_frame().with_row_index("step")
    placed = (
        envelopes.select(keys)
        .join(ids, on="device_id", how="left")
        .join(wanted, on="interval_start", how="left")
    )
    inside = placed.drop_nulls(["place", "step"])
    cell = inside["place"].to_numpy().astype(np.int64) * wanted.height + inside["step"].to_numpy()
    times = np.bincount(cell, minlength=ids.height * wanted.height)

    def cells(found: NDArray[np.bool_], side: str) -> pl.DataFrame:
        place, step = np.divmod(np.flatnonzero(found), max(1, wanted.height))
        return pl.DataFrame(
            {
                "device_id": ids["device_id"].gather(place),
                "interval_start": wanted["interval_start"].gather(step),
                "side": pl.repeat(side, len(place), dtype=pl.String, eager=True),
            }
        )

    extra = placed.filter(pl.col("place").is_null() | pl.col("step").is_null())
    return _told(
        pl.concat(
            [
                cells(times == 0, "missing"),
                extra.select(*keys, side=pl.lit("not in the horizon")),
                cells(times > 1, "there twice"),
            ]
        ).rename({"device_id": "subject"}),
        "materialise the forecasts and flexibility_envelopes of this delivery day again",
    )


def _misaligned_prices(prices: pl.DataFrame, intervals: pl.Series) -> pl.DataFrame:
    wanted = intervals.alias("interval_start").to_frame()
    known = prices.filter(pl.col("price_eur_per_mwh").is_not_null())
    absent = wanted.join(known, on="interval_start", how="anti")
    doubled = prices.group_by("interval_start").len().filter(pl.col("len") > 1)
    return _told(
        pl.concat(
            [
                absent.select(
                    "interval_start", subject=pl.lit("market"), side=pl.lit("without a price")
                ),
                doubled.select(
                    "interval_start", subject=pl.lit("market"), side=pl.lit("there twice")
                ),
            ]
        ),
        "materialise day_ahead_prices and price_forecast of this delivery day",
    )


def _told(rows: pl.DataFrame, remedy: str) -> pl.DataFrame:
    return rows.select(
        "subject",
        field=pl.lit("interval_start"),
        value=pl.col("interval_start").cast(pl.String),
        problem=pl.format("quarter-hour is {}", "side"),
        remedy=pl.lit(remedy),
    )


def _stale(
    envelopes: pl.DataFrame, newest_price_known_at: datetime | None, as_of: datetime
) -> pl.DataFrame:
    rows = []
    usable = envelopes.group_by("device_id").agg(pl.col("available").any())["available"]
    share = usable.sum() / max(1, usable.len())
    if share < _LEAST_USABLE_SHARE:
        rows.append(
            (
                "telemetry",
                "available",
                f"{share:.0%} of the devices",
                f"fewer than {_LEAST_USABLE_SHARE:.0%} of the devices have a fresh reading",
                "see that the collector runs and the devices answer, then plan again",
            )
        )
    if newest_price_known_at is None or newest_price_known_at < as_of - _PRICES_STALE_AFTER:
        rows.append(
            (
                "market",
                "known_at",
                str(newest_price_known_at),
                f"the newest price is older than {_PRICES_STALE_AFTER.days} days",
                "see that the price feed answers, or drop a price file",
            )
        )
    return pl.DataFrame(rows, schema=PROBLEMS, orient="row")
