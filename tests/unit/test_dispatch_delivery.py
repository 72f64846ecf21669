"""Whether the power followed, whose fault it is if not, and what that makes of a device's score."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import ALL, START, devices
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.dispatch.delivery import (
    HALF_LIFE_INTERVALS,
    LEAST_INTERVALS,
    MOST_INTERVALS,
    delivery_scores,
    followed,
)
from vpp_pipeline.dispatch.verification import Tolerance
from vpp_pipeline.fleet.model import Chp, HttpConnection

BOUNDED = settings(max_examples=10, deadline=None)
RAMPING = Chp(
    device_id="ramping",
    connection=HttpConnection(url="http://127.0.0.1:1"),
    live=True,
    rated_power_kw=30,
    min_power_kw=5,
    ramp_kw_per_min=2,
)
FLEET = devices(*ALL, RAMPING)


def minute(n: float):
    return START + timedelta(minutes=n)


def readings(device_id: str, powers_kw: dict[float, float | None], **told) -> pl.DataFrame:
    """Readings by the minute they were made at."""
    rows = [
        {"device_id": device_id, "measured_at": minute(at), "power_kw": power_kw, "status": "ok"}
        | told
        | {"known_at": minute(at)}
        for at, power_kw in powers_kw.items()
    ]
    schema = dict(Telemetry.create_empty().schema) | {"status": pl.String}
    return pl.DataFrame(rows, schema=schema)


def judged(device_id, setpoint_kw, powers_kw, told_at=-1.0, **told):
    commands = pl.DataFrame(
        {
            "command_id": ["c"],
            "device_id": [device_id],
            "interval_start": [START],
            "setpoint_kw": [float(setpoint_kw)],
            "told_at": [minute(told_at)],
        }
    )
    seen = readings(device_id, powers_kw, **told)
    return followed(commands, seen, FLEET, Tolerance()).row(0, named=True)


def held(power_kw: float | None, first: int = 0) -> dict[float, float | None]:
    return {float(n): power_kw for n in range(first, 15)}


def test_invariant_07_a_verified_set_point_that_the_power_does_not_follow_is_told():
    row = judged("battery", -8, held(-4.0), energy_kwh=10.0)
    assert row["power_verified"] is False
    assert "-4.0 kW measured, -8.0 kW commanded" in row["reason"]
    assert row["excuse"] == ""
    assert (row["direction"], row["asked_kw"], row["delivered_kw"]) == ("down", 8.0, 4.0)


@pytest.mark.parametrize(("setpoint_kw", "direction"), [(-8, "down"), (6, "up")])
def test_invariant_07_power_within_tolerance_is_delivered_in_full(setpoint_kw, direction):
    row = judged("battery", setpoint_kw, held(setpoint_kw * 0.96), energy_kwh=10.0)
    assert row["power_verified"] is True
    assert (row["direction"], row["asked_kw"]) == (direction, abs(setpoint_kw))
    assert row["delivered_kw"] == row["asked_kw"]


def test_invariant_07_the_power_counts_from_when_the_device_had_time_to_settle():
    late = held(0.0) | held(5.0, first=5)
    assert judged("battery", 5, late, energy_kwh=10.0)["power_verified"] is False
    row = judged("battery", 5, late, told_at=4.0, energy_kwh=10.0)
    assert row["power_verified"] is True
    assert row["settled_at"] == minute(5)


def test_a_ramp_is_waited_for_from_where_the_device_was():
    on_its_way = {-1.0: 10.0} | {float(n): min(20.0, 10.0 + 2 * n) for n in range(15)}
    row = judged("ramping", 20, on_its_way)
    assert row["settled_at"] == minute(7)
    assert row["power_verified"] is True


def test_what_can_not_settle_in_time_is_not_judged():
    row = judged("ramping", 30, {-1.0: 0.0} | held(9.0))
    assert (row["power_verified"], row["settled_at"]) == (None, None)
    assert row["reason"] == row["excuse"] == "not judged: it had no time to settle"
    assert judged("battery", 5, held(5.0), told_at=12.0)["power_verified"] is None


@pytest.mark.parametrize(
    ("device_id", "setpoint_kw", "told", "excuse"),
    [
        ("battery", -8, {"energy_kwh": 17.6}, "its store is full"),
        ("battery", 6, {"energy_kwh": 2.4}, "its store is empty"),
        ("battery", 6, {"energy_kwh": 10.0, "status": "local"}, "status local"),
        ("ev", -8, {"plugged_in": False}, "no vehicle is plugged in"),
        (
            "ev",
            -8,
            {"plugged_in": True, "energy_kwh": 39.0, "target_energy_kwh": 40.0},
            "its store is full",
        ),
        ("heat-pump", -2, {"temperature_c": 24.0}, "its building is warm"),
    ],
)
def test_what_a_device_can_not_do_is_no_fault_of_its_own(device_id, setpoint_kw, told, excuse):
    row = judged(device_id, setpoint_kw, held(0.0), **told)
    assert row["power_verified"] is False
    assert row["reason"]
    assert row["excuse"] == excuse


def test_invariant_15_an_offline_device_is_not_punished_for_what_nobody_measured():
    row = judged("battery", -8, held(None), status="offline")
    assert (row["power_verified"], row["excuse"]) == (False, "no power was measured")


@pytest.mark.parametrize("sun_kw", [0.0, 3.0, 5.0])
def test_a_cap_above_the_sun_asks_nothing(sun_kw):
    row = judged("pv", 5, held(sun_kw), available_power_kw=sun_kw)
    assert row["power_verified"] is True
    assert row["asked_kw"] is None


def test_a_cap_that_is_broken_is_a_curtailment_that_was_not_delivered():
    row = judged("pv", 4, held(7.0), available_power_kw=10.0)
    assert row["power_verified"] is False
    assert (row["direction"], row["asked_kw"], row["delivered_kw"]) == ("down", 6.0, 3.0)


def history(shares: list[float]) -> pl.DataFrame:
    """Quarter-hours of one device, the oldest first, with the shares that it delivered."""
    rows = [
        {
            "device_id": "battery",
            "direction": "up",
            "interval_start": START + n * STEP,
            "power_verified": share == 1,
            "excuse": "",
            "asked_kw": 5.0,
            "delivered_kw": share * 5.0,
        }
        for n, share in enumerate(shares)
    ]
    schema = {
        "device_id": pl.String,
        "direction": pl.String,
        "interval_start": pl.Datetime("us", "UTC"),
        "power_verified": pl.Boolean,
        "excuse": pl.String,
        "asked_kw": pl.Float64,
        "delivered_kw": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema)


def score_of(shares):
    return delivery_scores(history(shares)).row(0, named=True)


def test_a_device_that_was_hardly_asked_is_told_as_unknown():
    assert score_of([0.0] * (LEAST_INTERVALS - 1))["score"] is None
    assert score_of([0.0] * LEAST_INTERVALS)["score"] == 0


def test_a_miss_weighs_half_after_the_half_life():
    since = HALF_LIFE_INTERVALS
    weights = [2 ** (-age / since) for age in range(since + 1)]
    assert score_of([0.0] + [1.0] * since)["score"] == pytest.approx(1 - 0.5 / sum(weights))


def test_excused_and_unjudged_quarter_hours_do_not_count():
    good = history([1.0] * 3)
    for told in ({"excuse": "its store is full"}, {"power_verified": None}, {"asked_kw": None}):
        none = history([0.0] * 3).with_columns(pl.lit(v).alias(k) for k, v in told.items())
        both = pl.concat([good, none], how="vertical_relaxed")
        assert delivery_scores(both)["score"].to_list() == [1.0]


def test_only_the_newest_quarter_hours_count():
    row = score_of([0.0] * 5 + [1.0] * MOST_INTERVALS)
    assert (row["score"], row["intervals"]) == (1.0, MOST_INTERVALS)
    assert row["first_interval"] == START + 5 * STEP


shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=40))
@BOUNDED
def test_a_score_lies_between_nothing_and_all_and_grows_with_what_is_delivered(pairs):
    less = score_of([min(pair) for pair in pairs])["score"]
    more = score_of([max(pair) for pair in pairs])["score"]
    assert 0 <= less <= more + 1e-12
    assert more <= 1


@given(
    st.sampled_from(["battery", "pv", "ev", "chp", "heat-pump"]),
    st.floats(-30, 30),
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=15),
    st.none() | st.floats(-1e6, 1e6),
)
@BOUNDED
def test_what_is_delivered_never_exceeds_what_was_asked(device_id, setpoint_kw, powers, sun_kw):
    powers_kw = {float(n): power for n, power in enumerate(powers)}
    row = judged(device_id, setpoint_kw, powers_kw, available_power_kw=sun_kw, energy_kwh=5.0)
    if row["asked_kw"] is None:
        assert row["delivered_kw"] is None
    elif row["measured_kw"] is not None:
        assert 0 <= row["delivered_kw"] <= row["asked_kw"]
