"""A group's target: who takes part, the shares as orders, and what came of them."""

from datetime import timedelta

import dispatch_cases as cases
import flexibility_fleets as given
import polars as pl
import pytest
from dispatch_cases import START
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.dispatch.group import (
    GroupTarget,
    Outlook,
    cancelled,
    outcome,
    overrides,
    share_out,
    takes_part,
)
from vpp_pipeline.dispatch.orders import Order, standing

UNTIL = START + timedelta(minutes=40)
TARGET = GroupTarget("key", "group:all", 5.0, UNTIL, "op", "a test")
QUARTER = timedelta(minutes=15)
DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")


def shares(*powers_kw: float, device_id: str = "battery") -> pl.DataFrame:
    return pl.DataFrame(
        [(device_id, START + n * QUARTER, kw, kw) for n, kw in enumerate(powers_kw)],
        schema=["device_id", "interval_start", "share_kw", "order_kw"],
        orient="row",
        schema_overrides={"interval_start": pl.Datetime("us", "UTC")},
    )


@drawn(
    st.lists(st.sampled_from([0.0, 1.5, -2.0]), min_size=1, max_size=6),
    st.integers(0, 14),
)
@settings(deadline=None, max_examples=10)
def test_invariant_08_at_every_moment_until_the_end_one_override_says_the_share(powers_kw, minute):
    now = START + timedelta(minutes=minute)
    until = START + len(powers_kw) * QUARTER
    target = GroupTarget("key", "fleet", 1.0, until, "op", "a test")
    given_orders = overrides(shares(*powers_kw), target, now, 0)
    devices = cases.devices()
    for n, kw in enumerate(powers_kw):
        moment = max(START + n * QUARTER, now) + timedelta(seconds=1)
        stands = standing(given_orders, devices, moment).filter(device_id="battery")
        assert stands["override_kw"].to_list() == [kw]
    after = standing(given_orders, devices, until).filter(device_id="battery")
    assert after["override_kw"].to_list() == [None]


def test_an_override_is_given_once_for_quarter_hours_of_one_power():
    orders = overrides(shares(2.0, 2.0, 3.0), TARGET, START + timedelta(minutes=1), 0)
    assert [(o.power_kw, o.valid_from, o.valid_until) for o in orders] == [
        (2.0, START + timedelta(minutes=1), START + 2 * QUARTER),
        (3.0, START + 2 * QUARTER, UNTIL),
    ]
    assert {o.scope for o in orders} == {"device:battery"}


def test_only_the_orders_of_the_target_are_taken_back_and_once():
    now = START + timedelta(minutes=1)
    own = overrides(shares(2.0), TARGET, now, 0)
    foreign = [
        Order(**{**own[0].model_dump(), "order_id": "another", "target": None}),
        *overrides(shares(2.0, device_id="chp"), TARGET, now, 1),
    ]
    ended = cancelled([*own, *foreign], ["battery"], TARGET, now)
    assert [order.cancels for order in ended] == [own[0].order_id]
    assert cancelled([*own, *foreign, *ended], ["battery"], TARGET, now) == []


def test_who_can_not_be_commanded_is_named_with_the_reason():
    devices = cases.devices().with_columns(tags=pl.lit(["here"]))
    stop = Order(
        order_id="o", kind="stop", scope="device:chp", who="op", why="smoke", given_at=START
    )
    states = devices.select(
        "device_id",
        available=pl.col("device_id") != "ev",
        why=pl.when(pl.col("device_id") == "ev")
        .then(pl.lit("reading too old"))
        .otherwise(pl.lit("")),
    )
    able, skipped = takes_part("tag:here", devices, states, standing([stop], devices, START))
    assert able.to_list() == ["battery", "pv"]
    words = dict(skipped.iter_rows())
    assert words.keys() == {"chp", "ev", "heat-pump", "load"}
    assert "smoke" in words["chp"]
    assert words["ev"] == "reading too old"
    assert "live: true" in words["heat-pump"]
    assert "not controllable" in words["load"]


@pytest.mark.parametrize("target_kw", [4.0, -7.25, 0.0])
def test_invariant_17_shares_sum_to_the_target_and_the_cheapest_store_takes_most(target_kw):
    homes = given.site(
        "home",
        [
            given.battery("cheap", wear_cost_eur_per_kwh=0.01),
            given.battery("dear", wear_cost_eur_per_kwh=0.2),
        ],
    )
    devices = given.frame(homes)
    outlook = Outlook(devices, pl.DataFrame(), given.envelopes(devices))
    chosen = pl.Series(["cheap", "dear"])
    rows = share_out(outlook, chosen, target_kw, DAY[2]).rows
    assert rows["interval_start"].unique().to_list() == [DAY[0], DAY[1]]
    by_device = rows.filter(interval_start=DAY[0]).select("device_id", "share_kw")
    told = dict(by_device.iter_rows())
    assert sum(told.values()) == pytest.approx(target_kw, abs=1e-5)
    assert abs(told["cheap"]) >= abs(told["dear"]) - 1e-5


def test_nobody_shares_nothing():
    devices = given.frame(given.site("home", [given.battery("b0")]))
    outlook = Outlook(devices, pl.DataFrame(), given.envelopes(devices))
    assert share_out(outlook, pl.Series([], dtype=pl.String), 1.0, DAY[2]).rows.is_empty()


def test_a_cap_counts_no_more_than_the_share_below_it():
    rows = pl.concat([shares(2.0, device_id="pv"), shares(3.0), shares(1.0, device_id="chp")])
    newest = pl.DataFrame(
        {
            "device_id": ["pv", "battery"],
            "state": ["VERIFIED", "REJECTED"],
            "detail": ["", "busy"],
            "offered_kw": [9.0, None],
        }
    )
    told = outcome(rows, newest, cases.devices())
    assert told.rows() == [
        ("battery", 3.0, 0.0, "REJECTED", "busy"),
        ("chp", 1.0, 0.0, "not sent", ""),
        ("pv", 2.0, 2.0, "VERIFIED", ""),
    ]
