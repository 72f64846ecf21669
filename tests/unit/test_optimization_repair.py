from dataclasses import replace

import flexibility_fleets as given
import numpy as np
import pytest
from hypothesis import example, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.problem import by_site
from vpp_pipeline.optimization.repair import Setpoints, track
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.verify import verify

INTERVALS = day_intervals(given.WINTER_DAY, "Europe/Berlin").slice(30, 30)


def problem(devices):
    return build(
        devices,
        given.envelopes(devices, INTERVALS),
        given.prices(INTERVALS, 50.0),
        PlanSettings(),
    )


FLEET = problem(given.mixed_fleet(8, seed=5))


@settings(deadline=None)
@drawn(st.integers(0, 2**32 - 1))
@example(17164)  # a vehicle's rounding, that no power is lent to
def test_any_goal_at_all_ends_in_a_feasible_plan(seed):
    rng = np.random.default_rng(seed)
    stores, sources = FLEET.stores, FLEET.sources
    energy = rng.uniform(-50, 100, stores.drift_kwh.shape) * rng.choice([0.1, 1.0])
    source = rng.uniform(-5, 1.2, sources.max_kw.shape) * sources.max_kw.max()
    found = verify(FLEET, track(FLEET, energy, source))
    assert found.worst_violation_kw <= 1e-6
    assert found.worst_violation_kwh <= 1e-9
    assert found.simultaneous_steps == 0


def chps_behind(export_kw):
    """A CHP of 12 kW at least, a battery and a house that draws little."""
    devices = [
        given.chp("c", rated_power_kw=20, min_power_kw=12, ramp_kw_per_min=0.85),
        given.battery("b", energy_capacity_kwh=10),
        given.load("l"),
    ]
    return problem(given.frame(given.site("works", devices, export_kw=export_kw)))


def test_a_chp_beyond_its_connection_runs_while_a_battery_draws_the_rest():
    of = chps_behind(10.0)
    steps = len(of.price_eur_per_kwh)
    draws_kw = 12.0 + of.sites.base_kw[:, 0] - 10.0 + 1e-7  # exact but for what a solver leaves
    runs = np.arange(steps) < 8
    energy = of.stores.initial_kwh[0] + np.cumsum(
        np.where(runs, draws_kw * of.stores.charge_efficiency[0] * STEP_H, 0.0)
    )
    source = np.where(runs, 12.0, 0.0)
    plan = track(of, energy[:, None], source[:, None])
    np.testing.assert_allclose(plan.source_kw[:, 0], source, atol=1e-9)
    assert verify(of, plan).worst_violation_kw <= 1e-6


@settings(deadline=None)
@drawn(seed=st.integers(0, 2**32 - 1), export_kw=st.sampled_from([0.0, 5.0, 10.0, 13.0, 100.0]))
def test_whatever_a_battery_was_to_draw_no_chp_is_stuck_beyond_its_connection(seed, export_kw):
    rng = np.random.default_rng(seed)
    of = chps_behind(export_kw)
    energy = rng.uniform(0, 30, of.stores.drift_kwh.shape)  # of 10: it stops drawing too soon
    if rng.random() < 0.5:
        energy = np.sort(energy, axis=0)  # ever more: a battery that always draws, until it is full
    source = rng.uniform(0, 20, of.sources.max_kw.shape)
    found = verify(of, track(of, energy, source))
    assert found.worst_violation_kw <= 1e-6
    assert found.worst_violation_kwh <= 1e-9


@pytest.mark.parametrize("heat_off_kw", [0.0, -1e-6, 1e-6])
def test_a_milliwatt_too_much_stops_no_vehicle_that_feeds_a_heat_pump(heat_off_kw):
    now = INTERVALS.head(1)
    devices = [
        given.vehicle("v", max_discharge_kw=11.0, min_charge_kw=4.14),
        given.heat_pump("q", rated_power_kw=5),
        given.load("l"),
    ]
    frame = given.frame(given.site("home", devices, import_kw=0.5, export_kw=0.0))
    stays = {"v": {"energy_kwh": 50.0, "target_energy_kwh": 12.0}}
    envelopes = given.envelopes(frame, now, load_kw=-0.659, of_device=stays)
    of = build(frame, envelopes, given.prices(now, 50.0), PlanSettings())
    stores = of.stores
    goal_kw = np.array([4.14, -3.481 - heat_off_kw])  # with the house's 0.659 nothing is left over
    moved = np.where(
        goal_kw > 0, -goal_kw / stores.discharge_efficiency, -goal_kw * stores.charge_efficiency
    )
    energy = stores.retention * stores.initial_kwh + stores.drift_kwh + moved * STEP_H
    plan = track(of, energy, np.zeros((1, 0)))
    assert plan.store_kw[0] == pytest.approx([4.14, -3.481], abs=2e-6)
    assert verify(of, plan).worst_violation_kw <= 1e-6


@settings(max_examples=60, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_whatever_stops_at_its_least_power_the_connections_hold(seed):
    rng = np.random.default_rng(seed)
    of = sample_problem(20, rng, steps=12)
    sites, sources = of.sites, of.sources
    cut_off = rng.random(len(sites.import_limit_kw)) < 0.5  # from the grid, both ways
    sun_kw = by_site(np.where(sources.curtailable, sources.max_kw, 0.0), sources.site, len(cut_off))
    import_kw = np.where(cut_off, 0.0, sites.import_limit_kw)
    export_kw = np.where(cut_off, 0.0, sites.export_limit_kw)
    of = replace(
        of,
        sites=replace(
            sites,
            import_limit_kw=import_kw,
            export_limit_kw=export_kw,
            import_overload_kw=np.maximum(-sites.base_kw - sun_kw - import_kw, 0),
            export_overload_kw=np.maximum(sites.base_kw - export_kw, 0),
        ),
    )
    energy = rng.uniform(-0.2, 1.2, of.stores.drift_kwh.shape)
    energy = energy * np.minimum(of.stores.ceiling_kwh, 100)
    source = rng.uniform(-0.2, 1.2, sources.max_kw.shape) * sources.max_kw.max()
    assert verify(of, track(of, energy, source)).worst_violation_kw <= 1e-6


def home():
    devices = [given.battery("b"), given.pv("p"), given.load("l")]
    return problem(given.frame(given.site("home", devices, import_kw=6, export_kw=5)))


def resting(of):
    shape = of.stores.drift_kwh.shape
    return Setpoints(np.zeros(shape), np.full(shape, 5.0), of.sources.max_kw.copy())


def test_a_plan_that_breaks_nothing_is_found_without_fault():
    found = verify(home(), resting(home()))
    assert found.worst_violation_kw == 0
    assert found.worst_violation_kwh == 0


@pytest.mark.parametrize(
    ("power_kw", "worst_kw"), [(-6.5, 1.5), (-5.0, 0.0), (5.0, 0.0), (7.0, 2.0)]
)
def test_a_power_beyond_the_device_is_told(power_kw, worst_kw):
    of = home()
    setpoints = resting(of)
    setpoints.store_kw[0, 0] = power_kw
    assert verify(of, setpoints).worst_violation_kw == pytest.approx(worst_kw)


def test_power_beyond_the_grid_connection_is_told():
    of = home()
    setpoints = resting(of)
    setpoints.store_kw[15, 0] = 4.0
    sun_and_load = setpoints.source_kw[15, 0] + of.sites.base_kw[15, 0]
    assert verify(of, setpoints).worst_violation_kw == pytest.approx(4 + sun_and_load - 5)


def test_an_energy_that_no_power_leads_to_is_told():
    of = home()
    setpoints = resting(of)
    setpoints.energy_kwh[10:] += 0.5
    assert verify(of, setpoints).worst_violation_kwh == pytest.approx(0.5)


def test_energy_that_vanishes_means_both_directions_at_once():
    of = home()
    setpoints = resting(of)
    setpoints.energy_kwh[10:] -= 0.2
    assert verify(of, setpoints).simultaneous_steps == 1


def test_an_energy_beyond_the_store_is_told():
    of = home()
    narrow = replace(of, stores=replace(of.stores, ceiling_kwh=np.full((30, 1), 4.0)))
    assert verify(narrow, resting(of)).worst_violation_kwh == pytest.approx(1.0)
