from datetime import timedelta

import dispatch_cases as cases
import polars as pl
import pytest
from dispatch_cases import START
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.dispatch.spread import (
    LATEST,
    WAVE,
    SpreadSettings,
    spread,
    steps_kw,
)

LEFT_OVER = pl.col("valid_from") > START + LATEST
END = START + timedelta(minutes=20)


def asked(rows: list[tuple[float, bool, bool]]) -> pl.DataFrame:
    """A command a row of (step_kw, urgent, waits)."""
    return pl.DataFrame(
        [(f"c{n}", f"device-{n}", END, *row) for n, row in enumerate(rows)],
        schema={
            "command_id": pl.String,
            "device_id": pl.String,
            "valid_until": pl.Datetime("us", "UTC"),
            "step_kw": pl.Float64,
            "urgent": pl.Boolean,
            "waits": pl.Boolean,
        },
        orient="row",
    )


FLEETS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.001, 500)),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)
RAMPS = st.one_of(st.none(), st.floats(0.01, 10_000))


@given(FLEETS, RAMPS)
@settings(deadline=None)
def test_invariant_13_each_device_starts_once_and_none_before_the_boundary(rows, ramp):
    commands = asked(rows)
    told = spread(commands, START, SpreadSettings(ramp))
    assert told.drop("valid_from").equals(commands)
    assert told["valid_from"].is_between(START, END).all()
    at_once = told.filter(pl.col("urgent") | (pl.col("step_kw") == 0))
    assert (at_once["valid_from"] == START).all()


@given(FLEETS, st.floats(0.01, 10_000))
@settings(deadline=None)
def test_invariant_13_no_span_has_more_steps_than_its_ramp_and_one(rows, ramp):
    told = spread(asked(rows), START, SpreadSettings(ramp)).filter(
        ~pl.col("urgent"), pl.col("step_kw") > 0, ~LEFT_OVER
    )
    largest_kw = told["step_kw"].max() or 0.0
    starts = told["valid_from"].to_list()
    for begin in starts:
        for end in starts:
            span = end - begin + (timedelta() if told["waits"].all() else WAVE)
            within = told.filter(pl.col("valid_from").is_between(begin, end))["step_kw"].sum()
            if end >= begin:
                assert within <= ramp * (span.total_seconds() + 1e-5) / 60 + largest_kw + 1e-6


@given(FLEETS, RAMPS)
@settings(deadline=None)
def test_invariant_13_nothing_that_is_sent_starts_after_half_of_the_interval(rows, ramp):
    told = spread(asked(rows), START, SpreadSettings(ramp))
    sent = told.filter(~LEFT_OVER)
    assert (sent["valid_from"] <= START + timedelta(minutes=7, seconds=30)).all()
    if ramp is None or told["step_kw"].sum() <= ramp * (LATEST.total_seconds() - 60) / 60:
        assert sent.height == told.height


@given(st.permutations(range(12)))
@settings(deadline=None)
def test_invariant_13_the_order_of_starts_is_the_devices_own(order):
    commands = asked([(10.0, False, True)] * 12)
    by_device = dict(
        spread(commands, START, SpreadSettings(60)).select("device_id", "valid_from").iter_rows()
    )
    again = spread(commands[list(order)], START, SpreadSettings(60))
    assert dict(again.select("device_id", "valid_from").iter_rows()) == by_device


def test_invariant_13_a_large_fleet_takes_the_window_and_a_small_one_an_instant():
    large = spread(asked([(5.0, False, True)] * 3000), START, SpreadSettings())["valid_from"]
    assert large.max() - START == pytest.approx(timedelta(seconds=30), abs=timedelta(seconds=0.1))
    assert large.n_unique() == 3000
    small = spread(asked([(5.0, False, False)] * 30), START, SpreadSettings())["valid_from"]
    assert small.unique().to_list() == [START]


def test_invariant_13_others_wait_for_what_an_order_takes_of_the_ramp():
    told = spread(asked([(60.0, True, True), (1.0, False, True)]), START, SpreadSettings(60))
    assert told["valid_from"].to_list() == [START, START + timedelta(minutes=1)]


def test_a_ramp_at_which_nothing_starts_is_refused():
    with pytest.raises(ValueError, match="fleet ramp of 0"):
        SpreadSettings(0)


@pytest.mark.parametrize(
    ("device_id", "setpoint_kw", "reading", "step_kw"),
    [
        ("battery", 5.0, {"power_kw": -2.0}, 7.0),
        ("battery", 5.0, {"power_kw": 5.0}, 0.0),
        ("battery", 5.0, {"power_kw": None}, 15.0),
        ("battery", 5.0, {"power_kw": float("nan")}, 15.0),
        ("pv", 12.0, {"power_kw": 4.0, "available_power_kw": 6.0}, 2.0),
        ("pv", 3.0, {"power_kw": 4.0, "available_power_kw": 6.0}, 1.0),
        ("pv", 12.0, {"power_kw": 4.0, "available_power_kw": None}, 8.0),
    ],
)
def test_a_step_is_from_the_power_that_was_measured(device_id, setpoint_kw, reading, step_kw):
    commands = pl.DataFrame({"device_id": [device_id], "setpoint_kw": [setpoint_kw]})
    earlier = cases.telemetry(device_id, measured_at=START - timedelta(hours=1), power_kw=99.0)
    states = pl.concat([cases.telemetry(device_id, **reading), earlier])
    assert steps_kw(commands, cases.devices(), states).to_list() == [step_kw]
