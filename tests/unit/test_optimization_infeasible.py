"""Whatever is asked of the planner, it plans as well as can be, or says what is wrong where."""

import os
from datetime import timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP, day_intervals
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.portfolio import PortfolioTerms
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.verify import unmet

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 15
DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
QUICK = PlanSettings(solvers=("CLARABEL",), time_limit_s=5.0)
# What whole watts can leave where a site's limit is cut out among stores whose bounds ask for power.
WATT_HOUR = 1e-3
STORES = ("battery", "vehicle", "two_way_vehicle", "heat_pump", "washer")
MAKERS = {
    "battery": lambda name, kw: given.battery(name, max_charge_kw=kw, max_discharge_kw=kw),
    "vehicle": lambda name, kw: given.vehicle(name, max_charge_kw=kw + 2, min_charge_kw=1.4),
    "two_way_vehicle": lambda name, kw: given.vehicle(
        name, max_charge_kw=kw, max_discharge_kw=kw, min_charge_kw=0
    ),
    "heat_pump": lambda name, kw: given.heat_pump(name, rated_power_kw=kw),
    "washer": lambda name, kw: given.flexible_load(name, rated_power_kw=kw),
    "pv": lambda name, kw: given.pv(name, rated_power_kw=kw),
    "chp": lambda name, kw: given.chp(
        name, rated_power_kw=kw, min_power_kw=kw / 2, ramp_kw_per_min=kw / 15
    ),
    "load": lambda name, kw: given.load(name),
}


def envelope(rng, kind, name, kw, intervals):
    """An envelope as no engine would make it: bounds that cross, contents outside, no power."""
    steps = len(intervals)

    def some(*values):
        return rng.choice(values)

    reach = rng.uniform(0, kw, steps) * some(0, 1, 1)
    in_store = kind in STORES
    injects = kind in {"battery", "two_way_vehicle", "pv", "chp"}
    begins = int(some(0, 0, rng.integers(steps)))
    ends = int(some(steps, steps, rng.integers(begins, steps) + 1))
    present = in_store & (np.arange(steps) >= begins) & (np.arange(steps) < ends)
    low, high = np.sort(rng.uniform(-2, 12, 2))
    if kind == "load":
        reach = np.zeros(steps)
    draws = np.where(present, -reach, 0.0) if in_store else np.zeros(steps)
    gives = reach * injects * (present if in_store else 1)
    if kind == "chp":
        gives = np.full(steps, some(0.0, kw))
        draws = gives * some(0, 0, 0.2, 1)  # it must run, where it can
    initial = np.full(steps, np.nan)
    initial[begins] = rng.uniform(-1, 14) if in_store else np.nan
    required = np.full(steps, np.nan)
    if kind in {"vehicle", "two_way_vehicle", "washer"}:
        required[ends - 1] = rng.uniform(0, 60)
    frame = pl.DataFrame(
        {
            "device_id": [name] * steps,
            "interval_start": intervals,
            "min_power_kw": draws,
            "max_power_kw": gives,
            "expected_power_kw": np.full(steps, some(0.0, -3.0, -40.0) * (kind == "load")),
            "min_energy_kwh": np.where(present, low, np.nan),
            "max_energy_kwh": np.where(present, high, np.nan),
            "initial_energy_kwh": initial,
            "session_start": ~np.isnan(initial),
            "retention": np.full(steps, some(0.0, 0.9, 1.0, 1.0)),
            "drift_kwh": np.full(steps, some(0.0, 0.0, -0.5, 0.5) * in_store),
            "required_end_kwh": required,
            "available": [bool(some(0, 1, 1, 1))] * steps,
        }
    )
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def broken(rng, fault, envelopes):
    """One cell as it must not be."""
    at, column = int(rng.integers(envelopes.height)), rng.choice(["max_power_kw", "drift_kwh"])
    here = pl.int_range(pl.len()) == at
    if fault == "missing":
        return envelopes.filter(~here)
    if fault == "doubled":
        return pl.concat([envelopes, envelopes[at]])
    if fault == "crossed":
        return envelopes.with_columns(
            min_power_kw=pl.when(here).then(pl.col("max_power_kw") + 1).otherwise("min_power_kw")
        )
    value = {"nan": float("nan"), "infinite": float("-inf"), "null": None}[fault]
    return envelopes.with_columns(
        pl.when(here).then(pl.lit(value, pl.Float64)).otherwise(column).alias(column)
    )


def terms_of(rng, asked, intervals):
    """What a fleet could be asked for, within its power or far beyond."""
    steps = len(intervals)
    low = rng.uniform(-0.2, 0.2, steps)
    columns = {
        "position": {
            "position_kw": rng.uniform(-50, 50, steps),
            "surplus_eur_per_mwh": 1000 * low,
            "shortage_eur_per_mwh": 1000 * low + rng.choice([0, 10, 1000]),
        },
        "event": {
            "event_min_kw": pl.Series(rng.uniform(-20, 20, steps)).set(
                pl.Series(rng.random(steps) < 0.5), None
            ),
            "event_eur_per_mwh": np.full(steps, 500.0),
        },
        "reserve": {
            "reserve_up_eur_per_mwh": np.full(steps, rng.choice([0.0, 20.0])),
            "reserve_down_eur_per_mwh": rng.uniform(0, 30, steps),
            "reserve_block": np.arange(steps) // 4,
        },
        "peak": {},
    }[asked]
    return PortfolioTerms(
        quarter_hours=pl.DataFrame({"interval_start": intervals, **columns}),
        peak_eur_per_kw=1.0 if asked == "peak" else 0.0,
        reserve_sustain_h=float(rng.choice([0, 0.25, 4])),
        reserve_symmetric=bool(rng.integers(2)),
    )


def inputs(rng, kinds, steps, limit_kw):
    """A fleet at one or two sites, its envelopes and prices."""
    intervals = DAY.head(steps)
    made = [(f"{kind}-{i}", kind, rng.choice([0.5, 3.0, 11.0])) for i, kind in enumerate(kinds)]
    homes = rng.integers(0, 2, len(kinds))
    devices = given.frame(
        *(
            given.site(
                f"site-{home}",
                [
                    MAKERS[kind](name, kw)
                    for (name, kind, kw), at in zip(made, homes, strict=True)
                    if at == home
                ],
                import_kw=limit_kw,
                export_kw=limit_kw,
            )
            for home in np.unique(homes)
        )
    )
    envelopes = pl.concat([envelope(rng, kind, name, kw, intervals) for name, kind, kw in made])
    return devices, envelopes, given.prices(intervals, rng.normal(30, 100, steps))


PLANS = {
    "kinds": st.lists(st.sampled_from(list(MAKERS)), min_size=1, max_size=5),
    "steps": st.sampled_from([1, 2, 5, 9]),
    "limit_kw": st.sampled_from([0.1, 3.0, 100.0]),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(max_examples=EXAMPLES, deadline=None)
@drawn(
    asked=st.sampled_from([None, None, "position", "event", "reserve", "peak"]),
    plan=st.fixed_dictionaries(PLANS),
)
def test_whatever_is_asked_is_planned_within_every_bound_and_the_unmet_is_told(asked, plan):
    rng = np.random.default_rng(plan.pop("seed"))
    devices, envelopes, prices = inputs(rng, **plan)
    terms = terms_of(rng, asked, prices["interval_start"]) if asked else None
    problem = build(devices, envelopes, prices, QUICK, terms)
    found = solve(problem, QUICK)
    for field in (found.setpoints.store_kw, found.setpoints.energy_kwh, found.setpoints.source_kw):
        assert np.isfinite(field).all()
    verdict = found.verdict
    assert verdict.worst_violation_kw <= 1e-6
    assert verdict.worst_violation_kwh <= WATT_HOUR
    assert verdict.simultaneous_steps == 0
    assert found.bound_eur is not None, found.complaints
    assert found.bound_eur <= verdict.objective_eur + 1e-6 * max(1, abs(verdict.objective_eur))
    debts = unmet(problem, found.setpoints)
    assert debts["unmet_kwh"].sum() == pytest.approx(verdict.unmet_kwh)
    assert debts["device_id"].is_in(devices["device_id"].to_list()).all()


@settings(max_examples=EXAMPLES, deadline=None)
@drawn(
    fault=st.sampled_from(["nan", "infinite", "null", "missing", "doubled", "crossed"]),
    plan=st.fixed_dictionaries(PLANS),
)
def test_a_broken_cell_is_refused_by_device_and_quarter_hour(fault, plan):
    rng = np.random.default_rng(plan.pop("seed"))
    devices, envelopes, prices = inputs(rng, **plan)
    envelopes = broken(rng, fault, envelopes)
    names = r"there is no row|device_id '.*interval_start|does not follow"
    if fault == "missing" and devices.height == 1:
        assume(envelopes["interval_start"].diff().max() == STEP * 2)  # else the day is shorter
    with pytest.raises(ProblemError, match=names):
        build(devices, envelopes, prices, QUICK)


def test_a_vehicle_that_can_not_be_filled_in_time_gets_all_there_is_and_the_rest_is_told():
    at = DAY[0]
    devices = given.frame(given.site("home", [given.vehicle("v"), given.battery("b")]))
    leaves = at + timedelta(hours=2)
    session = {"energy_kwh": 10.0, "plugged_in": True, "target_energy_kwh": 60, "deadline": leaves}
    envelopes = given.envelopes(devices, of_device={"v": session})
    problem = build(devices, envelopes, given.prices(DAY, 50.0), QUICK)
    found = solve(problem, QUICK)
    charged = (
        11
        * 2
        * devices.row(by_predicate=pl.col("device_id") == "v", named=True)["charge_efficiency"]
    )
    assert unmet(problem, found.setpoints).rows() == [
        ("v", leaves, pytest.approx(50 - charged, abs=1e-2))
    ]
    assert found.verdict.unmet_kwh == pytest.approx(50 - charged, abs=1e-2)


@pytest.mark.parametrize("measured_kwh", [1.0, 9.9])
def test_a_battery_outside_its_bounds_goes_no_further_out_and_comes_back_with_the_prices(
    measured_kwh,
):
    devices = given.frame(given.site("home", [given.battery("b", min_soc=0.4, max_soc=0.8)]))
    envelopes = given.envelopes(devices, of_device={"b": {"energy_kwh": measured_kwh}})
    swings = np.where(np.arange(96) // 12 % 2, 400.0, 10.0)
    problem = build(devices, envelopes, given.prices(DAY, swings), QUICK)
    found = solve(problem, QUICK)
    kwh = found.setpoints.energy_kwh[:, 0]
    inside = (kwh >= 4.0 - 1e-6) & (kwh <= 8.0 + 1e-6)
    assert kwh.min() >= min(measured_kwh, 4.0) - 1e-6
    assert kwh.max() <= max(measured_kwh, 8.0) + 1e-6
    assert inside.any()
    assert found.verdict.worst_violation_kwh <= 1e-6


def test_a_vehicle_of_unknown_content_is_refused_not_read_as_empty():
    devices = given.frame(given.site("home", [given.vehicle("v")]))
    envelopes = given.envelopes(devices).with_columns(initial_energy_kwh=pl.lit(None, pl.Float64))
    with pytest.raises(ProblemError, match=r"'v', interval_start .*initial_energy_kwh is null"):
        build(devices, envelopes, given.prices(DAY, 50.0), QUICK)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_device_with_an_impossible_figure_is_refused_by_row_and_field(value):
    devices = given.frame(given.site("home", [given.pv("p"), given.battery("b")]))
    envelopes = given.envelopes(devices)
    broken_fleet = devices.with_columns(
        charge_efficiency=pl.when(pl.col("device_id") == "b").then(value)
    )
    with pytest.raises(ProblemError, match=r"devices row 1: charge_efficiency is .* 'b'.*registry"):
        build(broken_fleet, envelopes, given.prices(DAY, 50.0), QUICK)
