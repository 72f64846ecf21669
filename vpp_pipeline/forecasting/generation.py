"""What sun and wind will give, if nobody curtails it.

Belongs here: forecasts of PV and wind per device. Does not: the sun's path (`clear_sky`),
curtailment (`optimization`), fetching weather (`markets`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.clear_sky import clear_sky
from vpp_pipeline.forecasting.rows import (
    QUANTILES,
    as_forecasts,
    asked,
    ended_by,
    measured,
    quantiles,
)
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.forecasting.schemas import Forecasts

_PLANTS_AT_ONCE = 100
"""The sky over weeks of quarter-hours takes some thirty numbers each: a fleet's, gigabytes. Columns
of so many plants are small enough for the allocator to keep from one piece to the next."""
_ENOUGH = 8
_LOW_SUN_W_PER_M2 = 50.0
"""Below this a ratio to the clear sky is noise."""
_SUN_MEMORY_H = 3.0
_WIND_MEMORY_H = 20.0  # the recorded wind's autocorrelation falls to 1/e in 19 to 21 h
_RECENT_H = 1.0
_SUN_SHARES = {"p10": 0.15, "p50": 0.6, "p90": 0.9}
_WIND_SHARES = {"p10": 0.02, "p50": 0.2, "p90": 0.6}
"""What a plant without a history is taken to give: of its clear-sky output, of its rating."""
_HOUR = pl.duration(hours=1)


def generation_forecast(
    devices: pl.DataFrame,
    history: pl.DataFrame,
    weather: pl.DataFrame,
    intervals: pl.Series,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast every PV plant and wind turbine over `intervals`: kW in [0, rating], uncurtailed.

    `devices` is the fleet's frame; `history` holds `device_id`, `interval_start`, `power_kw` and,
    where the plant tells it, `available_power_kw`, which goes first because curtailed output
    says nothing of the sun; `weather` has the columns of `markets.schemas.Weather`, or no rows.

    PV: the plant's recent ratio to the clear sky in its plane, hour by hour, whose quantiles
    over four weeks are the quantiles (`clear-sky`); where irradiance is known or forecast the
    ratio is to the sky under those clouds (`clear-sky-weather`). The last hour's ratio fades out
    over some three hours. Near sunrise and sunset the recent output at that time answers
    (`same-hour`). Wind: the last hour's output fades over some six hours into the quantiles of
    the hour of day (`persistence`). Without a history: `nameplate`, shares of the rating.
    """
    uncurtailed = (
        pl.coalesce("available_power_kw", "power_kw")
        if "available_power_kw" in history.columns
        else pl.col("power_kw")
    )
    told = history.select(
        "device_id", "interval_start", "^known_at$", power_kw=uncurtailed.clip(lower_bound=0.0)
    )
    known = measured(ended_by(told, known_at), pl.col("power_kw"), "device_id")
    plants = devices.select(
        pl.col("device_id").alias("subject_id"),
        "device_type",
        "site_id",
        "latitude",
        "longitude",
        pl.col("tilt_deg").fill_null(30.0),
        pl.col("azimuth_deg").fill_null(180.0),
        pl.col("max_inject_kw").alias("rated_kw"),
    ).sort("subject_id")
    pv = plants.filter(pl.col("device_type") == "pv")
    wind = plants.filter(pl.col("device_type") == "wind")
    irradiance = _irradiance(weather.filter(pl.col("known_at") <= known_at))
    return pl.concat(  # type: ignore[return-value]
        [
            as_forecasts(
                pl.concat(
                    side_by_side(
                        lambda some: _pv(some, known, irradiance, intervals),
                        pv.iter_slices(_PLANTS_AT_ONCE) if pv.height else [pv],
                    )
                ),
                "pv",
                known_at,
            ),
            as_forecasts(_wind(wind, known, intervals), "wind", known_at),
        ]
    )


def _irradiance(weather: pl.DataFrame) -> pl.DataFrame:
    latest = weather.filter(pl.col("ghi_w_per_m2").is_finite()).sort("known_at")
    observed = pl.col("ghi_w_per_m2").filter(pl.col("kind") == "observed").last()
    return latest.group_by("site_id", "interval_start").agg(
        pl.coalesce(observed, pl.col("ghi_w_per_m2").last()).alias("ghi_w_per_m2")
    )


def _pv(
    plants: pl.DataFrame, known: pl.DataFrame, irradiance: pl.DataFrame, intervals: pl.Series
) -> pl.DataFrame:
    past = _under_sky(_near(known, plants).join(plants, on="subject_id"), irradiance)
    ahead = _under_sky(
        asked(plants["subject_id"], intervals).join(plants, on="subject_id"), irradiance
    )
    sunlit = past.filter(pl.col("poa_clear_w_per_m2") > _LOW_SUN_W_PER_M2)
    for sky in ("clear_kw", "cloudy_kw"):
        ratios = sunlit.select(
            "subject_id", "interval_start", (pl.col("value") / pl.col(sky)).alias("value")
        ).drop_nulls()
        usual = _hourly(ahead.select("subject_id", "interval_start"), ratios)
        scaled = _fade(usual, ratios, _SUN_MEMORY_H)
        ahead = ahead.join(scaled, on=["subject_id", "interval_start"]).with_columns(
            [(pl.col(name) * pl.col(sky)).alias(f"{name}_{sky}") for name in QUANTILES]
        )
        ahead = ahead.drop(list(QUANTILES))
    slot = pl.col("interval_start").dt.time().alias("slot")
    same_hour = past.group_by("subject_id", slot).agg(quantiles("value"))
    low_sun = pl.col("poa_clear_w_per_m2") <= _LOW_SUN_W_PER_M2
    answers = ahead.with_columns(slot).join(same_hour, on=["subject_id", "slot"], how="left")
    nameplate = pl.coalesce("cloudy_kw", "clear_kw")
    return answers.select(
        "subject_id",
        "interval_start",
        *(
            pl.coalesce(
                pl.when(low_sun).then(name),
                pl.when(~low_sun).then(f"{name}_cloudy_kw"),
                pl.when(~low_sun).then(f"{name}_clear_kw"),
                share * nameplate,
            )
            .clip(0.0, pl.col("rated_kw"))
            .alias(name)
            for name, share in _SUN_SHARES.items()
        ),
        pl.when(low_sun & pl.col("p50").is_not_null())
        .then(pl.lit("same-hour"))
        .when(~low_sun & pl.col("p50_cloudy_kw").is_not_null())
        .then(pl.lit("clear-sky-weather"))
        .when(~low_sun & pl.col("p50_clear_kw").is_not_null())
        .then(pl.lit("clear-sky"))
        .otherwise(pl.lit("nameplate"))
        .alias("model"),
    )


def _near(known: pl.DataFrame, plants: pl.DataFrame) -> pl.DataFrame:
    """Return the rows from the first of `plants` to the last; both are by `subject_id`."""
    if plants.is_empty():
        return known.clear()
    first, last = plants["subject_id"][0], plants["subject_id"][-1]
    start = known["subject_id"].search_sorted(first, side="left")
    return known.slice(start, known["subject_id"].search_sorted(last, side="right") - start)


def _under_sky(rows: pl.DataFrame, irradiance: pl.DataFrame) -> pl.DataFrame:
    """Add `clear_kw`, the rating under a clear sky, and `cloudy_kw`, null without irradiance."""
    clearness = (pl.col("ghi_w_per_m2") / pl.col("ghi_clear_w_per_m2")).clip(0.02, 1.2)
    return (
        clear_sky(rows)
        .join(irradiance, on=["site_id", "interval_start"], how="left")
        .with_columns(
            (pl.col("rated_kw") * pl.col("poa_clear_w_per_m2") / 1000.0).alias("clear_kw")
        )
        .with_columns(
            pl.when(pl.col("ghi_clear_w_per_m2") > 0)
            .then(pl.col("clear_kw") * clearness)
            .alias("cloudy_kw")
        )
    )


def _wind(plants: pl.DataFrame, known: pl.DataFrame, intervals: pl.Series) -> pl.DataFrame:
    past = known.join(plants, on="subject_id", how="semi")
    usual = _hourly(asked(plants["subject_id"], intervals), past)
    return (
        _fade(usual, past, _WIND_MEMORY_H)
        .join(plants, on="subject_id")
        .select(
            "subject_id",
            "interval_start",
            *(
                pl.coalesce(name, share * pl.col("rated_kw"))
                .clip(0.0, pl.col("rated_kw"))
                .alias(name)
                for name, share in _WIND_SHARES.items()
            ),
            pl.when(pl.col("p50").is_not_null())
            .then(pl.lit("persistence"))
            .otherwise(pl.lit("nameplate"))
            .alias("model"),
        )
    )


def _hourly(rows: pl.DataFrame, past: pl.DataFrame) -> pl.DataFrame:
    """Add the past's quantiles at the same UTC hour, else overall, else null."""
    hour = pl.col("interval_start").dt.hour().alias("hour")
    enough = pl.col("rows") >= _ENOUGH
    hourly = past.group_by("subject_id", hour).agg(*quantiles("value"), pl.len().alias("rows"))
    overall = past.group_by("subject_id").agg(*quantiles("value"), pl.len().alias("rows"))
    return (
        rows.with_columns(hour)
        .join(hourly.filter(enough).drop("rows"), on=["subject_id", "hour"], how="left")
        .join(overall.filter(enough).drop("rows"), on="subject_id", how="left", suffix="_overall")
        .select(
            "subject_id",
            "interval_start",
            *(pl.coalesce(name, f"{name}_overall").alias(name) for name in QUANTILES),
        )
    )


def _fade(usual: pl.DataFrame, past: pl.DataFrame, memory_h: float) -> pl.DataFrame:
    """Carry each subject's last departure from the usual on, as a first-order autoregression.

    With correlation w = exp(-lead / memory) the middle moves by w times the departure and the
    spread narrows by sqrt(1 - w²).
    """
    newest = pl.col("interval_start").max().over("subject_id")
    last_hour = past.filter(pl.col("interval_start") > newest - _RECENT_H * _HOUR)
    last = (
        _hourly(last_hour, past)
        .join(last_hour, on=["subject_id", "interval_start"])
        .group_by("subject_id")
        .agg(
            (pl.col("value") - pl.col("p50")).mean().alias("departure"),
            pl.col("interval_start").max().alias("newest"),
        )
    )
    lead_h = ((pl.col("interval_start") - pl.col("newest")) / _HOUR).clip(lower_bound=0.0)
    weight = (-lead_h / memory_h).exp()
    middle = pl.col("p50") + weight * pl.col("departure")
    narrowing = (1.0 - weight**2).sqrt()
    return (
        usual.join(last, on="subject_id", how="left")
        .with_columns(
            [
                (middle + (pl.col(name) - pl.col("p50")) * narrowing).alias(name)
                for name in QUANTILES
            ]
        )
        .drop("departure", "newest")
    )
