"""Batteries that each serve one meter, planned for what is expected to be paid there.

Belongs here: sites that share nothing, with one battery each, a price to draw and a price to
inject, and a load and sun that are known only as cases. Does not: what the cases are
(`uncertainty`), fleets with anything in common (`solve`), the recursion (`behind_meter_kernel`).

    minimise    sum over quarter-hours and cases of  weight · h · (buy·(-p - b)⁺ - sell·(p + b)⁺)
                + wear/2 · h·|b|  - end value · energy left
    subject to  e = e' + eta_c·h·(-b)⁺ - h·b⁺/eta_d,  floor <= e <= ceiling,  -charge <= b <= discharge

with p a site's power without its battery and b the set-point, which has to be chosen before it is
known which case it is. Solved exactly: 10,000 batteries over a day take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.behind_meter_kernel import plan_batteries
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats

_AT_A_TIME = 256
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Batteries:
    """One battery a site; every array is (S,). Powers kW at its terminals, energies kWh."""

    floor_kwh: Floats
    ceiling_kwh: Floats
    initial_kwh: Floats
    charge_max_kw: Floats
    discharge_max_kw: Floats
    charge_efficiency: Floats
    discharge_efficiency: Floats
    wear_eur_per_kwh: Floats  # for a kWh in and out again
    end_value_eur_per_kwh: Floats


@dataclass(frozen=True)
class Meters:
    """What is paid at each site's meter (T, S), and its power without the battery in each case."""

    buy_eur_per_kwh: Floats
    sell_eur_per_kwh: Floats  # from 0 to the price to buy
    without_kw: Floats  # (cases, T, S), positive injects
    weight: Floats  # (cases,) how likely each is


@dataclass(frozen=True)
class MeteredPlan:
    """Set-points, what they leave in the batteries, and what each site is expected to pay."""

    power_kw: Floats  # (T, S), positive injects
    energy_kwh: Floats  # (T, S) at the quarter-hours' ends
    cost_eur: Floats  # (S,) the objective


def plan_behind_meters(batteries: Batteries, meters: Meters) -> MeteredPlan:
    """Return each battery's cheapest set-points on its own.

    The same inputs give the same plan. Raises `ProblemError` for arrays that do not fit, or are
    not finite, a content outside its bounds, and prices that make it pay to burn energy.
    """
    _check(batteries, meters)
    steps, count = meters.buy_eur_per_kwh.shape
    power, energy = np.empty((steps, count)), np.empty((steps, count))

    def solve(first: int) -> None:
        part = slice(first, first + _AT_A_TIME)
        here: dict[str, Floats] = {name: each[part] for name, each in vars(batteries).items()}
        some_power, some_energy = np.empty((2, steps, len(here["initial_kwh"])))
        plan_batteries(
            np.ascontiguousarray(meters.buy_eur_per_kwh[:, part]),
            np.ascontiguousarray(meters.sell_eur_per_kwh[:, part]),
            np.ascontiguousarray(meters.without_kw[:, :, part]),
            meters.weight,
            here["floor_kwh"],
            here["ceiling_kwh"],
            here["initial_kwh"],
            here["charge_max_kw"],
            here["discharge_max_kw"],
            here["charge_efficiency"],
            here["discharge_efficiency"],
            here["wear_eur_per_kwh"],
            here["end_value_eur_per_kwh"],
            some_power,
            some_energy,
        )
        power[:, part], energy[:, part] = some_power, some_energy

    list(side_by_side(solve, range(0, count, _AT_A_TIME)))
    return MeteredPlan(power, energy, _cost_eur(batteries, meters, power, energy))


def paid_eur(buy_eur_per_kwh: Floats, sell_eur_per_kwh: Floats, site_kw: Floats) -> Floats:
    """Return what a quarter-hour at these powers costs, EUR, in the arrays' common shape."""
    drawn, given = np.maximum(-site_kw, 0.0), np.maximum(site_kw, 0.0)
    cost: Floats = STEP_H * (buy_eur_per_kwh * drawn - sell_eur_per_kwh * given)
    return cost


def _cost_eur(batteries: Batteries, meters: Meters, power: Floats, energy: Floats) -> Floats:
    paid = paid_eur(meters.buy_eur_per_kwh, meters.sell_eur_per_kwh, meters.without_kw + power)
    wear = 0.5 * STEP_H * batteries.wear_eur_per_kwh * np.abs(power).sum(axis=0)
    expected = np.einsum("kts,k->s", paid, meters.weight)
    cost: Floats = expected + wear - batteries.end_value_eur_per_kwh * energy[-1]
    return cost


def _check(batteries: Batteries, meters: Meters) -> None:
    shape, count = meters.buy_eur_per_kwh.shape, len(batteries.initial_kwh)
    wanted = {
        "sell_eur_per_kwh": (meters.sell_eur_per_kwh, shape),
        "without_kw": (meters.without_kw, (len(meters.weight), *shape)),
        "buy_eur_per_kwh": (meters.buy_eur_per_kwh, (shape[0], count)),
        "weight": (meters.weight, meters.weight.shape),
    } | {field.name: (getattr(batteries, field.name), (count,)) for field in fields(batteries)}
    for name, (array, expected) in wanted.items():
        if array.shape != expected:
            raise ProblemError(
                f"meters: {name} has the shape {array.shape}: give {expected}, quarter-hours by "
                "batteries, as the price to buy has"
            )
        if not np.isfinite(array).all():
            raise ProblemError(f"meters: {name} holds a number that is not finite: give only such")
    sell, buy = meters.sell_eur_per_kwh, meters.buy_eur_per_kwh
    for wrong, what in (
        (sell < 0, "is below 0: plan such a site with the fleet, where switches are kept apart"),
        (sell > buy, "is above the price to buy: no plan is the best then"),
    ):
        if wrong.any():
            step, site = (int(at) for at in np.argwhere(wrong)[0])
            raise ProblemError(
                f"meters: sell_eur_per_kwh is {sell[step, site]} at site {site}, quarter-hour "
                f"{step}, and {what}"
            )
    if (meters.weight < 0).any() or abs(meters.weight.sum() - 1) > _ROUNDING:
        raise ProblemError(f"meters: weight is {meters.weight}: give shares that add up to 1")
    for name in ("charge_efficiency", "discharge_efficiency"):
        efficiency = getattr(batteries, name)
        if ((efficiency <= 0) | (efficiency > 1)).any():
            site = int(np.argmax((efficiency <= 0) | (efficiency > 1)))
            raise ProblemError(
                f"battery {site}: {name} is {efficiency[site]}: give more than 0, at most 1"
            )
    held = batteries.initial_kwh
    outside = (held < batteries.floor_kwh) | (held > batteries.ceiling_kwh)
    if outside.any():
        site = int(np.argmax(outside))
        raise ProblemError(
            f"battery {site}: initial_kwh is {held[site]}, outside of "
            f"{batteries.floor_kwh[site]} to {batteries.ceiling_kwh[site]}: correct its content "
            "or its bounds"
        )
