"""SunSpec registers of any content: no crash, no sentinel taken for a value, no half frame.

`HYPOTHESIS_PROFILE=thorough` tries 10,000 register images of each kind.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.modbus_session import LinkError
from vpp_pipeline.devices.protocol import Command, DeviceLink
from vpp_pipeline.devices.registers import NotEncodable
from vpp_pipeline.devices.sunspec import Block
from vpp_pipeline.devices.sunspec_look import SunspecLook
from vpp_pipeline.devices.sunspec_models import Placed

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
EXAMPLES = 10_000 if THOROUGH else 100
pytestmark = pytest.mark.timeout(1800 if THOROUGH else 120)
NEWER = (701, 702, 704, 713, 715)
LEGACY = (101, 103, 120, 121, 123, 124)
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
# As the specification gives them, not as any library does.
SENTINELS = {
    "int16": (0x8000,),
    "sunssf": (0x8000,),
    "uint16": (0xFFFF,),
    "enum16": (0xFFFF,),
    "bitfield16": (0xFFFF,),
    "int32": (0x8000, 0),
    "uint32": (0xFFFF, 0xFFFF),
    "bitfield32": (0xFFFF, 0xFFFF),
    "float32": (0x7FC0, 0),
}

word = st.integers(0, 0xFFFF) | st.sampled_from([0, 1, 10, 0x7FC0, 0x7FFF, 0x8000, 0xFFFF])
image = st.lists(word, max_size=160).map(tuple)
device_types = st.sampled_from(["battery", "pv", "chp", "wind"])


@settings(max_examples=EXAMPLES, deadline=None)
@given(model_id=st.sampled_from(NEWER + LEGACY), words=image)
def test_no_sentinel_is_taken_for_a_value_whatever_the_registers_hold(
    model_id: int, words: tuple[int, ...]
) -> None:
    block = Block(model_id, words)
    for name, point in sunspec.layout(model_id).items():
        if point.kind == "string":
            continue
        value = block.value(name)
        assert value is None or math.isfinite(value)
        held = words[point.offset : point.end]
        factor = sunspec.layout(model_id)[point.scale] if point.scale else None
        if (
            len(held) < point.length
            or held == SENTINELS.get(point.kind)
            or (factor is not None and words[factor.offset : factor.end] in {(), (0x8000,)})
        ):
            assert value is None, (name, held)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    images=st.dictionaries(st.sampled_from(NEWER + LEGACY), image, min_size=1),
    device_type=device_types,
    power_kw=st.floats(allow_nan=True, allow_infinity=True) | st.floats(-20, 20),
    timer_s=st.integers(-5, 2**33),
)
def test_any_device_is_read_steered_read_back_and_released_or_refused_in_words(
    images: dict[int, tuple[int, ...]], device_type: str, power_kw: float, timer_s: int
) -> None:
    link = DeviceLink("d", device_type, "modbus", "e:1", 1, 20.0, 20.0, writable=True)
    models = {model_id: Placed(40_000 + 200 * model_id, 100) for model_id in images}
    look = SunspecLook(link, models, {one: Block(one, words) for one, words in images.items()})
    command = Command("c", "d", "p", 1, 1, power_kw, AT, AT + timedelta(minutes=15))
    with suppress(LinkError):
        reading = look.reading(AT)
        for value in (reading.power_kw, reading.energy_kwh, reading.setpoint_kw):
            assert value is None or math.isfinite(value)
    if look.refusal():
        return
    with suppress(LinkError):
        back = look.read_back(command, 902)
        assert math.isfinite(power_kw) or not back.matches
    for ask in (lambda: look.set_point(power_kw, timer_s), look.release):
        try:
            (frame,) = ask()
        except NotEncodable:
            continue
        assert all(0 <= one <= 0xFFFF for one in frame.registers)
    try:
        look.set_point(power_kw, timer_s)
    except NotEncodable:
        return
    assert math.isfinite(power_kw)
    assert timer_s > 0
