from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import START, devices

from vpp_pipeline.dispatch.deviation import DeviationSettings, PlanInForce, deviations, shortfall
from vpp_pipeline.dispatch.report import Tolerance

NOW = START + timedelta(minutes=5)
QUARTER = timedelta(minutes=15)
AS_OF = START - timedelta(hours=1)
SETTINGS = DeviationSettings(
    store_share=0.1,
    store_floor_kwh=1.0,
    fleet_share=0.1,
    fleet_floor_kwh=1.0,
    price_eur_per_mwh=5.0,
)
UTC_US = pl.Datetime("us", "UTC")
NO_PRICES = pl.DataFrame(
    schema={"interval_start": UTC_US, "price_eur_per_mwh": pl.Float64, "known_at": UTC_US}
)


def plan(
    plan_id: str = "plan-1", *, vehicle: tuple[bool, bool] = (True, True), **counted_on: bool
) -> PlanInForce:
    """A battery that goes from 10 to 13 kWh in this interval, and a charger."""
    starts = [START - QUARTER, START, START + QUARTER]
    battery = pl.DataFrame(
        {
            "device_id": "battery",
            "interval_start": starts,
            "power_kw": [0.0, -4.0, 0.0],
            "energy_kwh": [10.0, 13.0, 13.0],
        },
        schema_overrides={"interval_start": UTC_US},
    )
    charger = battery.with_columns(
        device_id=pl.lit("ev"), power_kw=pl.lit(0.0), energy_kwh=pl.lit(None, pl.Float64)
    )
    envelope = {"max_power_kw": 0.0, "initial_energy_kwh": None, "session_start": False}
    envelopes = pl.DataFrame(
        [
            {
                "device_id": name,
                "interval_start": start,
                "min_power_kw": -5.0 if name == "battery" or present else 0.0,
                "available": counted_on.get(name, True),
                **envelope,
            }
            for start, present in zip(starts[1:], vehicle, strict=True)
            for name in ("battery", "ev")
        ],
        schema_overrides={"interval_start": UTC_US, "initial_energy_kwh": pl.Float64},
    )
    return PlanInForce(plan_id, AS_OF, pl.concat([battery, charger]), envelopes)


def states(battery: dict[str, object] | None = None, ev: dict[str, object] | None = None):
    """As planned, but for the fields given."""
    return pl.DataFrame(
        [
            {
                "device_id": "battery",
                "available": True,
                "why": "",
                "plugged_in": None,
                "power_kw": -4.0,
                "energy_kwh": 11.0,
                **(battery or {}),
            },
            {
                "device_id": "ev",
                "available": True,
                "why": "",
                "plugged_in": True,
                "power_kw": 0.0,
                "energy_kwh": None,
                **(ev or {}),
            },
        ]
    )


def causes(plan_, states_, prices=NO_PRICES, now=NOW):
    return deviations(plan_, states_, devices(), prices, now=now, settings=SETTINGS)


def price(kw: float, known_at, interval=START + QUARTER) -> pl.DataFrame:
    return pl.DataFrame([(interval, kw, known_at)], schema=NO_PRICES.schema, orient="row")


def test_a_day_that_goes_as_planned_gives_no_cause():
    assert causes(plan(), states()) == []


def test_an_outage_asks_once_whenever_it_is_looked_at():
    out = states(battery={"available": False, "why": "reading too old"})
    (first,) = causes(plan(), out)
    (again,) = causes(plan(), out, now=NOW + timedelta(minutes=3))
    assert first.kind == "outage"
    assert "reading too old" in first.words
    assert first.key == again.key


def test_a_plan_that_does_without_the_device_is_no_longer_asked_for():
    out = states(battery={"available": False, "why": "reading too old"})
    assert causes(plan(battery=False), out) == []


def test_a_device_that_answers_again_is_a_cause():
    (cause,) = causes(plan(battery=False), states())
    assert (cause.kind, cause.key) == ("return", "return:battery:plan-1")


@pytest.mark.parametrize(
    ("vehicle", "plugged_in", "kind"),
    [
        ((False, False), True, "came"),
        ((True, True), False, "away"),
        ((False, True), True, None),  # a few minutes early
        ((True, False), False, None),  # a few minutes early again
        ((False, False), False, None),
        ((True, True), True, None),
    ],
)
def test_a_vehicle_other_than_expected_is_a_cause(vehicle, plugged_in, kind):
    found = causes(plan(vehicle=vehicle), states(ev={"plugged_in": plugged_in}))
    assert [cause.key for cause in found] == ([f"session:ev:{kind}:plan-1"] if kind else [])


@pytest.mark.parametrize(("energy_kwh", "is_cause"), [(12.9, False), (9.1, False), (13.1, True)])
def test_a_store_beyond_its_threshold_is_a_cause(energy_kwh, is_cause):
    # Five minutes into the interval 11 kWh are planned; a tenth of 20 kWh may be missed.
    found = causes(plan(), states(battery={"energy_kwh": energy_kwh}))
    assert [cause.kind for cause in found] == (["store"] if is_cause else [])


def test_a_store_without_a_reading_is_not_taken_for_empty():
    assert causes(plan(), states(battery={"energy_kwh": None})) == []


def test_a_fleet_that_misses_its_plan_asks_once_an_interval():
    off = states(battery={"power_kw": 0.5})
    (first,) = causes(plan(), off)
    (again,) = causes(plan(), off, now=NOW + timedelta(minutes=1))
    assert first == again
    assert first.kind == "fleet"
    assert "+1.1 kWh" in first.words


def test_deviations_that_cancel_out_are_none_of_the_fleet():
    both = states(battery={"power_kw": 0.5}, ev={"power_kw": -4.5})
    assert causes(plan(), both) == []


@pytest.mark.parametrize(
    ("versions", "is_cause"),
    [
        ([(80.0, AS_OF)], False),  # the plan knew it
        ([(80.0, AS_OF), (84.0, NOW)], False),  # hardly other
        ([(80.0, AS_OF), (86.0, NOW)], True),
        ([(80.0, NOW)], True),  # the plan had to guess
        ([(80.0, AS_OF), (99.0, NOW + timedelta(minutes=1))], False),  # not known yet
        ([(80.0, AS_OF), (99.0, NOW), (80.0, NOW + timedelta(seconds=-1))], True),
    ],
)
def test_prices_known_since_the_plan_are_a_cause_if_they_matter(versions, is_cause):
    prices = pl.concat([price(kw, known_at) for kw, known_at in versions])
    found = causes(plan(), states(), prices)
    assert [cause.kind for cause in found] == (["prices"] if is_cause else [])


def test_prices_of_the_past_or_beyond_the_plan_are_no_cause():
    past = price(999.0, NOW, START - QUARTER)
    beyond = price(999.0, NOW, START + 9 * QUARTER)
    assert causes(plan(), states(), pl.concat([past, beyond])) == []


def test_the_same_news_has_one_key_whatever_the_plan():
    news = price(999.0, NOW)
    (first,) = causes(plan(), states(), news)
    (again,) = causes(plan("plan-2"), states(), news)
    assert first.key == again.key


def commanded(state: str, **fields: object) -> pl.DataFrame:
    """The battery's and the charger's newest commands: -4 kW and -2 kW, the charger's VERIFIED."""
    told = {"plan_id": "plan-1", "authority": "plan", "offered_kw": None} | fields
    return pl.DataFrame(
        [
            {"device_id": "battery", "state": state, "planned_kw": -4.0, **told},
            {
                "device_id": "ev",
                "state": "VERIFIED",
                "planned_kw": -2.0,
                **told,
                "offered_kw": -2.0,
            },
        ],
        schema_overrides={"offered_kw": pl.Float64},
    )


def available(*device_ids: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"device_id": ["battery", "ev"], "available": [n in device_ids for n in ("battery", "ev")]}
    )


@pytest.mark.parametrize("state", ["REJECTED", "FAILED", "UNKNOWN", "EXPIRED", "OVERRIDDEN"])
def test_invariant_17_what_no_device_accepts_is_a_cause_to_plan_again(state):
    both = available("battery", "ev")
    (cause,) = shortfall("plan-1", commanded(state), both, Tolerance())
    assert cause.key == "shortfall:plan-1"
    assert "of -6.0 kW planned no device accepts -4.0 kW" in cause.words


@pytest.mark.parametrize(
    ("state", "fields", "there"),
    [
        ("VERIFIED", {"offered_kw": -4.0}, ["battery", "ev"]),
        ("VERIFIED", {"offered_kw": -3.8}, ["battery", "ev"]),
        ("SENT", {}, ["battery", "ev"]),
        ("REJECTED", {}, ["ev"]),
        ("REJECTED", {"authority": "kill switch"}, ["battery", "ev"]),
        ("REJECTED", {"plan_id": "plan-0"}, ["battery", "ev"]),
    ],
    ids=["accepted", "near enough", "under way", "out", "ordered", "another plan"],
)
def test_invariant_17_this_is_no_shortfall(state, fields, there):
    assert shortfall("plan-1", commanded(state, **fields), available(*there), Tolerance()) == []
