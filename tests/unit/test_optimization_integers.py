from dataclasses import replace

import flexibility_fleets as given
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization.bound import constant_eur, lower_bound_eur
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.directions import best_directions
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.integers import (
    Loose,
    local_price,
    loose_devices,
    patterned,
    proven_bound_eur,
    settled,
)
from vpp_pipeline.optimization.relaxed import solve_relaxed
from vpp_pipeline.optimization.repair import Setpoints, track
from vpp_pipeline.optimization.room import room_at_sites
from vpp_pipeline.optimization.runs import in_one_run, ruled, switched
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.turns import taking_turns
from vpp_pipeline.optimization.verify import verify

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
LINEAR = PlanSettings(fairness_eur_per_kwh=0.0)
MIDDAY_GLUT = 60 - 140 * np.exp(-(((np.arange(96) - 52) / 14) ** 2))  # 31 quarter-hours below 0


def problem(*devices, price=MIDDAY_GLUT, import_kw=50.0, export_kw=50.0, plan_settings=LINEAR):
    frame = given.frame(given.site("home", devices, import_kw=import_kw, export_kw=export_kw))
    return build(frame, given.envelopes(frame, DAY), given.prices(DAY, price), plan_settings)


def plan(of):
    return settled(of, solve_relaxed(of, "CLARABEL", 20.0), "CLARABEL", 20.0)


def all_of(of):
    return Loose(np.ones(len(of.stores.site), bool), ~of.sources.curtailable)


def price_at(of, count):
    return np.repeat(of.price_eur_per_kwh[:, None], count, axis=1)


def room(of):
    return room_at_sites(of, np.zeros(len(of.stores.site), bool))


def assert_sound(of, made):
    verdict = made.verdict
    assert verdict.worst_violation_kw <= 1e-6
    assert verdict.worst_violation_kwh <= 1e-6
    assert verdict.simultaneous_steps == 0
    assert made.bound_eur <= verdict.objective_eur + 1e-6


def ruled_sample(seed):
    """Return a made-up fleet in which loads run in one go and CHPs keep times."""
    rng = np.random.default_rng(seed)
    of = sample_problem(9, rng)
    stores, sources = of.stores, of.sources
    loads = stores.owed.any(axis=0) & (stores.min_active_kw == 0)
    chps = rng.random(len(sources.site)) < 0.3
    shape = sources.max_kw.shape
    return replace(
        of,
        price_eur_per_kwh=(price := of.price_eur_per_kwh - rng.uniform(0, 0.2)),
        portfolio=replace(of.portfolio, surplus_eur_per_kwh=price, shortage_eur_per_kwh=price),
        stores=replace(stores, unbroken=loads),
        sources=replace(
            sources,
            curtailable=~chps & sources.curtailable,
            max_kw=np.where(chps, 8.0, sources.max_kw),
            min_kw=np.zeros(shape),
            cost_eur_per_kwh=np.where(chps, 0.06, sources.cost_eur_per_kwh),
            ramp_kw=np.where(chps, 4.0, sources.ramp_kw),
            min_active_kw=np.where(chps, rng.choice([0.0, 3.0]), sources.min_active_kw),
            min_run_steps=np.where(chps, rng.integers(0, 12), 0),
            min_rest_steps=np.where(chps, rng.integers(0, 12), 0),
        ),
    )


def test_hours_of_the_registry_become_whole_quarter_hours_of_the_problem():
    of = problem(
        given.chp("c", min_run_h=1.1, min_rest_h=0.5),
        given.flexible_load("l", interruptible=False),
        given.flexible_load("m"),
    )
    assert of.sources.min_run_steps.tolist() == [5]
    assert of.sources.min_rest_steps.tolist() == [2]
    assert of.stores.unbroken.tolist() == [True, False]


@pytest.mark.parametrize("wear", [0.0, 0.02])
def test_a_battery_at_negative_prices_earns_what_the_exact_model_proves(wear):
    of = problem(given.battery("b", wear_cost_eur_per_kwh=wear))
    made = plan(of)
    assert_sound(of, made)
    best = solve_exact(of, 20.0, 1e-4)
    assert made.verdict.objective_eur <= best.bound_eur + 0.002 * abs(best.bound_eur)


def test_batteries_behind_a_binding_connection_burn_for_each_other_not_in_themselves():
    of = problem(
        *(given.battery(f"b{n}", wear_cost_eur_per_kwh=0.0) for n in range(4)), import_kw=9.0
    )
    relaxed = solve_relaxed(of, "CLARABEL", 20.0)
    assert np.minimum(relaxed.charge_kw, relaxed.discharge_kw).max() > 0.1
    made = settled(of, relaxed, "CLARABEL", 20.0)
    assert_sound(of, made)
    gap = made.verdict.objective_eur - made.bound_eur
    assert gap <= 0.03 * abs(made.bound_eur)


@settings(max_examples=4, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_a_settled_plan_keeps_every_rule_and_its_bound(seed):
    of = ruled_sample(seed)
    relaxed = solve_relaxed(of, "CLARABEL", 20.0)
    made = settled(of, relaxed, "CLARABEL", 20.0)
    assert_sound(of, made)
    convex = lower_bound_eur(of, relaxed.multipliers)
    assert made.bound_eur >= convex - 1e-9
    raw = verify(of, track(of, relaxed.energy_kwh, relaxed.source_kw))
    assert made.verdict.objective_eur <= raw.objective_eur + 1e-9


@settings(max_examples=4, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_every_solution_of_a_patterned_problem_keeps_the_rules(seed):
    of = ruled_sample(seed)
    relaxed = solve_relaxed(of, "CLARABEL", 20.0)
    loose = loose_devices(of, relaxed)
    price = local_price(relaxed.multipliers)
    narrowed = patterned(of, loose, price).problem
    answer = solve_relaxed(narrowed, "CLARABEL", 20.0)
    assert answer.status == "optimal"
    again = loose_devices(of, answer)
    assert not (again.stores & loose.stores).any()
    assert not (again.sources & loose.sources).any()


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from([3, 11, 29]))
def test_whatever_is_wished_runs_are_kept(seed, fleet):
    of, rng = ruled_sample(fleet), np.random.default_rng(seed)
    energy = rng.uniform(-20, 60, of.stores.drift_kwh.shape) * rng.choice([0.1, 1.0])
    source = rng.uniform(-5, 1.2, of.sources.max_kw.shape) * of.sources.max_kw.max()
    made = verify(of, track(of, energy, source))
    assert made.worst_violation_kw <= 1e-6
    assert made.simultaneous_steps == 0


@settings(max_examples=6, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_a_chp_alone_is_switched_at_the_proven_least_cost(seed):
    rng = np.random.default_rng(seed)
    of = problem(
        given.chp(
            "c",
            min_power_kw=float(rng.choice([0.0, 2.0])),
            min_run_h=float(rng.integers(0, 5)),
            min_rest_h=float(rng.integers(0, 5)),
        ),
        price=rng.normal(60, 40, 96),
    )
    found = switched(of, np.array([0]), price_at(of, 1), room(of))
    exact = solve_exact(of, 20.0, 1e-9)
    assert found.least_eur.sum() + constant_eur(of) == pytest.approx(exact.bound_eur, abs=1e-5)


@settings(max_examples=6, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_a_load_in_one_run_costs_the_least_of_all_its_runs(seed):
    rng = np.random.default_rng(seed)
    of = problem(
        given.flexible_load("l", interruptible=False, energy_kwh=float(rng.uniform(0.5, 30))),
        price=rng.normal(60, 40, 96),
    )
    found = in_one_run(of, np.array([0]), price_at(of, 1), room(of))
    exact = solve_exact(of, 20.0, 1e-9)
    assert found.least_eur.sum() + constant_eur(of) == pytest.approx(exact.bound_eur, abs=1e-5)
    energies = _energies(of, found.kw)
    assert verify(of, track(of, energies, np.zeros((96, 0)))).worst_violation_kw == 0


def _energies(of, draw_kw):
    energy = np.zeros_like(draw_kw)
    for t in range(len(draw_kw)):
        begin = np.where(of.stores.starts[t], of.stores.initial_kwh[t], energy[t - 1])
        energy[t] = begin + draw_kw[t] * STEP_H
    return energy


@settings(max_examples=6, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_a_charger_alone_is_planned_within_cents_of_the_exact_optimum(seed):
    rng = np.random.default_rng(seed)
    of = problem(
        given.vehicle("e", max_discharge_kw=float(rng.choice([0.0, 7.0])), min_charge_kw=4.0),
        price=rng.normal(60, 40, 96),
    )
    made = plan(of)
    assert_sound(of, made)
    assert made.verdict.objective_eur <= solve_exact(of, 20.0, 1e-6).bound_eur + 0.03


def test_a_store_goes_one_way_and_at_least_at_its_least_power():
    of = problem(given.vehicle("e", max_discharge_kw=7.0, min_charge_kw=4.0), given.battery("b"))
    found = best_directions(of, np.arange(2), price_at(of, 2), room(of))
    least_kw = np.sort(of.stores.min_active_kw)
    assert least_kw.tolist() == [0.0, 4.0]
    assert found.possible.all()
    moves = np.abs(found.kw[:, of.stores.min_active_kw > 0])
    assert ((moves == 0) | (moves >= 4.0 - 1e-9)).all()
    assert (found.kw < 0).any()
    assert (found.kw > 0).any()


def test_two_chargers_never_need_more_than_their_connection_has():
    of = problem(
        given.battery("b"),
        given.vehicle("e1", min_charge_kw=6.0),
        given.vehicle("e2", min_charge_kw=6.0),
        import_kw=8.0,
    )
    narrowed = patterned(of, all_of(of), price_at(of, 1)).problem
    assert (narrowed.stores.charge_min_kw.sum(axis=1) <= 8.0 + 1e-9).all()
    assert solve_relaxed(narrowed, "CLARABEL", 20.0).status == "optimal"


def test_a_battery_lends_a_charger_the_power_its_connection_lacks():
    of = problem(given.battery("b"), given.vehicle("e", min_charge_kw=6.0), import_kw=5.0)
    on = patterned(of, Loose(of.stores.min_active_kw > 0, np.zeros(0, bool)), price_at(of, 1))
    needs = of.stores.wished_kwh.max() > of.stores.initial_kwh[:, 1].max()
    assert (on.problem.stores.charge_min_kw.sum() > 0) == needs
    assert solve_relaxed(on.problem, "CLARABEL", 20.0).status == "optimal"


def test_a_load_interrupted_is_told_as_a_violation():
    of = problem(given.flexible_load("l", interruptible=False, rated_power_kw=4.0))
    good = track(of, of.stores.ceiling_kwh, np.zeros((96, 0)))
    assert verify(of, good).worst_violation_kw == 0
    first = int(np.flatnonzero(good.store_kw[:, 0])[0])
    power = good.store_kw.copy()
    power[first + 1] = 0.0
    broken = Setpoints(power, _energies(of, -power), good.source_kw)
    assert verify(of, broken).worst_violation_kw == pytest.approx(4.0)


def begun(import_kw=50.0):
    """A load of 2 kW that holds 1 kWh of 4 beside a house of 1.5 kW, when power is dear."""
    devices = [given.flexible_load("w", interruptible=False), given.load("l")]
    frame = given.frame(given.site("home", devices, import_kw=import_kw))
    day = DAY[44:]
    running = {"w": {"energy_kwh": 1.0, "power_kw": -2.0}}
    envelopes = given.envelopes(frame, day, load_kw=-1.5, of_device=running)
    price = np.where(np.arange(52) < 8, 400.0, 50.0)
    return build(frame, envelopes, given.prices(day, price), LINEAR)


def test_a_run_that_has_begun_goes_on_however_dear():
    of = begun()
    made = solve(of, PlanSettings())
    assert np.flatnonzero(made.setpoints.store_kw[:, 0]).tolist() == [0, 1, 2, 3, 4, 5]
    assert_sound(of, made)
    assert made.proven(1e-6)


@pytest.mark.parametrize(("import_kw", "worst_kw"), [(50.0, 2.0), (3.6, 2.0), (3.4, 0.0)])
def test_a_run_broken_off_at_the_start_is_told_if_its_connection_has_the_power(import_kw, worst_kw):
    of = begun(import_kw)
    stopped = Setpoints(np.zeros((52, 1)), np.ones((52, 1)), np.zeros((52, 0)))
    assert verify(of, stopped).worst_violation_kw == pytest.approx(worst_kw)
    made = track(of, stopped.energy_kwh, stopped.source_kw)
    assert verify(of, made).worst_violation_kw <= 1e-6


def test_a_run_that_only_whole_watts_make_too_long_is_not_told_as_broken_off():
    of = begun(3.51)
    stores, sites = of.stores, of.sites
    rated_kw = np.where(stores.charge_max_kw > 0, 2.0009, 0.0)
    initial = np.where(stores.initial_kwh > 0, 4.0 - 6 * 2.0009 * STEP_H, 0.0)
    house_kw = np.where(np.arange(52) < 6, 1.5, 3.51)[:, None]
    of = replace(
        of,
        stores=replace(stores, charge_max_kw=rated_kw, initial_kwh=initial),
        sites=replace(sites, base_kw=-house_kw),
    )
    made = verify(of, track(of, stores.ceiling_kwh, np.zeros((52, 0))))
    assert made.worst_violation_kw <= 1e-6


def washer_beside_a_battery():
    """A load of 2 kW and a house of 1.5 kW behind 3.2 kW, and a battery that has the rest."""
    devices = [
        given.flexible_load("w", interruptible=False),
        given.load("l"),
        given.battery("b"),
    ]
    frame = given.frame(given.site("home", devices, import_kw=3.2))
    envelopes = given.envelopes(frame, DAY, load_kw=-1.5)
    return build(frame, envelopes, given.prices(DAY, 50.0), LINEAR)


def test_a_load_in_one_run_is_helped_by_a_battery():
    of = washer_beside_a_battery()
    made = solve(of, PlanSettings())
    assert_sound(of, made)
    assert made.verdict.unmet_kwh == 0
    assert made.proven(1e-3)


@settings(max_examples=60, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_a_load_in_one_run_counts_on_no_battery_that_stops_giving(seed):
    of, rng = washer_beside_a_battery(), np.random.default_rng(seed)
    goal = rng.uniform(-5, 15, of.stores.drift_kwh.shape)  # of 10 kWh, and up to 60 kW for it
    if rng.random() < 0.5:
        goal = np.cumsum(rng.normal(0, 0.5, goal.shape), axis=0) + of.stores.initial_kwh[0]
    made = verify(of, track(of, goal, np.zeros((96, 0))))
    assert made.worst_violation_kw <= 1e-6
    assert made.worst_violation_kwh <= 1e-9


@pytest.mark.parametrize(("on", "worst_kw"), [(slice(10, 14), 5.0), (slice(10, 18), 0.0)])
def test_a_chp_switched_off_too_soon_is_told_as_a_violation(on, worst_kw):
    of = problem(given.chp("c", min_power_kw=2.0, min_run_h=2.0, ramp_kw_per_min=None))
    power = np.zeros((96, 1))
    power[on] = 5.0
    nothing = np.zeros((96, 0))
    assert verify(of, Setpoints(nothing, nothing, power)).worst_violation_kw == worst_kw


def test_a_chp_switched_on_too_soon_is_told_as_a_violation():
    of = problem(given.chp("c", min_power_kw=2.0, min_rest_h=2.0, ramp_kw_per_min=None))
    power = np.full((96, 1), 5.0)
    power[40:44] = 0.0
    nothing = np.zeros((96, 0))
    assert verify(of, Setpoints(nothing, nothing, power)).worst_violation_kw == 5.0


def test_the_exact_model_knows_runs_and_rests():
    of = problem(
        given.chp("c", min_power_kw=2.0, min_run_h=3.0, min_rest_h=2.0),
        given.flexible_load("l", interruptible=False),
        price=np.random.default_rng(4).normal(60, 50, 96),
    )
    exact = solve_exact(of, 20.0, 1e-6)
    made = verify(of, track(of, exact.energy_kwh, exact.source_kw))
    assert made.worst_violation_kw <= 1e-6
    assert made.objective_eur == pytest.approx(exact.bound_eur, abs=0.01)
    assert exact.bound_eur > lower_bound_eur(of, solve_relaxed(of, "HIGHS", 20.0).multipliers)


def test_the_proven_cost_of_runs_tightens_the_bound():
    of = problem(
        given.chp("c", min_power_kw=4.0, min_run_h=4.0, min_rest_h=4.0),
        given.flexible_load("l", interruptible=False),
        price=np.random.default_rng(4).normal(60, 50, 96),
    )
    relaxed = solve_relaxed(of, "CLARABEL", 20.0)
    pattern = patterned(of, all_of(of), local_price(relaxed.multipliers))
    bound = proven_bound_eur(of, relaxed.multipliers, pattern)
    assert bound > lower_bound_eur(of, relaxed.multipliers) + 0.01
    assert bound <= solve_exact(of, 20.0, 1e-6).bound_eur + 1e-3


def test_only_devices_that_break_a_rule_are_narrowed():
    of = ruled_sample(7)
    relaxed = solve_relaxed(of, "CLARABEL", 20.0)
    loose = loose_devices(of, relaxed)
    narrowed = patterned(of, loose, local_price(relaxed.multipliers)).problem
    assert loose.any()
    for name in ("charge_max_kw", "charge_min_kw", "discharge_max_kw", "discharge_min_kw"):
        own, narrow = getattr(of.stores, name), getattr(narrowed.stores, name)
        assert np.array_equal(own[:, ~loose.stores], narrow[:, ~loose.stores])
        assert (narrow <= of.stores.charge_max_kw + of.stores.discharge_max_kw + 1e-9).all()


@pytest.mark.parametrize("market", ["peak", "reserve"])
def test_a_small_fleet_that_shares_more_than_prices_is_proven_with_its_switches(market):
    of = sample_problem(6, np.random.default_rng(2), steps=8, portfolio=market)
    made = solve(of, PlanSettings(solvers=("CLARABEL",)))
    assert_sound(of, made)
    assert made.proven(1e-3)


def test_turns_keep_each_stores_shares():
    of = problem(*(given.battery(f"b{n}") for n in range(3)))
    share = np.broadcast_to([0.5, 0.3, 0.8], (96, 3))
    ways = taking_turns(
        of.stores, share * of.stores.charge_max_kw, (1 - share) * of.stores.discharge_max_kw
    )
    assert (ways < 0).mean(axis=0) == pytest.approx([0.5, 0.3, 0.8], abs=0.03)
    assert len(np.unique(ways[:, 0] == ways[:, 1])) == 2


def test_a_fleet_without_rules_has_nothing_to_keep():
    of = problem(given.battery("b"), given.chp("c"))
    loads, timed = ruled(of)
    assert not len(loads)
    assert not len(timed)
