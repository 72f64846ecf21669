"""A day of quarter-hours forecast for ten thousand loads at once: seconds and memory.

Belongs here: made-up histories, one training, one issue, their time and whether they are right.
Does not: how good the model is on real homes (`site_forecasts`).

    python -m benchmarks.many_forecasts --series 10000
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import day_intervals, intervals
from vpp_pipeline.forecasting import load_model

_TIMEZONE = "Europe/Berlin"
_NOW = datetime(2020, 10, 7, 9, 0, tzinfo=UTC)
_TOMORROW = datetime(2020, 10, 8, tzinfo=UTC).date()
_HISTORY = timedelta(days=28)
_MOST_SECONDS, _MOST_GB = 60.0, 4.0
_LEARN_FROM = 500
_NOISE = 0.3


def main() -> int:
    """Draw histories, train on some of them, issue for all, print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=10_000)
    series = parser.parse_args().series
    devices, history = _drawn(series)
    asked = day_intervals(_TOMORROW, _TIMEZONE)
    started, worked = time.perf_counter(), time.process_time()
    some = history.filter(
        pl.col("device_id").is_in(devices["device_id"].head(_LEARN_FROM).implode())
    )
    model = load_model.train(some, _TIMEZONE, _NOW)
    learnt_s = time.perf_counter() - started
    told = load_model.issue(model, devices, history, asked, _TIMEZONE, _NOW)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    covered, error, level = _checked(told, devices, asked)
    print(f"{told.height:,} forecasts of {series:,} series from {history.height:,} quarter-hours")
    print(
        f"{seconds:8.1f} s, {learnt_s:.1f} s of them to learn; {work:.1f} s of CPU (bar {_MOST_SECONDS:.0f} s)"
    )
    print(f"{memory_gb:8.2f} GB at most, the histories included (bar {_MOST_GB:.0f} GB)")
    print(f"{error:8.3f} kW mean error of p50 from the true middle, of {level:.3f} kW on average")
    print(f"{covered:8.1%} of the true noise between p10 and p90")
    return 0 if seconds <= _MOST_SECONDS and memory_gb <= _MOST_GB else 1


def _drawn(series: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return loads with an evening peak each, and four weeks of them with noise and gaps."""
    rng = np.random.default_rng(1)
    starts = intervals(_NOW - _HISTORY, _NOW)
    size = rng.uniform(0.3, 3.0, series)
    noise = rng.normal(0.0, _NOISE, (series, len(starts)))
    power = -size[:, None] * _shape(starts) * np.exp(noise)
    power[rng.random(power.shape) < 0.01] = np.nan
    names = pl.Series("device_id", [f"load-{n:05}" for n in range(series)])
    history = pl.DataFrame(
        {
            "device_id": names.gather(np.repeat(np.arange(series), len(starts))),
            "interval_start": starts.gather(np.tile(np.arange(len(starts)), series)),
            "power_kw": power.ravel(),
        }
    )
    devices = names.to_frame().with_columns(
        device_type=pl.lit("load"), max_draw_kw=pl.lit(20.0), size=pl.Series(size)
    )
    return devices, history


def _shape(starts: pl.Series) -> np.ndarray:
    """Return a day's course by local time, between 0.2 and 1."""
    local = starts.dt.convert_time_zone(_TIMEZONE)
    hour = (local.dt.hour() + local.dt.minute() / 60).to_numpy()
    return 0.2 + 0.8 * np.exp(-(((hour - 19.0) / 3.0) ** 2))


def _checked(
    told: pl.DataFrame, devices: pl.DataFrame, asked: pl.Series
) -> tuple[float, float, float]:
    """Hold the forecasts to what is known of the drawn loads; return coverage, error, level."""
    assert told.height == devices.height * asked.len()
    assert told["model"].unique().to_list() == [load_model.NAME]
    shape = asked.to_frame().with_columns(shape=pl.Series(_shape(asked)))
    truth = told.join(shape, on="interval_start").join(
        devices.select("size", subject_id="device_id"), on="subject_id"
    )
    middle = truth["size"].to_numpy() * truth["shape"].to_numpy()
    error = np.abs(-truth["p50"].to_numpy() - middle).mean()
    drawn = -middle * np.exp(np.random.default_rng(2).normal(0.0, _NOISE, len(middle)))
    covered = ((truth["p10"].to_numpy() <= drawn) & (drawn <= truth["p90"].to_numpy())).mean()
    assert error < 0.1 * middle.mean()
    assert 0.75 < covered < 0.85
    return float(covered), float(error), float(middle.mean())


if __name__ == "__main__":
    sys.exit(main())
