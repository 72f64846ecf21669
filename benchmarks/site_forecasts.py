"""Load and PV of real homes forecast day by day and hour by hour, beside the seasonal naive rule.

Belongs here: the walk-forward runs over the five CityLearn homes and the NREL inverter, their
figures and their bars. Does not: the models (`vpp_pipeline.forecasting.load_model`, `pv_model`).

    python -m benchmarks.site_forecasts             # everything, in two processes
    python -m benchmarks.site_forecasts --days 21   # the first days of each

Models learn once a week from all days before. Day-ahead forecasts are issued at noon for the next
day, hourly ones at every hour of which the next one is scored. The naive rule is the stronger one,
over the whole run, of the same hour on the newest day that is known by then and the same hour last
week. `Around` is the median of the same hour over the week before and the week after, future
included: how far the season alone would go. Errors count day and night; p10 to p90 of PV are judged
in daylight only, where a value or a bound is above nothing.

No weather is used but in `pv-weather`: the irradiance that CityLearn's file tells a day ahead,
which is exactly what it records later. It is not the weather of these plants: from day to day it
departs from the season quite unlike their PV (`_print_kinship`). So that run shows that a forecast
which is of no use does little harm, and nothing of what a right one is worth; it does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting import load_model, pv_model
from vpp_pipeline.forecasting.groups import sums

if TYPE_CHECKING:
    from vpp_pipeline.forecasting.global_model import GlobalModel

_DATA = Path(__file__).parent / "data"
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_AGGREGATE = "all"
_PROCESSES = 2
_GLOBAL = pl.col("diffuse_solar_radiation_w_per_m2")
"""Called diffuse, but as high as all of a clear sky's, which its own direct share does not exceed."""
_SEASON_DAYS = 21
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
    counts: bool = True
    """Whether it is held to the bars; one that is not is forecast a day ahead only."""


def main() -> int:
    """Run what is asked for and print its figures; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(_runs()))
    parser.add_argument("--days", type=int, help="forecast fewer days, the first ones")
    given = parser.parse_args()
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}  # cores are shared
    chosen = {
        name: replace(run, days=min(given.days or run.days, run.days))
        for name, run in _runs().items()
        if given.only in {None, name}
    }
    _print_kinship()
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        told = {name: _walk(run, pool) for name, run in chosen.items()}
        kept = [_report(run, told[name]) for name, run in chosen.items()]
    return 0 if all(kept) else 1


@cache
def _runs() -> dict[str, Run]:
    """Read the recorded targets, by name."""
    homes = pl.read_parquet(_DATA / "citylearn2022_b1-5_days0-239_60min.parquet")
    context = pl.read_parquet(_DATA / "citylearn2022_context_days0-239_60min.parquet")
    first_hour = datetime(2016, 8, 1, 7, tzinfo=UTC)  # the file begins an hour before midnight
    at = (pl.lit(first_hour) + pl.duration(hours=pl.col("hour_index"))).dt.cast_time_unit("us")
    named = homes.select(
        "pv_kwh", "load_kwh", device_id=pl.format("home-{}", "building"), interval_start=at
    )
    load = named.select("device_id", "interval_start", power_kw=-pl.col("load_kwh"))
    pv = named.select("device_id", "interval_start", power_kw="pv_kwh")
    foretold = context.select(
        site_id=pl.lit("site"),
        interval_start=at,
        ghi_w_per_m2=_GLOBAL.cast(pl.Float64),
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
    runs = [
        homes_run(
            "load",
            "load",
            _devices("load", {**dict.fromkeys(ratings, 20.0), _AGGREGATE: 100.0}, _FONTANA),
            _with_aggregate(load),
            _NO_WEATHER,
        ),
        homes_run("pv", "pv", plants, _with_aggregate(pv), _NO_WEATHER),
        homes_run("pv-weather", "pv", plants, _with_aggregate(pv), foretold, counts=False),
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
    return {run.name: run for run in runs}


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
    alike = {"sum_id": pl.lit(_AGGREGATE), "max_draw_kw": pl.lit(1.0)}
    members = history.select("device_id").unique().with_columns(**alike)
    return pl.concat([history, sums(history, members)])


def _print_kinship() -> None:
    """Tell how far the irradiance in CityLearn's file and its homes' PV vary together."""
    homes = pl.read_parquet(_DATA / "citylearn2022_b1-5_days0-239_60min.parquet")
    context = pl.read_parquet(_DATA / "citylearn2022_context_days0-239_60min.parquet")
    hourly = homes.group_by("hour_index").agg(pv=pl.col("pv_kwh").sum())
    daily = (
        hourly.join(context.select("hour_index", sun=_GLOBAL), on="hour_index")
        .group_by(day=(pl.col("hour_index") - 1) // 24)  # the file begins an hour before midnight
        .agg(pl.col("pv", "sun").sum())
        .sort("day")
    )
    season = pl.col("pv", "sun").rolling_mean(_SEASON_DAYS, center=True)
    departed = daily.select(pl.col("pv", "sun") - season).drop_nulls()
    alike = departed.select(pl.corr("pv", "sun")).item()
    print(f"departures of days from their season, CityLearn's irradiance and PV: r = {alike:+.2f}")


def _walk(run: Run, pool: Executor) -> list[Future[tuple[pl.DataFrame, float]]]:
    """Start forecasting, week by week."""
    end = run.first_day + run.days
    starts = range(run.first_day, end, _WEEK.days)
    return [pool.submit(_week, run.name, day, min(day + _WEEK.days, end)) for day in starts]


def _week(name: str, first_day: int, end_day: int) -> tuple[pl.DataFrame, float]:
    """Learn from all days before; forecast at every noon the next day, at every hour the next one.

    Returns the forecasts and the seconds of CPU. Raises `AssertionError` where absurd values for
    all that was not known at the week's last noon change what is forecast then.
    """
    started = time.process_time()
    run = _runs()[name]
    model = _train(run, run.midnight + first_day * _DAY)
    told: list[pl.DataFrame] = []
    for day in range(first_day, end_day):
        midnight = run.midnight + day * _DAY
        ahead = _issue(run, model, midnight + _DAY / 2, midnight + _DAY, _DAY)
        told.append(ahead.with_columns(how=pl.lit("day-ahead")))
        told += [
            _issue(run, model, midnight + n * _HOUR, midnight + n * _HOUR, _HOUR).with_columns(
                how=pl.lit("hourly")
            )
            for n in range(24 if run.counts else 0)
        ]
    _assert_blind(run, model, run.midnight + (end_day - 1) * _DAY + _DAY / 2)
    return pl.concat(told), time.process_time() - started


def _report(run: Run, weeks: list[Future[tuple[pl.DataFrame, float]]]) -> bool:
    """Print what was forecast beside what came, and tell if bars hold."""
    done = [week.result() for week in weeks]
    scored = _scored(run, pl.concat([told for told, _ in done]))
    seconds = sum(spent for _, spent in done) / run.days
    print(f"{run.name}: {run.days} days, {seconds:.2f} s of CPU a day, weather: ", end="")
    print("none" if run.weather.is_empty() else "CityLearn's, of other days than its PV")
    kept = [_print(row, counts=run.counts) for row in _figures(scored).iter_rows(named=True)]
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
    """Return the forecasts with `value`, `newest` (of the newest day known), `last_week`, `around`.

    `around` is the same hour's median over the week before and the week after, which no forecast
    can know: a measure of how far the season alone goes.
    """
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
    beside = [
        values.with_columns(pl.col("interval_start") + days * _DAY)
        for days in range(-_WEEK.days, _WEEK.days + 1)
        if days
    ]
    around = pl.concat(beside).group_by(on).agg(around=pl.col("value").median())
    return scored.join(around, on=on)


def _figures(scored: pl.DataFrame) -> pl.DataFrame:
    """Return MAE of ours and the naive rules, and coverage where a night is not all there is."""
    by_day = pl.col("value").abs() + pl.col("p90").abs() + pl.col("p10").abs() > 0
    error = {
        name: (pl.col(name) - pl.col("value")).abs().mean()
        for name in ("p50", "newest", "last_week", "around")
    }
    return (
        scored.group_by("how", "subject_id")
        .agg(**error, covered=pl.col("value").is_between("p10", "p90").filter(by_day).mean())
        .sort("how", "subject_id")
    )


def _print(row: dict[str, object], *, counts: bool) -> bool:
    """Print a line; tell if its bars hold, where they count."""
    ours, newest, week, around = (
        float(str(row[name])) for name in ("p50", "newest", "last_week", "around")
    )
    covered = float(str(row["covered"]))
    share = ours / min(newest, week)
    bar = _AGGREGATE_BAR if row["subject_id"] == _AGGREGATE else _HOMES_BAR
    near, covers = share <= bar, _COVERAGE[0] <= covered <= _COVERAGE[1]
    missed = ", ".join(
        name for name, held in (("error", near), ("coverage", covers)) if counts and not held
    )
    print(
        f"  {row['how']:<9} {row['subject_id']:<7} MAE {ours:.3f} kW, newest day {newest:.3f}, "
        f"last week {week:.3f}: {share - 1:+.1%} (bar {bar - 1:+.0%}, "
        f"around {around / min(newest, week) - 1:+.1%}); "
        f"p10 to p90 cover {covered:.1%}{'  MISSED: ' + missed if missed else ''}",
        flush=True,
    )
    return not missed


if __name__ == "__main__":
    sys.exit(main())
