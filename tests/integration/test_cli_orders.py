"""`vpp override`, `vpp limit`, `vpp cancel`, `vpp orders`: what is given, refused and shown."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click
import polars as pl
import pytest
from click.testing import CliRunner
from watchdog_plant import write_plant

from vpp_pipeline.cli import main
from vpp_pipeline.cli.ordering import moment_of
from vpp_pipeline.delivery_day import STEP, floor_interval
from vpp_pipeline.dispatch.group import GroupTarget, overrides
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.order_book import OrderBook


@pytest.fixture
def settings(tmp_path):
    return write_plant(tmp_path / "home", rate=1.0)


@pytest.fixture
def vpp(settings, monkeypatch):
    monkeypatch.setenv("VPP_HOME", str(settings.home))
    monkeypatch.setenv("VPP_FLEET", str(settings.fleet_file))
    return lambda *words: CliRunner().invoke(main, words)


def given(settings):
    return OrderBook(settings.order_dir).read()


def test_an_override_is_given_for_a_device_by_the_user_for_a_while(settings, vpp):
    words = ("--power-kw", "-2.5", "--for", "1h30m", "--why", "trial")
    result = vpp("override", "alba-battery", *words)
    assert result.exit_code == 0, result.output
    (order,) = given(settings)
    assert (order.kind, order.scope, order.power_kw) == ("override", "device:alba-battery", -2.5)
    assert timedelta(minutes=89) < order.valid_until - order.given_at <= timedelta(minutes=90)
    assert (bool(order.who), order.why) == (True, "trial")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["alba-battery", "--power-kw", "6", "--for", "1h"], "name one from -5 to 5"),
        (["alba-battery", "--power-kw", "nan", "--for", "1h"], "name one from -5 to 5"),
        (["alba-load", "--power-kw", "0", "--for", "1h"], "name another device"),
        (["nobody", "--power-kw", "0", "--for", "1h"], "name one of device:alba-battery"),
        (["site:alba", "--power-kw", "0", "--for", "1h"], "name one of device:alba-battery"),
        (["alba-battery", "--power-kw", "0"], "--until TIME or --for SPAN, one of them"),
        (["alba-battery", "--power-kw", "0", "--for", "0m"], "write one such as 90m"),
        (["alba-battery", "--power-kw", "0", "--for", "soon"], "write one such as 90m"),
        (["alba-battery", "--power-kw", "0", "--until", "2020-10-06T18:00"], "add one, such as"),
        (["alba-battery", "--power-kw", "0", "--until", "2020-10-01T18:00Z"], "is over"),
        (["alba-battery", "--power-kw", "0", "--until", "later"], "write one such as 2026"),
    ],
)
def test_an_override_that_can_not_be_is_refused_with_its_remedy(settings, vpp, words, remedy):
    result = vpp("override", *words, "--why", "trial")
    assert result.exit_code != 0
    assert remedy in " ".join(result.stderr.split())
    assert given(settings) == []


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["override", "borgo-batery", "--power-kw", "0"], "device:borgo-battery, device:"),
        (["limit", "bogo", "--none"], "site:borgo, site:alba"),
        (["limit", "site:allba", "--none"], "site:alba, site:borgo"),
        (["limit", "alba-pw", "--none"], "device:alba-pv, "),
        (["limit", "nobody", "--none"], "site:alba, site:borgo, fleet, group:everything"),
        (["dispatch", "everthing", "1"], "group:everything, tag:all, site:alba"),
    ],
)
def test_of_a_name_that_is_not_known_the_nearest_are_told_first_and_then_the_commands_own_kind(
    vpp, words, first
):
    result = vpp(*words, "--for", "1h", "--why", "x")
    assert f"is not in the registry: name one of {first}" in result.stderr


def test_a_limit_bounds_a_site_in_the_sign_of_set_points_and_can_be_lifted(settings, vpp):
    until = ["--until", "2020-10-06T18:00+02:00", "--why", "congestion", "--who", "grid-operator"]
    assert vpp("limit", "alba", "--import-kw", "4", "--export-kw", "0", *until).exit_code == 0
    assert vpp("limit", "alba", "--none", *until).exit_code == 0
    bounded, lifted = given(settings)
    assert (bounded.scope, bounded.min_kw, bounded.max_kw) == ("site:alba", -4.0, 0.0)
    assert bounded.valid_until == datetime(2020, 10, 6, 16, tzinfo=UTC)
    assert (lifted.min_kw, lifted.max_kw, lifted.who) == (None, None, "grid-operator")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["limit", "alba", "--import-kw", "nan"], "'--import-kw': nan is no power"),
        (["limit", "alba", "--export-kw", "inf"], "'--export-kw': inf is no power"),
        (["dispatch", "site:alba", "nan"], "'KW': nan is no power"),
    ],
)
def test_a_power_that_is_no_number_is_refused_by_its_option_value_and_remedy(
    settings, vpp, words, named
):
    result = vpp(*words, "--for", "1h", "--why", "x")
    assert named in result.stderr
    assert "write kW as a number, such as 4.2" in result.stderr
    assert given(settings) == []


@pytest.mark.parametrize("text", ["2026-08-26", "2026-08-26T18:00"])
def test_whoever_obeys_the_remedy_for_a_time_without_a_zone_is_understood(text):
    with pytest.raises(click.BadParameter) as refused:
        moment_of(text)
    with_offset, in_utc = re.findall(r"such as (\S+), or .*: (\S+)$", refused.value.message)[0]
    assert moment_of(with_offset) == moment_of(in_utc) - timedelta(hours=2)


@pytest.mark.parametrize("words", [[], ["--none", "--import-kw", "3"]])
def test_a_limit_that_says_nothing_or_both_is_refused(settings, vpp, words):
    result = vpp("limit", "alba", *words, "--for", "1h", "--why", "x")
    assert "or --none for no limit" in result.stderr
    assert given(settings) == []


def test_orders_in_force_are_shown_with_who_why_and_until_when(settings, vpp):
    vpp("stop", "borgo", "--within", "1", "--why", "smoke", "--who", "kim")
    vpp("override", "alba-battery", "--power-kw", "1", "--for", "2h", "--why", "trial")
    override_id = given(settings)[-1].order_id
    Holds(settings.order_dir).hold({"alba-pv": datetime(2020, 10, 5, 13, tzinfo=UTC)})
    shown = vpp("orders").output
    assert "site:borgo" in shown
    assert "until resumed" in shown
    assert "kim" in shown
    assert "smoke" in shown
    assert "+1 kW" in shown
    assert "3 devices under kill switch" in shown
    assert "1 devices under override" in shown
    assert "alba-pv has no timer and is commanded until 2020-10-05 13:00 UTC" in shown
    assert "no watchdog runs: start `vpp watchdog`" in shown

    assert vpp("cancel", override_id, "--why", "done").exit_code == 0
    assert override_id not in vpp("orders").output
    again = vpp("cancel", override_id, "--why", "done")
    assert "see `vpp orders`" in again.stderr
    stop_id = given(settings)[0].order_id
    assert "vpp resume site:borgo" in vpp("cancel", stop_id, "--why", "x").stderr


def test_the_shares_of_a_groups_target_are_shown_as_one_and_end_as_one(settings, vpp):
    now = settings.clock().now()
    target = GroupTarget("group-1", "site:alba", -2.0, now + timedelta(hours=1), "kim", "peak")
    begins = pl.Series([floor_interval(now) + step * STEP for step in range(2)])
    shares = pl.DataFrame(
        {"device_id": ["alba-battery"] * 2 + ["alba-pv"] * 2, "order_kw": [-3.0, -2.5, 1.0, 2.0]},
    ).with_columns(interval_start=pl.concat([begins, begins]))
    OrderBook(settings.order_dir).give(*overrides(shares, target, now, 0))
    vpp("override", "borgo-battery", "--power-kw", "1", "--for", "2h", "--why", "trial")

    shown = vpp("orders").output.splitlines()
    assert [line.split()[0] for line in shown[:2]] == ["group-1", given(settings)[-1].order_id]
    assert "2 devices" in shown[0]
    assert "site:alba to -2 kW: peak" in shown[0]

    ended = vpp("cancel", "group-1", "--why", "over")
    assert ended.exit_code == 0
    assert "cancelled: group-1, 4 shares (site:alba to -2 kW: peak)" in ended.output
    assert "group-1" not in vpp("orders").output
    assert "+1 kW" in vpp("orders").output


def test_a_running_watchdog_is_shown_and_so_is_what_it_can_not_do(settings, vpp):
    heartbeat = Heartbeat(settings.order_dir)
    with heartbeat.held():
        assert "the watchdog's sign of life" in vpp("orders").output
        heartbeat.beat(settings.clock().now(), ["alba-pv is not at rest: silent"])
        assert "alba-pv is not at rest: silent" in vpp("orders").output
        heartbeat.beat(settings.clock().now(), [])
        assert "the watchdog runs" in vpp("orders").output
        heartbeat.beat(settings.clock().now() - timedelta(minutes=5), [])
        assert "the watchdog hangs" in vpp("orders").output


def test_a_damaged_book_is_told_as_everything_stopped(settings, vpp):
    settings.order_dir.mkdir()
    (settings.order_dir / "orders.jsonl").write_text("{}\n")
    result = vpp("orders")
    assert result.exit_code == 1
    assert "everything counts as stopped" in result.stderr
    assert "orders.jsonl line 1" in result.stderr


@pytest.mark.parametrize(
    "words", [["limit", "alba", "--none"], ["override", "alba-battery", "--power-kw", "1"]]
)
def test_an_order_given_in_a_damaged_book_tells_that_everything_counts_as_stopped(
    settings, vpp, words
):
    settings.order_dir.mkdir()
    (settings.order_dir / "orders.jsonl").write_text("garbage\n")
    result = vpp(*words, "--for", "1h", "--why", "x")
    assert result.exit_code == 0
    assert "everything counts as stopped" in result.stderr
    assert "orders.jsonl line 1" in result.stderr
    assert "mend the line, or delete it" in result.stderr


def test_an_order_that_can_not_be_written_is_told_as_not_given(settings, vpp):
    settings.order_dir.write_text("a file, not a directory")
    result = vpp("stop")
    assert result.exit_code == 1
    assert "the order was NOT given" in result.stderr
