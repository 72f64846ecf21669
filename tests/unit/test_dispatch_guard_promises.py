"""Nothing whatsoever leaves the guard that a device, its site or an order forbids.

Each hypothesis example is a plant of some 170 commands. Every row is judged a second time by
`Judge`, in plain arithmetic and one device at a time. HYPOTHESIS_PROFILE=thorough draws over
100,000 of them; `-s` prints how many.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import START
from dispatch_plants import Plant, plants
from hypothesis import given

from vpp_pipeline.dispatch.guard import GuardSettings, guard
from vpp_pipeline.dispatch.orders import standing
from vpp_pipeline.dispatch.schemas import Commands, GuardedCommands

RULES = GuardSettings(max_age=timedelta(minutes=5), max_clock_lead=timedelta(minutes=1))
TOLERANCE = 1e-5
SURE = {"battery", "chp"}
CAPPED = {"pv", "wind"}

Row = dict[str, object]


@pytest.fixture(scope="module")
def judged():
    """How many rows the guard was given, and what became of them."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n{counts.total()} commands judged: {dict(counts)}")  # noqa: T201 - asked for by -s


def is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


class Judge:
    """A plant read one device at a time."""

    def __init__(self, plant: Plant) -> None:
        self.now = START + timedelta(seconds=plant.now_s)
        self.devices = {row["device_id"]: row for row in plant.devices.iter_rows(named=True)}
        self.at_site: dict[object, list[Row]] = defaultdict(list)
        for device in self.devices.values():
            self.at_site[device["site_id"]].append(device)
        self.readings: dict[object, list[Row]] = defaultdict(list)
        for row in plant.states.sort("measured_at", maintain_order=True).iter_rows(named=True):
            self.readings[row["device_id"]].append(row)
        self.orders = plant.orders

    def scopes(self, device: Row) -> set[str]:
        return {
            "fleet",
            f"site:{device['site_id']}",
            f"device:{device['device_id']}",
            *(f"tag:{tag}" for tag in device["tags"]),
            *(f"group:{group}" for group in device["groups"]),
        }

    def in_force(self, kind: str, device: Row) -> list:
        cancelled = {order.cancels for order in self.orders}
        return [
            order
            for order in self.orders
            if order.kind == kind
            and order.scope in self.scopes(device)
            and order.valid_from <= self.now < order.valid_until
            and order.order_id not in cancelled
        ]

    def is_stopped(self, device: Row) -> bool:
        last = {o.scope: o.kind for o in self.orders if o.kind in {"stop", "resume"}}
        return any(last.get(scope) == "stop" for scope in self.scopes(device))

    def site_limits(self, site: object) -> tuple[float, float]:
        first = self.at_site[site][0]
        limits = [
            order
            for device in self.at_site[site]
            for order in self.in_force("grid_limit", device)
            if not order.scope.startswith("device:")
        ]
        low, high = -first["site_import_limit_kw"], first["site_export_limit_kw"]
        if limits:
            low = max([low, *(o.min_kw for o in limits if o.min_kw is not None)])
            high = min([high, *(o.max_kw for o in limits if o.max_kw is not None)])
        else:
            if first["site_failsafe_import_kw"] is not None:
                low = max(low, -first["site_failsafe_import_kw"])
            if first["site_failsafe_export_kw"] is not None:
                high = min(high, first["site_failsafe_export_kw"])
        return low, high

    def known(self, device: Row) -> Row | None:
        """The device's reading, if it is fresh, alive and possible."""
        readings = self.readings[device["device_id"]]
        if not readings:
            return None
        last = readings[-1]
        if not self.now - RULES.max_age <= last["measured_at"] <= self.now + RULES.max_clock_lead:
            return None
        beats = [r["measured_at"] for r in readings if r["heartbeat"] == last["heartbeat"]]
        if last["heartbeat"] is not None and beats[0] < self.now - RULES.max_age:
            return None
        power, low, high = (
            last["power_kw"],
            -(device["max_draw_kw"] or 0),
            device["max_inject_kw"] or 0,
        )
        error = 0.1 * max(-low, high) + 0.1
        return None if is_number(power) and not low - error <= power <= high + error else last

    def besides(self, device: Row) -> tuple[float, float]:
        """What the device leaves its site, if it has no command: nothing, or its worst sides."""
        known = self.known(device)
        if known is None or not is_number(known["power_kw"]) or known["status"] == "offline":
            return -device["max_draw_kw"], device["max_inject_kw"]
        return known["power_kw"], known["power_kw"]


def check_row(judge: Judge, row: Row, wish: object) -> None:
    """A command that was let through is one that every rule allows by itself."""
    device, kw = judge.devices[row["device_id"]], row["setpoint_kw"]
    known = judge.known(device)
    assert known is not None
    assert known["status"] == "ok"
    assert device["controllable"]
    assert device["live"]
    assert not judge.is_stopped(device)
    assert judge.now < row["valid_until"]
    assert -device["max_draw_kw"] <= kw <= device["max_inject_kw"]
    assert kw == 0 or abs(kw) >= device["min_active_kw"]
    for order in judge.in_force("grid_limit", device):
        if order.scope.startswith("device:"):
            assert order.min_kw is None or kw >= order.min_kw
            assert order.max_kw is None or kw <= order.max_kw
    overrides = judge.in_force("override", device)
    wish = overrides[-1].power_kw if overrides else wish
    assert is_number(wish)
    assert min(wish, 0) <= kw <= max(wish, 0)
    if abs(wish - kw) > TOLERANCE or overrides:
        assert row["guard_reason"]
    check_ramp(judge, device, known, kw)
    check_store(judge, device, known, kw)


def check_ramp(judge: Judge, device: Row, known: Row, kw: float) -> None:
    minutes = max(1.0, (START + timedelta(minutes=15) - judge.now).total_seconds() / 60)
    ramp = device["ramp_kw_per_min"]
    if ramp is not None:
        power = known["power_kw"] if is_number(known["power_kw"]) else 0.0
        assert min(0, power - ramp * minutes) - TOLERANCE <= kw
        assert kw <= max(0, power + ramp * minutes) + TOLERANCE


def check_store(judge: Judge, device: Row, known: Row, kw: float) -> None:
    held, kind = known["energy_kwh"], device["device_type"]
    if kind == "ev_charger":
        assert known["plugged_in"] or kw == 0
    if kind == "battery" or (kind == "ev_charger" and kw > 0):
        assert is_number(held)
        assert 0 <= held <= device["energy_capacity_kwh"] * 1.02 + TOLERANCE
    reported = known["available_power_kw"]
    if kind not in CAPPED and is_number(reported) and reported >= 0:
        assert abs(kw) <= reported
    figures = ["max_energy_kwh", "max_inject_kw", "max_draw_kw", "charge_efficiency"]
    if (
        kind != "battery"
        or judge.now < START
        or not all(0 < (device[f] or 0) < 50 for f in figures)
    ):
        return
    rest_h = max(1 / 60, 0.25 - (judge.now - START).total_seconds() / 3600)
    change = kw * device["charge_efficiency"] if kw < 0 else kw / device["discharge_efficiency"]
    end = held - change * rest_h
    low, high = device["min_energy_kwh"], device["max_energy_kwh"]
    assert min(held, low) - TOLERANCE <= end <= max(held, high) + TOLERANCE


def check_site(judge: Judge, site: object, let_through: dict[object, Row]) -> None:
    """The site's limits hold at the worst, but for what no command can help."""
    low, high = judge.site_limits(site)
    rest = [d for d in judge.at_site[site] if d["device_id"] not in let_through]
    if not all(is_number(d["max_draw_kw"]) and is_number(d["max_inject_kw"]) for d in rest):
        return
    told = [
        (judge.devices[name]["device_type"], row["setpoint_kw"])
        for name, row in let_through.items()
        if judge.devices[name]["site_id"] == site
    ]
    draws = sum(kw for _, kw in told if kw < 0)
    injects = sum(kw for _, kw in told if kw > 0)
    least = sum(judge.besides(d)[0] for d in rest) + draws
    most = sum(judge.besides(d)[1] for d in rest) + injects
    least += sum(kw for kind, kw in told if kw > 0 and kind in SURE)
    most += sum(kw for kind, kw in told if kw < 0 and kind in SURE)
    assert least >= low - TOLERANCE or draws == 0
    assert most <= high + TOLERANCE or injects == 0


@pytest.mark.timeout(900)  # a thorough run takes minutes
@given(plant=plants())
def test_invariants_01_08_09_13_15_nothing_leaves_the_guard_that_anything_forbids(plant, judged):
    judge = Judge(plant)
    orders = standing(plant.orders, plant.devices, judge.now)
    out = guard(plant.commands, plant.devices, plant.states, orders, judge.now, RULES)
    assert out.columns == GuardedCommands.column_names()
    assert out["command_id"].equals(plant.commands["command_id"])
    assert out["setpoint_kw"].is_finite().all()
    twice = {name for name, n in Counter(out["device_id"]).items() if n > 1}
    let_through: dict[object, Row] = {}
    for row, wish in zip(
        out.iter_rows(named=True), plant.commands["setpoint_kw"].to_list(), strict=True
    ):
        if row["refused"]:
            assert row["setpoint_kw"] == 0
            assert row["guard_reason"]
        else:
            assert row["device_id"] not in twice
            let_through[row["device_id"]] = row
            check_row(judge, row, wish)
    for site in judge.at_site:
        check_site(judge, site, let_through)
    again = guard(
        out.select(Commands.column_names()),
        plant.devices,
        plant.states,
        orders,
        judge.now,
        RULES,
    )
    once = out.filter(~pl.col("refused"))
    changed = once.join(again.filter(~pl.col("refused")), on="command_id", suffix="_again")
    assert changed.height == once.height
    overridden = orders.filter(pl.col("override_kw").is_not_null())
    steady = changed.join(overridden, on="device_id", how="anti")
    assert (steady["setpoint_kw"].abs() + TOLERANCE >= steady["setpoint_kw_again"].abs()).all()
    judged["refused"] += out["refused"].sum()
    passed = once.select(
        untouched=(pl.col("guard_reason") == "").sum(), bounded=(pl.col("guard_reason") != "").sum()
    )
    judged.update(passed.row(0, named=True))


def test_the_drawn_plants_are_bad_and_yet_let_something_through(judged):
    assert min(judged["refused"], judged["untouched"], judged["bounded"]) > 0
