from datetime import timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization import monolith
from vpp_pipeline.optimization.planner import PlanSettings, plan
from vpp_pipeline.optimization.relaxed import SolverError, solve_relaxed

BERLIN = "Europe/Berlin"
DAY = day_intervals(given.WINTER_DAY, BERLIN)
EVENING_PEAK = np.where(np.arange(96) // 4 % 24 >= 17, 200.0, 40.0)


def planned(*sites, price=EVENING_PEAK, intervals=DAY, plan_settings=None, **inputs):
    devices = given.frame(*sites)
    envelopes = given.envelopes(devices, intervals, **inputs)
    return plan(devices, envelopes, given.prices(intervals, price), plan_settings)


def power(made, name):
    return made.schedules.filter(pl.col("device_id") == name)["power_kw"].to_numpy()


def column(made, name, field):
    return made.schedules.filter(pl.col("device_id") == name)[field].to_list()


def assert_sound(certificate):
    assert certificate.worst_violation_kw <= 1e-6
    assert certificate.worst_violation_kwh <= 1e-6
    assert certificate.simultaneous_steps == 0


def test_a_battery_buys_cheap_and_sells_dear():
    made = planned(given.site("home", [given.battery("b")]))
    bought, sold = power(made, "b")[:68], power(made, "b")[68:]
    assert bought.min() < 0
    assert bought.max() <= 0
    assert sold.max() > 0
    assert made.certificate.label == "optimal"
    assert_sound(made.certificate)


def test_the_objective_is_the_money_and_the_wear_of_what_is_scheduled():
    made = planned(
        given.site("home", [given.battery("b", wear_cost_eur_per_kwh=0.04)]),
        plan_settings=PlanSettings(fairness_eur_per_kwh=0.0),
    )
    kw, kwh = power(made, "b"), column(made, "b", "energy_kwh")
    money = -(kw * EVENING_PEAK).sum() * STEP_H / 1000
    wear = 0.02 * np.abs(kw).sum() * STEP_H
    kept = np.median(EVENING_PEAK) / 1000 * (kwh[-1] - 5.0)
    assert made.certificate.objective_eur == pytest.approx(money + wear - kept)


@pytest.mark.parametrize(
    ("day", "steps"),
    [(given.SPRING_CHANGE, 92), (given.WINTER_DAY, 96), (given.AUTUMN_CHANGE, 100)],
)
def test_every_day_length_gets_a_whole_schedule(day, steps):
    intervals = day_intervals(day, BERLIN)
    price = 60 + 40 * np.sin(np.arange(steps) / 10)
    devices = given.mixed_fleet(5)
    made = plan(
        devices,
        given.envelopes(devices, intervals),
        given.prices(intervals, price),
        PlanSettings(
            gap_tolerance=5e-3
        ),  # of a euro, the sum of sites that earn and sites that pay
    )
    assert made.schedules.height == steps * devices.height
    assert made.schedules["power_kw"].is_finite().all()
    assert made.certificate.label == "optimal"
    assert_sound(made.certificate)


def test_what_is_left_of_a_day_can_be_planned_down_to_one_quarter_hour():
    for steps in (1, 2, 7):
        made = planned(
            given.site("home", [given.battery("b"), given.vehicle("v"), given.pv("p")]),
            price=EVENING_PEAK[-steps:],
            intervals=DAY.tail(steps),
        )
        assert made.schedules.height == 3 * steps
        assert_sound(made.certificate)


def test_no_negative_price_makes_a_battery_burn_energy():
    price = np.random.default_rng(1).normal(-100, 100, 96)
    made = planned(
        given.site("home", [given.battery("b", wear_cost_eur_per_kwh=0), given.pv("p")]),
        price=price,
    )
    assert made.certificate.label == "optimal"
    assert_sound(made.certificate)
    kwh = np.array([5.0, *column(made, "b", "energy_kwh")])
    kw = power(made, "b")
    follows = np.where(kw < 0, -kw * 0.95, -kw / 0.95) * STEP_H
    assert np.diff(kwh) == pytest.approx(follows, abs=1e-9)


def test_the_sun_is_curtailed_at_a_negative_price_and_only_then():
    price = np.where(np.arange(96) < 48, -10.0, 10.0)
    made = planned(given.site("home", [given.pv("p", rated_power_kw=8)]), price=price)
    assert power(made, "p")[:48].max() == 0.0
    assert power(made, "p")[48:71].min() == 4.0
    assert column(made, "p", "limit_kw")[25:71] == [0.0] * 23 + [8.0] * 23


def test_a_limit_on_feeding_in_curtails_the_sun_that_the_site_can_not_use():
    made = planned(
        given.site("home", [given.pv("p"), given.load("l")], export_kw=1.0),
        sun_kw=6.0,
        load_kw=-2.0,
    )
    assert power(made, "p").max() == 3.0
    assert_sound(made.certificate)


def test_a_vehicle_is_charged_by_its_deadline_when_it_is_cheapest():
    deadline = DAY[0] + timedelta(hours=8)
    price = np.where((np.arange(96) >= 8) & (np.arange(96) < 24), 20.0, 90.0)
    made = planned(
        given.site("home", [given.vehicle("v")]),
        price=price,
        of_device={"v": {"deadline": deadline}},
    )
    kw = power(made, "v")
    assert made.certificate.unmet_kwh == 0
    assert kw[8:24].sum() == pytest.approx(kw.sum())
    assert column(made, "v", "energy_kwh")[31] == pytest.approx(40.0, abs=1e-3)
    assert column(made, "v", "energy_kwh")[32] is None


def test_a_vehicle_that_can_not_be_filled_gets_all_that_fits_and_it_is_told():
    deadline = DAY[0] + timedelta(hours=1)
    made = planned(
        given.site("home", [given.vehicle("v")]),
        of_device={"v": {"deadline": deadline}},
    )
    assert power(made, "v")[:4].tolist() == [-11.0] * 4
    assert made.certificate.unmet_kwh == pytest.approx(40 - 10 - 11 * 0.92, abs=1e-6)
    assert_sound(made.certificate)


def test_a_charger_is_off_or_above_its_least_current():
    made = planned(
        given.site("home", [given.vehicle("v", min_charge_kw=4.1)], import_kw=9.3),
        price=60 + 40 * np.sin(np.arange(96) / 9),
    )
    drawn_kw = -power(made, "v")
    assert ((drawn_kw == 0) | (drawn_kw >= 4.1)).all()
    assert made.certificate.label == "optimal"


def test_a_chp_is_off_or_above_its_least_power_and_keeps_its_ramp():
    unit = given.chp("c", min_power_kw=8, ramp_kw_per_min=0.4, marginal_cost_eur_per_mwh=70)
    made = planned(given.site("home", [unit]), price=70 + 60 * np.sin(np.arange(96) / 5))
    kw = power(made, "c")
    assert kw.max() > 8
    assert ((kw == 0) | (kw >= 8 - 1e-9)).all()
    assert np.abs(np.diff(kw)).max() <= 8 + 1e-6
    assert made.certificate.label == "optimal"
    assert_sound(made.certificate)


def test_a_two_way_vehicle_sells_at_the_peak_and_still_leaves_full():
    price = np.where((np.arange(96) >= 8) & (np.arange(96) < 16), 900.0, 50.0)
    made = planned(
        given.site("home", [given.vehicle("v", max_discharge_kw=11)]),
        price=price,
        of_device={"v": {"energy_kwh": 30.0}},
    )
    assert power(made, "v")[8:16].max() > 0
    assert made.certificate.unmet_kwh == 0
    assert_sound(made.certificate)


def test_a_shiftable_load_runs_once_in_its_window_when_it_is_cheapest():
    price = np.where((np.arange(96) >= 44) & (np.arange(96) < 60), 20.0, 90.0)
    made = planned(given.site("home", [given.flexible_load("w")]), price=price)
    kw = power(made, "w")
    assert kw[44:60].sum() == pytest.approx(-16.0, abs=1e-2)
    assert made.certificate.unmet_kwh == 0


def test_a_home_stays_comfortable_and_heats_when_it_is_cheap():
    price = np.where(np.arange(96) % 24 < 12, 20.0, 120.0)
    made = planned(given.site("home", [given.heat_pump("h")]), price=price)
    kwh = column(made, "h", "energy_kwh")
    assert min(kwh) >= -1e-3
    assert max(kwh) <= 10 + 1e-3
    kw = -power(made, "h")
    cheap = price == 20.0
    assert kw[cheap].sum() > 2 * kw[~cheap].sum()


def test_a_sites_own_load_above_its_limit_is_answered_with_best_effort_and_told():
    made = planned(
        given.site("home", [given.load("l"), given.battery("b"), given.vehicle("v")], import_kw=4),
        load_kw=-6.0,
        of_device={"b": {"energy_kwh": 9.5}},
    )
    assert made.certificate.overload_kw == pytest.approx(2.0, abs=1e-6)
    assert made.certificate.worst_violation_kw <= 1e-6
    assert power(made, "v").sum() == 0
    assert power(made, "b").max() > 0
    assert made.certificate.unmet_kwh == pytest.approx(30.0)
    assert made.certificate.worst_violation_kwh <= 1e-6


def test_vehicles_share_a_connection_that_is_too_small_for_all_of_them():
    made = planned(
        given.site("yard", [given.vehicle(f"v{i}") for i in range(4)], import_kw=12),
        of_device={f"v{i}": {"deadline": DAY[0] + timedelta(hours=12)} for i in range(4)},
    )
    total = sum(power(made, f"v{i}") for i in range(4))
    assert total.min() >= -12 - 1e-9
    assert made.certificate.unmet_kwh == pytest.approx(0, abs=1e-3)
    assert_sound(made.certificate)


def test_unavailable_devices_are_expected_to_do_their_default():
    offline = {"status": "offline"}
    made = planned(
        given.site("home", [given.battery("b"), given.pv("p")]),
        price=-50.0,
        of_device={"b": offline, "p": offline},
    )
    assert power(made, "b").tolist() == [0.0] * 96
    assert power(made, "p").max() == 4.0
    assert set(column(made, "p", "limit_kw")) == {8.0}


def test_a_plan_without_anything_to_decide_is_a_plan():
    made = planned(given.site("home", [given.load("l")]), price=50.0)
    assert made.certificate.label == "optimal"
    assert made.certificate.objective_eur == pytest.approx(24 * 0.05)


def test_without_time_for_a_solver_there_is_still_a_plan_that_says_why():
    made = planned(
        given.site("home", [given.battery("b"), given.vehicle("v"), given.heat_pump("h")]),
        plan_settings=PlanSettings(time_limit_s=0.0),
    )
    assert made.certificate.label == "fallback: no time left for OSQP"
    assert made.certificate.bound_eur is None
    assert made.certificate.gap is None
    assert power(made, "v")[0] == -11.0
    assert power(made, "b").tolist() == [0.0] * 96
    assert made.certificate.unmet_kwh == 0
    assert min(column(made, "h", "energy_kwh")) >= -1e-3
    assert_sound(made.certificate)


def test_a_solver_that_fails_is_named_in_the_fallback(monkeypatch):
    def fail(problem, solver, time_limit_s):
        raise SolverError(f"{solver} ended infeasible without a solution")

    monkeypatch.setattr(monolith, "solve_relaxed", fail)
    made = planned(given.site("home", [given.vehicle("v")]))
    assert made.certificate.label.startswith("fallback: OSQP ended infeasible")
    assert "HIGHS ended infeasible" in made.certificate.label
    assert made.certificate.unmet_kwh == 0


def test_when_one_solver_fails_the_next_one_plans(monkeypatch):
    def fail_first(problem, solver, time_limit_s):
        if solver == "OSQP":
            raise SolverError("OSQP ended badly")
        return solve_relaxed(problem, solver, time_limit_s)

    monkeypatch.setattr(monolith, "solve_relaxed", fail_first)
    made = planned(given.site("home", [given.battery("b")]))
    assert (made.certificate.label, made.certificate.solver) == ("optimal", "CLARABEL")


def test_a_solver_cut_short_still_leaves_a_feasible_plan():
    devices = given.mixed_fleet(8)
    made = plan(
        devices,
        given.envelopes(devices),
        given.prices(DAY, EVENING_PEAK),
        PlanSettings(solvers=("OSQP",), time_limit_s=0.6),
    )
    assert_sound(made.certificate)


def test_the_same_inputs_give_the_same_schedules():
    devices = given.mixed_fleet(4)
    envelopes = given.envelopes(devices)
    price = given.prices(DAY, 60 + 40 * np.sin(np.arange(96) / 10))
    first, second = (plan(devices, envelopes, price) for _ in range(2))
    assert first.schedules.equals(second.schedules)
    assert first.certificate.objective_eur == second.certificate.objective_eur


def test_setpoints_are_whole_milliwatts():
    price = 60 + 40 * np.sin(np.arange(96) / 10)
    made = planned(
        given.site("home", [given.battery("b", max_charge_kw=4.4449), given.vehicle("v")]),
        price=price,
    )
    milliwatts = np.concatenate([power(made, "b"), power(made, "v")]) * 1e6
    assert milliwatts == pytest.approx(np.round(milliwatts), abs=1e-6)
    assert milliwatts.min() < 0


def test_fifty_devices_are_planned_for_a_day():
    devices = given.mixed_fleet(13)
    made = plan(
        devices,
        given.envelopes(devices),
        given.prices(DAY, 60 + 60 * np.sin(np.arange(96) / 8)),
    )
    assert devices.height > 50
    assert made.certificate.label == "optimal"
    assert_sound(made.certificate)


@settings(max_examples=5, deadline=None, derandomize=True)
@drawn(st.integers(0, 10_000))
def test_whichever_solver_is_asked_first_the_plan_ends_at_the_same_proven_cost(seed):
    rng = np.random.default_rng(seed)
    intervals = DAY.tail(int(rng.integers(8, 28)))
    devices = given.mixed_fleet(int(rng.integers(1, 4)), seed)
    envelopes = given.envelopes(devices, intervals, outdoor_c=float(rng.uniform(-5, 15)))
    price = given.prices(intervals, rng.normal(30, 80, len(intervals)))
    made = {
        solvers: plan(
            devices, envelopes, price, PlanSettings(solvers=solvers, time_limit_s=60)
        ).certificate
        for solvers in (PlanSettings().solvers, ("CLARABEL",), ("HIGHS",))
    }
    best = made[("HIGHS",)].objective_eur
    for certificate in made.values():
        assert_sound(certificate)
        assert certificate.objective_eur == pytest.approx(best, rel=1e-3, abs=1e-3)
        assert certificate.bound_eur <= min(c.objective_eur for c in made.values()) + 1e-6
