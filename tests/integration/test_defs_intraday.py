"""A re-plan changes only what still can change, and knows what was sold."""

from __future__ import annotations

from datetime import time, timedelta

import polars as pl
import pytest
from defs_plant import TODAY, TOMORROW, copied, failure_of, market_time, open_plant, records

from vpp_pipeline.defs import envelopes
from vpp_pipeline.delivery_day import STEP, bounds, day_intervals, floor_interval
from vpp_pipeline.flexibility.envelopes import group_envelopes
from vpp_pipeline.planning import plans
from vpp_pipeline.planning.inputs import imbalance_terms
from vpp_pipeline.settings import MARKET, MARKET_TZ

PLAN = plans.plan
START, END = bounds(TOMORROW, MARKET_TZ)


def re_plan(plant):
    plant.tell()
    result = plant.daemon.launch("re_plan", partition_key=str(TOMORROW))
    assert result.success, failure_of(result)
    (materialised,) = result.asset_materializations_for_node("intraday_plan")
    return materialised.metadata


def test_a_re_plan_leaves_the_quarter_hours_too_near_to_change_to_the_plan_in_force(planned_plant):
    plant = planned_plant
    span = {"start": START, "end_": END}
    before = plant.frame("defs_schedule_in_force", as_of=plant.clock.now(), **span)
    plant.clock.sleep_until(market_time(TOMORROW, time(9, 3)))
    now = plant.clock.now()
    re_plan(plant)
    first, second = plant.rows("plans").sort("revision").to_dicts()
    reachable = floor_interval(now + plant.runtime.plan_lead) + STEP
    assert second["kind"] == "intraday"
    assert (second["horizon_start"], second["horizon_end"]) == (reachable, END)
    assert reachable >= now + plant.runtime.plan_lead
    after = plant.frame("defs_schedule_in_force", as_of=plant.clock.now(), **span)
    made_by = dict(after.select("interval_start", "plan_id").unique().iter_rows())
    assert len(made_by) == 100
    assert all(
        plan_id == (first if start < reachable else second)["plan_id"]
        for start, plan_id in made_by.items()
    )
    kept = pl.col("interval_start") < reachable
    assert after.filter(kept).drop("begin_kwh").equals(before.filter(kept).drop("begin_kwh"))


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(time(14, 3), id="hours later"),
        pytest.param(time(9, 13, 30), id="the next quarter-hour is too near by now"),
    ],
)
def test_no_re_plan_is_made_on_envelopes_of_quarter_hours_that_are_no_longer_open(
    planned_plant, moment
):
    plant = planned_plant
    plant.clock.sleep_until(market_time(TOMORROW, time(9, 3)))
    re_plan(plant)
    plant.clock.sleep_until(market_time(TOMORROW, moment))
    alone = plant.materialise("re_plan", TOMORROW, "intraday_plan", "device_schedules")
    assert not alone.success
    assert "materialise flexibility_envelopes first, or launch the job re_plan" in failure_of(alone)
    assert (plant.count("plans"), plant.count("plan_releases")) == (2, 2)
    re_plan(plant)
    assert (plant.count("plans"), plant.count("plan_releases")) == (3, 3)


def test_a_re_plan_stands_on_its_own_envelopes_however_long_it_takes(planned_plant):
    plant = planned_plant
    plant.clock.sleep_until(market_time(TOMORROW, time(9, 3)))

    def at_length(*arguments):
        plant.clock.sleep_until(market_time(TOMORROW, time(9, 14)))
        return group_envelopes(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelopes, "group_envelopes", at_length)
        re_plan(plant)
    newest = plant.rows("plans").sort("revision")[-1]
    assert newest["horizon_start"].item() == market_time(TOMORROW, time(9, 15))


def test_a_re_plan_begins_from_what_power_was_worth_in_the_plan_before(planned_plant):
    plant = planned_plant
    sold = plant.rows("plan_prices").sort("interval_start")
    assert sold["interval_start"].to_list() == day_intervals(TOMORROW, MARKET_TZ).to_list()
    begun = []

    def noting(*arguments):
        begun.append(arguments[-1])
        return PLAN(*arguments)

    plant.clock.sleep_until(market_time(TOMORROW, time(9, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "plan", noting)
        shown = re_plan(plant)["worth_of_fleet_power"]
    (warm,) = begun
    assert warm.equals(sold.drop("plan_id"))
    newest = plant.frame("defs_newest_values", delivery_day=TOMORROW, as_of=plant.clock.now())
    (second,) = plant.rows("plans").filter(pl.col("revision") == 1).to_dicts()
    assert newest["interval_start"][0] == second["horizon_start"]
    assert len(records(shown)) == newest.height < sold.height


def prices_turned(plant):
    """Publish prices that are low where the forecast the day was sold on is high."""
    forecast = plant.frame(
        "warehouse_forecasts", target="price", start=START, end_=END, as_of=plant.clock.now()
    )
    plant.append(
        "prices",
        forecast.select(
            market=pl.lit(MARKET),
            interval_start="interval_start",
            price_eur_per_mwh=2 * pl.col("p50").mean() - pl.col("p50"),
            resolution_minutes=pl.lit(15, pl.Int64),
            source=pl.lit("test"),
            known_at=pl.lit(plant.clock.now()),
        ),
    )


def mean_deviation_kw(plant):
    """By how much the newest plan's fleet is off the committed position."""
    plan = plant.frame("defs_newest_plan", delivery_day=TOMORROW, as_of=plant.clock.now())
    total = (
        plant.frame("warehouse_schedule", plan_id=plan["plan_id"][0])
        .group_by("interval_start")
        .agg(pl.col("power_kw").sum())
    )
    sold = plant.frame(
        "defs_committed_position",
        delivery_day=TOMORROW,
        gate_closure=plant.clock.now(),
        as_of=plant.clock.now(),
    )
    both = total.join(sold, on="interval_start")
    assert both.height == total.height
    return (both["power_kw"] - both["position_kw"]).abs().mean()


@pytest.fixture(scope="module")
def deviations(planned_home, tmp_path_factory):
    """By how much a re-plan leaves the position, by what imbalance costs, and what it told."""
    found = {}
    for spread in (0.0, 500.0):
        home = copied(planned_home, tmp_path_factory.mktemp("spread") / "plant")
        changed = {"imbalance_spread_eur_per_mwh": spread}
        with open_plant(home, market_time(TODAY, time(11)), **changed) as plant:
            plant.at(time(13))
            prices_turned(plant)
            told = re_plan(plant)
            found[spread] = mean_deviation_kw(plant), told["against_a_position"].value
    return found


def test_where_imbalance_costs_nothing_a_re_plan_follows_the_market(deviations):
    off_by_kw, against_a_position = deviations[0.0]
    assert off_by_kw > 2
    assert not against_a_position


def test_where_imbalance_is_dear_a_re_plan_keeps_to_what_was_sold(deviations):
    off_by_kw, against_a_position = deviations[500.0]
    assert off_by_kw < 0.25 * deviations[0.0][0]
    assert against_a_position


def test_a_re_plan_weighs_loads_that_err_alone_and_plants_that_err_together(planned_plant):
    intervals = pl.Series("interval_start", [START])
    known = {"p10": [-6.0, -8.0, 1.0, 2.0], "p50": [-3.0, -4.0, 3.0, 4.0]}
    profiles = pl.DataFrame(
        {"target": ["load", "load", "pv", "pv"], **known, "p90": [-3.0, -4.0, 9.0, 10.0]}
    ).with_columns(interval_start=pl.lit(START))
    market = intervals.to_frame().with_columns(price_eur_per_mwh=pl.lit(100.0))
    told = imbalance_terms(
        planned_plant.runtime,
        TOMORROW,
        market,
        profiles,
        planned_plant.clock.now(),
        spread_eur_per_mwh=20.0,
    )
    assert told is not None
    (row,) = told.to_dicts()
    assert row["lower_by_kw"] == pytest.approx(((3**2 + 4**2) + (2 + 2) ** 2) ** 0.5)
    assert row["higher_by_kw"] == pytest.approx(6 + 6)
    assert (row["surplus_eur_per_mwh"], row["shortage_eur_per_mwh"]) == (80.0, 120.0)


@pytest.mark.parametrize(
    ("changes", "released", "why"),
    [
        ({"label": "feasible", "gap": 0.5}, True, ""),
        ({"label": "feasible", "gap": None}, True, ""),
        ({"label": "deadline: 3 of 8 passes", "gap": 0.5}, True, ""),
        ({"label": "deadline: 3 of 8 passes", "worst_violation_kw": 0.1}, False, "0.1"),
        ({"label": "deadline: 3 of 8 passes", "worst_violation_kwh": 0.1}, False, "0.1"),
        ({"label": "optimal", "gap": 0.0, "simultaneous_steps": 1}, False, "_steps': 1"),
    ],
)
def test_a_plan_is_released_if_it_breaks_nothing_and_says_how_good_it_is(
    planned_plant, changes, released, why
):
    (first,) = planned_plant.rows("plans")["plan_id"]
    plans = planned_plant.rows("plans")
    planned_plant.append(
        "plans",
        plans.with_columns(
            plan_id=pl.lit("again"),
            plan_version=pl.col("plan_version") + 1,
            revision=pl.col("revision") + 1,
            **{name: pl.lit(value, plans.schema[name]) for name, value in changes.items()},
        ),
    )
    schedules = planned_plant.rows("schedules").filter(pl.col("plan_id") == first)
    planned_plant.append("schedules", schedules.with_columns(plan_id=pl.lit("again")))
    result = planned_plant.materialise("day_ahead", TOMORROW, "device_schedules")
    assert result.success == released
    assert ("again" in planned_plant.rows("plan_releases")["plan_id"]) == released
    if not released:
        assert "plan again is not released" in failure_of(result)
        assert why in failure_of(result)


def test_a_re_plan_of_a_day_without_a_position_is_settled_at_the_market(plant):
    dear = {"imbalance_spread_eur_per_mwh": 500.0}
    home = plant.runtime.settings.home
    with open_plant(home, market_time(TODAY, time(12)) + timedelta(minutes=30), **dear) as late:
        late.tell()
        result = late.daemon.launch("day_ahead", partition_key=str(TOMORROW))
        assert result.success, failure_of(result)  # released, but after gate closure
        late.clock.sleep_until(late.clock.now() + timedelta(minutes=15))
        assert not re_plan(late)["against_a_position"].value
