"""Holds and releases in files: nothing is lost, and nothing held anew is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.heartbeat import Heartbeat, WatchdogRuns
from vpp_pipeline.dispatch.holds import Holds, HoldsDamaged
from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.orders import Order, standing
from vpp_pipeline.dispatch.release_log import RELEASES, Cause, Release, ReleaseLog
from vpp_pipeline.watchdog import must_rest

NOW = datetime(2020, 10, 5, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_a_hold_is_known_until_its_device_was_seen_released(tmp_path):
    holds = Holds(tmp_path)
    assert holds.read() == {}
    holds.hold({"a": NOW, "b": NOW + MINUTE})
    assert Holds(tmp_path).read() == {"a": NOW, "b": NOW + MINUTE}
    holds.let_go({"a": NOW})
    assert holds.read() == {"b": NOW + MINUTE}


def test_invariant_03_a_device_held_anew_while_it_was_released_is_still_held(tmp_path):
    holds = Holds(tmp_path)
    holds.hold({"a": NOW})
    holds.hold({"a": NOW + MINUTE})
    holds.let_go({"a": NOW})
    holds.hold({"a": NOW})
    assert holds.read() == {"a": NOW + MINUTE}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": "2020-01-01T00:00:00"}', "{"])
def test_a_damaged_hold_file_is_named_with_its_remedy(tmp_path, content):
    (tmp_path / "holds.json").write_text(content)
    with pytest.raises(HoldsDamaged, match=r"holds\.json can't be read .* delete the file"):
        Holds(tmp_path).read()


def test_invariant_03_stopped_and_lapsed_devices_must_rest_and_no_others():
    stops = pl.DataFrame(
        {
            "device_id": ["a", "b", "c"],
            "stopped": [True, False, False],
            "order_id": ["stop-1", None, None],
            "stop_words": ["kill switch", None, None],
        }
    )
    holds = {"a": NOW - MINUTE, "b": NOW, "c": NOW + MINUTE}
    why = must_rest(stops, holds, NOW)
    assert why["a"] == Cause("kill switch", "stop-1", "kill switch")
    assert (why["b"].authority, "no timer" in why["b"].words) == ("watchdog", True)
    assert why.keys() == {"a", "b"}


def released(device_id, words="ok"):
    result = CommandResult("", Outcome.ACKED, "00ff", words, "answer", 7)
    return Release.of(device_id, NOW, "watchdog", Cause("kill switch", "stop-1", "smoke"), result)


def test_releases_are_read_as_written_and_a_torn_line_hides_no_other(tmp_path):
    log = ReleaseLog(tmp_path)
    assert log.read().schema == RELEASES
    log.append([released("a"), released("b", 'quoted "\n"')])
    file = tmp_path / "releases.jsonl"
    file.write_bytes(file.read_bytes() + b'{"device_id": "torn')
    log.append([released("c")])
    rows = log.read()
    assert rows.schema == RELEASES
    assert rows["device_id"].to_list() == ["a", "b", "c"]
    assert rows.row(0, named=True) == {
        "device_id": "a",
        "at": NOW,
        "actor": "watchdog",
        "authority": "kill switch",
        "order_id": "stop-1",
        "why": "smoke",
        "outcome": "ACKED",
        "sent": "00ff",
        "acknowledged": "answer",
        "detail": "ok",
        "fence": 7,
    }


def test_there_is_one_watchdog_a_plant(tmp_path):
    with (
        Heartbeat(tmp_path).held(),
        pytest.raises(WatchdogRuns, match="stop it first"),
        Heartbeat(tmp_path).held(),
    ):
        pytest.fail("two at once")
    with Heartbeat(tmp_path).held():
        pass


SCOPES = ["fleet", "site:s", "device:d"]
DEVICE = pl.DataFrame(
    {
        "device_id": ["d"],
        "site_id": ["s"],
        "groups": [[]],
        "tags": [[]],
        "site_failsafe_import_kw": [None],
        "site_failsafe_export_kw": [None],
    },
    schema_overrides={
        "groups": pl.List(pl.String),
        "tags": pl.List(pl.String),
        "site_failsafe_import_kw": pl.Float64,
        "site_failsafe_export_kw": pl.Float64,
    },
)


@st.composite
def books(draw):
    """Orders in the order given, of every kind, that contradict each other."""
    orders = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["stop", "resume", "grid_limit", "override", "cancel"]))
        timed = [o.order_id for o in orders if o.kind in ("grid_limit", "override")]
        if kind == "cancel" and not timed:
            continue
        given_at = NOW + draw(st.integers(-9, 0)) * MINUTE
        fields = {
            "grid_limit": {"min_kw": -1.0},
            "override": {"power_kw": 1.0},
            "cancel": {"cancels": draw(st.sampled_from(timed)) if timed else None},
        }.get(kind, {})
        if kind in ("grid_limit", "override"):
            fields["valid_until"] = given_at + draw(st.integers(1, 20)) * MINUTE
        orders.append(
            Order(
                order_id=f"o{number}",
                kind=kind,
                scope=draw(st.sampled_from(SCOPES)),
                who="kim",
                why="test",
                given_at=given_at,
                **fields,
            )
        )
    return orders


@settings(deadline=None, max_examples=60)
@given(books())
def test_invariant_08_what_binds_a_device_is_what_people_are_shown_as_in_force(orders):
    shown = in_force(orders, NOW)
    row = standing(orders, DEVICE, NOW).row(0, named=True)
    kinds = {order.kind for order in shown}
    assert row["stopped"] == ("stop" in kinds)
    assert (row["override_kw"] is not None) == ("override" in kinds)
    limited = row["low_kw"] is not None or row["site_low_kw"] is not None
    assert limited == ("grid_limit" in kinds)
    assert row["order_id"] is None or row["order_id"] in {order.order_id for order in shown}
