"""Day-ahead prices forecast day by day over years that were, beside the naive rule.

Belongs here: the walk-forward runs over the recorded markets, their figures and their bars. Does
not: the model (`vpp_pipeline.forecasting.price_model`).

Each day is forecast at its gate closure, an hour before noon, from a frame that ends there:
`benchmarks.price_forecasts --market epf-de --last-days 60`. The naive rule (Lago et al. 2021)
says yesterday's price from Tuesday to Friday and last week's on the other days.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import day_intervals, gate_closure
from vpp_pipeline.forecasting.price_days import PRICE_MEMORY
from vpp_pipeline.forecasting.prices import lear_price_forecast

if TYPE_CHECKING:
    from datetime import date, datetime

    from numpy.typing import NDArray

_DATA = Path(__file__).parent / "data"
_LEAD = timedelta(hours=1)
_TUESDAY, _FRIDAY = 2, 5
_BLOCK_DAYS = 7
_DRAWS = 2000
_NEWEY_WEST_LAGS = 7
_POISON = 1e4


@dataclass(frozen=True)
class Market:
    """A recorded market: how its file is read, the days that test, the most that rMAE may be."""

    file: str
    load: str
    renewables: str
    timezone: str
    last_days: int
    bar: float


MARKETS = {
    "epf-de": Market(
        "epf_de_train_60min_2012_2015.parquet",
        "load_fc_amprion_mw",
        "res_fc_mw",
        "Etc/GMT-1",
        365,
        0.50,
    ),
    "de-lu": Market(
        "da_de_lu_60min_2018-10_2022-12.parquet",
        "load_fc_mw",
        "res_fc_mw",
        "Europe/Berlin",
        730,
        0.75,
    ),
}


def main() -> int:
    """Run the markets asked for and print their figures; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--market", choices=MARKETS, action="append")
    parser.add_argument("--last-days", type=int, help="test on fewer days, the last ones")
    given = parser.parse_args()
    kept = [_run(name, given.last_days) for name in given.market or MARKETS]
    return 0 if all(kept) else 1


def _run(name: str, last_days: int | None) -> bool:
    market = MARKETS[name]
    prices, told = read_market(market)
    local = prices.select(
        day=pl.col("interval_start").dt.convert_time_zone(market.timezone).dt.date()
    )
    days = local["day"].unique().sort().to_list()[-(last_days or market.last_days) :]
    started, cpu = time.monotonic(), time.process_time()
    forecasts = pl.concat([forecast_day(prices, told, market, day) for day in days])
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    _assert_blind(prices, told, market, days[len(days) // 2], forecasts)
    hours = _scored(forecasts, prices, market)
    print(f"{name}: {days[0]} to {days[-1]}, {hours.height} hours")
    print(f"  answered by    {', '.join(hours['model'].unique().sort())}")
    ours, naive = _daily(hours, "p50"), _daily(hours, "naive")
    rmae = ours.mean() / naive.mean()
    low, high = _bootstrap(ours, naive)
    statistic, p_value = _diebold_mariano(ours, naive)
    covered = hours.select(pl.col("price").is_between("p10", "p90").mean()).item()
    pinball = _pinball(hours)
    print(f"  MAE            {ours.mean():.3f} EUR/MWh, naive {naive.mean():.3f}")
    print(f"  rMAE           {rmae:.4f} (bar {market.bar:.2f})")
    print(f"                 95 % of {_DRAWS} bootstraps of whole weeks: {low:.4f} to {high:.4f}")
    print(f"  Diebold-Mariano {statistic:.2f}, p = {p_value:.2g} (one-sided, daily MAE)")
    print(f"  p10 to p90     covers {covered:.1%}; pinball {pinball:.3f}")
    print(f"  time           {seconds / len(days):.2f} s a day ({cpu / len(days):.2f} s of CPU)")
    print("  nothing of the future was seen: poisoned, it changed no forecast", flush=True)
    return rmae <= market.bar


def read_market(market: Market) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the file as quarter-hours of prices and of market forecasts, with `known_at`."""
    hourly = pl.read_parquet(_DATA / market.file)
    if "ts_local" in hourly.columns:
        local = pl.col("ts_local").dt.replace_time_zone(market.timezone)
        hourly = hourly.with_columns(ts_utc=local.dt.convert_time_zone("UTC"))
    quarters = (
        hourly.with_columns(minute=pl.lit([0, 15, 30, 45]))
        .explode("minute")
        .with_columns(
            market=pl.lit("market"),
            interval_start=pl.col("ts_utc") + pl.duration(minutes="minute"),
        )
    )
    midnight = (
        pl.col("interval_start")
        .dt.convert_time_zone(market.timezone)
        .dt.truncate("1d")
        .dt.convert_time_zone("UTC")
    )
    common = ["market", "interval_start"]
    prices = quarters.select(
        *common,
        price_eur_per_mwh="price_eur_mwh",
        known_at=midnight - timedelta(hours=11),
    )
    told = quarters.select(
        *common,
        load_mw=market.load,
        renewables_mw=market.renewables,
        known_at=midnight - timedelta(hours=15),
    ).drop_nulls()
    return prices, told


def forecast_day(
    prices: pl.DataFrame, told: pl.DataFrame, market: Market, day: date
) -> pl.DataFrame:
    known_at = gate_closure(day, market.timezone) - _LEAD
    return lear_price_forecast(
        recent(prices, known_at),
        recent(told, known_at),
        day_intervals(day, market.timezone),
        "market",
        market.timezone,
        known_at,
    )


def recent(rows: pl.DataFrame, known_at: datetime) -> pl.DataFrame:
    """Return the rows from the model's memory on, the future included."""
    return rows.filter(pl.col("interval_start") > known_at - PRICE_MEMORY - timedelta(days=1))


def _assert_blind(
    prices: pl.DataFrame, told: pl.DataFrame, market: Market, day: date, forecasts: pl.DataFrame
) -> None:
    """Forecast a day again with everything not yet known made absurd: nothing may change."""
    known_at = gate_closure(day, market.timezone) - _LEAD
    unknown = pl.col("known_at") > known_at
    poisoned = [
        rows.with_columns(pl.when(unknown).then(_POISON).otherwise(pl.col(pl.Float64)).name.keep())
        for rows in (prices, told)
    ]
    again = forecast_day(*poisoned, market, day)
    before = forecasts.filter(pl.col("known_at") == known_at)
    if not again.equals(before):
        raise AssertionError(f"the forecast of {day} changed with what was not known by {known_at}")


def _scored(forecasts: pl.DataFrame, prices: pl.DataFrame, market: Market) -> pl.DataFrame:
    """Return one row an hour: `day`, `p10`, `p50`, `p90`, `model`, `price`, `naive`.

    An hour whose like did not exist on the naive rule's day (a clock change) is left out.
    """
    local = pl.col("interval_start").dt.convert_time_zone(market.timezone)
    clock = {"day": local.dt.date(), "hour": local.dt.hour()}
    past = prices.group_by(**clock).agg(naive=pl.col("price_eur_per_mwh").mean())
    lag = pl.when(pl.col("day").dt.weekday().is_between(_TUESDAY, _FRIDAY)).then(1).otherwise(7)
    return (
        forecasts.join(prices, on="interval_start")
        .group_by(pl.col("interval_start").dt.truncate("1h"))
        .agg(pl.col("p10", "p50", "p90", "model").first(), price=pl.col("price_eur_per_mwh").mean())
        .with_columns(**clock)
        .with_columns(like=pl.col("day") - pl.duration(days=1) * lag)
        .join(past, left_on=["like", "hour"], right_on=["day", "hour"])
        .sort("interval_start")
    )


def _daily(hours: pl.DataFrame, forecast: str) -> NDArray[np.float64]:
    """Return the mean absolute error of each day."""
    errors = (pl.col(forecast) - pl.col("price")).abs().mean()
    return hours.group_by("day", maintain_order=True).agg(errors).to_series(1).to_numpy()


def _bootstrap(ours: NDArray[np.float64], naive: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of rMAE over draws of whole weeks (moving blocks, Künsch 1989)."""
    days = len(ours)
    rng = np.random.default_rng(20150101)
    starts = rng.integers(
        0, max(days - _BLOCK_DAYS, 0) + 1, (_DRAWS, math.ceil(days / _BLOCK_DAYS))
    )
    drawn = (starts[..., None] + np.arange(_BLOCK_DAYS)).reshape(_DRAWS, -1)[:, :days] % days
    low, high = np.quantile(ours[drawn].mean(axis=1) / naive[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _diebold_mariano(ours: NDArray[np.float64], naive: NDArray[np.float64]) -> tuple[float, float]:
    """Return the statistic and the chance of one as low if both were equally good.

    Diebold and Mariano (1995) on daily losses, their variance after Newey and West (1987).
    """
    loss = ours - naive
    days, centred = len(loss), loss - loss.mean()
    variance = centred @ centred / days
    for lag in range(1, min(_NEWEY_WEST_LAGS, days - 1) + 1):
        weight = 1 - lag / (_NEWEY_WEST_LAGS + 1)
        variance += 2 * weight * (centred[lag:] @ centred[:-lag]) / days
    statistic = float(loss.mean() / math.sqrt(variance / days))
    return statistic, math.erfc(-statistic / math.sqrt(2)) / 2


def _pinball(hours: pl.DataFrame) -> float:
    losses = [
        pl.max_horizontal(
            share * (pl.col("price") - pl.col(name)), (share - 1) * (pl.col("price") - pl.col(name))
        ).mean()
        for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))
    ]
    return float(hours.select(pl.mean_horizontal(losses)).item())


if __name__ == "__main__":
    sys.exit(main())
