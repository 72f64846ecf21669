"""Where a day's money was lost: the parts are the whole, and each has its own cause."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
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
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.followed import followed_power
from vpp_pipeline.settlement.foresight import perfect_foresight
from vpp_pipeline.settlement.regret import Regret, regret
from vpp_pipeline.settlement.stores import stores, to_frame
from vpp_pipeline.settlement.unmanaged import unmanaged_power

START, _ = bounds(DAY, TZ)
HOUR = timedelta(hours=1)
PLAN = PlanSettings(fairness_eur_per_kwh=0.0)
SPREAD = pl.when(pl.col("interval_start").dt.hour() < 9).then(20.0).otherwise(90.0)
BASES = ("unmanaged", "perfect_foresight", "as_planned", "managed")
euros = st.floats(-1e6, 1e6, allow_subnormal=False)


def costs(*totals, day=DAY, bases=BASES):
    return pl.DataFrame({"delivery_day": day, "basis": bases, "total_eur": totals})


def plans(*rows, day=DAY):
    """Rows of (objective_eur, bound_eur, in_force, quarter_hours)."""
    names = ["objective_eur", "bound_eur", "in_force", "quarter_hours"]
    types = dict(zip(names, [pl.Float64, pl.Float64, pl.Int64, pl.Int64], strict=True))
    return pl.DataFrame(rows, schema=types, orient="row").with_columns(delivery_day=pl.lit(day))


certificates = st.lists(
    st.tuples(euros, st.floats(0, 1e3), st.booleans(), st.integers(0, 96), st.integers(1, 96)),
    max_size=5,
)


@given(st.lists(euros, min_size=4, max_size=4), certificates)
def test_the_parts_add_up_to_what_the_day_cost_more_than_the_best(totals, certificates):
    made = plans(
        *(
            (objective, objective - open_eur if proven else None, min(force, horizon), horizon)
            for objective, open_eur, proven, force, horizon in certificates
        )
    )
    (day,) = regret(costs(*totals), made).to_dicts()
    unmanaged, perfect, _, managed = totals
    parts = day["solver_eur"] + day["forecast_eur"] + day["execution_eur"]
    assert perfect + parts == pytest.approx(managed, abs=1e-6)
    assert day["regret_eur"] == pytest.approx(parts, abs=1e-6)
    assert day["saved_eur"] + day["regret_eur"] == pytest.approx(unmanaged - perfect, abs=1e-6)
    assert day["solver_eur"] >= 0


def test_each_plan_answers_for_its_gap_by_the_share_of_its_horizon_that_it_was_in_force():
    made = plans((10.0, 9.0, 72, 96), (4.0, 3.6, 24, 48), (5.0, None, 0, 20))
    (day,) = regret(costs(20.0, 8.0, 11.0, 12.5), made).to_dicts()
    assert day["solver_eur"] == pytest.approx(1.0 * 72 / 96 + 0.4 * 24 / 48)
    assert day["forecast_eur"] == pytest.approx(11.0 - 8.0 - 0.95)
    assert day["execution_eur"] == pytest.approx(1.5)
    assert day["unproven_quarter_hours"] == 0


def test_what_an_unproven_plan_leaves_open_counts_as_unknown_and_is_told():
    (day,) = regret(costs(20.0, 8.0, 11.0, 12.5), plans((10.0, None, 96, 96))).to_dicts()
    assert day["solver_eur"] == 0.0
    assert day["unproven_quarter_hours"] == 96


def test_a_day_that_was_planned_and_not_run_counts_as_followed_to_the_letter():
    three = costs(20.0, 8.0, 11.0, bases=BASES[:3])
    (day,) = regret(three, plans((10.0, 9.5, 96, 96))).to_dicts()
    assert day["managed_eur"] is None
    assert day["execution_eur"] == 0.0
    assert day["regret_eur"] == pytest.approx(3.0)
    assert day["saved_eur"] == pytest.approx(9.0)


def test_many_days_are_split_at_once_and_none_of_another_days_plans_counts():
    next_day = DAY + timedelta(days=1)
    both = regret(
        pl.concat([costs(20.0, 8.0, 11.0, 12.5, day=next_day), costs(5.0, 1.0, 2.0, 3.0)]),
        pl.concat([plans((10.0, 9.0, 96, 96)), plans((3.0, 2.5, 96, 96), day=next_day)]),
    )
    Regret.validate(both)
    assert both["delivery_day"].to_list() == [DAY, next_day]
    assert both["solver_eur"].to_list() == pytest.approx([1.0, 0.5])


def households():
    devices = fleet(battery(), charger(), heat_pump(), washer(), pv(), load(), chp())
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
HELD = stores(FLEET, A_DAY)
DEFAULT = unmanaged_power(FLEET, A_DAY, HELD)
NAMES = FLEET["device_id"].to_list()


def schedule(power_kw, limits=None):
    rows = to_frame(power_kw, "power_kw", FLEET, A_DAY.intervals)
    limit = np.full_like(power_kw, np.inf) if limits is None else limits
    return rows.join(
        to_frame(limit, "limit_kw", FLEET, A_DAY.intervals), on=["device_id", "interval_start"]
    )


def followed(schedules):
    return followed_power(FLEET, A_DAY, HELD, DEFAULT, schedules)


def total(power_kw):
    return day_cost(FLEET, A_DAY, HELD, power_kw, HELD.contents(power_kw), PLAN).total_eur


def of(power_kw, device_id):
    return power_kw[:, NAMES.index(device_id)]


def test_a_plan_that_knew_everything_loses_nothing_to_its_forecast():
    best = perfect_foresight(FLEET, A_DAY, PLAN).power_kw
    limits = np.where(np.array(NAMES) == "pv", best, np.inf)
    done = followed(schedule(best, limits))
    assert done == pytest.approx(best, abs=1e-3)
    assert total(done) == pytest.approx(total(best), abs=1e-3)


def test_a_device_that_nobody_told_anything_follows_its_default():
    nothing = schedule(DEFAULT).clear()
    assert followed(nothing) == pytest.approx(DEFAULT)


def test_what_the_plan_expected_of_a_load_is_not_what_it_draws():
    told_otherwise = np.full_like(DEFAULT, -7.0)
    assert of(followed(schedule(told_otherwise)), "load") == pytest.approx(of(DEFAULT, "load"))


def test_sun_gives_what_there_was_up_to_its_limit_whatever_was_expected():
    expected = np.full_like(DEFAULT, 3.0)
    limits = np.full_like(DEFAULT, 0.4)
    limits[48:] = 5.0
    power = of(followed(schedule(expected, limits)), "pv")
    assert power[:48] == pytest.approx(0.4)
    assert power[48:] == pytest.approx(1.0)


def test_a_vehicle_that_is_not_there_draws_nothing_and_a_full_one_no_more():
    power = of(followed(schedule(np.full_like(DEFAULT, -10.0))), "charger")
    assert power[:36] == pytest.approx(0.0)
    stored = -power[36:68].sum() * 0.25 * 0.8
    ceiling = max(FLEET.filter(pl.col("device_id") == "charger")["energy_capacity_kwh"][0], 32.0)
    assert stored == pytest.approx(ceiling - 20.0)
    assert power[68:] == pytest.approx(0.0)


@given(st.integers(0, 2**32))
def test_whatever_is_told_no_device_leaves_its_rating_or_its_store(seed):
    wild = np.random.default_rng(seed).normal(0, 20, DEFAULT.shape)
    power = followed(schedule(wild))
    rated = FLEET.select("max_draw_kw", "max_inject_kw").to_numpy()
    steered = FLEET["controllable"].to_numpy()
    assert (power >= -rated[:, 0] - 1e-9)[:, steered].all()
    assert (power <= rated[:, 1] + 1e-9)[:, steered].all()
    contents = of(HELD.contents(power), "battery")
    low, high = (
        FLEET.filter(pl.col("device_id") == "battery")
        .select("min_energy_kwh", "max_energy_kwh")
        .row(0)
    )
    assert (contents >= low - 1e-9).all()
    assert (contents <= high + 1e-9).all()
    washed = of(HELD.contents(power), "washer")
    assert np.nanmax(washed) <= 3.0 + 1e-9
