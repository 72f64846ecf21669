import flexibility_fleets as fleets
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization.behind_meter import Batteries, Meters, plan_behind_meters
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.planner import PlanSettings, plan
from vpp_pipeline.optimization.portfolio import PortfolioTerms, portfolio_of
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.optimization.uncertainty import WEIGHTS, hedged, summed

DAY = day_intervals(fleets.WINTER_DAY, "Europe/Berlin")
EVENING = np.arange(96) // 4 >= 15
TARIFF = np.where(EVENING, 500.0, 210.0)
SETTINGS = PlanSettings(fairness_eur_per_kwh=0.0)


def terms(**columns):
    return PortfolioTerms(pl.DataFrame({"interval_start": DAY, **columns}))


def settled_eur(portfolio, power_kw):
    """Return the imbalance and event terms of the objective, as `model` has them."""
    beyond = power_kw - portfolio.position_kw
    outside = np.maximum(portfolio.event_min_kw - power_kw, 0)
    outside += np.maximum(power_kw - portfolio.event_max_kw, 0)
    earned = portfolio.surplus_eur_per_kwh * np.maximum(beyond, 0)
    earned -= portfolio.shortage_eur_per_kwh * np.maximum(-beyond, 0)
    return STEP_H * (portfolio.event_eur_per_kwh * outside - earned)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_hedged_settlement_is_the_expected_one_but_for_a_constant(seed):
    rng = np.random.default_rng(seed)
    lower, higher = rng.choice([0.0, 0.5, 3.0], (2, 96))
    plain = portfolio_of(
        terms(
            position_kw=rng.normal(0, 5, 96),
            surplus_eur_per_mwh=rng.uniform(-50, 100, 96),
            shortage_eur_per_mwh=rng.uniform(100, 300, 96),
        ),
        DAY,
        TARIFF / 1000,
    )
    certain = hedged(plain, lower, higher)
    tried = rng.normal(0, 8, (6, 96))
    expected = [
        sum(
            weight * settled_eur(plain, power + error)
            for weight, error in zip(WEIGHTS, (-lower, 0.0, higher), strict=True)
        )
        for power in tried
    ]
    beside = np.array(expected) - [settled_eur(certain, power) for power in tried]
    assert beside == pytest.approx(np.tile(beside[0], (6, 1)), abs=1e-9)


def test_a_fleet_and_a_battery_behind_its_meter_are_hedged_alike():
    devices = fleets.frame(fleets.site("home", [fleets.battery("b"), fleets.load("l")]))
    envelopes = fleets.envelopes(devices, DAY)
    prices = fleets.prices(DAY, TARIFF)
    base_kw = build(devices, envelopes, prices, SETTINGS).sites.base_kw[:, 0]
    lower, higher = np.where(EVENING, 2.0, 0.5), np.where(EVENING, 0.4, 0.2)
    unsure = terms(
        position_kw=np.zeros(96),
        surplus_eur_per_mwh=np.zeros(96),
        shortage_eur_per_mwh=TARIFF,
        lower_by_kw=lower,
        higher_by_kw=higher,
    )
    made = plan(devices, envelopes, prices, SETTINGS, unsure)
    power = made.schedules.filter(pl.col("device_id") == "b")["power_kw"].to_numpy()

    stores = build(devices, envelopes, prices, SETTINGS).stores
    figures = {
        name: getattr(stores, name)
        for name in (
            "charge_efficiency",
            "discharge_efficiency",
            "wear_eur_per_kwh",
            "end_value_eur_per_kwh",
        )
    }
    battery = Batteries(
        floor_kwh=stores.floor_kwh.min(axis=0),
        ceiling_kwh=stores.ceiling_kwh.max(axis=0),
        initial_kwh=stores.initial_kwh[0],
        charge_max_kw=stores.charge_max_kw[0],
        discharge_max_kw=stores.discharge_max_kw[0],
        **figures,
    )
    cases = np.stack([base_kw - lower, base_kw, base_kw + higher])[:, :, None]
    meter = Meters(TARIFF[:, None] / 1000, np.zeros((96, 1)), cases, WEIGHTS)
    alone = plan_behind_meters(battery, meter)

    energy = made.schedules.filter(pl.col("device_id") == "b")["energy_kwh"].to_numpy()
    drawn = np.maximum(-(cases[:, :, 0] + power), 0)
    paid = STEP_H * WEIGHTS @ drawn @ TARIFF / 1000
    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh[0] * np.abs(power).sum()
    cost = paid + wear - stores.end_value_eur_per_kwh[0] * energy[-1]
    assert cost == pytest.approx(alone.cost_eur[0], abs=2e-3)
    assert made.certificate.label == "optimal"


def test_an_event_is_not_hedged():
    both = terms(
        event_min_kw=np.full(96, 5.0), event_eur_per_mwh=np.full(96, 900.0), lower_by_kw=np.ones(96)
    )
    with pytest.raises(ProblemError, match="portfolio row 0: there is an event at interval_start"):
        portfolio_of(both, DAY, TARIFF / 1000)


@pytest.mark.parametrize("name", ["lower_by_kw", "higher_by_kw"])
def test_a_spread_below_nothing_is_refused(name):
    with pytest.raises(ProblemError, match=f"{name} is -1.0.*0 or more"):
        portfolio_of(terms(**{name: np.full(96, -1.0)}), DAY, TARIFF / 1000)


def test_what_errs_independently_errs_less_in_sum():
    load = np.array([[-6.0], [-3.0], [-2.0]])
    sun = np.array([[0.0], [4.0], [5.0]])
    low, middle, high = summed(np.stack([load, sun], axis=1))
    assert middle == pytest.approx([1.0])
    assert low == pytest.approx([1.0 - 5.0])
    assert high == pytest.approx([1.0 + np.sqrt(2.0)])
