"""Orders reach the devices through the whole push: stop, grid limit, override, damaged book."""

from __future__ import annotations

import shutil
from datetime import timedelta

import dispatch_fakes
import pytest
from dispatch_fakes import BEFORE, START, Bench, due

from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.warehouse.store import Warehouse


@pytest.fixture(scope="module")
def new_warehouse(tmp_path_factory):
    """A migrated warehouse to copy: making one anew takes longer than a push."""
    directory = tmp_path_factory.mktemp("new")
    with Warehouse(directory).read():
        return directory / "vpp.duckdb"


@pytest.fixture
def bench(tmp_path, new_warehouse) -> Bench:
    (tmp_path / "warehouse").mkdir()
    shutil.copy(new_warehouse, tmp_path / "warehouse")
    return Bench(tmp_path)


def order(kind: str, scope: str, **fields: object) -> Order:
    timed = {"valid_until": START + timedelta(hours=1)} if kind in {"grid_limit", "override"} else {}  # fmt: skip
    told = {"order_id": f"{kind}-1", "who": "ada", "why": "test", "given_at": BEFORE}
    return Order.model_validate({**told, **timed, "kind": kind, "scope": scope, **fields})


def sent_kw(bench: Bench) -> dict[str, float]:
    return {c.device_id: c.power_kw for d in bench.drivers.values() for c in d.commanded}


def test_invariant_10_nothing_is_sent_to_a_stopped_device(bench):
    bench.orders.give(order("stop", "device:mqtt-0"))
    report = bench.push()
    assert report.counts == {State.VERIFIED: 5, State.REJECTED: 1}
    assert bench.applications()["mqtt-0"] == 0
    assert "kill switch stop-1 by ada" in report.not_verified["why"][0]


def test_invariant_09_with_a_damaged_book_nothing_is_sent(bench, tmp_path):
    bench.orders.give(order("override", "fleet", power_kw=1))
    with (tmp_path / "orders" / "orders.jsonl").open("ab") as book:
        book.write(b"damage\n")
    assert bench.push().counts == {State.REJECTED: 6}
    assert set(bench.applications().values()) == {0}


def test_invariant_08_an_override_is_sent_in_the_plan_s_place(bench):
    bench.orders.give(order("override", "device:http-1", power_kw=-2))
    bench.push()
    assert sent_kw(bench) == {**dict.fromkeys(bench.devices["device_id"], 3.0), "http-1": -2.0}


def test_invariant_08_a_grid_limit_holds_over_devices_that_are_told_one_after_another(
    bench, monkeypatch
):
    resting = dispatch_fakes.healthy
    monkeypatch.setattr(
        dispatch_fakes, "healthy", lambda *of: resting(*of).with_columns(power_kw=0.0)
    )
    bench.orders.give(order("grid_limit", "site:site", min_kw=-5))
    bench.push(due(bench.devices, -3.0))
    assert sum(sent_kw(bench).values()) == pytest.approx(-5)


def test_invariant_10_a_stop_given_in_mid_push_holds_back_what_was_not_sent_yet(bench):
    http = bench.drivers["http"]
    http.after_send = lambda: bench.orders.give(order("stop", "fleet"))
    bench.push()
    assert bench.applications()["http-0"] == 1
    assert [bench.applications()[f"modbus-{n}"] for n in (0, 1)] == [0, 0]
