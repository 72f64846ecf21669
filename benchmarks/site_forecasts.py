"""Load and PV of real homes forecast day by day and hour by hour, beside the seasonal naive rule.

Belongs here: the walk-forward runs over the five CityLearn homes and the NREL inverter, their
figures and their bars. Does not: the models (`vpp_pipeline.forecasting.load_model`, `pv_model`).

    python -m benchmarks.site_forecasts --days 60

Models learn once a week from all days before. Day-ahead forecasts are issued at noon for the next
day, hourly ones at every hour of which the next one is scored. The naive rule is the stronger one,
over the whole run, of the same hour on the newest day that is known by then and the same hour last
week. No weather forecast is used, unless a line says so: CityLearn's own, which are nearly
perfect, stand for a good weather service.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting import load_model, pv_model
from vpp_pipeline.forecasting.groups import group_history

if TYPE_CHECKING:
    from vpp_pipeline.forecasting.global_model import GlobalModel

_DATA = Path(__file__).parent / "data"
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_AGGREGATE = "all"
_FONTANA = {"latitude": 34.1, "longitude": -117.43}
_GOLDEN = {"latitude": 39.742, "longitude": -105.17}
_HOMES_BAR, _AGGREGATE_BAR = 0.90, 0.75
_COVERAGE = (0.75, 0.85)
_NO_WEATHER = pl.DataFrame(
    schema={
        "site_id": pl.String,
        "interval_start": pl.Datetime("us", "UTC"),
        "ghi_w_per_m2": pl.Float64,
        "kind": pl.String,
        "known_at": pl.Datetime("us", "UTC"),
    }
)


@dataclass(frozen=True)
class Run:
    """A recorded target: its frames, clock, step and the first day that is forecast."""

    name: str
    target: str
    devices: pl.DataFrame
    history: pl.DataFrame
    weather: pl.DataFrame
    timezone: str
    midnight: datetime
    step: timedelta
    first_day: int
    days: int


def main() -> int:
    """Run what is asked for and print its figures; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["load", "pv", "pv-weather", "inverter"])
    parser.add_argument("--days", type=int, help="forecast fewer days, the first ones")
    given = parser.parse_args()
    runs = [run for run in _runs() if given.only in {None, run.name}]
    kept = [_walk(run, min(given.days or run.days, run.days)) for run in runs]
    return 0 if all(kept) else 1


def _runs() -> list[Run]:
    homes = pl.read_parquet(_DATA / "citylearn2022_b1-5_days0-239_60min.parquet")
    context = pl.read_parquet(_DATA / "citylearn2022_context_days0-239_60min.parquet")
    first_hour = datetime(2016, 8, 1, 7, tzinfo=UTC)  # the file begins an hour before midnight
    at = (pl.lit(first_hour) + pl.duration(hours=pl.col("hour_index"))).dt.cast_time_unit("us")
    named = homes.select(
        "pv_kwh", "load_kwh", device_id=pl.format("home-{}", "building"), interval_start=at
    )
    load = named.select("device_id", "interval_start", power_kw=-pl.col("load_kwh"))
    pv = named.select("device_id", "interval_start", power_kw="pv_kwh")
    radiation = pl.col("direct_solar_radiation_w_per_m2") + pl.col(
        "diffuse_solar_radiation_w_per_m2"
    )
    foretold = context.select(
        site_id=pl.lit("site"),
        interval_start=at,
        ghi_w_per_m2=radiation.cast(pl.Float64),
        kind=pl.lit("forecast"),
        known_at=at - _DAY,
    )
    ratings = {f"home-{n}": 5.0 if n == 4 else 4.0 for n in range(1, 6)}
    homes_run = partial(
        Run,
        timezone="Etc/GMT+8",
        midnight=first_hour + _HOUR,
        step=_HOUR,
        first_day=60,
        days=178,
    )
    measured = pl.read_parquet(_DATA / "pv_nrel_serf_east_15min_2016.parquet")
    inverter = measured.select(
        device_id=pl.lit("east"),
        interval_start="ts_utc",
        power_kw=(pl.col("ac_power_raw") / 1000).clip(lower_bound=0.0),
    )
    plants = _devices("pv", {**ratings, _AGGREGATE: 21.0}, _FONTANA)
    return [
        homes_run(
            "load",
            "load",
            _devices("load", {**dict.fromkeys(ratings, 20.0), _AGGREGATE: 100.0}, _FONTANA),
            _with_aggregate(load),
            _NO_WEATHER,
        ),
        homes_run("pv", "pv", plants, _with_aggregate(pv), _NO_WEATHER),
        homes_run("pv-weather", "pv", plants, _with_aggregate(pv), foretold),
        Run(
            "inverter",
            "pv",
            _devices("pv", {"east": 6.0}, _GOLDEN),
            inverter,
            _NO_WEATHER,
            timezone="Etc/GMT+7",
            midnight=datetime(2016, 7, 1, 7, tzinfo=UTC),
            step=timedelta(minutes=15),
            first_day=28,
            days=75,
        ),
    ]


def _devices(kind: str, ratings: dict[str, float], place: dict[str, float]) -> pl.DataFrame:
    """Return what the models read of a fleet; no plant's plane is known."""
    rated = pl.Series(list(ratings.values()))
    return pl.DataFrame({"device_id": list(ratings)}).with_columns(
        site_id=pl.lit("site"),
        device_type=pl.lit(kind),
        max_inject_kw=rated,
        max_draw_kw=rated,
        tilt_deg=pl.lit(None, pl.Float64),
        azimuth_deg=pl.lit(None, pl.Float64),
        **{name: pl.lit(value) for name, value in place.items()},
    )


def _with_aggregate(history: pl.DataFrame) -> pl.DataFrame:
    members = history.select("device_id").unique().with_columns(group_id=pl.lit(_AGGREGATE))
    return pl.concat([history, group_history(history, members)])


def _walk(run: Run, days: int) -> bool:
    """Forecast every day at noon before and every hour before it; print, and tell if bars hold."""
    started = time.process_time()
    told: list[pl.DataFrame] = []
    model: GlobalModel | None = None
    for day in range(run.first_day, run.first_day + days):
        midnight = run.midnight + day * _DAY
        if model is None or (day - run.first_day) % _WEEK.days == 0:
            model = _train(run, midnight)
        noon = midnight + 12 * _HOUR
        told.append(
            _issue(run, model, noon, midnight + _DAY, _DAY).with_columns(how=pl.lit("day-ahead"))
        )
        told += [
            _issue(run, model, midnight + n * _HOUR, midnight + n * _HOUR, _HOUR).with_columns(
                how=pl.lit("hourly")
            )
            for n in range(24)
        ]
    seconds = time.process_time() - started
    _assert_blind(run, model, run.midnight + (run.first_day + days - 1) * _DAY + 12 * _HOUR)
    scored = _scored(run, pl.concat(told))
    print(f"{run.name}: {days} days, {seconds / days:.2f} s of CPU a day, weather: ", end="")
    print("none" if run.weather.is_empty() else "the data's own forecast, nearly perfect")
    kept = [_print(row) for row in _figures(scored).iter_rows(named=True)]
    return all(kept)


def _train(run: Run, at: datetime) -> GlobalModel | None:
    if run.target == "load":
        return load_model.train(run.history, run.timezone, at, run.step)
    return pv_model.train(run.devices, run.history, run.weather, run.timezone, at, run.step)


def _issue(
    run: Run, model: GlobalModel | None, known_at: datetime, start: datetime, span: timedelta
) -> pl.DataFrame:
    """Issue a forecast on the last weeks, which go on beyond `known_at`."""
    asked = pl.datetime_range(
        start, start + span, run.step, closed="left", time_unit="us", time_zone="UTC", eager=True
    ).alias("interval_start")
    near = pl.col("interval_start").is_between(known_at - 29 * _DAY, known_at + 2 * _DAY)
    known, weather = run.history.filter(near), run.weather.filter(near)
    if run.target == "load":
        return load_model.issue(model, run.devices, known, asked, run.timezone, known_at)
    return pv_model.issue(model, run.devices, known, weather, asked, run.timezone, known_at)


def _assert_blind(run: Run, model: GlobalModel | None, known_at: datetime) -> None:
    """Forecast again with everything not yet known made absurd: nothing may change."""
    unknown = pl.col("interval_start") + run.step > known_at
    poisoned = run.history.with_columns(
        power_kw=pl.when(unknown).then(1e4).otherwise(pl.col("power_kw"))
    )
    told, again = (
        _issue(replace(run, history=rows), model, known_at, known_at, _DAY)
        for rows in (run.history, poisoned)
    )
    if not told.equals(again):
        raise AssertionError(f"the forecast made at {known_at} changed with what came after it")


def _scored(run: Run, told: pl.DataFrame) -> pl.DataFrame:
    """Return the forecasts with `value`, `newest` (of the newest day known) and `last_week`."""
    values = run.history.select("interval_start", subject_id="device_id", value="power_kw")
    on = ["subject_id", "interval_start"]
    lead = pl.col("interval_start") - pl.col("known_at")
    days_back = (lead / pl.duration(days=1)).floor().cast(pl.Int64) + 1
    scored = told.join(values, on=on)
    for name, back in (("newest", pl.duration(days=days_back)), ("last_week", _WEEK)):
        like = scored.select(*on, "known_at", like=pl.col("interval_start") - back).join(
            values.rename({"value": name, "interval_start": "like"}), on=["subject_id", "like"]
        )
        scored = scored.join(like.drop("like"), on=[*on, "known_at"])
    return scored


def _figures(scored: pl.DataFrame) -> pl.DataFrame:
    """Return MAE of ours and the naive rules, and coverage where a night is not all there is."""
    by_day = pl.col("value").abs() + pl.col("p90").abs() + pl.col("p10").abs() > 0
    error = {
        name: (pl.col(name) - pl.col("value")).abs().mean()
        for name in ("p50", "newest", "last_week")
    }
    return (
        scored.group_by("how", "subject_id")
        .agg(**error, covered=pl.col("value").is_between("p10", "p90").filter(by_day).mean())
        .sort("how", "subject_id")
    )


def _print(row: dict[str, object]) -> bool:
    """Print a line; tell if its bars hold."""
    ours, newest, week = (float(str(row[name])) for name in ("p50", "newest", "last_week"))
    covered = float(str(row["covered"]))
    share = ours / min(newest, week)
    bar = _AGGREGATE_BAR if row["subject_id"] == _AGGREGATE else _HOMES_BAR
    kept = share <= bar and _COVERAGE[0] <= covered <= _COVERAGE[1]
    print(
        f"  {row['how']:<9} {row['subject_id']:<7} MAE {ours:.3f} kW, newest day {newest:.3f}, "
        f"last week {week:.3f}: {share - 1:+.1%} (bar {bar - 1:+.0%}); "
        f"p10 to p90 cover {covered:.1%}{'' if kept else '  MISSED'}",
        flush=True,
    )
    return kept


if __name__ == "__main__":
    sys.exit(main())
