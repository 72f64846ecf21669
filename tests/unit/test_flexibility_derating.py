"""A device is counted on for what it delivers, never for nothing, and for no more than it could."""

from __future__ import annotations

from datetime import timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP, day_intervals
from vpp_pipeline.dispatch.delivery import MOST_INTERVALS, delivery_scores
from vpp_pipeline.flexibility.derating import LEAST_SHARE, TRUSTED_FROM, deratings
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.flexibility.states import usable_states

BOUNDED = settings(max_examples=4, deadline=None)
NOISE = 1e-9
STEPS = day_intervals(given.WINTER_DAY, "Europe/Berlin")[:8]
FLEET = given.mixed_fleet(3)


def scores(of_device: dict[tuple[str, str], float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "device_id": [device_id for device_id, _ in of_device],
            "direction": [direction for _, direction in of_device],
            "score": list(of_device.values()),
        },
        schema_overrides={"device_id": pl.String, "direction": pl.String, "score": pl.Float64},
    ).with_columns(intervals=4, asked_kwh=10.0, delivered_kwh=5.0)


def envelopes(devices, of_device: dict[tuple[str, str], float | None], **telemetry):
    at = STEPS[0]
    told = given.telemetry(devices, at, **telemetry)
    return device_envelopes(
        devices,
        usable_states(devices, told, at, timedelta(minutes=10)),
        given.forecasts(devices, STEPS, at),
        given.sessions(),
        given.temperatures(devices, STEPS),
        STEPS,
        at,
        deratings(scores(of_device)),
    )


def both_ways(score: float | None, devices=FLEET) -> dict[tuple[str, str], float | None]:
    return {(name, way): score for name in devices["device_id"] for way in ("up", "down")}


def test_a_battery_that_delivers_half_is_counted_on_for_half_and_says_why():
    home = given.frame(given.site("s", [given.battery("b")]))
    half = envelopes(home, {("b", "up"): 0.5})
    assert half["max_power_kw"].unique().to_list() == [2.5]
    assert half["min_power_kw"].unique().to_list() == [-5.0]
    (why,) = half["derated"].unique()
    assert why == "up: delivers 50 % of what it is asked for, 5.0 of 10.0 kWh in 4 quarter-hours"


@pytest.mark.parametrize("score", [None, TRUSTED_FROM, 1.0])
def test_who_delivers_or_is_unknown_is_counted_on_for_all(score):
    trusted = envelopes(FLEET, both_ways(score))
    assert trusted.equals(envelopes(FLEET, {}))
    assert trusted["derated"].null_count() == trusted.height


def test_who_delivers_nothing_is_still_asked_for_a_little():
    home = given.frame(given.site("s", [given.battery("b"), given.chp("c", min_power_kw=8)]))
    least = envelopes(home, both_ways(0.0, home))
    most_kw = dict(least.group_by("device_id").agg(pl.col("max_power_kw").max()).iter_rows())
    assert most_kw == pytest.approx({"b": 5 * LEAST_SHARE, "c": 8})


def test_a_device_out_of_service_is_not_punished_twice():
    home = given.frame(given.site("s", [given.battery("b")]))
    out = {"b": {"status": "offline"}}
    rows = envelopes(home, both_ways(0.2, home), **out)
    assert rows.equals(envelopes(home, {}, **out))
    assert not rows["available"].any()


def test_a_broken_cap_costs_curtailment_and_no_sun():
    home = given.frame(given.site("s", [given.pv("sun")]))
    full, half = envelopes(home, {}), envelopes(home, both_ways(0.5, home))
    assert half["max_power_kw"].equals(full["max_power_kw"])
    assert half["min_power_kw"].to_list() == pytest.approx((full["max_power_kw"] / 2).to_list())


drawn_scores = st.lists(
    st.none() | st.floats(0, 1), min_size=2 * FLEET.height, max_size=2 * FLEET.height
)


def of_fleet(values):
    return dict(zip(both_ways(None), values, strict=True))


@drawn(drawn_scores)
@BOUNDED
def test_a_derated_envelope_lies_inside_the_envelope(values):
    full, less = envelopes(FLEET, {}), envelopes(FLEET, of_fleet(values))
    assert (less["min_power_kw"] >= full["min_power_kw"] - NOISE).all()
    assert (less["max_power_kw"] <= full["max_power_kw"] + NOISE).all()
    assert (less["max_energy_kwh"] <= full["max_energy_kwh"] + NOISE).all()
    resting = full.filter(pl.col("expected_power_kw").is_between("min_power_kw", "max_power_kw"))
    kept = less.join(resting, on=["device_id", "interval_start"], how="semi")
    expected = pl.col("expected_power_kw")
    assert (
        kept.select(
            (expected >= pl.col("min_power_kw") - NOISE)
            & (expected <= pl.col("max_power_kw") + NOISE)
        )
        .to_numpy()
        .all()
    )


@drawn(drawn_scores, st.lists(st.floats(0, 1), min_size=1, max_size=1))
@BOUNDED
def test_a_higher_score_never_narrows_an_envelope(values, lift):
    higher = [None if value is None else value + (1 - value) * lift[0] for value in values]
    low, high = envelopes(FLEET, of_fleet(values)), envelopes(FLEET, of_fleet(higher))
    assert np.all(high["max_power_kw"].to_numpy() >= low["max_power_kw"].to_numpy() - NOISE)
    assert np.all(high["min_power_kw"].to_numpy() <= low["min_power_kw"].to_numpy() + NOISE)


def test_who_failed_for_a_day_earns_its_way_back_by_delivering_what_is_counted_on():
    asked_kw, delivered_kw, counted_on = [5.0] * MOST_INTERVALS, [0.0] * MOST_INTERVALS, []
    while not counted_on or counted_on[-1] < 1:
        rows = pl.DataFrame({"asked_kw": asked_kw, "delivered_kw": delivered_kw}).with_columns(
            pl.lit("b").alias("device_id"),
            pl.lit("up").alias("direction"),
            pl.lit("").alias("excuse"),
            power_verified=True,
            interval_start=pl.lit(STEPS[0]) + pl.int_range(pl.len()) * STEP,
        )
        counted_on += deratings(delivery_scores(rows))["up_share"].to_list() or [1.0]
        asked_kw.append(5 * counted_on[-1])
        delivered_kw.append(5 * counted_on[-1])
    assert counted_on[0] == LEAST_SHARE
    assert counted_on == sorted(counted_on)
    assert len(counted_on) <= MOST_INTERVALS
