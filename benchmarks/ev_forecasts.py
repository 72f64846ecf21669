"""When recorded vehicles left and what they charged, forecast as they were plugged in.

Belongs here: the walk-forward run over ACN's sessions, beside what drivers said, and its bars. Does
not: the model (`vpp_pipeline.forecasting.stay_model`).

The model is trained anew each Monday on the sessions that had ended by then, of the last weeks only
as a plant would have them, and is asked of each session of the week as it begins:
`benchmarks.ev_forecasts --weeks 26`. Sessions that no driver claimed have no words of their own (the
record repeats the outcome); they teach and are counted apart, and are no part of the comparison.

Beside what drivers said stands the same less their usual error of the last weeks (departure by the
median hours, energy by the median share), which is what a rule without a model could do.

Arrivals are forecast at noon for the next day, one day a week in turn, by `session_forecast`: each
station's first, second, ... session of the day, and compared with its like a week before. Those of
the candidate `weekday` are printed beside them, and have no bar.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from vpp_pipeline.delivery_day import STEP, bounds, intervals
from vpp_pipeline.forecasting.rows import MEMORY
from vpp_pipeline.forecasting.sessions import WEEKDAY, WEEKEND, session_forecast
from vpp_pipeline.forecasting.stay_model import LEAST_SESSIONS, train

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATA = Path(__file__).parent / "data" / "acn_sessions_2019-05_2019-12.parquet"
_TIMEZONE = "America/Los_Angeles"
_HOUR = pl.duration(hours=1)
_MOST_DEPARTURE, _MOST_ENERGY = 0.75, 0.50
"""Of the drivers' own error: the bars."""
_COVERED = (0.75, 0.85)
_LAST = date(2019, 12, 30)
_QUANTILES = ("p10", "p50", "p90")
_TARGETS = {"departure": ("stay_h", "h"), "energy": ("charged_kwh", "kWh")}


def main() -> int:
    """Run the walk and print its figures; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=int, default=26, help="test on fewer weeks, the last ones")
    weeks = parser.parse_args().weeks
    sessions = _read()
    started, cpu = time.monotonic(), time.process_time()
    said = pl.concat(list(_walk(sessions, weeks)))
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    _assert_blind(sessions)
    claimed = said.drop_nulls("stated_h")
    print(f"{said['arrival'].min():%Y-%m-%d} to {said['arrival'].max():%Y-%m-%d}, {weeks} weeks")
    print(f"  {said.height} sessions, {claimed.height} of which told departure and energy")
    kept = [_told(claimed, name) for name in _TARGETS]
    kept.append(_arrivals(sessions, weeks))
    silent = said.filter(pl.col("stated_h").is_null())
    for name, (target, unit) in _TARGETS.items():
        print(
            f"  {name} of the {silent.height} that told nothing: MAE {_mae(silent, target):.3f} {unit}"
        )
    print(f"  time {seconds / weeks:.2f} s a week ({cpu / weeks:.2f} s of CPU)")
    print("  nothing of the future was seen: poisoned, it changed no forecast", flush=True)
    return 0 if all(kept) else 1


def _read() -> pl.DataFrame:
    own_words = pl.col("claimed")
    return (
        pl.read_parquet(_DATA)
        .select(
            device_id=pl.format("{}/{}", "site", "station_id"),
            arrival="arrival_utc",
            departure="departure_utc",
            charged_kwh="delivered_kwh",
            stated_departure=pl.when(own_words).then("estimated_departure_utc"),
            stated_kwh=pl.when(own_words).then("requested_kwh"),
        )
        .sort("arrival", "device_id")
    )


def _walk(sessions: pl.DataFrame, weeks: int) -> Iterator[pl.DataFrame]:
    for back in range(weeks, 0, -1):
        monday = _midnight(_LAST - timedelta(weeks=back))
        week = sessions.filter(
            pl.col("arrival").is_between(monday, monday + timedelta(weeks=1), closed="left")
        )
        yield _forecast(sessions, week, monday)


def _forecast(sessions: pl.DataFrame, week: pl.DataFrame, monday: datetime) -> pl.DataFrame:
    """Return the week's sessions with their quantiles, learned from what ended before `monday`.

    What came of sessions that ended within the week is known to the forecast of those that began
    later; the model itself is a week old at most.
    """
    lately = sessions.filter(pl.col("arrival") >= monday - MEMORY)
    model = train(lately.filter(pl.col("departure") <= monday), _TIMEZONE)
    if model is None:
        raise LookupError(f"{monday:%Y-%m-%d}: fewer than {LEAST_SESSIONS} sessions to learn from")
    stay_h = (pl.col("departure") - pl.col("arrival")) / _HOUR
    stated_h = (pl.col("stated_departure") - pl.col("arrival")) / _HOUR
    told = lately.with_columns(stay_h=stay_h, stated_h=stated_h)
    later_h, share = (
        told.filter(pl.col("departure") <= monday)
        .select(
            (pl.col("stay_h") - pl.col("stated_h")).median().alias("later_h"),
            (pl.col("charged_kwh") / pl.col("stated_kwh")).median().alias("share"),
        )
        .row(0)
    )
    happened = week.with_columns(stay_h=stay_h, stated_h=stated_h).with_columns(
        rule_stay_h=pl.col("stated_h") + later_h, rule_charged_kwh=pl.col("stated_kwh") * share
    )
    return happened.hstack(model.quantiles(lately, week))


def _told(said: pl.DataFrame, name: str) -> bool:
    target, unit = _TARGETS[name]
    most = _MOST_DEPARTURE if name == "departure" else _MOST_ENERGY
    stated = "stated_h" if name == "departure" else "stated_kwh"
    ours, theirs = _mae(said, target), _mae(said, target, stated)
    rule = _mae(said, target, f"rule_{target}")
    within = pl.col(target).is_between(f"{target}_p10", f"{target}_p90").mean()
    covered = said.select(within).item()
    below, above = (
        said.select((side).mean()).item()
        for side in (
            pl.col(target) < pl.col(f"{target}_p10"),
            pl.col(target) > pl.col(f"{target}_p90"),
        )
    )
    print(
        f"  {name:9} MAE {ours:.3f} {unit}, drivers' own {theirs:.3f}: {ours / theirs:.3f} "
        f"(bar {most}); less their usual error {rule:.3f}"
    )
    print(f"            p10 to p90 covers {covered:.1%}; below {below:.1%}, above {above:.1%}")
    return bool(ours <= most * theirs and _COVERED[0] <= covered <= _COVERED[1])


def _mae(said: pl.DataFrame, target: str, forecast: str | None = None) -> float:
    miss = pl.col(forecast or f"{target}_p50") - pl.col(target)
    return float(said.select(miss.abs().mean()).item())


def _arrivals(sessions: pl.DataFrame, weeks: int) -> bool:
    """Print how far the forecast arrivals of a day a week were off; false where they are no better
    than those of a week before, or where p10 to p90 cover too few or too many."""
    days = [_LAST - timedelta(weeks=back, days=back % 7) for back in range(weeks, 0, -1)]
    local = pl.col("arrival").dt.convert_time_zone(_TIMEZONE)
    came = sessions.with_columns(day=local.dt.date(), hour=local.dt.hour() + local.dt.minute() / 60)
    came = came.sort("arrival").with_columns(
        nth=pl.col("arrival").cum_count().over("device_id", "day").cast(pl.Int64)
    )
    quarters = _quarter_hours(sessions)
    expected, by_weekday = (
        pl.concat([_expected(quarters, day, day_type) for day in days])
        for day_type in (WEEKEND, WEEKDAY)
    )
    before = came.select("device_id", "nth", day=pl.col("day") + timedelta(weeks=1), before="hour")
    on = ["device_id", "day", "nth"]
    told = came.join(expected, on=on)
    both = told.join(before, on=on)
    miss = (pl.col("hour") - pl.col("p50")).abs().mean()
    ours = both.select(miss).item()
    rival = by_weekday.join(both.select(*on, "hour"), on=on)
    naive = both.select((pl.col("hour") - pl.col("before")).abs().mean()).item()
    covered = told.select(pl.col("hour").is_between("p10", "p90").mean()).item()
    happened = came.filter(pl.col("day").is_in(days)).height
    print(
        f"  arrival   MAE {ours:.3f} h, of a week before {naive:.3f}: {ours / naive:.3f} (bar 1; {both.height} that both expect)"
    )
    print(f"            p10 to p90 covers {covered:.1%} of {told.height} that were expected")
    print(f"            {expected['probability'].sum():.0f} sessions expected, {happened} came")
    print(
        f"            of the rival, by weekday, MAE {rival.select(miss).item():.3f} h "
        f"({rival.height} of the same)"
    )
    return bool(ours < naive and _COVERED[0] <= covered <= _COVERED[1])


def _quarter_hours(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return what the stations would have told by the quarter-hour, of content nothing."""
    start = sessions["arrival"].min().replace(minute=0, second=0)
    stations = sessions.select(pl.col("device_id").unique().sort())
    grid = intervals(start, sessions["departure"].max() + STEP).to_frame()
    there = sessions.select(
        "device_id",
        interval_start=pl.datetime_ranges(
            pl.col("arrival").dt.truncate("15m"), "departure", "15m", closed="left"
        ),
        deadline="departure",
    ).explode("interval_start")
    return (
        stations.join(grid, how="cross")
        .join(
            there.unique(["device_id", "interval_start"], keep="last"),
            on=["device_id", "interval_start"],
            how="left",
        )
        .with_columns(
            plugged_in=pl.col("deadline").is_not_null(),
            power_kw=pl.lit(0.0),
            energy_kwh=pl.lit(None, pl.Float64),
            target_energy_kwh=pl.lit(None, pl.Float64),
        )
        .sort("device_id", "interval_start")
    )


def _expected(quarters: pl.DataFrame, day: date, day_type: pl.Expr) -> pl.DataFrame:
    """Return the day's expected sessions: local hours of arrival as `p10`, `p50`, `p90`."""
    start, end = bounds(day, _TIMEZONE)
    noon = _midnight(day - timedelta(days=1)) + timedelta(hours=12)
    answers = session_forecast(
        # of a vehicle that is there now nobody has said when it leaves
        quarters.with_columns(deadline=pl.when(pl.col("deadline") <= noon).then("deadline")).filter(
            pl.col("interval_start") >= noon - MEMORY
        ),
        start,
        end,
        _TIMEZONE,
        noon,
        day_type=day_type,
    )
    hours = (
        (pl.col(f"arrival_{q}") - pl.lit(start)).dt.total_minutes().truediv(60).alias(q)
        for q in _QUANTILES
    )
    return (
        answers.filter(pl.col("arrival_p50").is_between(start, end, closed="left"))
        .sort("device_id", "arrival_p50")
        .with_columns(
            *hours,
            day=pl.lit(day),
            nth=pl.col("arrival_p50").cum_count().over("device_id").cast(pl.Int64),
        )
        .select("device_id", "day", "nth", *_QUANTILES, "probability")
    )


def _assert_blind(sessions: pl.DataFrame) -> None:
    """Forecast a week again with all that was not known made absurd: nothing may change."""
    monday = _midnight(_LAST - timedelta(weeks=5))
    first = sessions.filter(pl.col("arrival") >= monday).head(40)
    last = first["arrival"].max()
    unknown = pl.col("departure") > last
    poisoned = sessions.with_columns(
        departure=pl.when(unknown)
        .then(pl.col("departure") + timedelta(days=3))
        .otherwise("departure"),
        charged_kwh=pl.when(unknown).then(1e4).otherwise("charged_kwh"),
    )
    columns = [f"{target}_{q}" for target, _ in _TARGETS.values() for q in _QUANTILES]
    before, after = (
        _forecast(rows, first, monday).select(columns) for rows in (sessions, poisoned)
    )
    if not before.equals(after):
        raise AssertionError(f"forecasts of {monday:%Y-%m-%d} changed with what was not yet known")


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(_TIMEZONE)).astimezone(UTC)


if __name__ == "__main__":
    sys.exit(main())
