from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.behind_meter import (
    Batteries,
    Meters,
    paid_eur,
    plan_behind_meters,
)
from vpp_pipeline.optimization.problem import ProblemError


def batteries(count=1, **figures):
    usual = {
        "floor_kwh": 0.0,
        "ceiling_kwh": 10.0,
        "initial_kwh": 0.0,
        "charge_max_kw": 8.0,
        "discharge_max_kw": 8.0,
        "charge_efficiency": 1.0,
        "discharge_efficiency": 1.0,
        "wear_eur_per_kwh": 0.0,
        "end_value_eur_per_kwh": 0.0,
    }
    return Batteries(**{name: np.full(count, value) for name, value in (usual | figures).items()})


def meters(without_kw, weight=(1.0,), buy=0.5, sell=0.0):
    without = np.array(without_kw, float).reshape(len(weight), -1, 1)
    prices = [
        np.broadcast_to(np.reshape(price, (-1, 1)), without.shape[1:]) for price in (buy, sell)
    ]
    return Meters(*(np.array(price, float) for price in prices), without, np.array(weight))


def drawn_at_random(seed):
    rng = np.random.default_rng(seed)
    steps, cases, count = rng.integers(1, 13), rng.integers(1, 4), 2
    floor = rng.uniform(0, 1, count)
    ceiling = floor + rng.uniform(0, 6, count)
    buy = rng.uniform(0, 0.6, (steps, count))
    return Batteries(
        floor_kwh=floor,
        ceiling_kwh=ceiling,
        initial_kwh=rng.uniform(floor, ceiling),
        charge_max_kw=rng.uniform(0, 6, count),
        discharge_max_kw=rng.uniform(0, 6, count),
        charge_efficiency=rng.uniform(0.6, 1, count),
        discharge_efficiency=rng.uniform(0.6, 1, count),
        wear_eur_per_kwh=rng.choice([0.0, 0.05], count),
        end_value_eur_per_kwh=rng.uniform(0, 0.4, count),
    ), Meters(
        buy,
        buy * rng.choice([0.0, 0.3, 1.0], buy.shape),
        rng.normal(0, 3, (cases, steps, count)),
        rng.dirichlet(np.ones(cases)),
    )


def least_cost(of, at, site):
    """Return the optimum that a linear programme has: charge, discharge, energy, drawn by case."""
    cases, steps, _ = at.without_kw.shape
    own = {name: values[site] for name, values in vars(of).items()}
    buy, sell = at.buy_eur_per_kwh[:, site], at.sell_eur_per_kwh[:, site]
    wear = 0.5 * STEP_H * own["wear_eur_per_kwh"]
    nothing, unit = np.zeros((steps, steps)), np.eye(steps)
    cost = np.concatenate(
        [
            STEP_H * sell + wear,
            -STEP_H * sell + wear,
            np.append(np.zeros(steps - 1), -own["end_value_eur_per_kwh"]),
            *(weight * STEP_H * (buy - sell) for weight in at.weight),
        ]
    )
    law = np.hstack(
        [
            -STEP_H * own["charge_efficiency"] * unit,
            STEP_H / own["discharge_efficiency"] * unit,
            unit - np.eye(steps, k=-1),
            *[nothing] * cases,
        ]
    )
    drawn = np.vstack(
        [
            np.hstack([unit, -unit, nothing, *(-unit if k == j else nothing for j in range(cases))])
            for k in range(cases)
        ]
    )
    found = linprog(
        cost,
        A_ub=drawn,
        b_ub=at.without_kw[:, :, site].ravel(),
        A_eq=law,
        b_eq=np.append(own["initial_kwh"], np.zeros(steps - 1)),
        bounds=[(0, own["charge_max_kw"])] * steps
        + [(0, own["discharge_max_kw"])] * steps
        + [(own["floor_kwh"], own["ceiling_kwh"])] * steps
        + [(0, None)] * (cases * steps),
    )
    sold = at.weight @ (at.without_kw[:, :, site] @ sell) * STEP_H
    return found.fun - sold


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_every_plan_costs_what_the_best_there_is_does_and_can_be_followed(seed):
    of, at = drawn_at_random(seed)
    plan = plan_behind_meters(of, at)

    into = np.maximum(-plan.power_kw, 0) * of.charge_efficiency
    out = np.maximum(plan.power_kw, 0) / of.discharge_efficiency
    held = of.initial_kwh + STEP_H * np.cumsum(into - out, axis=0)
    assert np.allclose(held, plan.energy_kwh, atol=1e-9)
    assert (plan.energy_kwh >= of.floor_kwh).all()
    assert (plan.energy_kwh <= of.ceiling_kwh).all()
    assert (plan.power_kw <= of.discharge_max_kw).all()
    assert (plan.power_kw >= -of.charge_max_kw).all()
    for site in range(2):
        assert plan.cost_eur[site] == pytest.approx(least_cost(of, at, site), abs=1e-7)


@pytest.mark.parametrize(
    ("worth_later", "charged_kw"),
    [(0.1, 0.0), (0.3, 2.0), (0.4, 4.0)],
    ids=["not worth the risk", "the likely surplus", "all but the unlikely"],
)
def test_an_uncertain_surplus_is_stored_as_far_as_it_is_likely_to_be_one(worth_later, charged_kw):
    at = meters([0.0, 2.0, 4.0], weight=(0.3, 0.4, 0.3))
    plan = plan_behind_meters(batteries(end_value_eur_per_kwh=worth_later), at)
    assert plan.power_kw[0, 0] == pytest.approx(-charged_kw)


def test_the_dear_evening_is_served_from_the_cheap_night():
    at = meters([-1.0] * 4 + [-3.0] * 4, buy=[0.2] * 4 + [0.5] * 4)
    plan = plan_behind_meters(batteries(), at)
    assert plan.power_kw[4:, 0] == pytest.approx([3.0] * 4)
    assert plan.energy_kwh[-1, 0] == pytest.approx(0.0)


def test_what_can_be_bought_at_any_time_is_bought_last_and_used_first():
    at = meters([0.0] * 8 + [-2.0] * 8, buy=[0.2] * 8 + [0.5] * 8)
    plan = plan_behind_meters(batteries(ceiling_kwh=2.0), at)
    assert plan.power_kw[:, 0] == pytest.approx([0.0] * 7 + [-8.0] + [2.0] * 4 + [0.0] * 4)


def test_energy_that_is_worth_nothing_is_kept():
    plan = plan_behind_meters(batteries(initial_kwh=5.0), meters([1.0, 2.0]))
    assert plan.power_kw[:, 0].tolist() == [0.0, 0.0]


def test_many_batteries_get_the_plans_that_each_gets_alone():
    of, at = drawn_at_random(3)
    many = 300
    plan = plan_behind_meters(
        Batteries(**{name: np.tile(each, many) for name, each in vars(of).items()}),
        Meters(
            np.tile(at.buy_eur_per_kwh, many),
            np.tile(at.sell_eur_per_kwh, many),
            np.tile(at.without_kw, many),
            at.weight,
        ),
    )
    assert np.array_equal(plan.power_kw, np.tile(plan_behind_meters(of, at).power_kw, many))


def test_what_is_drawn_is_bought_and_what_is_injected_is_sold():
    cost = paid_eur(np.array([0.4, 0.4]), np.array([0.1, 0.1]), np.array([-2.0, 2.0]))
    assert cost == pytest.approx([0.2, -0.05])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"buy": np.nan}, "buy_eur_per_kwh holds a number that is not finite"),
        ({"sell": -0.1}, "sell_eur_per_kwh is -0.1 at site 0, quarter-hour 0, and is below 0"),
        ({"sell": 0.6}, "is above the price to buy"),
        ({"weight": (0.5,)}, r"weight is \[0.5\]: give shares that add up to 1"),
    ],
)
def test_meters_that_can_not_be_planned_on_are_refused(change, told):
    with pytest.raises(ProblemError, match=told):
        plan_behind_meters(batteries(), meters([1.0], **change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"initial_kwh": 11.0}, "battery 0: initial_kwh is 11.0, outside of 0.0 to 10.0"),
        ({"charge_efficiency": 1.5}, "battery 0: charge_efficiency is 1.5"),
        ({"discharge_efficiency": 0.0}, "battery 0: discharge_efficiency is 0.0"),
    ],
)
def test_batteries_that_can_not_be_are_refused(change, told):
    with pytest.raises(ProblemError, match=told):
        plan_behind_meters(batteries(**change), meters([1.0]))


def test_arrays_that_do_not_fit_are_refused():
    at = meters([1.0, 2.0])
    with pytest.raises(ProblemError, match="without_kw has the shape"):
        plan_behind_meters(batteries(), replace(at, without_kw=at.without_kw[:, :1]))
    with pytest.raises(ProblemError, match="buy_eur_per_kwh has the shape"):
        plan_behind_meters(batteries(2), at)
