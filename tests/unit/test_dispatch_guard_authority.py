"""Kill switch > grid operator > local control > override > plan: each only inside the higher."""

from __future__ import annotations

import math
from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import ALL, START, devices, fleet_telemetry, telemetry

from vpp_pipeline.dispatch.evidence import with_sent
from vpp_pipeline.dispatch.guard import GuardSettings, guard
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.orders import Order, standing, standing_unknown
from vpp_pipeline.dispatch.schemas import Commands

HOUR = timedelta(hours=1)
IDLE = {"power_kw": 0.0}
REGISTERED = devices().with_columns(live=True)


def order(kind: str, scope: str, **fields: object) -> Order:
    timed = {"valid_until": START + HOUR} if kind in {"grid_limit", "override"} else {}
    told = {"order_id": f"{kind}-1", "who": "ada", "why": "test", "given_at": START}
    return Order.model_validate({**told, **timed, "kind": kind, "scope": scope, **fields})


def site(*, draws: float = 100, injects: float = 100, **columns: object) -> pl.DataFrame:
    return REGISTERED.with_columns(
        site_import_limit_kw=pl.lit(draws, pl.Float64),
        site_export_limit_kw=pl.lit(injects, pl.Float64),
        **{name: pl.lit(value, pl.Float64) for name, value in columns.items()},
    )


def commands(wishes: dict[str, float]) -> pl.DataFrame:
    rows = [
        {
            "command_id": f"{name}.v1.1",
            "device_id": name,
            "plan_id": "plan",
            "plan_version": 1,
            "sequence": 1,
            "interval_start": START,
            "valid_from": START,
            "valid_until": START + timedelta(minutes=20),
            "planned_kw": kw,
            "setpoint_kw": kw,
            "guard_reason": "",
        }
        for name, kw in wishes.items()
    ]
    return pl.DataFrame(rows, schema=Commands.create_empty().schema)


def told(
    wishes: dict[str, float],
    *orders: Order,
    plant: pl.DataFrame | None = None,
    states: pl.DataFrame | None = None,
) -> dict[str, dict[str, object]]:
    """What the guard makes of `wishes`, by device; all devices idle where nothing else is said."""
    plant = site() if plant is None else plant
    readings = fleet_telemetry(**IDLE) if states is None else states
    rules = GuardSettings()
    out = guard(commands(wishes), plant, readings, standing(orders, plant, START), START, rules)
    return {row["device_id"]: row for row in out.iter_rows(named=True)}


def powers(*args: object, **kwargs: object) -> dict[str, float]:
    return {name: row["setpoint_kw"] for name, row in told(*args, **kwargs).items()}


def besides(**kw: float | None) -> pl.DataFrame:
    """Telemetry in which the devices named draw or inject, and all others rest."""
    names = {device.device_id: kw.get(device.device_id.replace("-", "_"), 0.0) for device in ALL}
    return pl.concat([telemetry(name, power_kw=power) for name, power in names.items()])


def test_invariant_08_the_kill_switch_is_above_every_other_order():
    override = order("override", "device:battery", power_kw=2)
    row = told({"battery": 3.0}, override, order("stop", "site:site"))["battery"]
    assert (row["setpoint_kw"], row["refused"]) == (0, True)
    assert row["guard_reason"] == "kill switch stop-1 by ada (test)"
    assert (row["authority"], row["order_id"]) == ("kill switch", "stop-1")


def test_invariant_08_the_grid_operator_bounds_an_override():
    limit = order("grid_limit", "device:battery", min_kw=-1, max_kw=1.5)
    override = order("override", "fleet", power_kw=4)
    row = told({"battery": -3.0}, limit, override)["battery"]
    assert row["setpoint_kw"] == 1.5
    assert row["guard_reason"] == (
        "override override-1 until 2026-03-01 11:00 UTC by ada (test); "
        "grid limit grid_limit-1 until 2026-03-01 11:00 UTC by ada (test)"
    )
    assert (row["authority"], row["order_id"]) == ("grid operator", "grid_limit-1")
    assert told({"battery": -3.0}, limit)["battery"]["setpoint_kw"] == -1


def test_invariant_08_local_control_is_above_an_override():
    states = telemetry("battery", status="local")
    override = order("override", "device:battery", power_kw=2)
    row = told({"battery": 3.0}, override, states=states)["battery"]
    assert row["refused"]
    assert "local control" in row["guard_reason"]


def test_invariant_08_an_override_replaces_the_plan_even_where_that_is_no_number():
    override = order("override", "device:battery", power_kw=2)
    row = told({"battery": math.nan, "chp": 9.0}, override)
    assert row["battery"]["setpoint_kw"] == 2
    assert (row["battery"]["authority"], row["battery"]["order_id"]) == ("override", "override-1")
    assert "override-1" in row["battery"]["guard_reason"]
    assert (row["chp"]["authority"], row["chp"]["order_id"]) == ("plan", None)


def test_invariant_01_an_override_is_bounded_by_the_device_like_any_wish():
    override = order("override", "fleet", power_kw=99)
    assert powers({"battery": 1.0, "chp": 1.0, "ev": -3.0}, override, states=pl.concat([
        telemetry("battery", energy_kwh=2.5), telemetry("chp"), telemetry("ev", energy_kwh=30.0),
    ])) == {"battery": pytest.approx(1.0), "chp": 30, "ev": 5}  # fmt: skip


def test_an_order_that_stands_but_binds_nothing_is_not_the_authority():
    row = told({"battery": 3.0}, order("grid_limit", "fleet", min_kw=-50, max_kw=50))["battery"]
    assert (row["authority"], row["order_id"], row["guard_reason"]) == ("plan", None, "")


def test_invariant_09_orders_that_can_t_be_read_refuse_every_command():
    plant = site()
    unread = standing_unknown(plant, "line 1")
    for orders in (unread, unread.clear()):
        out = guard(commands({"battery": 1.0}), plant, fleet_telemetry(), orders, START, GuardSettings())  # fmt: skip
        assert out["refused"].all()
        assert out["guard_reason"].str.contains("order").all()


def test_invariant_21_a_read_only_device_and_a_command_that_is_over_are_refused():
    plant = site().with_columns(live=False)
    assert "read-only" in told({"battery": 1.0}, plant=plant)["battery"]["guard_reason"]
    late = START + timedelta(minutes=20)
    plant, states = site(), telemetry("battery", measured_at=late)
    out = guard(commands({"battery": 1.0}), plant, states, standing([], plant, late), late, GuardSettings())  # fmt: skip
    assert "is over" in out["guard_reason"][0]


def test_invariant_04_two_commands_for_one_device_are_both_refused():
    twice = pl.concat([commands({"battery": 1.0}), commands({"battery": 2.0}).with_columns(command_id=pl.lit("x"))])  # fmt: skip
    plant = site()
    out = guard(twice, plant, fleet_telemetry(), standing([], plant, START), START, GuardSettings())
    assert out["refused"].to_list() == [True, True]


@pytest.mark.parametrize("kw", [1000.0, -1000.0, 12.0, -20.0, 65.535])
def test_invariant_15_a_power_the_device_does_not_have_refuses_the_command(kw):
    row = told({"battery": 1.0}, states=telemetry("battery", power_kw=kw))["battery"]
    assert row["refused"]
    assert "check its meter" in row["guard_reason"]


def test_invariant_15_a_reversed_meter_is_told_from_what_an_inverter_draws_at_night():
    assert told({"pv": 5.0}, states=telemetry("pv", power_kw=-11.0))["pv"]["refused"]
    assert not told({"pv": 5.0}, states=telemetry("pv", power_kw=-0.05))["pv"]["refused"]


def test_a_device_that_reports_less_than_its_nameplate_is_not_asked_for_more():
    states = telemetry("battery", available_power_kw=2.5)
    assert powers({"battery": 6.0}, states=states) == {"battery": 2.5}
    assert powers({"battery": -6.0}, states=states) == {"battery": -2.5}
    assert powers({"pv": 6.0}, states=telemetry("pv", available_power_kw=2.5)) == {"pv": 6.0}


@pytest.mark.parametrize(
    ("power", "wish", "expected"),
    [(0.0, 30.0, 15.0), (10.0, 30.0, 25.0), (28.0, 30.0, 30.0), (28.0, 0.0, 0.0), (None, 30.0, 15.0)],
)  # fmt: skip
def test_invariant_13_a_set_point_is_what_the_ramp_reaches_by_the_interval_s_end(
    power, wish, expected
):
    plant = site(ramp_kw_per_min=1.0)
    row = told({"chp": wish}, plant=plant, states=telemetry("chp", power_kw=power))["chp"]
    assert row["setpoint_kw"] == expected
    assert ("ramps 1.0 kW a minute" in row["guard_reason"]) == (expected != wish)


def test_invariant_13_a_ramp_never_keeps_a_device_from_zero():
    plant = site(ramp_kw_per_min=0.01)
    states = telemetry("battery", power_kw=8.0)
    assert powers({"battery": 0.0}, plant=plant, states=states) == {"battery": 0.0}
    assert powers({"battery": -5.0}, plant=plant, states=states) == {"battery": 0.0}


def test_invariant_01_what_a_site_draws_too_much_is_taken_off_its_draws_pro_rata():
    wishes = {"battery": -8.0, "heat-pump": -2.0}
    rows = told(wishes, plant=site(draws=9), states=besides(load=-4.0))
    assert [row["setpoint_kw"] for row in rows.values()] == pytest.approx([-4.0, -1.0])
    reason = rows["battery"]["guard_reason"]
    assert reason == "the site may draw 9.0 kW by the grid connection, and 4.0 kW are drawn besides"
    assert rows["battery"]["authority"] == "plan"


def test_invariant_08_a_grid_limit_on_the_site_is_named_and_holds():
    limit = order("grid_limit", "site:site", min_kw=-4.2, max_kw=1)
    rows = told({"battery": -8.0, "chp": 0.0}, limit)
    assert rows["battery"]["setpoint_kw"] == pytest.approx(-4.2)
    assert "grid limit grid_limit-1 until 2026-03-01 11:00 UTC" in rows["battery"]["guard_reason"]
    authority = rows["battery"]["authority"], rows["battery"]["order_id"]
    assert authority == ("grid operator", "grid_limit-1")
    assert powers({"battery": 8.0}, limit)["battery"] == pytest.approx(1)


def test_invariant_09_a_steered_site_keeps_to_its_failsafe_from_the_start():
    plant = site(site_failsafe_import_kw=4.2)
    row = told({"battery": -8.0}, plant=plant)["battery"]
    assert row["setpoint_kw"] == pytest.approx(-4.2)
    assert (row["authority"], row["order_id"]) == ("grid failsafe", None)
    free = order("grid_limit", "site:site")
    assert powers({"battery": -8.0}, free, plant=plant) == {"battery": -8.0}


def test_a_discharging_battery_makes_room_for_a_draw_and_the_sun_does_not():
    limit = order("grid_limit", "site:site", min_kw=-1)
    assert powers({"battery": 6.0, "heat-pump": -3.0}, limit)["heat-pump"] == -3.0
    states = besides(pv=6.0)
    assert powers({"pv": 6.0, "heat-pump": -3.0}, limit, states=states)["heat-pump"] == pytest.approx(-1)  # fmt: skip
    assert powers({"heat-pump": -3.0}, limit, states=states)["heat-pump"] == -3.0


def test_a_cap_counts_up_to_its_cap_and_gives_up_what_the_sun_can_t_give_first():
    states = pl.concat(
        [besides().filter(pl.col("device_id") != "pv"), telemetry("pv", available_power_kw=3.0)]
    )
    plant = site(injects=10)
    assert powers({"pv": 12.0, "battery": 6.0}, plant=plant, states=states) == {
        "pv": pytest.approx(4.0),
        "battery": 6.0,
    }
    unreported = powers({"pv": 12.0, "battery": 8.0}, plant=plant)
    assert unreported == {"pv": pytest.approx(6.0), "battery": pytest.approx(4.0)}


@pytest.mark.parametrize("lost", [{"power_kw": None}, {"power_kw": math.nan}, {"status": "offline"}, {"measured_at": START - HOUR}, {"power_kw": 999.0}])  # fmt: skip
def test_what_can_t_be_trusted_counts_at_its_nameplate_s_worst_side(lost):
    others = besides().filter(pl.col("device_id") != "load")
    states = pl.concat([others, telemetry("load", **{**IDLE, **lost})])
    assert powers({"battery": -8.0}, plant=site(draws=10), states=states) == {"battery": -1.0}


def test_a_refused_device_counts_as_what_it_does_and_not_as_what_it_was_to_do():
    states = pl.concat(
        [
            besides().filter(pl.col("device_id") != "battery"),
            telemetry("battery", power_kw=-9.0, status="local"),
        ]
    )
    rows = powers({"battery": 8.0, "heat-pump": -3.0}, plant=site(draws=10), states=states)
    assert rows == {"battery": 0.0, "heat-pump": pytest.approx(-1.0)}


def test_where_the_rest_of_a_site_is_too_much_alone_nothing_is_added_to_it():
    rows = powers({"battery": -8.0, "chp": 9.0}, plant=site(draws=5), states=besides(load=-9.0))
    assert rows == {"battery": pytest.approx(-5.0), "chp": 9.0}
    assert powers({"battery": -8.0}, plant=site(draws=5), states=besides(load=-9.0)) == {"battery": 0}  # fmt: skip


def test_a_set_point_on_its_way_counts_before_it_shows():
    sent = pl.DataFrame(
        {"device_id": ["ev", "chp"], "state": ["SENT", "REJECTED"], "offered_kw": [-9.0, -30.0]}
    )
    states = with_sent(besides(), sent)
    assert states.columns == besides().columns
    assert dict(states.select("device_id", "setpoint_kw").drop_nulls().rows()) == {"ev": -9.0}
    wish = {"battery": -8.0}
    assert powers(wish, plant=site(draws=10), states=states) == {"battery": pytest.approx(-1.0)}
    for state in (State.ACKED, State.APPLIED, State.VERIFIED, State.UNKNOWN):
        assert with_sent(besides(), sent.with_columns(state=pl.lit(state.value))).equals(
            with_sent(besides(), sent.with_columns(state=pl.lit("SENT")))
        )


def test_what_drops_below_its_smallest_power_makes_no_room_for_a_draw():
    plant = site(draws=1, injects=8)
    rows = powers({"chp": 12.0, "heat-pump": -3.0}, plant=plant)
    assert rows == {"chp": 0.0, "heat-pump": pytest.approx(-1.0)}


@pytest.mark.parametrize("column", ["max_energy_kwh", "charge_efficiency"])
def test_a_bound_that_is_no_number_allows_nothing(column):
    assert powers({"battery": -3.0}, plant=site(**{column: math.nan})) == {"battery": 0.0}
