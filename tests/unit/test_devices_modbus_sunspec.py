"""SunSpec registers: what is decoded, what is refused, what is sent."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sunspec2 import device

from vpp_pipeline.devices import sunspec, sunspec_control, sunspec_reading
from vpp_pipeline.devices.protocol import DeviceLink
from vpp_pipeline.devices.registers import NotEncodable, to_bytes, to_registers
from vpp_pipeline.devices.sunspec import Block

MODELS = (701, 702, 704, 713, 715)
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)

registers = st.lists(st.integers(0, 0xFFFF), max_size=200).map(tuple)


def block(model_id: int, **points: int) -> Block:
    """Encode with pysunspec2's own objects, so that no layout of ours proves itself."""
    model = device.Model(model_id)
    for name, raw in points.items():
        model.points[name].set_value(raw)
    return Block(model_id, to_registers(model.get_mb()))


def link(device_type: str = "battery") -> DeviceLink:
    return DeviceLink("d", device_type, "modbus", "127.0.0.1:502", 1, 5.0, 5.0, writable=True)


RATED_10_KW = block(702, WMaxRtg=1000, W_SF=1)
UNARMED = {"WSetRvrtTms": 0, "WMaxLimPctRvrtTms": 0}
FREE = block(704, WSet_SF=0, WMaxLimPct_SF=-2, **UNARMED)


@pytest.mark.parametrize("model_id", MODELS)
def test_layouts_are_those_of_the_sunspec_models(model_id: int) -> None:
    model = device.Model(model_id)
    for name, point in sunspec.layout(model_id).items():
        assert (point.offset, point.length) == (model.points[name].offset, model.points[name].len)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="64999"):
        sunspec.layout(64999)


def test_a_point_without_a_value_or_a_scale_factor_is_none_and_never_a_number() -> None:
    assert block(701, W_SF=0).value("W") is None
    assert block(701, W=1200).value("W") is None
    assert block(701, W=1200, W_SF=11).value("W") is None
    assert block(713, WHAvail=5, WH_SF=-3).value("WHAvail") == 0.005
    assert block(701, W=-12, W_SF=2).value("W") == -1200.0


def test_a_point_behind_the_registers_read_is_none() -> None:
    assert Block(701, block(701, W=7, W_SF=0).registers[:10]).value("W") is None


@settings(max_examples=100, deadline=None)
@given(model_id=st.sampled_from(MODELS), words=registers)
def test_random_registers_never_crash_and_never_become_nan(
    model_id: int, words: tuple[int, ...]
) -> None:
    garbage = Block(model_id, words)
    for name, point in sunspec.layout(model_id).items():
        if point.kind != "string":
            value = garbage.value(name)
            assert value is None or math.isfinite(value)
    for device_type in ("battery", "pv"):
        blocks = {one: Block(one, words) for one in MODELS}
        reading = sunspec_reading.to_reading(link(device_type), blocks, AT)
        assert reading.status in {"ok", "local", "fault"}


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.integers(0, 0xFFFF), min_size=70, max_size=70).map(tuple),
    power_kw=st.floats(allow_nan=True, allow_infinity=True),
    timer_s=st.integers(-5, 2**33),
    device_type=st.sampled_from(["battery", "pv"]),
)
def test_a_frame_is_whole_or_refused_whatever_the_device_says_and_whatever_is_asked(
    words: tuple[int, ...], power_kw: float, timer_s: int, device_type: str
) -> None:
    try:
        frame = sunspec_control.set_point_frame(
            device_type, power_kw, timer_s, Block(704, words), Block(702, words)
        )
        sent = frame.registers
    except NotEncodable:
        return
    assert math.isfinite(power_kw)
    assert timer_s > 0
    timed = Block(704, words).raw(sunspec_control.steering(device_type).timer) is not None
    assert len(sent) == (11 if device_type == "battery" else 6) - (0 if timed else 2)
    assert all(0 <= word <= 0xFFFF for word in sent)


@settings(max_examples=100, deadline=None)
@given(power_kw=st.floats(-10, 10), scale=st.integers(-1, 3), timer_s=st.integers(1, 86_400))
def test_a_set_point_comes_back_within_one_step_and_never_beyond_what_was_asked(
    power_kw: float, scale: int, timer_s: int
) -> None:
    control = block(704, WSet_SF=scale, **UNARMED)
    frame = sunspec_control.set_point_frame("battery", power_kw, timer_s, control, RATED_10_KW)
    written = apply(control, frame)
    state = sunspec_control.in_force("battery", written, RATED_10_KW)
    step_kw = 10**scale / 1000
    assert state.enabled
    assert state.timer_s == timer_s
    assert state.setpoint_kw is not None
    assert abs(state.setpoint_kw) <= abs(power_kw) + 2e-6 * step_kw
    assert abs(state.setpoint_kw - power_kw) <= step_kw
    assert sunspec_control.differences(dict(frame.values), written, sunspec_control.SET.names) == []


@settings(max_examples=100, deadline=None)
@given(limit_kw=st.floats(0, 10))
def test_a_limit_lets_pv_inject_no_more_than_was_allowed(limit_kw: float) -> None:
    frame = sunspec_control.set_point_frame("pv", limit_kw, 900, FREE, RATED_10_KW)
    state = sunspec_control.in_force("pv", apply(FREE, frame), RATED_10_KW)
    assert state.setpoint_kw is not None
    assert limit_kw - 0.001 - 1e-9 <= state.setpoint_kw <= limit_kw + 1e-8


def apply(control: Block, frame: sunspec.Frame) -> Block:
    words = list(control.registers)
    words[frame.offset : frame.offset + len(frame.registers)] = frame.registers
    return Block(704, tuple(words))


def test_a_battery_gets_its_eleven_registers_in_one_frame() -> None:
    frame = sunspec_control.set_point_frame("battery", -3.21, 900, FREE, RATED_10_KW)
    theirs = device.Model(704)
    theirs.set_mb(to_bytes(apply(FREE, frame).registers))
    assert theirs.WSetEna.value == 1
    assert theirs.WSetMod.value == 1
    assert theirs.WSet.value == -3210
    assert theirs.WSetEnaRvrt.value == 0
    assert theirs.WSetRvrtTms.value == 900
    assert len(frame.registers) == 11


def test_what_cannot_be_said_in_registers_is_refused_with_the_point_and_the_value() -> None:
    def offer(
        power_kw: float,
        control: Block = FREE,
        rating: Block | None = RATED_10_KW,
        kind: str = "battery",
    ) -> None:
        _ = sunspec_control.set_point_frame(kind, power_kw, 900, control, rating).registers

    with pytest.raises(NotEncodable, match="not a finite number"):
        offer(math.nan)
    with pytest.raises(NotEncodable, match="not a finite number"):
        offer(-math.inf)
    with pytest.raises(NotEncodable, match="scale factor of WSet"):
        offer(1.0, control=block(704))
    with pytest.raises(NotEncodable, match=r"12\.0 is beyond the device's WMaxRtg of 10\.0 kW"):
        offer(12.0)
    with pytest.raises(NotEncodable, match="WChaRteMaxRtg"):
        offer(
            -3.0, rating=block(702, WMaxRtg=5000, WChaRteMaxRtg=2000, WDisChaRteMaxRtg=5000, W_SF=0)
        )
    with pytest.raises(NotEncodable, match="unknown nameplate"):
        offer(1.0, rating=None, kind="pv")
    with pytest.raises(NotEncodable, match="unknown nameplate"):
        offer(1.0, rating=block(702, WMaxRtg=1000), kind="pv")
    with pytest.raises(NotEncodable, match="for ever"):
        sunspec_control.set_point_frame("battery", 1.0, 0, FREE, RATED_10_KW)


def test_a_raw_value_that_means_no_value_is_refused() -> None:
    with pytest.raises(NotEncodable, match="no value"):
        sunspec.pack(704, "WSetRvrtTms", 0xFFFFFFFF)
    with pytest.raises(NotEncodable, match="can't hold 65536"):
        sunspec.pack(704, "WSetEna", 65536)


def test_a_missing_state_of_charge_is_never_read_as_empty() -> None:
    def stored(**points: int) -> float | None:
        return sunspec_reading.stored_kwh({713: block(713, **points)})

    rated = {"WHRtg": 10_000, "WH_SF": 0, "Pct_SF": 0}
    assert stored(**rated) is None
    assert sunspec_reading.stored_kwh({}) is None
    assert stored(**rated, SoC=50) == 5.0
    assert stored(**rated, SoC=50, SoH=80) == 4.0
    assert stored(WHAvail=321, WH_SF=1) == 3.21


def test_a_reading_says_who_has_the_control_and_what_is_broken() -> None:
    fine = {
        701: block(701, W=1500, W_SF=0, InvSt=3),
        704: FREE,
        715: block(715, LocRemCtl=0, DERHb=9),
    }
    assert sunspec_reading.to_reading(link("pv"), fine, AT).available_power_kw == 1.5
    assert sunspec_reading.to_reading(link("pv"), fine, AT).heartbeat == 9
    assert sunspec_reading.to_reading(link(), fine, AT).available_power_kw is None
    local = fine | {715: block(715, LocRemCtl=1)}
    assert sunspec_reading.to_reading(link(), local, AT).status == "local"
    broken = local | {701: block(701, InvSt=6)}
    assert sunspec_reading.to_reading(link(), broken, AT).status == "fault"
    assert sunspec_reading.to_reading(link(), broken, AT).power_kw is None
    worn = fine | {713: block(713, Sta=2)}
    assert sunspec_reading.to_reading(link(), worn, AT).status == "fault"


def test_pv_under_a_limit_does_not_pretend_to_know_what_it_could_give() -> None:
    frame = sunspec_control.set_point_frame("pv", 4.0, 900, FREE, RATED_10_KW)
    blocks = {701: block(701, W=4000, W_SF=0), 702: RATED_10_KW, 704: apply(FREE, frame)}
    reading = sunspec_reading.to_reading(link("pv"), blocks, AT)
    assert reading.available_power_kw is None
    assert reading.setpoint_kw == 4.0


def test_a_release_leaves_neither_an_enable_nor_a_value_nor_a_timer() -> None:
    held = apply(FREE, sunspec_control.set_point_frame("battery", 3.0, 900, FREE, None))
    freed = apply(held, sunspec_control.release_frame("battery", held))
    assert [freed.raw(name) for name in ("WSetEna", "WSet", "WSetRvrtTms")] == [0, 0, 0]
    open_again = apply(FREE, sunspec_control.release_frame("pv", FREE))
    assert open_again.raw("WMaxLimPctEna") == 0
    assert open_again.value("WMaxLimPct") == 100.0


def test_a_percent_mode_set_by_another_hand_is_read_in_kw() -> None:
    control = block(704, WSetEna=1, WSetMod=0, WSetPct=-50, WSetPct_SF=0)
    assert sunspec_control.in_force("battery", control, RATED_10_KW).setpoint_kw == -5.0
    assert sunspec_control.in_force("battery", control, None).setpoint_kw is None
