"""What price forecasts cost a plant of batteries, day by day, and who is elected by it.

Belongs here: the walk-forward run of the election over a recorded market. Does not: the measures
(`vpp_pipeline.forecasting.skill`, `vpp_pipeline.settlement.forecast_loss`), the rule
(`vpp_pipeline.forecasting.champions`).

Each day is forecast an hour before its gate closes by every candidate, planned on each forecast,
followed to the letter and paid at what the auction then said: `benchmarks.forecast_skill --days 60`.
The election of a day knows the days before it. The run fails unless the euros paid under the elected
champions are the fewest, but for the days that the first week of evidence takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.price_forecasts import MARKETS, forecast_day, read_market, recent
from vpp_pipeline.delivery_day import day_intervals, gate_closure
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Fleet,
    GridConnection,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.forecasting.champions import LEAST_DAYS, elect
from vpp_pipeline.forecasting.naive import naive
from vpp_pipeline.forecasting.prices import price_forecast
from vpp_pipeline.forecasting.skill import skill
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.settlement.forecast_loss import euros_lost
from vpp_pipeline.settlement.schemas import ActualDay, Stays

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame

_MARKET = MARKETS["de-lu"]
_LAST = date(2022, 12, 30)
_LEAD = timedelta(hours=1)
_CANDIDATES = ["similar-day", "lear"]
"""The weaker one first: it answers until there is evidence against it."""
_RULE = "naive"
_BATTERIES = 4
_CAPACITY_KWH, _POWER_KW = 10.0, 5.0
_UTC = pl.Datetime("us", "UTC")


def main() -> int:
    """Run the days and print their skill and champions; 1 where the election does not pay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=60)
    days = parser.parse_args().days
    started, cpu = time.monotonic(), time.process_time()
    scored = pl.concat(list(_walk(days)))
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    elected = _elected(scored)
    first, last = scored["delivery_day"].min(), scored["delivery_day"].max()
    print(f"de-lu prices, {first} to {last}, {_BATTERIES} batteries of {_CAPACITY_KWH:.0f} kWh")
    print("  forecaster     MAE    rMAE  pinball  covers  EUR lost a day")
    for row in _means(scored).iter_rows(named=True):
        print(
            f"  {row['forecaster']:12} {row['mae']:6.2f}  {row['rmae']:6.3f}  {row['pinball']:7.2f}"
            f"  {row['coverage_p10_p90']:6.1%}  {row['euros_lost']:9.3f}"
        )
    paid = elected.join(
        scored, left_on=["delivery_day", "champion"], right_on=["delivery_day", "forecaster"]
    )["euros_lost"].mean()
    shares = elected["champion"].value_counts(sort=True).iter_rows()
    print(f"  elected        {', '.join(f'{name} on {count} days' for name, count in shares)}")
    print(f"                 losing {paid:.3f} EUR a day; {elected['why'][-1]}")
    print(f"  time           {seconds / days:.2f} s a day ({cpu / days:.2f} s of CPU)")
    lost = dict(_means(scored).select("forecaster", "euros_lost").iter_rows())
    best, worst = (choose(lost[name] for name in _CANDIDATES) for choose in (min, max))
    return 0 if paid <= best + (worst - best) * (LEAST_DAYS + 1) / days else 1


def _walk(days: int) -> Iterator[pl.DataFrame]:
    """Yield each day's `ForecastSkill` of the candidates and of the naive rule."""
    prices, told = read_market(_MARKET)
    devices = _plant()
    for back in range(days - 1, -1, -1):
        day = _LAST - timedelta(days=back)
        known_at = gate_closure(day, _MARKET.timezone) - _LEAD
        asked = day_intervals(day, _MARKET.timezone)
        known = recent(prices, known_at).filter(pl.col("known_at") <= known_at)
        value = {"target": pl.lit("price"), "subject_id": "market", "value": "price_eur_per_mwh"}
        rule = naive(known.select("interval_start", **value), asked, _MARKET.timezone)
        said = {
            "similar-day": price_forecast(known, asked, "market", _MARKET.timezone, known_at),
            "lear": forecast_day(prices, told, _MARKET, day),
            _RULE: _as_forecasts(rule, known_at),
        }
        named = pl.concat(
            [
                rows.with_columns(pl.col("target").cast(pl.String), forecaster=pl.lit(name))
                for name, rows in said.items()
            ],
            how="diagonal_relaxed",
        ).with_columns(champion=pl.lit(value=False))
        actual = prices.join(asked.to_frame(), on="interval_start")
        euros = euros_lost(devices, _day(devices, asked, actual), named, PlanSettings(), 0.0)
        yield skill(
            named,
            actual.select("interval_start", **value),
            rule,
            euros,
            day,
            asked[-1],
        )


def _plant() -> dy.DataFrame[DeviceFrame]:
    batteries = tuple(
        Battery(
            device_id=f"battery-{n}",
            connection=SimulatedConnection(over="http"),
            max_charge_kw=_POWER_KW,
            max_discharge_kw=_POWER_KW,
            energy_capacity_kwh=_CAPACITY_KWH,
        )
        for n in range(_BATTERIES)
    )
    grid = GridConnection(import_limit_kw=100, export_limit_kw=100)
    site = Site(site_id="site", latitude=50, longitude=8, grid=grid, devices=batteries)
    return device_frame(Fleet(sites=(site,)))


def _day(devices: pl.DataFrame, asked: pl.Series, actual: pl.DataFrame) -> ActualDay:
    return ActualDay(
        intervals=asked,
        prices=actual.select("interval_start", "price_eur_per_mwh"),
        profiles=pl.DataFrame(
            schema={"device_id": pl.String, "interval_start": _UTC, "available_kw": pl.Float64}
        ),
        temperatures=pl.DataFrame(
            schema={"site_id": pl.String, "interval_start": _UTC, "temperature_c": pl.Float64}
        ),
        stays=Stays.create_empty(),
        start_kwh=devices.select("device_id", energy_kwh=pl.lit(_CAPACITY_KWH / 2)),
        start_kw=devices.select("device_id", power_kw=pl.lit(0.0)),
    )


def _as_forecasts(rule: pl.DataFrame, known_at: datetime) -> pl.DataFrame:
    return rule.select(
        "target",
        "subject_id",
        "interval_start",
        p10="naive",
        p50="naive",
        p90="naive",
        model=pl.lit(_RULE),
        known_at=pl.lit(known_at, _UTC),
    )


def _elected(scored: pl.DataFrame) -> pl.DataFrame:
    """Return each day's champion by the skill of the days settled before its forecast."""
    days = scored["delivery_day"].unique().sort()
    # a day's gate closes before the day before it is over: that one is not settled yet
    elections = [
        elect(scored.filter(pl.col("delivery_day") < day - timedelta(days=1)), _CANDIDATES)
        for day in days
    ]
    return pl.DataFrame([vars(election) for election in elections]).with_columns(delivery_day=days)


def _means(scored: pl.DataFrame) -> pl.DataFrame:
    """Return each forecaster's measures over all days, the fewest euros first."""
    return (
        scored.group_by("forecaster")
        .agg(
            pl.col("mae", "pinball", "coverage_p10_p90", "euros_lost").mean(),
            rmae=pl.col("mae").sum() / (pl.col("mae") / pl.col("rmae")).sum(),
        )
        .sort("euros_lost")
    )


if __name__ == "__main__":
    sys.exit(main())
