"""One accounting for every way to run a day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from settlement_days import (
    DAY,
    TZ,
    actual,
    battery,
    charger,
    chp,
    fleet,
    heat_pump,
    load,
    pv,
    stay,
    told,
    washer,
)

from vpp_pipeline.delivery_day import bounds
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.foresight import _certain, _sessions, _states, perfect_foresight
from vpp_pipeline.settlement.schemas import Commitment, SettlementError
from vpp_pipeline.settlement.stores import on_grid, stores
from vpp_pipeline.settlement.unmanaged import unmanaged_power

START, END = bounds(DAY, TZ)
HOUR = timedelta(hours=1)
PLAN = PlanSettings(fairness_eur_per_kwh=0.0)  # fairness is no money: settlement knows none


def cost(devices, day, power_kw):
    held = stores(devices, day)
    return day_cost(devices, day, held, power_kw, held.contents(power_kw), PLAN)


def unmanaged(devices, day):
    return unmanaged_power(devices, day, stores(devices, day))


def column(power_kw, devices, device_id):
    return power_kw[:, devices["device_id"].to_list().index(device_id)]


def test_a_battery_pays_for_energy_wear_and_what_it_took_out():
    devices = fleet(battery(wear_cost_eur_per_kwh=0.04, discharge_efficiency=0.8))
    day = actual(devices, told("battery", energy_kwh=8.0))
    power = np.zeros((96, 1))
    power[:4] = 2.0
    breakdown = cost(devices, day, power)
    assert breakdown.energy_eur == pytest.approx(-2.0 * 0.050)
    assert breakdown.wear_eur == pytest.approx(2.0 * 0.04 / 2)
    assert breakdown.inventory_eur == pytest.approx(2.0 / 0.8 * 0.050)
    assert breakdown.unmet_eur == 0.0
    assert breakdown.total_eur == pytest.approx(-0.1 + 0.04 + 0.125)


def test_a_vehicle_that_leaves_short_costs_what_it_lacks():
    devices = fleet(charger(unmet_cost_eur_per_kwh=2.0))
    day = actual(devices, told("charger", **stay(START + 10 * HOUR, START + 12 * HOUR, 20, 26)))
    assert cost(devices, day, np.zeros((96, 1))).unmet_eur == pytest.approx(2.0 * 6)


def test_putting_off_a_charge_beyond_midnight_saves_nothing_at_a_flat_price():
    devices = fleet(charger())
    rows = told("charger", **stay(START + 20 * HOUR, END + 6 * HOUR, 20.0, 40.0))
    day = actual(devices, rows)
    at_once = unmanaged(devices, day)
    later = np.zeros_like(at_once)
    assert at_once.sum() < 0
    assert cost(devices, day, later).total_eur == pytest.approx(
        cost(devices, day, at_once).total_eur
    )
    assert cost(devices, day, later).unmet_eur == 0.0


def test_yesterdays_debt_is_not_todays_cost():
    devices = fleet(charger())
    rows = told("charger", **stay(START - HOUR, START + 6 * HOUR, 20.0, 40.0))
    day = actual(devices, rows)
    breakdown = cost(devices, day, unmanaged(devices, day))
    assert breakdown.energy_eur == pytest.approx(12 / 0.8 * 0.050)
    assert breakdown.inventory_eur + breakdown.wear_eur == pytest.approx(-12 / 0.8 * 0.050)


def test_a_cold_room_costs_by_kwh_and_hour_and_a_warm_one_is_worth_its_heat():
    devices = fleet(heat_pump(discomfort_cost_eur_per_kwh=1.0))
    cold = actual(devices, told("heat_pump", temperature_c=18.0))
    held = stores(devices, cold)
    frozen = np.full((96, 1), -8.0)
    priced = day_cost(devices, cold, held, np.zeros((96, 1)), frozen, PLAN)
    assert priced.unmet_eur == pytest.approx(8.0 * 24)
    warmer = day_cost(devices, cold, held, np.zeros((96, 1)), np.full((96, 1), 0.0), PLAN)
    assert warmer.inventory_eur == pytest.approx(-8.0 / 3.2 * 0.050)


def test_fuel_is_paid_for_what_a_chp_gives():
    devices = fleet(chp())
    power = np.zeros((96, 1))
    power[:8] = 10.0
    assert cost(devices, actual(devices), power).fuel_eur == pytest.approx(20 * 0.060)


def test_a_missing_price_is_refused_by_its_quarter_hour():
    devices = fleet(load())
    at = pl.col("interval_start") == START + HOUR
    day = actual(devices, told("load", power_kw=-1.0), price=pl.when(~at).then(50.0))
    with pytest.raises(SettlementError, match=r"interval_start 2020-09-09 23:00.*1 quarter-hours"):
        cost(devices, day, np.zeros((96, 1)))


def test_unmanaged_devices_follow_their_defaults():
    devices = fleet(battery(), charger(), heat_pump(), washer(), pv(), load(), chp())
    arrival = START + 10 * HOUR
    day = actual(
        devices,
        told("battery", energy_kwh=5.0),
        told("charger", **stay(arrival, arrival + 8 * HOUR, 20.0, 25.0)),
        told("heat_pump", temperature_c=21.0),
        told("pv", power_kw=2.0),
        told("load", power_kw=-1.0),
    )
    power = unmanaged(devices, day)
    assert not column(power, devices, "battery").any()
    assert not column(power, devices, "chp").any()
    assert set(column(power, devices, "pv")) == {2.0}
    assert set(column(power, devices, "load")) == {-1.0}
    assert column(power, devices, "charger")[38:44].tolist() == pytest.approx(
        [0, 0, -10, -10, -5, 0]
    )
    assert column(power, devices, "washer")[30:40].tolist() == pytest.approx(
        [0, 0, -2, -2, -2, -2, -2, -2, 0, 0]
    )
    room_kwh = column(stores(devices, day).contents(power), devices, "heat_pump")
    assert room_kwh == pytest.approx(np.full(96, 0.4 * 2.5 * 4.0))


@pytest.mark.parametrize("day", [date(2020, 3, 29), date(2020, 10, 25)])
def test_a_flexible_load_does_all_its_work_on_the_days_the_clocks_change(day):
    devices = fleet(washer())
    assert unmanaged(devices, actual(devices, day=day)).sum() * 0.25 == pytest.approx(-3.0)


SPREAD = pl.when(pl.col("interval_start").dt.hour() < 9).then(20.0).otherwise(90.0)


def households():
    devices = fleet(battery(), charger(), heat_pump(), washer(), pv(), load())
    arrival = START + 9 * HOUR
    day = actual(
        devices,
        told("battery", energy_kwh=5.0),
        told("charger", **stay(arrival, arrival + 8 * HOUR, 20.0, 32.0)),
        told("heat_pump", temperature_c=20.9),
        told("pv", power_kw=1.0),
        told("load", power_kw=-1.0),
        price=SPREAD,
    )
    return devices, day


FLEET, A_DAY = households()
FORESIGHT = perfect_foresight(FLEET, A_DAY, PLAN)


def test_perfect_foresight_draws_and_injects_what_devices_can_and_leaves_nobody_short():
    limits = FLEET.select("max_draw_kw", "max_inject_kw").to_numpy()
    assert (FORESIGHT.power_kw >= -limits[:, 0] - 1e-6).all()
    assert (FORESIGHT.power_kw <= limits[:, 1] + 1e-6).all()
    assert cost(FLEET, A_DAY, FORESIGHT.power_kw).unmet_eur < 0.05
    assert FORESIGHT.gap is not None


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nobody_does_better_than_perfect_foresight(seed):
    rng = np.random.default_rng(seed)
    power = unmanaged(FLEET, A_DAY)
    held = stores(FLEET, A_DAY)
    names = FLEET["device_id"].to_list()
    content = 5.0
    for step in range(96):
        room = (9.5 - content) / 0.95 / 0.25, (content - 1.0) * 0.95 / 0.25
        wish = float(np.clip(rng.normal(0, 3), -min(room[0], 4), min(room[1], 4)))
        power[step, names.index("battery")] = wish
        content += 0.25 * (-wish * 0.95 if wish < 0 else -wish / 0.95)
    room_power = power[:, names.index("heat_pump")]
    room_power[:] = -rng.uniform(0, 3, 96)
    power[:, names.index("pv")] *= rng.uniform(0, 1, 96)
    washing = np.zeros(96)
    washing[32 + rng.choice(48, 6, replace=False)] = -2.0
    power[:, names.index("washer")] = washing
    assert held.present[:, names.index("battery")].all()
    assert_foresight_costs_no_more_than(power)


def assert_foresight_costs_no_more_than(power):
    best_eur = cost(FLEET, A_DAY, FORESIGHT.power_kw).total_eur
    slack = max(FORESIGHT.gap, 1e-6) * max(1.0, abs(best_eur))
    assert best_eur <= cost(FLEET, A_DAY, power).total_eur + slack


def test_doing_nothing_does_no_better_than_perfect_foresight():
    assert_foresight_costs_no_more_than(unmanaged(FLEET, A_DAY))


SOLD = Commitment(
    A_DAY.intervals.to_frame().with_columns(
        position_kw=pl.when(pl.col("interval_start").dt.hour() < 12).then(1.5).otherwise(-2.5)
    ),
    spread_eur_per_mwh=80.0,
)
A_DAY_SOLD = replace(A_DAY, commitment=SOLD)


def off_position_eur(power_kw):
    off_kw = np.abs(power_kw.sum(axis=1) - SOLD.position["position_kw"].to_numpy())
    return off_kw.sum() * 0.25 * 80.0 / 1000


def test_each_kwh_off_the_position_costs_the_spread_whichever_way_it_is_off():
    for power in (unmanaged(FLEET, A_DAY), FORESIGHT.power_kw, np.zeros((96, FLEET.height))):
        sold, unsold = cost(FLEET, A_DAY_SOLD, power), cost(FLEET, A_DAY, power)
        assert off_position_eur(power) > 0.1
        assert sold.total_eur - unsold.total_eur == pytest.approx(off_position_eur(power))


def test_perfect_foresight_knows_what_was_sold_and_does_best_by_it():
    best = perfect_foresight(FLEET, A_DAY_SOLD, PLAN)
    best_eur = cost(FLEET, A_DAY_SOLD, best.power_kw).total_eur
    assert off_position_eur(best.power_kw) < off_position_eur(FORESIGHT.power_kw)
    slack = max(best.gap, 1e-6) * max(1.0, abs(best_eur))
    for power in (unmanaged(FLEET, A_DAY), FORESIGHT.power_kw):
        assert best_eur <= cost(FLEET, A_DAY_SOLD, power).total_eur + slack


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_costs_add_up_and_follow_the_meter(seed):
    rng = np.random.default_rng(seed)
    power = rng.normal(0, 2, (96, FLEET.height))
    breakdown = cost(FLEET, A_DAY, power)
    price = on_grid(
        A_DAY.prices.with_columns(device_id=pl.lit("load")),
        "price_eur_per_mwh",
        FLEET.filter(pl.col("device_id") == "load"),
        A_DAY.intervals,
    )
    assert breakdown.energy_eur == pytest.approx(-(price * power).sum() * 0.25 / 1000)
    assert breakdown.total_eur == pytest.approx(
        breakdown.energy_eur
        + breakdown.wear_eur
        + breakdown.fuel_eur
        + breakdown.unmet_eur
        + breakdown.inventory_eur
    )
    twice = cost(FLEET, A_DAY, 2 * power)
    assert twice.energy_eur == pytest.approx(2 * breakdown.energy_eur)
    assert twice.wear_eur == pytest.approx(2 * breakdown.wear_eur)


def test_the_accounting_is_the_planners_own():
    devices = fleet(battery(), chp(), pv(), load())
    day = actual(
        devices,
        told("battery", energy_kwh=5.0),
        told("pv", power_kw=1.0),
        told("load", power_kw=-1.0),
        price=SPREAD,
    )
    envelopes = device_envelopes(
        devices,
        _states(devices, day),
        _certain(devices, day, START),
        _sessions(devices, day, START),
        day.temperatures,
        day.intervals,
        START,
    )
    problem = build(devices, envelopes, day.prices, PLAN)
    found = solve(problem, PLAN)
    power = problem.fixed_kw.copy()
    power[:, problem.stores.place] = found.setpoints.store_kw
    power[:, problem.sources.place] = found.setpoints.source_kw
    assert cost(devices, day, power).total_eur == pytest.approx(found.verdict.objective_eur)
