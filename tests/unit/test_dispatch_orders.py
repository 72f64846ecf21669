"""What stands for a device follows from the orders and the ladder of authorities."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

import polars as pl
import pytest
from dispatch_cases import BATTERY, PV, START
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vpp_pipeline.dispatch.orders import STANDING, Order, scopes, standing, standing_unknown
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import Fleet, GridConnection, Group, Site

HOUR = timedelta(hours=1)
NAMES = ["a-battery", "a-pv", "b-battery", "b-pv"]


@cache
def fleet() -> pl.DataFrame:
    """Two sites of a battery and a PV each; `b` is steered by its grid operator."""
    limits = {
        "a": GridConnection(import_limit_kw=50, export_limit_kw=40),
        "b": GridConnection(
            import_limit_kw=50, export_limit_kw=40, failsafe_import_kw=4.2, failsafe_export_kw=1
        ),
    }
    sites = tuple(
        Site(
            site_id=site,
            latitude=52.5,
            longitude=13.4,
            grid=grid,
            tags=("north",) if site == "a" else (),
            devices=(
                BATTERY.model_copy(update={"device_id": f"{site}-battery", "tags": ("store",)}),
                PV.model_copy(update={"device_id": f"{site}-pv"}),
            ),
        )
        for site, grid in limits.items()
    )
    return device_frame(Fleet(sites=sites, groups=(Group(group_id="sun", devices=("b-pv",)),)))


FLEET = fleet()


def order(kind: str, scope: str, **fields: object) -> Order:
    timed = {"valid_until": START + HOUR} if kind in {"grid_limit", "override"} else {}
    told = {"order_id": f"{kind}-1", "who": "ada", "why": "test", "given_at": START}
    return Order.model_validate({**told, **timed, "kind": kind, "scope": scope, **fields})


def stands(*orders: Order, after: timedelta = timedelta()) -> pl.DataFrame:
    return standing(orders, FLEET, START + after)


def of(frame: pl.DataFrame, name: str) -> dict[str, object]:
    return frame.row(by_predicate=pl.col("device_id") == name, named=True)


def stopped(*orders: Order, after: timedelta = timedelta()) -> set[str]:
    return set(stands(*orders, after=after).filter("stopped")["device_id"])


def test_without_orders_nothing_stands_but_the_failsafe():
    frame = stands()
    assert frame.schema == STANDING
    assert frame["device_id"].to_list() == NAMES
    quiet = [name for name in STANDING if name not in {"device_id", "stopped"}]
    assert frame.filter(pl.col("device_id").str.starts_with("a"))[quiet].null_count().sum_horizontal().item() == 2 * len(quiet)  # fmt: skip
    assert not frame["stopped"].any()


@pytest.mark.parametrize(
    ("scope", "whom"),
    [
        ("fleet", set(NAMES)),
        ("site:a", {"a-battery", "a-pv"}),
        ("tag:north", {"a-battery", "a-pv"}),
        ("tag:store", {"a-battery", "b-battery"}),
        ("group:sun", {"b-pv"}),
        ("device:a-pv", {"a-pv"}),
        ("device:nobody", set()),
    ],
)
def test_a_stop_reaches_its_scope_and_no_more(scope, whom):
    assert stopped(order("stop", scope)) == whom
    assert set(scopes(FLEET).filter(pl.col("scope") == scope)["device_id"]) == whom


def test_invariant_08_a_stop_holds_until_its_own_scope_is_resumed_after_it():
    stop, resume = order("stop", "site:a"), order("resume", "site:a")
    site_a = {"a-battery", "a-pv"}
    assert stopped(stop, after=1000 * HOUR) == site_a
    assert stopped(stop, order("resume", "fleet"), order("resume", "device:a-pv")) == site_a
    assert stopped(resume, stop) == site_a
    assert stopped(stop, resume) == set()
    assert stopped(order("stop", "fleet"), stop, order("resume", "fleet")) == site_a


def test_invariant_08_the_book_s_order_counts_and_no_clock_can_undo_a_stop():
    early = order("resume", "fleet", given_at=START + 5 * HOUR)
    assert stopped(early, order("stop", "fleet")) == set(NAMES)
    assert stopped(order("stop", "fleet"), after=-5 * HOUR) == set(NAMES)


def test_a_stop_can_t_be_cancelled():
    cancel = order("cancel", "fleet", cancels="stop-1")
    assert stopped(order("stop", "fleet"), cancel) == set(NAMES)


def test_the_last_override_given_counts_while_it_is_valid():
    first = order("override", "site:a", power_kw=3)
    second = order("override", "device:a-battery", power_kw=-2, order_id="second")
    row = of(stands(first, second), "a-battery")
    assert (row["override_kw"], row["authority"], row["order_id"]) == (-2, "override", "second")
    assert row["override_words"] == "override second until 2026-03-01 11:00 UTC by ada (test)"
    assert of(stands(second, first), "a-battery")["override_kw"] == 3
    assert of(stands(first, second), "a-pv")["override_kw"] == 3
    assert of(stands(first, after=HOUR), "a-pv")["override_kw"] is None
    assert of(stands(first, after=-HOUR), "a-pv")["override_kw"] is None
    cancel = order("cancel", "fleet", cancels="second")
    assert of(stands(first, second, cancel), "a-battery")["override_kw"] == 3


def test_grid_limits_in_force_all_hold_at_once():
    draw = order("grid_limit", "site:a", min_kw=-4.2, order_id="draw")
    tight = order("grid_limit", "tag:north", min_kw=-9, max_kw=2, order_id="tight")
    device = order("grid_limit", "device:a-battery", max_kw=1, order_id="device")
    row = of(stands(draw, tight, device), "a-battery")
    assert (row["site_low_kw"], row["site_high_kw"]) == (-4.2, 2)
    assert (row["low_kw"], row["high_kw"]) == (None, 1)
    assert "draw" in row["site_low_words"]
    assert "tight" in row["site_high_words"]
    assert "device" in row["high_words"]
    assert row["low_words"] is None
    assert row["authority"] == "grid operator"


def test_a_limit_for_part_of_a_site_bounds_the_whole_site():
    row = of(stands(order("grid_limit", "group:sun", max_kw=0)), "b-battery")
    assert row["site_high_kw"] == 0


def test_invariant_09_a_steered_site_is_at_its_failsafe_unless_a_limit_is_in_force():
    limit = order("grid_limit", "site:b", min_kw=-10)
    free = order("grid_limit", "site:b", order_id="free")

    def bounds(*orders: Order, after: timedelta = timedelta()) -> tuple[object, object]:
        row = of(stands(*orders, after=after), "b-pv")
        return row["site_low_kw"], row["site_high_kw"]

    failsafe = (-4.2, 1)
    assert bounds() == failsafe
    assert bounds(limit) == (-10, 1)
    assert bounds(order("grid_limit", "site:b", max_kw=5)) == (-4.2, 5)
    assert bounds(limit, order("grid_limit", "fleet", order_id="free")) == (-10, None)
    assert bounds(limit, after=HOUR) == failsafe
    assert bounds(limit, order("cancel", "fleet", cancels="grid_limit-1")) == failsafe
    assert bounds(free) == (None, None)
    assert bounds(free, after=HOUR) == failsafe
    assert bounds(order("grid_limit", "device:b-pv", max_kw=1)) == failsafe
    row = of(stands(), "b-pv")
    assert (row["authority"], row["order_id"]) == ("grid failsafe", None)
    assert "grid failsafe" in row["site_low_words"]


def test_invariant_08_the_kill_switch_is_named_above_all_others():
    row = of(
        stands(
            order("override", "fleet", power_kw=1),
            order("grid_limit", "fleet", max_kw=0),
            order("stop", "fleet"),
        ),
        "a-pv",
    )
    assert (row["authority"], row["order_id"]) == ("kill switch", "stop-1")
    assert row["stop_words"] == "kill switch stop-1 by ada (test)"


def test_invariant_09_orders_that_can_t_be_read_stop_all_and_leave_the_failsafe():
    frame = standing_unknown(FLEET, "line 3 is damaged")
    assert frame.schema == STANDING
    assert frame["stopped"].all()
    assert frame["stop_words"].str.contains("line 3 is damaged").all()
    assert of(frame, "b-pv")["site_low_kw"] == -4.2


@pytest.mark.parametrize(
    ("kind", "fields", "what"),
    [
        ("override", {"power_kw": float("nan")}, "finite"),
        ("override", {"power_kw": 1e9}, "less than"),
        ("override", {}, "power_kw is missing"),
        ("override", {"power_kw": 1, "valid_until": None}, "valid_until is None"),
        ("override", {"power_kw": 1, "valid_until": START}, "needs an end after"),
        ("grid_limit", {"min_kw": 1}, "less than or equal to 0"),
        ("grid_limit", {"max_kw": -1}, "greater than or equal to 0"),
        ("grid_limit", {"power_kw": 1}, "leave it out"),
        ("stop", {"valid_until": START + HOUR}, "acts at once"),
        ("stop", {"valid_from": START + HOUR}, "acts at once"),
        ("stop", {"power_kw": 0}, "leave it out"),
        ("stop", {"who": ""}, "at least 1"),
        ("stop", {"given_at": "soon"}, "given_at"),
        ("stop", {"given_at": START.replace(tzinfo=None)}, "timezone"),
        ("cancel", {}, "cancels is missing"),
    ],
)
def test_an_order_that_could_be_misread_is_refused(kind, fields, what):
    with pytest.raises(ValidationError, match=what):
        order(kind, "fleet", **fields)


def test_a_scope_must_be_one_that_is_known():
    with pytest.raises(ValidationError, match="scope"):
        order("stop", "everything")


SCOPES = ["fleet", "site:a", "site:b", "tag:store", "group:sun", *(f"device:{n}" for n in NAMES)]
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(["stop", "resume", "grid_limit", "override", "cancel"]),
        st.sampled_from(SCOPES),
        st.integers(-2, 2),
        st.integers(1, 3),
        st.one_of(st.none(), st.floats(0, 20)),
        st.integers(0, 9),
    ),
    max_size=12,
)


def order_of(place: int, drawn: tuple[str, str, int, int, float | None, int]) -> Order:
    kind, scope, begin, hours, kw, cancels = drawn
    timed = {"valid_from": START + begin * HOUR, "valid_until": START + (begin + hours) * HOUR}
    fields: dict[str, object] = {
        "grid_limit": {"min_kw": None if kw is None else -kw, "max_kw": kw, **timed},
        "override": {"power_kw": kw or 0.0, **timed},
        "cancel": {"cancels": f"o{cancels}"},
    }.get(kind, {})
    return order(kind, scope, order_id=f"o{place}", **fields)


@given(drawn=ORDERS)
def test_invariant_08_what_stands_is_what_reading_the_orders_one_by_one_tells(drawn):
    orders = [order_of(place, each) for place, each in enumerate(drawn)]
    frame = standing(orders, FLEET, START)
    reach = scopes(FLEET).group_by("scope").agg("device_id", "site_id")
    devices_in = {scope: set(names) for scope, names, _ in reach.rows()}
    sites_in = {scope: set(names) for scope, _, names in reach.rows()}
    cancelled = {each.cancels for each in orders if each.kind == "cancel"}
    for row in frame.iter_rows(named=True):
        name, site = row["device_id"], row["device_id"][0]
        held: set[str] = set()
        override, lows, highs, own_low, own_high, own = None, [], [], [], [], False
        heard, lifted = False, False
        for each in orders:
            mine = name in devices_in[each.scope]
            valid = (
                each.valid_until is not None
                and each.valid_from <= START < each.valid_until
                and each.order_id not in cancelled
            )
            if each.kind == "stop" and mine:
                held.add(each.scope)
            elif each.kind == "resume":
                held.discard(each.scope)
            elif each.kind == "override" and mine and valid:
                override = each.power_kw
            elif each.kind == "grid_limit" and valid and each.scope.startswith("device:") and mine:
                own = True
                own_low += [each.min_kw] if each.min_kw is not None else []
                own_high += [each.max_kw] if each.max_kw is not None else []
            elif (
                each.kind == "grid_limit"
                and valid
                and not each.scope.startswith("device:")
                and site in sites_in[each.scope]
            ):
                heard = True
                lifted |= each.min_kw is None and each.max_kw is None
                lows += [each.min_kw] if each.min_kw is not None else []
                highs += [each.max_kw] if each.max_kw is not None else []
        if site == "b" and not lifted:
            lows, highs = lows or [-4.2], highs or [1.0]
        assert row["stopped"] == bool(held)
        assert row["override_kw"] == override
        assert row["low_kw"] == max(own_low, default=None)
        assert row["high_kw"] == min(own_high, default=None)
        assert row["site_low_kw"] == max(lows, default=None)
        assert row["site_high_kw"] == min(highs, default=None)
        ladder = {
            "kill switch": bool(held),
            "grid operator": heard or own,
            "grid failsafe": site == "b" and not heard,
            "override": override is not None,
        }
        assert row["authority"] == next((name for name, says in ladder.items() if says), None)
