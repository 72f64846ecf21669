from datetime import time, timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.flexibility.tubes import tubes
from vpp_pipeline.optimization.disaggregate import disaggregate
from vpp_pipeline.optimization.planner import PlanSettings, plan
from vpp_pipeline.optimization.problem import ProblemError

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
PRICES = 60 + 40 * np.sin(np.linspace(0, 4 * np.pi, 96))
QUICK = PlanSettings(time_limit_s=10.0)


def target_of(values, intervals=DAY):
    return pl.DataFrame(
        {"interval_start": intervals, "target_kw": np.broadcast_to(values, len(intervals))}
    ).cast({"target_kw": pl.Float64})


def split(devices, target_kw, group_id=None, **inputs):
    envelopes = given.envelopes(devices, **inputs)
    split = disaggregate(
        devices, envelopes, given.prices(DAY, PRICES), target_of(target_kw), group_id, QUICK
    )
    assert split.certificate.worst_violation_kw < 1e-6
    assert split.certificate.worst_violation_kwh < 1e-6
    return split, envelopes


def total_of(schedules):
    return schedules.group_by("interval_start").agg(pl.col("power_kw").sum()).sort("interval_start")


def breach_of(devices, envelopes, schedules):
    """Recompute the energies; return how far powers and energies are outside at worst."""
    of = tubes(devices, envelopes)
    power = schedules["power_kw"].to_numpy().reshape(of.min_kw.shape)
    energy = np.full(len(power), np.nan)
    worst = max((of.min_kw - power).max(), (power - of.max_kw).max())
    for t in range(power.shape[1]):
        energy = np.where(np.isnan(of.initial_kwh[:, t]), energy, of.initial_kwh[:, t])
        p = power[:, t]
        change = np.where(p > 0, p / of.discharge_efficiency, p * of.charge_efficiency)
        energy = of.retention * energy + of.drift_kwh[:, t] - STEP_H * change
        here = ~np.isnan(of.low_kwh[:, t])
        outside = np.maximum(of.low_kwh[:, t] - energy, energy - of.high_kwh[:, t])
        worst = max(worst, outside[here].max(initial=0.0))
    return worst


def batteries(count=3, **given_values):
    homes = given.site("home", [given.battery(f"b{i}", **given_values) for i in range(count)])
    return given.frame(homes, groups=[given.group("pair", "b0", "b1")])


def test_a_target_within_reach_is_summed_to_exactly():
    wanted = 4 * np.sin(np.linspace(0, 12 * np.pi, 96)) - 0.3
    found, envelopes = split(batteries(), wanted)
    total = total_of(found.schedules)
    assert np.abs(total["power_kw"].to_numpy() - wanted).max() < 1e-6
    assert found.reached["shortfall_kw"].to_list() == [0.0] * 96
    assert found.skipped.is_empty()
    assert breach_of(batteries(), envelopes, found.schedules) < 1e-6


def test_a_target_beyond_reach_is_approached_and_the_shortfall_told():
    wanted = np.zeros(96)
    wanted[40:44] = (
        30.0  # three batteries give 15 kW, until the 4 kWh above each one's 10 % are out
    )
    found, _ = split(batteries(), wanted)
    reached = found.reached
    assert reached["reached_kw"].max() < 15.0 + 1e-6
    assert reached["reached_kw"][40:44].sum() * STEP_H == pytest.approx(3 * 4 * 0.95, rel=0.01)
    assert (reached["shortfall_kw"][40:44] > 14.9).all()


def test_only_the_groups_devices_take_part_and_the_others_count_for_their_site():
    devices = batteries()
    found, _ = split(devices, 1.0 * (np.arange(96) < 8), group_id="pair")
    assert found.schedules["device_id"].unique().sort().to_list() == ["b0", "b1"]
    assert total_of(found.schedules)["power_kw"].to_numpy()[:8] == pytest.approx([1.0] * 8)
    tight = given.frame(
        given.site("home", [given.battery("b"), given.load("l")], import_kw=3.0),
        groups=[given.group("one", "b")],
    )
    short, _ = split(tight, -4.0 * (np.arange(96) < 2), group_id="one", load_kw=-1.0)
    assert short.reached["reached_kw"].to_numpy()[:2] == pytest.approx([-2.0, -2.0], abs=2e-3)


def test_who_cannot_take_part_is_named():
    devices = given.frame(
        given.site("home", [given.battery("b"), given.load("l"), given.vehicle("v")]),
        given.site("other", [given.battery("gone")]),
    )
    away = {"plugged_in": False, "energy_kwh": None, "deadline": None}
    found, _ = split(devices, -1.0, of_device={"gone": {"status": "offline"}, "v": away})
    why = dict(found.skipped.iter_rows())
    assert set(why) == {"l", "gone", "v"}
    assert "not controllable" in why["l"]
    assert "out of service" in why["gone"]
    assert "no vehicle" in why["v"]
    assert found.reached["shortfall_kw"].abs().max() == 0.0


def test_a_drivers_need_comes_before_the_target():
    devices = given.frame(given.site("home", [given.vehicle("v")]))
    stay = {"v": {"deadline": DAY[0] + timedelta(hours=6)}}
    found, _ = split(devices, 0.0, of_device=stay)
    assert found.certificate.unmet_kwh == pytest.approx(0.0, abs=2e-3)
    assert found.reached["reached_kw"].sum() * STEP_H == pytest.approx(-30 / 0.92, rel=0.01)


IN_TWO_HOURS = DAY[0] + timedelta(hours=2)


@pytest.mark.parametrize(
    ("device", "reading", "outdoor_c"),
    [
        (
            given.vehicle("d", max_discharge_kw=11),
            {"energy_kwh": 30.0, "target_energy_kwh": 40.0, "deadline": IN_TWO_HOURS},
            5.0,
        ),
        (
            given.vehicle("d"),
            {"energy_kwh": 20.0, "target_energy_kwh": 40.0, "deadline": IN_TWO_HOURS},
            5.0,
        ),
        (given.flexible_load("d", earliest=time(0), latest=time(2)), {}, 5.0),
        (given.flexible_load("d", earliest=time(0), latest=time(2), interruptible=False), {}, 5.0),
        (given.heat_pump("d", rated_power_kw=1.5), {}, -12.0),
    ],
)
def test_what_is_needed_after_the_target_comes_before_it(device, reading, outdoor_c):
    devices = given.frame(given.site("home", [device]))
    whole = given.envelopes(devices, of_device={"d": reading}, outdoor_c=outdoor_c)
    until = whole.filter(pl.col("interval_start") < DAY[4])
    prices, target = given.prices(DAY[:4], 0.0), target_of(22.0, DAY[:4])
    found = disaggregate(devices, until, prices, target, None, QUICK)
    owed_kwh = until["min_energy_kwh"][-1]
    assert found.schedules["energy_kwh"][-1] >= owed_kwh - 2e-2
    assert found.certificate.unmet_kwh < 2e-2
    assert found.reached["reached_kw"].to_list() == found.schedules["power_kw"].to_list()


def test_what_nobody_pays_for_if_unmet_does_not_come_before_the_target():
    devices = given.frame(given.site("home", [given.vehicle("v", unmet_cost_eur_per_kwh=0)]))
    due = {"energy_kwh": 20.0, "target_energy_kwh": 40.0, "deadline": IN_TWO_HOURS}
    until = given.envelopes(devices, of_device={"v": due}).head(4)
    prices, target = given.prices(DAY[:4], 0.0), target_of(0.0, DAY[:4])
    found = disaggregate(devices, until, prices, target, None, QUICK)
    assert found.schedules["power_kw"].to_list() == pytest.approx([0.0] * 4, abs=1e-5)


def test_the_cheapest_devices_are_asked():
    dear, cheap = (
        given.battery(name, wear_cost_eur_per_kwh=wear)
        for name, wear in (("dear", 0.5), ("cheap", 0.01))
    )
    devices = given.frame(given.site("home", [dear, cheap]))
    wanted = np.zeros(96)
    wanted[30:34], wanted[50:54] = -2.0, 1.5
    found, _ = split(devices, wanted)
    moved = found.schedules.group_by("device_id").agg(pl.col("power_kw").abs().sum())
    shares = dict(moved.iter_rows())
    assert shares["cheap"] > 10 * shares["dear"]


@pytest.mark.parametrize(("sites", "seed"), [(4, 0), (3, 2)])
def test_the_sum_of_a_plan_can_be_asked_for_again(sites, seed):
    """A plan is a target within reach: its sum is met to the watt that rounding leaves."""
    devices = given.mixed_fleet(sites, seed)
    envelopes = given.envelopes(devices)
    rng = np.random.default_rng(seed)
    made = plan(devices, envelopes, given.prices(DAY, rng.uniform(-50, 150, 96)), QUICK)
    target = total_of(made.schedules).rename({"power_kw": "target_kw"})
    found = disaggregate(devices, envelopes, given.prices(DAY, PRICES), target, None, QUICK)
    assert found.certificate.worst_violation_kw < 1e-6
    assert found.certificate.worst_violation_kwh < 1e-6
    missed_kwh = found.reached["shortfall_kw"].abs().sum() * STEP_H
    assert missed_kwh < 0.02 * target["target_kw"].abs().sum() * STEP_H


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (target_of(np.zeros(95), DAY[1:]), r"2025-01-14 23:00.*target_kw None: give"),
        (target_of(np.full(96, np.nan)), r"2025-01-14 23:00.*target_kw nan: give"),
        (pl.concat([target_of(0.0), target_of(0.0)[:1]]), r"there more than once"),
    ],
)
def test_a_faulty_target_is_refused_with_its_row(target, fault):
    devices = batteries()
    with pytest.raises(ProblemError, match=fault):
        disaggregate(devices, given.envelopes(devices), given.prices(DAY, PRICES), target)


def test_an_unknown_group_is_refused_with_those_there_are():
    devices = batteries()
    with pytest.raises(ProblemError, match=r"'nobody' has no device: .*\(pair\)"):
        disaggregate(
            devices, given.envelopes(devices), given.prices(DAY, PRICES), target_of(0.0), "nobody"
        )
