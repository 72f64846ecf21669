from datetime import timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.flexibility.aggregate import OutsideError, disaggregate_inner, inner_envelopes
from vpp_pipeline.flexibility.policies import inner_policies
from vpp_pipeline.flexibility.tubes import tubes

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")


def group_of(*devices):
    names = [device.device_id for device in devices]
    return given.frame(given.site("home", devices), groups=[given.group("all", *names)])


def mixed_group(sites, seed):
    """Homes of all sorts; vehicles at work in between, with targets below full, or asked full."""
    devices = given.mixed_fleet(sites, seed).with_columns(groups=pl.lit(["all"]))
    rng = np.random.default_rng(seed)
    states, expected = {}, []
    for name, kind in devices.select("device_id", "device_type").iter_rows():
        if kind == "ev_charger":
            states[name] = {
                "energy_kwh": float(rng.uniform(5, 30)),
                "target_energy_kwh": float(rng.uniform(20, 60)),
                "deadline": DAY[0] + timedelta(hours=float(rng.uniform(1, 10))),
            }
            arrival = DAY[0] + timedelta(hours=float(rng.uniform(11, 18)))
            expected.append(
                (name, arrival, arrival + timedelta(hours=9), float(rng.uniform(5, 40)), 0.9)
            )
        elif kind == "battery":
            states[name] = {"energy_kwh": float(rng.uniform(0.5, 4.5))}
        elif kind == "heat_pump":
            states[name] = {"temperature_c": float(rng.uniform(19, 23))}
    sessions = given.sessions(*((*row, DAY[0]) for row in expected))
    return devices, given.envelopes(devices, of_device=states, expected=sessions)


def random_profile(inner, rng):
    """Draw a profile inside: a signal that leans, turned back where an energy would run out."""
    lean, swing = rng.uniform(-1, 1), rng.choice([0.3, 1.0, 3.0])
    least, most = inner["charge_efficiency"][0], 1 / inner["discharge_efficiency"][0]
    sustain_h = inner["sustain_h"][0]
    signal, share = np.zeros(inner.height), inner["share_kw"].to_numpy()
    fullest = emptiest = 0.0
    for t in range(inner.height):
        x = float(np.clip(lean + swing * rng.standard_normal(), -1, 1))
        x = min(x, (emptiest + sustain_h) / (STEP_H * most))
        x = max(x, -(sustain_h - fullest) / STEP_H)
        x = float(np.clip(x, -1, 1)) if emptiest > -sustain_h else min(x, 0.0)
        x = x if share[t] > 0 else 0.0  # where no store takes part, nothing is given or taken
        signal[t] = x
        fullest -= STEP_H * x
        emptiest -= STEP_H * (x * most if x > 0 else x * least)
        if rng.random() < 0.05:
            lean = -lean
    down, up = inner["passing_down_kw"].to_numpy(), inner["passing_up_kw"].to_numpy()
    passing = np.where(
        signal > 0, up, np.where(signal < 0, down, down + rng.random(len(up)) * (up - down))
    )
    return pl.DataFrame(
        {
            "interval_start": inner["interval_start"],
            "target_kw": inner["nominal_kw"].to_numpy() + passing + share * signal,
        }
    )


def worst_breach(devices, envelopes, powers):
    """Recompute every store from the powers; return by how much an envelope is left at worst."""
    of = tubes(devices, envelopes)
    power = powers["power_kw"].to_numpy().reshape(of.min_kw.shape)
    worst = max((of.min_kw - power).max(), (power - of.max_kw).max())
    energy = np.full(len(power), np.nan)
    for t in range(power.shape[1]):
        begins = ~np.isnan(of.initial_kwh[:, t])
        energy = np.where(begins, of.initial_kwh[:, t], energy)
        change = np.where(
            power[:, t] > 0,
            power[:, t] / of.discharge_efficiency,
            power[:, t] * of.charge_efficiency,
        )
        energy = of.retention * energy + of.drift_kwh[:, t] - STEP_H * change
        here = ~np.isnan(of.low_kwh[:, t])
        if here.any():
            breach = np.maximum(of.low_kwh[:, t] - energy, energy - of.high_kwh[:, t])
            worst = max(worst, breach[here].max())
    return worst


@settings(max_examples=15, deadline=None)
@drawn(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0]))
def test_every_profile_inside_is_what_devices_can_do_and_sum_to(sites, seed, sustain_h):
    devices, envelopes = mixed_group(sites, seed)
    inner = inner_envelopes(devices, envelopes, sustain_h)
    policies = inner_policies(devices, envelopes, sustain_h)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        target = random_profile(inner, rng)
        powers = disaggregate_inner(inner, policies, target)
        total = powers.group_by("interval_start").agg(pl.col("power_kw").sum())
        check = total.join(target, on="interval_start")
        assert (check["power_kw"] - check["target_kw"]).abs().max() < 1e-9
        assert worst_breach(devices, envelopes, powers) < 1e-8


def test_a_battery_gives_and_takes_what_its_content_allows_both_ways():
    battery = given.battery("b", min_soc=0, max_soc=1)  # 5 kWh in it, 5 kWh free, 5 kW
    devices = group_of(battery)
    inner = inner_envelopes(devices, given.envelopes(devices), sustain_h=2.0)
    assert inner["share_kw"].to_list() == pytest.approx([2.5] * 96)
    assert inner["min_power_kw"][0] == pytest.approx(-2.5)
    assert inner["charge_efficiency"].unique().to_list() == [0.95]


def test_the_sun_and_its_curtailment_are_certain_in_full():
    devices = group_of(given.pv("p"), given.load("l"))
    inner = inner_envelopes(devices, given.envelopes(devices, sun_kw=3.0, load_kw=-1.0))
    noon = inner.row(48, named=True)
    assert (noon["min_power_kw"], noon["max_power_kw"]) == (-1.0, 2.0)
    assert inner["share_kw"].max() == 0.0


def test_a_vehicle_with_time_and_room_takes_part_and_one_to_be_filled_does_not():
    stays = {"deadline": DAY[0] + timedelta(hours=20), "target_energy_kwh": 40.0}
    devices = group_of(given.vehicle("v"))
    with_room = inner_envelopes(devices, given.envelopes(devices, of_device={"v": stays}))
    assert with_room["share_kw"][0] > 1.0
    assert with_room["share_kw"][-1] == 0.0
    full = given.envelopes(devices, of_device={"v": stays | {"target_energy_kwh": 60.0}})
    assert inner_envelopes(devices, full)["share_kw"].max() == 0.0


def test_a_building_takes_part():
    devices = group_of(given.heat_pump("h"))
    assert inner_envelopes(devices, given.envelopes(devices))["share_kw"].min() > 0.05


def test_a_chp_is_not_taken_to_jump():
    devices = group_of(given.chp("c", min_power_kw=5, ramp_kw_per_min=0.5))
    inner = inner_envelopes(devices, given.envelopes(devices))
    assert inner["min_power_kw"].to_list() == inner["max_power_kw"].to_list()


@pytest.mark.parametrize(
    ("first_kw", "then_kw", "fault"),
    [
        (5.1, 0.0, r"23:00.*target_kw 5.1 is outside the power"),
        (2.0, 2.0, "too much was given before"),
        (-2.0, -2.0, "too much was drawn before"),
    ],
)
def test_a_profile_outside_is_refused_with_its_quarter_hour(first_kw, then_kw, fault):
    devices = group_of(given.battery("b", min_soc=0, max_soc=1))
    envelopes = given.envelopes(devices)
    inner = inner_envelopes(devices, envelopes, sustain_h=2.0)
    target = inner.select("interval_start", target_kw=pl.lit(then_kw)).with_columns(
        target_kw=pl.when(pl.col("interval_start") == DAY[0])
        .then(pl.lit(first_kw))
        .otherwise("target_kw")
    )
    with pytest.raises(OutsideError, match=fault):
        disaggregate_inner(inner, inner_policies(devices, envelopes, 2.0), target)


def test_a_group_without_stores_refuses_what_it_cannot_do():
    devices = group_of(given.load("l"))
    envelopes = given.envelopes(devices)
    target = pl.DataFrame({"interval_start": DAY, "target_kw": np.full(96, 1.0)})
    with pytest.raises(OutsideError, match="outside the power"):
        disaggregate_inner(
            inner_envelopes(devices, envelopes), inner_policies(devices, envelopes), target
        )


def test_a_target_with_a_gap_is_refused():
    devices = group_of(given.battery("b"))
    envelopes = given.envelopes(devices)
    target = pl.DataFrame({"interval_start": DAY[1:], "target_kw": np.zeros(95)})
    with pytest.raises(OutsideError, match=r"2025-01-14 23:00.*finite"):
        disaggregate_inner(
            inner_envelopes(devices, envelopes), inner_policies(devices, envelopes), target
        )
