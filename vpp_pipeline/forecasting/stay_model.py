"""How long a vehicle that is plugged in will stay, and how much it will charge.

Belongs here: what is learned from a plant's past sessions, from the charger's history and from what
drivers say. Does not: sessions that have not begun (`sessions`), reading them out of telemetry
(`stays`), what a plan may make of it (`flexibility.episodes`).

Drivers say when they will leave and what they need, and are often wrong, but in their own way: who
says 60 kWh for an hour today said so last week. So besides the clock, the weekday and the words
themselves the model is told what came of the last sessions at this charger, and of the last ones
anywhere with the very same words, which is mostly the same driver. Gradient-boosted trees with
quantile loss answer; the outer quantiles come from the older sessions and are shifted by what
the newest quarter of them shows to lack (split conformal: Romano, Patterson and Candès,
"Conformalized quantile regression", NeurIPS 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vpp_pipeline.forecasting.rows import QUANTILES

if TYPE_CHECKING:
    from datetime import datetime

    from sklearn.ensemble import HistGradientBoostingRegressor

Floats = NDArray[np.float64]

LEAST_SESSIONS = 300
"""Fewer sessions teach nothing that drivers' own words don't."""
_MOST_SESSIONS = 5_000  # more take longer and are no better
_SHARE_TO_CALIBRATE = 0.25
_HALF_LIFE_SESSIONS = 6.0
_HOUR = pl.duration(hours=1)
_ALIKE = {"charger": ["device_id"], "words": ["stated_kwh", "stated_minutes"]}
_TOLD = ["hour", "weekday", "stated_h", "stated_kwh"]
_OF_ALIKE = ["stay_h", "charged_kwh", "later_h", "share", "count"]
_FEATURES = [*_TOLD, *(f"{of}_{what}" for of in _ALIKE for what in _OF_ALIKE)]
_TARGETS = ("stay_h", "charged_kwh")


@dataclass(frozen=True)
class StayModel:
    """What was learned from past sessions; made by `train`."""

    timezone: str
    trees: dict[tuple[str, str], HistGradientBoostingRegressor]
    """By target and quantile."""
    shifts: dict[tuple[str, str], float]
    """What calibration adds to it."""

    def quantiles(self, past: pl.DataFrame, begun: pl.DataFrame) -> pl.DataFrame:
        """Return `stay_h_*` and `charged_kwh_*` (p10, p50, p90) for each row of `begun`, in order.

        Both have the columns of `train`'s `past`; of `begun`, `departure` and `charged_kwh` are not
        read, and of `past` only what had ended when the session began.
        """
        features = _features(past, begun, self.timezone)

        def predicted(trees: HistGradientBoostingRegressor) -> Floats:
            # Trees refuse to be asked about nobody, as at night, when no vehicle is there.
            said: Floats = trees.predict(features) if begun.height else np.empty(0)
            return said

        with threadpool_limits(limits=1):
            said = {key: predicted(trees) + self.shifts[key] for key, trees in self.trees.items()}
        ordered = {
            f"{target}_{name}": np.maximum(values, 0.0)
            for target in _TARGETS
            for name, values in zip(
                QUANTILES, np.sort([said[target, q] for q in QUANTILES], axis=0), strict=True
            )
        }
        return pl.DataFrame(ordered, dict.fromkeys(ordered, pl.Float64))


def train(past: pl.DataFrame, timezone: str) -> StayModel | None:
    """Learn from sessions that have ended; None where there are fewer than `LEAST_SESSIONS`.

    `past` holds `device_id`, `arrival`, `departure`, `charged_kwh`, and what the driver said at the
    start: `stated_departure` and `stated_kwh` (nulls where nothing was said).
    """
    whole = past.drop_nulls(["departure", "charged_kwh"]).sort("departure", "arrival", "device_id")
    if whole.height < LEAST_SESSIONS:
        return None
    newest = whole.tail(_MOST_SESSIONS).sort("arrival", "device_id")
    features = _features(whole, newest, timezone)
    values = newest.select(_stay_h(), "charged_kwh").to_dict(as_series=False)
    older = round(newest.height * (1 - _SHARE_TO_CALIBRATE))
    trees, shifts = {}, {}
    with threadpool_limits(limits=1):
        for target in _TARGETS:
            happened = np.array(values[target])
            for name, q in QUANTILES.items():
                middle = name == "p50"
                learnt = slice(None) if middle else slice(older)
                fitted = _trees(q).fit(_learnable(features[learnt]), happened[learnt])
                trees[target, name] = fitted
                left = happened[older:] - fitted.predict(features[older:])
                shifts[target, name] = 0.0 if middle else float(np.quantile(left, q))
    return StayModel(timezone, trees, shifts)


def still_there(said: pl.DataFrame, known_at: datetime) -> pl.DataFrame:
    """Return `arrival` and `stay_h_*` with what the stay until now has ruled out left out.

    Between the quantiles, from none at arrival to 1.25 times the stretch above the median at the
    end, the chance that the vehicle has left is taken to grow evenly; it has not, so each
    quantile is that of what remains. A stay beyond all that ends soon.
    """
    arrival = said["arrival"]
    been_h = ((pl.lit(known_at) - pl.col("arrival")) / _HOUR).clip(lower_bound=0.0)
    been = said.select(been_h).to_series().to_numpy()
    p10, p50, p90 = (said[f"stay_h_{q}"].to_numpy() for q in QUANTILES)
    chances = np.array([0.0, *QUANTILES.values(), 1.0])
    knots = np.maximum.accumulate(np.stack([0 * p10, p10, p50, p90, p90 + (p90 - p50) / 4]), axis=0)
    gone = _between(been, knots, np.broadcast_to(chances[:, None], knots.shape))
    left = {
        f"stay_h_{name}": np.maximum(
            _between(gone + q * (1 - gone), np.broadcast_to(chances[:, None], knots.shape), knots),
            been,
        )
        for name, q in QUANTILES.items()
    }
    return pl.DataFrame({"arrival": arrival, **left})


def _between(at: Floats, x: Floats, y: Floats) -> Floats:
    """Interpolate column by column: `at` (n,), `x` and `y` (knots, n), `x` not descending."""
    found = np.array(y[0], dtype=np.float64)
    for low in range(len(x) - 1):
        width = x[low + 1] - x[low]
        part = np.clip((at - x[low]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        beyond = np.where(width > 0, part, at >= x[low + 1])
        found += beyond * (y[low + 1] - y[low])
    return found


def _trees(q: float) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import (  # noqa: PLC0415 - slow; a push does without
        HistGradientBoostingRegressor,
    )

    return HistGradientBoostingRegressor(
        loss="quantile",
        quantile=q,
        learning_rate=0.12,
        max_iter=60,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        early_stopping=False,
        random_state=0,
    )


def _learnable(features: Floats) -> Floats:
    """Return the features with zeros for those nothing is known of, which trees can't bin."""
    return np.where(np.isnan(features).all(axis=0), 0.0, features)


def _stay_h() -> pl.Expr:
    return ((pl.col("departure") - pl.col("arrival")) / _HOUR).alias("stay_h")


def _stated(sessions: pl.DataFrame) -> pl.DataFrame:
    stated_h = (pl.col("stated_departure") - pl.col("arrival")) / _HOUR
    return sessions.with_columns(stated_h=stated_h, stated_minutes=(stated_h * 60).round())


def _features(past: pl.DataFrame, begun: pl.DataFrame, timezone: str) -> Floats:
    """Return what is told of each session when it begins: (sessions, features), NaN unknown."""
    local = pl.col("arrival").dt.convert_time_zone(timezone)
    rows = _stated(begun).with_columns(
        hour=local.dt.hour() + local.dt.minute() / 60, weekday=local.dt.weekday()
    )
    rows = rows.with_row_index("row").sort("arrival", "row")
    ended = _stated(past).with_columns(_stay_h()).sort("departure", "arrival", "device_id")
    for of, alike in _ALIKE.items():
        rows = rows.join_asof(
            _so_far(ended, of, alike),
            left_on="arrival",
            right_on="departure",
            by=alike,
            check_sortedness=False,
        ).drop("departure_right", strict=False)
    features: Floats = (
        rows.sort("row").select(pl.col(_FEATURES).cast(pl.Float64)).fill_null(np.nan).to_numpy()
    )
    return features


def _so_far(ended: pl.DataFrame, of: str, alike: list[str]) -> pl.DataFrame:
    """Return what had come of the sessions that are alike when each of them ended."""
    values = {
        "stay_h": pl.col("stay_h"),
        "charged_kwh": pl.col("charged_kwh"),
        "later_h": pl.col("stay_h") - pl.col("stated_h"),
        "share": pl.when(pl.col("stated_kwh") > 0).then(
            pl.col("charged_kwh") / pl.col("stated_kwh")
        ),
    }
    means = [
        value.ewm_mean(half_life=_HALF_LIFE_SESSIONS, ignore_nulls=True)
        .over(alike)
        .alias(f"{of}_{name}")
        for name, value in values.items()
    ]
    count = pl.int_range(1, pl.len() + 1).over(alike).alias(f"{of}_count")
    return ended.drop_nulls(alike).select(*alike, "departure", *means, count)
