"""What forecasts are worth: five homes' batteries planned on ours, on yesterday, on the truth.

Belongs here: the homes' season played hour by hour, its costs and bars. Does not: the forecasts
(`forecasting.load_model`, `pv_model`), the cases made of them (`optimization.uncertainty`), the
plans (`optimization.behind_meter`).

Every home draws at its tariff and is paid nothing for what it injects: an hour costs
tariff · max(0, net load), the rule of the data's own challenge. At the start of an hour all
readings before it are known; a plan of the next 24 hours is made and its first set-point holds for
the whole hour, whatever load and sun then do: there is no local rule. Beside it is the same with
one plan a day, at midnight, and the same for all homes behind one meter.

python -m benchmarks.forecast_value [--days N]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.homes import BEGINS, DAY_H, HOMES, HOUR, PROCESSES, forecast, season
from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.behind_meter import Batteries, Meters, plan_behind_meters
from vpp_pipeline.optimization.uncertainty import WEIGHTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.homes import Array, Season

_PAST_DAYS = 28
_LEARNT_H = _PAST_DAYS * DAY_H + 1  # then the score begins, at a midnight
_PER_HOUR = round(1 / STEP_H)
_CERTAIN = np.ones(1)
_CLOSE = 1e-6
_OURS = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
_SHARE_BAR, _LEAD_BAR = 0.70, 0.10


@dataclass(frozen=True)
class Played:
    """What a way to plan came to: each home's cost, and what its battery held in the end."""

    cost: Array  # (homes,)
    left_kwh: Array


def main() -> int:
    """Play the season in every way and print what each cost; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, help="score fewer days, the first ones")
    given = parser.parse_args()
    began, homes = time.monotonic(), season()
    whole_days = (len(homes.tariff) - _LEARNT_H) // DAY_H
    days = min(given.days or whole_days, whole_days)
    scored = range(_LEARNT_H, _LEARNT_H + days * DAY_H)
    ours = forecast(scored)
    made_s = time.monotonic() - began
    yesterday = _yesterday(homes, scored)
    with_errors = _with_past_errors(homes, scored)
    nothing = _judged(homes, scored, np.zeros((len(scored), len(homes.names))))
    perfect = _perfect(homes, scored)
    ways = {
        "do nothing": (nothing, nothing),
        "persistence": _both(homes, scored, yesterday, _CERTAIN),
        "persistence with its past errors": _both(homes, scored, with_errors, WEIGHTS),
        "our p50 alone": _both(homes, scored, ours[:, 1:2], _CERTAIN),
        "our forecasts": _both(homes, scored, ours, WEIGHTS),
        "perfect foresight": (perfect, perfect),
    }
    _assert_ordered(ways, float(homes.tariff.max()))
    print(f"{days} days from {BEGINS + _LEARNT_H * HOUR:%Y-%m-%d}, five homes, hourly readings")
    shares = {where: _printed(ways, where, chosen) for where, chosen in _meters().items()}
    cpu_s = sum(sum(resource.getrusage(whose)[:2]) for whose in _OURS)
    print(
        f"\n{time.monotonic() - began:.0f} s ({cpu_s:.0f} s of CPU), of which forecasts {made_s:.0f} s, "
        f"{PROCESSES} processes"
    )
    apart = shares["five homes, a meter each"]
    lead = apart["our forecasts"] - apart["persistence"]
    print(
        f"bars: {apart['our forecasts']:.1%} recovered (at least {_SHARE_BAR:.0%}), "
        f"{100 * lead:.1f} points above persistence (at least {100 * _LEAD_BAR:.0f})"
    )
    return 0 if apart["our forecasts"] >= _SHARE_BAR and lead >= _LEAD_BAR else 1


def _meters() -> dict[str, slice]:
    return {
        "five homes, a meter each": slice(0, HOMES),
        "five homes behind one meter": slice(HOMES, HOMES + 1),
    }


def _printed(ways: dict[str, tuple[Played, Played]], where: str, chosen: slice) -> dict[str, float]:
    """Print a table; return the share that each way recovers when planned hourly."""
    cost = {name: [float(p.cost[chosen].sum()) for p in both] for name, both in ways.items()}
    most, least = cost["do nothing"][0], cost["perfect foresight"][0]
    print(f"\n{where:34} {'cost USD':>9} {'recovered':>10} {'once a day':>11} {'recovered':>10}")
    shares = {}
    for name, figures in cost.items():
        hourly, daily = ((most - each) / (most - least) for each in figures)
        print(f"{name:34} {figures[0]:9.0f} {hourly:10.1%} {figures[1]:11.0f} {daily:10.1%}")
        shares[name] = hourly
    return shares


def _yesterday(season: Season, scored: range) -> Array:
    """Return the sites' power as it was a day before: (hours, 1, 24, homes)."""
    return season.power_kw[_ahead(scored) - DAY_H][:, None]


def _with_past_errors(season: Season, scored: range) -> Array:
    """Return the same with p10 and p90 of what it was wrong by at that hour of the last weeks."""
    power = season.power_kw
    ahead = _ahead(scored)
    past = ahead[:, :, None] - DAY_H * np.arange(1, _PAST_DAYS)
    errors = power[past] - power[past - DAY_H]
    low, high = np.quantile(errors, (0.1, 0.9), axis=2)
    middle = power[ahead - DAY_H]
    return np.stack([middle + low, middle, middle + high], axis=1)


def _ahead(scored: range) -> NDArray[np.int64]:
    return np.array(scored)[:, None] + np.arange(DAY_H)


def _both(season: Season, scored: range, forecasts: Array, weight: Array) -> tuple[Played, Played]:
    """Play the season with a plan every hour, and with one a day."""
    return _played(season, scored, forecasts, weight, 1), _played(
        season, scored, forecasts, weight, DAY_H
    )


def _played(season: Season, scored: range, forecasts: Array, weight: Array, every_h: int) -> Played:
    tariff = np.concatenate([season.tariff, season.tariff[-DAY_H:]])
    holds = season.batteries.initial_kwh
    done = np.empty((len(scored), len(season.names)))
    for n, hour in enumerate(scored):
        if n % every_h == 0:
            planned = _plan(season, holds, tariff[hour : hour + DAY_H], forecasts[n], weight)
        done[n], holds = _followed(season.batteries, holds, planned[n % every_h])
    return _judged(season, scored, done)


def _plan(season: Season, holds: Array, tariff: Array, forecast: Array, weight: Array) -> Array:
    """Return a set-point an hour (hours, homes) for forecasts (cases, hours, homes)."""
    quarters = np.repeat(np.broadcast_to(tariff[:, None], forecast.shape[1:]), _PER_HOUR, axis=0)
    left = np.full(len(holds), max(float(np.median(tariff)), 0.0))
    plan = plan_behind_meters(
        replace(season.batteries, initial_kwh=holds, end_value_eur_per_kwh=left),
        Meters(quarters, np.zeros_like(quarters), np.repeat(forecast, _PER_HOUR, axis=1), weight),
    )
    return plan.power_kw.reshape(-1, _PER_HOUR, len(holds)).mean(axis=1)


def _followed(batteries: Batteries, holds: Array, power_kw: Array) -> tuple[Array, Array]:
    """Return what an hour at a set-point comes to, and what is left in the batteries."""
    room = (batteries.ceiling_kwh - holds) / batteries.charge_efficiency
    power = np.clip(power_kw, -room, (holds - batteries.floor_kwh) * batteries.discharge_efficiency)
    left = holds + _gained(batteries, power)
    return power, np.clip(left, batteries.floor_kwh, batteries.ceiling_kwh)


def _gained(batteries: Batteries, power_kw: Array) -> Array:
    into = np.maximum(-power_kw, 0.0) * batteries.charge_efficiency
    gained: Array = into - np.maximum(power_kw, 0.0) / batteries.discharge_efficiency
    return gained


def _perfect(season: Season, scored: range) -> Played:
    """Return the least that the whole season can cost for one who knows all of it."""
    tariff = season.tariff[scored.start : scored.stop]
    known = season.power_kw[scored.start : scored.stop][None]
    quarters = np.repeat(np.broadcast_to(tariff[:, None], known.shape[1:]), _PER_HOUR, axis=0)
    plan = plan_behind_meters(
        season.batteries,
        Meters(quarters, np.zeros_like(quarters), np.repeat(known, _PER_HOUR, axis=1), _CERTAIN),
    )
    hourly = plan.power_kw.reshape(-1, _PER_HOUR, len(season.names)).mean(axis=1)
    holds, done = season.batteries.initial_kwh, np.empty_like(hourly)
    for n, setpoint in enumerate(hourly):
        done[n], holds = _followed(season.batteries, holds, setpoint)
    played = _judged(season, scored, done)
    if not np.allclose(played.cost, plan.cost_eur, atol=_CLOSE):
        raise AssertionError(f"perfect foresight cost {played.cost}, planned {plan.cost_eur}")
    return played


def _judged(season: Season, scored: range, power_kw: Array) -> Played:
    """Return what the powers cost; raises where a battery could not have done that."""
    batteries = season.batteries
    held = batteries.initial_kwh + np.cumsum(_gained(batteries, power_kw), axis=0)
    for what, excess in (
        ("holds too little", batteries.floor_kwh - held),
        ("holds too much", held - batteries.ceiling_kwh),
        ("charges too fast", -power_kw - batteries.charge_max_kw),
        ("discharges too fast", power_kw - batteries.discharge_max_kw),
    ):
        if excess.max() > _CLOSE:
            hour, home = np.unravel_index(int(excess.argmax()), excess.shape)
            raise AssertionError(f"{season.names[home]}'s battery {what} in hour {hour}")
    net_kw = season.power_kw[scored.start : scored.stop] + power_kw
    tariff = season.tariff[scored.start : scored.stop, None]
    return Played((tariff * np.maximum(-net_kw, 0.0)).sum(axis=0), held[-1])


def _assert_ordered(ways: dict[str, tuple[Played, Played]], dearest: float) -> None:
    """Refuse costs that can't be: below perfect foresight, or one meter dearer than five.

    Nor may plans cost more than doing nothing, what is left in the batteries at the `dearest`
    tariff aside.
    """
    best = ways["perfect foresight"][0].cost
    for name, both in ways.items():
        for played in both:
            if (played.cost < best - _CLOSE).any():
                raise AssertionError(f"{name} costs {played.cost}, perfect foresight {best}")
    for name in ("do nothing", "perfect foresight"):
        cost = ways[name][0].cost
        if cost[HOMES] > cost[:HOMES].sum() + _CLOSE:
            raise AssertionError(f"{name}: one meter costs more than five: {cost}")
    ours, nothing = ways["our forecasts"][0], ways["do nothing"][0]
    if (ours.cost - dearest * ours.left_kwh).sum() > nothing.cost.sum():
        raise AssertionError(f"planned on our forecasts: {ours.cost}, doing nothing {nothing.cost}")


if __name__ == "__main__":
    sys.exit(main())
