"""Vendors' register maps: what a file may say, what is written, what is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices import register_map
from vpp_pipeline.devices.failsafe import has_failsafe
from vpp_pipeline.devices.modbus_session import LinkError
from vpp_pipeline.devices.protocol import Command, DeviceLink
from vpp_pipeline.devices.register_map import MapError, RegisterMap
from vpp_pipeline.devices.register_map_look import MapLook
from vpp_pipeline.devices.registers import LENGTHS, NotEncodable, decode, encode
from vpp_pipeline.fleet.columns import DEVICE
from vpp_pipeline.fleet.register_maps import device_types_of_maps

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHIPPED = ("eastron-sdm630", "go-e-charger", "huawei-luna2000")
BATTERY, CHARGER, METER = (
    DeviceLink("d", kind, "modbus", "127.0.0.1:502", 1, inject, draw, writable=True, register_map=m)
    for kind, inject, draw, m in (
        ("battery", 5.0, 5.0, "huawei-luna2000"),
        ("ev_charger", 0.0, 22.0, "go-e-charger"),
        ("load", 0.0, 20.0, "eastron-sdm630"),
    )
)
HUAWEI_AT_REST = {47100: 0, 47083: 0, 47246: 0, 47247: 0, 47248: 0, 47249: 0, 47250: 0}
GO_E_AT_REST = {299: 16, 300: 10, 337: 0}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_registry_knows_each_shipped_map_and_its_device_types(name):
    known = device_types_of_maps()
    assert set(known) == set(SHIPPED)
    assert known[name] == register_map.register_map(name).device_types
    assert set(known[name]) <= set(DEVICE)


def look(
    link: DeviceLink, holding: dict[int, int], inputs: dict[int, int] | None = None
) -> MapLook:
    registers = {("holding", one): word for one, word in holding.items()}
    registers |= {("input", one): word for one, word in (inputs or {}).items()}
    return MapLook(link, register_map.register_map(link.register_map or ""), registers)  # type: ignore[arg-type]


def written(before: MapLook, power_kw: float, timer_s: int = 900) -> MapLook:
    return after(before, before.set_point(power_kw, timer_s))


def after(before: MapLook, writes: list[Any]) -> MapLook:
    registers = dict(before.registers)
    for write in writes:
        registers |= {("holding", write.address + i): one for i, one in enumerate(write.registers)}
    return MapLook(before.link, before.map, registers)


def command(power_kw: float) -> Command:
    return Command("c", "d", "p", 1, 1, power_kw, AT, AT + timedelta(minutes=15))


def changed(**changes: Any) -> str:
    return yaml.safe_dump(yaml.safe_load(GOOD) | changes)


GOOD = """
device: A battery
source: its manual
readings:
  power_kw: {address: 10, type: int16, scale: 0.001}
set_point:
  inject:
    - {address: 1, type: uint16, holds: power, scale: 0.1}
    - {address: 2, type: uint16, holds: timer}
    - {address: 3, type: uint16, value: 1}
  release:
    - {address: 3, type: uint16, value: 0}
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_map_is_whole_and_names_its_source(name: str) -> None:
    shipped = register_map.register_map(name)
    assert shipped.device
    assert shipped.source


def test_invariant_03_only_a_map_with_a_timer_counts_as_a_failsafe() -> None:
    assert [has_failsafe(link) for link in (BATTERY, CHARGER, METER)] == [True, False, False]


def test_an_unknown_map_names_those_there_are() -> None:
    with pytest.raises(MapError, match=r"'nobody'; there are eastron-sdm630, go-e-charger, huawei"):
        register_map.register_map("nobody")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "mine.yaml is no YAML"),
        ("just words", "mine.yaml: the map: 'just words'"),
        (changed(readings={}), "readings.power_kw"),
        (changed(colour="red"), r"colour: 'red': Extra inputs"),
        (changed(readings={"power_kw": {"address": 70000, "type": "int16"}}), "address: 70000"),
        (changed(readings={"power_kw": {"address": 1, "type": "int17"}}), "type: 'int17'"),
        (changed(readings={"power_kw": {"address": True, "type": "int16"}}), "address: True"),
        (changed(word_order="sideways"), "word_order: 'sideways'"),
        (changed(set_point={"release": []}), "set_point.release"),
        (
            changed(set_point={"release": [{"address": 3, "type": "uint16", "value": 0}]}),
            "give the writes of inject, of draw or of both",
        ),
        (
            changed(
                set_point={
                    "draw": [{"address": 1, "type": "uint16", "value": 1}],
                    "release": [{"address": 3, "type": "uint16", "value": 0}],
                }
            ),
            "draw: exactly one of its writes holds the power",
        ),
        (
            changed(
                set_point={
                    "draw": [{"address": 1, "type": "uint16", "holds": "power", "value": 1}],
                    "release": [{"address": 3, "type": "uint16", "value": 0}],
                }
            ),
            "give one of value, holds and copy_of",
        ),
        (
            changed(
                set_point={
                    "inject": [{"address": 1, "type": "uint16", "holds": "power"}],
                    "draw": [
                        {"address": 1, "type": "uint16", "holds": "power"},
                        {"address": 2, "type": "uint16", "holds": "timer"},
                    ],
                    "release": [{"address": 3, "type": "uint16", "value": 0}],
                }
            ),
            "each holds the timer, or none",
        ),
    ],
)
def test_a_wrong_map_names_file_field_and_value(text: str, words: str) -> None:
    with pytest.raises(MapError, match=words) as told:
        register_map.parse("mine.yaml", text)
    assert "mine.yaml" in str(told.value)


def test_writes_that_touch_go_out_as_one_frame_with_the_enable_last() -> None:
    mine = MapLook(BATTERY, register_map.parse("mine.yaml", GOOD), {})
    (frame,) = mine.set_point(2.5, 900)
    assert (frame.address, frame.registers) == (1, (25, 900, 1))


def test_a_battery_is_told_mode_power_period_and_only_then_to_begin() -> None:
    frames = look(BATTERY, HUAWEI_AT_REST).set_point(-2.5, 899)
    assert [(one.address, one.registers) for one in frames] == [
        (47246, (0, 0, 2500)),
        (47083, (14,)),
        (47100, (1,)),
    ]


def test_invariant_02_the_timer_never_outlives_the_command() -> None:
    at_rest = look(BATTERY, HUAWEI_AT_REST)
    assert written(at_rest, 1.0, 119).registers["holding", 47083] == 1
    with pytest.raises(NotEncodable, match="counts 60 s a step: less is left"):
        at_rest.set_point(1.0, 59)
    with pytest.raises(NotEncodable, match="takes None to 1440, not 1441"):
        at_rest.set_point(1.0, 1441 * 60)
    unarmed = after(written(at_rest, 1.0), [])
    back = MapLook(BATTERY, unarmed.map, {**unarmed.registers, ("holding", 47083): 0}).read_back(
        command(1.0), 902
    )
    assert not back.matches
    assert back.detail == "no timer is armed"


def test_a_charger_gets_whole_amperes_within_what_was_asked_and_its_own_range() -> None:
    at_rest = look(CHARGER, GO_E_AT_REST)
    charging = written(at_rest, -11.0)
    assert charging.registers["holding", 299] == 15
    back = charging.read_back(command(-11.0), 902)
    assert (back.matches, back.setpoint_kw, back.has_timer) == (True, pytest.approx(-10.35), False)
    assert "no timer" in back.detail
    with pytest.raises(NotEncodable, match="takes 6 to 32, not 5"):
        at_rest.set_point(-4.0, 900)
    with pytest.raises(NotEncodable, match="takes 6 to 32, not 33"):
        at_rest.set_point(-23.0, 900)
    with pytest.raises(NotEncodable, match="can't inject"):
        at_rest.set_point(1.0, 900)
    paused = written(at_rest, 0.0)
    assert paused.read_back(command(0.0), 902).setpoint_kw == 0.0
    assert not paused.read_back(command(-11.0), 902).matches


def test_invariant_12_flash_that_holds_the_value_already_is_not_written() -> None:
    charging = written(look(CHARGER, GO_E_AT_REST), -11.0)
    assert [one.address for one in charging.set_point(-7.0, 900)] == [299]
    first = look(CHARGER, GO_E_AT_REST).set_point(-7.0, 900)
    assert [(one.address, one.daily_writes) for one in first] == [(299, {}), (337, {337: 50})]
    unread = look(CHARGER, {300: 10}).set_point(-7.0, 900)
    assert [one.address for one in unread] == [299, 337]


def test_invariant_11_a_release_restores_the_default_and_is_known_by_it() -> None:
    charging = written(look(CHARGER, GO_E_AT_REST), -11.0)
    assert "register 337 is 2, not 0" in charging.left_over()
    free = after(charging, charging.release())
    assert free.registers["holding", 299] == 10  # as kept in the EEPROM
    assert free.left_over() == ""
    assert free.reading(AT).setpoint_kw is None
    with pytest.raises(NotEncodable, match="register 300, to be copied, could not be read"):
        look(CHARGER, {299: 16}).release()


def test_a_value_the_device_clamped_or_another_wrote_is_told_in_words() -> None:
    clamped = written(look(BATTERY, HUAWEI_AT_REST), -4.0)
    clamped = after(clamped, clamped.set_point(-3.0, 900))
    back = clamped.read_back(command(-4.0), 902)
    assert (back.matches, back.setpoint_kw) == (False, -3.0)
    assert "register 47247 is 3000, not 4000" in back.detail
    reversed_ = written(look(BATTERY, HUAWEI_AT_REST), 3.0).read_back(command(-3.0), 902)
    assert (reversed_.matches, reversed_.setpoint_kw) == (False, 3.0)


def test_what_a_register_calls_missing_is_no_number() -> None:
    readings = {37000: 2, 37001: 0, 37002: 1500, 37004: 505, 37758: 0, 37759: 10_000}
    reading = look(BATTERY, HUAWEI_AT_REST | readings).reading(AT)
    assert (reading.power_kw, reading.energy_kwh, reading.status) == (-1.5, 5.05, "ok")
    gone = readings | {37000: 3, 37001: 0x7FFF, 37002: 0xFFFF, 37004: 0xFFFF}
    missing = look(BATTERY, HUAWEI_AT_REST | gone).reading(AT)
    assert (missing.power_kw, missing.energy_kwh, missing.status) == (None, None, "fault")
    assert look(BATTERY, {}).reading(AT).power_kw is None


def test_a_charger_tells_whether_a_car_is_there_and_a_meter_what_flows() -> None:
    def charger(state: int, error: int = 0) -> Any:
        return look(CHARGER, GO_E_AT_REST, {100: state, 107: error, 120: 0, 121: 1035}).reading(AT)

    assert (charger(2).plugged_in, charger(2).power_kw) == (True, pytest.approx(-10.35))
    assert (charger(1).plugged_in, charger(1, error=8).status) == (False, "fault")
    high, low = encode("float32", 1234.5, "high_first")
    assert look(METER, {}, {52: high, 53: low}).reading(AT).power_kw == pytest.approx(-1.2345)
    assert look(METER, {}, {52: 0x7FC0, 53: 0}).reading(AT).power_kw is None


def test_a_meter_can_not_be_steered_and_says_so() -> None:
    meter = look(METER, {})
    assert "takes no set-point" in meter.refusal()
    with pytest.raises(NotEncodable, match="takes no set-point"):
        meter.set_point(1.0, 900)
    with pytest.raises(LinkError, match="takes no set-point"):
        meter.read_back(command(1.0), 902)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(LENGTHS)),
    number=st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**40), 2**40),
    order=st.sampled_from(["high_first", "low_first"]),
)
def test_a_number_comes_back_from_its_registers_or_was_refused(
    kind: Any, number: float, order: Any
) -> None:
    whole = kind != "float32" and math.isfinite(number)
    asked = int(number) if whole else number
    try:
        words = encode(kind, asked, order)
    except NotEncodable:
        return
    assert len(words) == LENGTHS[kind]
    assert all(0 <= word <= 0xFFFF for word in words)
    back = decode(kind, words, order)
    assert back == asked if whole else back == pytest.approx(asked, rel=1e-6, abs=1e-44)


@settings(max_examples=200, deadline=None)
@given(power_kw=st.floats(-5, 5), timer_s=st.integers(60, 86_400))
def test_any_set_point_in_the_nameplate_is_read_back_and_is_never_more_than_asked(
    power_kw: float, timer_s: int
) -> None:
    given = written(look(BATTERY, HUAWEI_AT_REST), power_kw, timer_s)
    back = given.read_back(command(power_kw), timer_s)
    assert back.matches, back.detail
    assert back.setpoint_kw is not None
    assert abs(back.setpoint_kw) <= abs(power_kw) + 1e-8
    assert abs(back.setpoint_kw - power_kw) <= 0.001 + 1e-9
    assert given.registers["holding", 47083] * 60 <= timer_s
    assert after(given, given.release()).left_over() == ""


@settings(max_examples=150, deadline=None)
@given(
    words=st.dictionaries(
        st.sampled_from(
            sorted(
                {*HUAWEI_AT_REST, *GO_E_AT_REST, *range(37000, 37005), 37758, 37759}
                | {52, 53, 100, 107, 120, 121}
            )
        ),
        st.integers(0, 0xFFFF) | st.sampled_from([0x7FFF, 0x8000, 0xFFFF]),
    ),
    link=st.sampled_from([BATTERY, CHARGER, METER]),
    power_kw=st.floats(allow_nan=True, allow_infinity=True),
    timer_s=st.integers(-5, 2**33),
)
def test_whatever_the_registers_hold_nothing_crashes_and_nothing_missing_becomes_a_number(
    words: dict[int, int], link: DeviceLink, power_kw: float, timer_s: int
) -> None:
    garbage = look(link, words, words)
    reading = garbage.reading(AT)
    for value in (reading.power_kw, reading.energy_kwh, reading.setpoint_kw):
        assert value is None or math.isfinite(value)
    if link is BATTERY and words.get(37004) == 0xFFFF:
        assert reading.energy_kwh is None
    try:
        frames = garbage.set_point(power_kw, timer_s)
    except NotEncodable:
        return
    assert math.isfinite(power_kw)
    assert timer_s > 0
    assert all(0 <= word <= 0xFFFF for frame in frames for word in frame.registers)


def test_the_word_order_is_the_map_s() -> None:
    text = changed(
        word_order="low_first",
        readings={"power_kw": {"address": 10, "type": "float32", "scale": 0.001}},
    )
    high, low = encode("float32", 2000.0, "high_first")
    flipped: RegisterMap = register_map.parse("mine.yaml", text)
    mine = MapLook(BATTERY, flipped, {("holding", 10): low, ("holding", 11): high})
    assert mine.reading(AT).power_kw == pytest.approx(2.0)
