"""A simulated device's judgement: what it accepts, when it acts, and what it never does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.wire import CommandMessage
from vpp_pipeline.simulation.command_queue import CommandQueue, SimulatedDevice
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint, Refused

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BATTERY = SimulatedDevice("b-1", 5.0, 4.0, controllable=True)
METER = SimulatedDevice("m-1", 0.0, 9.0, controllable=False)


@dataclass
class Application:
    at: datetime
    device_id: str
    setpoint: AppliedSetpoint


class NotingPlant:
    """Obeys and notes when; what is in `refuses` it refuses."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.applications: list[Application] = []
        self.refuses: dict[str, str] = {}
        self._setpoints: dict[str, AppliedSetpoint] = {}

    def reading(self, device_id: str) -> Any:
        raise NotImplementedError

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        if device_id in self.refuses:
            raise Refused(self.refuses[device_id])
        setpoint = AppliedSetpoint(setpoint_kw, until, command_id)
        self.applications.append(Application(self.clock.now(), device_id, setpoint))
        self._setpoints[device_id] = setpoint

    def release(self, device_id: str) -> None:
        self._setpoints.pop(device_id, None)

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        setpoint = self._setpoints.get(device_id)
        return setpoint if setpoint and self.clock.now() < setpoint.until else None

    def is_out(self, device_id: str) -> bool:
        return device_id in self.refuses


def message(
    command_id: str = "c-1",
    power_kw: float = 2.0,
    start: float = 0,
    minutes: float = 20,
    rank: tuple[int, int] = (1, 1),
) -> CommandMessage:
    valid_from = NOON + start * MINUTE
    return CommandMessage(
        command_id=command_id,
        plan_version=rank[0],
        sequence=rank[1],
        power_kw=power_kw,
        valid_from=valid_from,
        valid_until=valid_from + minutes * MINUTE,
    )


@pytest.fixture
def plant() -> NotingPlant:
    return NotingPlant()


@pytest.fixture
def queue(plant: NotingPlant) -> CommandQueue:
    return CommandQueue([BATTERY, METER], plant)


def move(plant: NotingPlant, minutes: float) -> None:
    plant.clock.sleep_until(NOON + minutes * MINUTE)


def test_a_command_whose_time_has_come_is_applied_at_once(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    assert queue.offer("b-1", message()).accepted
    assert plant.setpoint("b-1") == AppliedSetpoint(2.0, NOON + 20 * MINUTE, "c-1")
    report = queue.report("b-1", "c-1")
    assert report is not None
    assert (report.state, report.setpoint_kw) == ("applied", 2.0)


def test_a_future_command_is_accepted_now_and_applied_when_its_time_comes(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    assert queue.offer("b-1", message(start=15)).accepted
    move(plant, 14.9)
    assert queue.tick() == set()
    assert plant.applications == []
    move(plant, 15)
    assert queue.tick() == {"b-1"}
    assert [a.setpoint.command_id for a in plant.applications] == ["c-1"]


def test_a_command_that_waited_past_its_end_is_never_applied(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message(start=15, minutes=5))
    move(plant, 20)
    queue.tick()
    report = queue.report("b-1", "c-1")
    assert report is not None
    assert report.state == "expired"
    assert plant.applications == []


def test_invariant_05_one_id_is_applied_once_and_gets_the_same_ack(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    first = queue.offer("b-1", message())
    move(plant, 3)
    assert queue.offer("b-1", message()) == first
    move(plant, 30)
    queue.tick()
    assert queue.offer("b-1", message()) == first
    assert len(plant.applications) == 1


@pytest.mark.parametrize("version", [8, 7])
def test_invariant_04_a_plan_not_newer_than_the_last_for_its_interval_is_refused(
    queue: CommandQueue, plant: NotingPlant, version: int
) -> None:
    queue.offer("b-1", message("c-1", rank=(8, 1)))
    ack = queue.offer("b-1", message("c-2", rank=(version, 1)))
    assert (ack.accepted, "stale" in ack.reason) == (False, True)
    assert len(plant.applications) == 1


def test_invariant_04_tomorrows_earlier_plan_stands_beside_todays_new_one(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("today", rank=(8, 1)))
    assert queue.offer("b-1", message("tomorrow", start=15, rank=(7, 2))).accepted
    move(plant, 15)
    queue.tick()
    assert [a.setpoint.command_id for a in plant.applications] == ["today", "tomorrow"]


def test_invariant_04_an_interval_that_has_begun_is_not_taken_back_by_the_one_before(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("next", start=15, rank=(7, 2)))
    move(plant, 16)
    queue.tick()
    ack = queue.offer("b-1", message("late", start=0, minutes=20, rank=(8, 1)))
    assert (ack.accepted, "superseded" in ack.reason) == (False, True)
    assert [a.setpoint.command_id for a in plant.applications] == ["next"]


def test_invariant_04_a_release_does_not_let_an_older_plan_back_in(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("new", start=15, minutes=200, rank=(8, 2)))
    queue.release("b-1")
    for minutes in (14, 16, 120):
        move(plant, minutes)
        queue.tick()
        ack = queue.offer("b-1", message(f"old-{minutes}", start=15, minutes=200, rank=(7, 2)))
        assert (ack.accepted, "stale" in ack.reason) == (False, True)


def test_a_device_forgets_the_intervals_that_are_long_over(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    for number in range(40):
        move(plant, 15 * number)
        queue.tick()
        queue.offer("b-1", message(f"c-{number}", start=15 * number, rank=(1, number)))
        assert len(queue.state()["b-1"]) <= 7
    for minutes in (15 * 41, 15 * 41 + 60):
        move(plant, minutes)
        queue.tick()
    assert queue.state() == {}


def test_invariant_04_a_waiting_command_of_an_older_plan_gives_way(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("old", start=15, rank=(1, 2)))
    queue.offer("b-1", message("new", start=15, rank=(2, 2)))
    move(plant, 15)
    queue.tick()
    assert [a.setpoint.command_id for a in plant.applications] == ["new"]
    report = queue.report("b-1", "old")
    assert report is not None
    assert (report.state, report.setpoint_kw) == ("rejected", None)


@pytest.mark.parametrize(
    ("device_id", "offered", "reason"),
    [
        ("b-1", message(power_kw=5.1), "out of range"),
        ("b-1", message(power_kw=-4.1), "out of range"),
        ("b-1", message(start=-20, minutes=20), "expired"),
        ("m-1", message(power_kw=-1.0), "read-only"),
    ],
)
def test_invariant_20_it_refuses_what_a_real_device_would(
    queue: CommandQueue, plant: NotingPlant, device_id: str, offered: CommandMessage, reason: str
) -> None:
    ack = queue.offer(device_id, offered)
    assert not ack.accepted
    assert reason in ack.reason
    assert plant.applications == []


def test_a_refused_command_does_not_make_the_next_one_stale(queue: CommandQueue) -> None:
    queue.offer("b-1", message("c-1", power_kw=99, rank=(9, 1)))
    assert queue.offer("b-1", message("c-2", rank=(1, 1))).accepted


def test_the_plants_refusal_is_the_devices_answer(queue: CommandQueue, plant: NotingPlant) -> None:
    plant.refuses["b-1"] = "somebody on site has the control"
    ack = queue.offer("b-1", message())
    assert (ack.accepted, ack.reason) == (False, "somebody on site has the control")


def test_invariant_11_a_release_drops_what_waits_as_well(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("now", rank=(1, 1)))
    queue.offer("b-1", message("next", start=15, rank=(1, 2)))
    queue.release("b-1")
    assert plant.setpoint("b-1") is None
    move(plant, 15)
    queue.tick()
    assert [a.setpoint.command_id for a in plant.applications] == ["now"]


def test_an_end_of_validity_is_told_and_later_forgotten(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message(minutes=20))
    move(plant, 20)
    assert queue.tick() == {"b-1"}
    report = queue.report("b-1", "c-1")
    assert report is not None
    assert (report.state, report.setpoint_kw) == ("expired", None)
    move(plant, 20 + 61)
    queue.tick()
    assert queue.report("b-1", "c-1") is None


def test_a_restarted_device_remembers_what_it_accepted_applied_and_refused(
    queue: CommandQueue, plant: NotingPlant
) -> None:
    queue.offer("b-1", message("now", rank=(2, 1)))
    queue.offer("b-1", message("next", start=15, rank=(2, 2)))
    refused = queue.offer("b-1", message("beyond", power_kw=99, rank=(2, 3)))
    again = CommandQueue([BATTERY, METER], plant)
    again.restore(json.loads(json.dumps(queue.state())))
    assert again.offer("b-1", message("now", rank=(2, 1))).accepted
    assert again.offer("b-1", message("beyond", power_kw=99, rank=(2, 3))) == refused
    assert "stale" in again.offer("b-1", message("old", rank=(2, 2))).reason
    move(plant, 15)
    assert again.tick() == {"b-1"}
    assert [a.setpoint.command_id for a in plant.applications] == ["now", "next"]


offers = st.tuples(
    st.integers(0, 5),  # which id
    st.floats(-8, 8),
    st.integers(-30, 45),  # start, minutes after noon
    st.integers(1, 40),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
steps = st.lists(offers | st.integers(1, 20) | st.just("release"), max_size=30)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_no_order_of_events_applies_twice_late_out_of_order_or_out_of_range(
    script: list[tuple[int, float, int, int, tuple[int, int]] | int | str],
) -> None:
    plant = NotingPlant()
    queue = CommandQueue([BATTERY], plant)
    sent: dict[str, CommandMessage] = {}
    acks: dict[str, object] = {}
    for step in script:
        if isinstance(step, tuple):
            number, power_kw, start, minutes, rank = step
            offered = sent.setdefault(
                f"c-{number}", message(f"c-{number}", power_kw, start, minutes, rank)
            )
            known = queue.report("b-1", offered.command_id) is not None
            ack = queue.offer("b-1", offered)
            assert not known or ack == acks[offered.command_id]
            acks[offered.command_id] = ack
        elif isinstance(step, int):
            plant.clock.sleep_until(plant.clock.now() + step * MINUTE)
            queue.tick()
        else:
            queue.release("b-1")
            assert plant.setpoint("b-1") is None
    applied = [sent[str(a.setpoint.command_id)] for a in plant.applications]
    for number, later in enumerate(applied):
        begun = plant.applications[number].at
        for earlier in applied[:number]:
            if earlier.sequence == later.sequence:
                assert earlier.plan_version < later.plan_version or earlier.valid_until <= begun
            else:
                assert earlier.sequence < later.sequence or earlier.valid_until <= begun
    assert len({m.command_id for m in applied}) == len(applied)
    for application, offered in zip(plant.applications, applied, strict=True):
        assert offered.valid_from <= application.at < offered.valid_until
        assert -4.0 - 1e-6 <= offered.power_kw <= 5.0 + 1e-6
        assert application.setpoint.until == offered.valid_until
