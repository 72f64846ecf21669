"""What a device is counted on for that does not deliver what it is asked.

Belongs here: from delivery scores to narrower powers. Does not: the scores (`dispatch.delivery`),
devices that are out of service (`states`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vpp_pipeline.flexibility.schemas import Deratings

if TYPE_CHECKING:
    import dataframely as dy

Floats = NDArray[np.float64]

TRUSTED_FROM = 0.9
"""A device that delivers this share is counted on for all of its power."""

LEAST_SHARE = 0.1
"""No less than this is counted on, so that a device is asked again and may earn its way back."""

_DIRECTIONS = ("up", "down")


def deratings(scores: pl.DataFrame) -> dy.DataFrame[Deratings]:
    """Return the devices that are not counted on for all of their power, and why.

    `scores` has `device_id`, `direction`, `score` (null: unknown), `intervals`, `delivered_kwh` and
    `asked_kwh`. The share that is counted on is the score, at least `LEAST_SHARE`, and 1 from
    `TRUSTED_FROM` on, or where the score is unknown. Whoever delivers all of the less that it is
    asked for thus raises its score, and with it what it is asked for; and no score outlives the
    quarter-hours it was made of.
    """
    by_direction = scores.with_columns(
        share=pl.when(pl.col("score") < TRUSTED_FROM)
        .then(pl.max_horizontal("score", pl.lit(LEAST_SHARE)))
        .otherwise(1.0)
    ).filter(pl.col("share") < 1)
    told = pl.format(
        "{}: delivers {} % of what it is asked for, {} of {} kWh in {} quarter-hours",
        "direction",
        (pl.col("score") * 100).round().cast(pl.Int64),
        pl.col("delivered_kwh").round(2),
        pl.col("asked_kwh").round(2),
        "intervals",
    )
    shares = {
        f"{name}_share": pl.col("share").filter(pl.col("direction") == name).first().fill_null(1.0)
        for name in _DIRECTIONS
    }
    return Deratings.validate(
        by_direction.sort("device_id", "direction")
        .group_by("device_id", maintain_order=True)
        .agg(**shares, why=told.str.join("; ")),
        cast=True,
    )


def narrowed(
    devices: pl.DataFrame,
    min_kw: Floats,
    max_kw: Floats,
    expected_kw: Floats,
    derating: pl.DataFrame | None,
) -> tuple[Floats, Floats, pl.Series]:
    """Return least and most power (T, N) as far as they are counted on, and why, a row a device.

    Both move towards what the device does by itself, by their distance from it: curtailment is a
    matter of delivery as charging is, the sun is not. Bounds never cross, and never fall below
    the smallest power that the device can run at: it could not be asked at all.
    """
    if derating is None:
        return min_kw, max_kw, pl.repeat(None, devices.height, dtype=pl.String, eager=True)
    of_devices = devices.select("device_id", "min_active_kw").join(
        derating, on="device_id", how="left", validate="1:1", maintain_order="left"
    )
    up, down = (of_devices[f"{name}_share"].fill_null(1.0).to_numpy() for name in _DIRECTIONS)
    least_kw = of_devices["min_active_kw"].to_numpy()
    most = expected_kw + np.maximum(up * (max_kw - expected_kw), least_kw)
    most = np.where(up < 1, np.clip(most, min_kw, max_kw), max_kw)
    least = expected_kw - np.maximum(down * (expected_kw - min_kw), least_kw)
    least = np.where(down < 1, np.clip(least, min_kw, most), min_kw)
    return least, most, of_devices["why"]
