"""All devices of a fleet moving together through the recorded world.

Belongs here: which physics runs which device, and the devices' state as one thing. Does not:
the physics of a type (`physics`), clocks, set-points' timers and outages (`plant`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.simulation.physics import (
    Batteries,
    Chps,
    EvChargers,
    FlexibleLoads,
    Generators,
    HeatPumps,
    Loads,
)
from vpp_pipeline.simulation.stays import Stays

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from vpp_pipeline.simulation.physics import Values
    from vpp_pipeline.simulation.world import Drive, World

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REPORTED = (
    "energy_kwh",
    "temperature_c",
    "plugged_in",
    "target_energy_kwh",
    "deadline_s",
    "available_power_kw",
)
"""What a device may tell beside its power, as numbers; NaN where it does not."""
_HOUR_S = 3600.0
_STEP_S = STEP.total_seconds()
_REMEMBERED = ("energy_kwh", "power_kw", "temperature_c", "heating")


class _Machine(Protocol):
    def power(self, at_s: float, setpoint_kw: Values, hours: float) -> Values: ...

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values: ...

    def steady_s(self, at_s: float, most_s: float) -> float: ...

    def report(self) -> dict[str, Values]: ...


class Machines:
    """The physics of every device of a DeviceFrame; arrays are in the frame's order."""

    def __init__(
        self, devices: pl.DataFrame, world: World, at: datetime, rng: np.random.Generator
    ) -> None:
        self.device_ids = devices["device_id"]
        kinds = devices["device_type"].cast(pl.String).to_numpy()
        self._rows = {kind: np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()))}
        self._machines = {
            kind: _machine(kind, devices[rows], world, rng) for kind, rows in self._rows.items()
        }
        nobody = np.full(len(devices), np.nan)
        self.power(at, nobody, np.zeros(len(devices), bool), timedelta(seconds=1))

    def power(
        self, at: datetime, setpoint_kw: Values, out: NDArray[np.bool_], held: timedelta
    ) -> Values:
        """Return the powers the devices take up at `at` and can hold for `held`; nothing moves."""
        at_s, hours = _numbers(at, held)
        return self._each(setpoint_kw, out, lambda device, kw: device.power(at_s, kw, hours))

    def step(
        self, at: datetime, setpoint_kw: Values, out: NDArray[np.bool_], held: timedelta
    ) -> Values:
        """Move on from `at` by `held` and return the powers held meanwhile."""
        at_s, hours = _numbers(at, held)
        return self._each(setpoint_kw, out, lambda device, kw: device.step(at_s, kw, hours))

    def rest_of_quarter(self, at: datetime) -> Values:
        """Move on to the end of the quarter-hour with nobody steering; return the mean powers.

        Each type moves in steps as long as its powers hold, on whole minutes.
        """
        at_s, _ = _numbers(at, STEP)
        mean_kw = np.zeros(len(self.device_ids))
        for kind, machine in self._machines.items():
            rows = self._rows[kind]
            mean_kw[rows] = _unsteered_mean(machine, at_s, np.full(len(rows), np.nan))
        return mean_kw + 0.0  # no negative zeros

    def report(self) -> dict[str, Values]:
        """Return `REPORTED`, one array each, as of the last `power` or `step`."""
        told = {name: np.full(len(self.device_ids), np.nan) for name in REPORTED}
        for kind, machine in self._machines.items():
            for name, values in machine.report().items():
                told[name][self._rows[kind]] = values
        return told

    def state(self) -> dict[str, dict[str, float]]:
        """Return what each device remembers, by device and name."""
        remembered: dict[str, dict[str, float]] = {}
        for kind, machine in self._machines.items():
            ids = self.device_ids.gather(self._rows[kind]).to_list()
            for name in _REMEMBERED:
                for device_id, value in zip(ids, getattr(machine, name, ()), strict=False):
                    if not np.isnan(value):
                        remembered.setdefault(device_id, {})[name] = float(value)
        return remembered

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from a state; devices it does not name keep their own."""
        for kind, machine in self._machines.items():
            ids = self.device_ids.gather(self._rows[kind]).to_list()
            for name in _REMEMBERED:
                if hasattr(machine, name):
                    own = getattr(machine, name)
                    setattr(machine, name, _restored(ids, state, name, own))

    def _each(
        self,
        setpoint_kw: Values,
        out: NDArray[np.bool_],
        move: Callable[[_Machine, Values], Values],
    ) -> Values:
        """Let each type obey its set-points; a dead device obeys zero."""
        obeyed = np.where(out, 0.0, setpoint_kw)
        power_kw = np.zeros(len(self.device_ids))
        for kind, machine in self._machines.items():
            rows = self._rows[kind]
            if isinstance(machine, HeatPumps):
                machine.out_of_service = out[rows]
            power_kw[rows] = move(machine, obeyed[rows])
        return power_kw + 0.0  # no negative zeros


def _numbers(at: datetime, held: timedelta) -> tuple[float, float]:
    return (at - EPOCH).total_seconds(), held / timedelta(hours=1)


def _unsteered_mean(machine: _Machine, at_s: float, nobody: Values) -> Values:
    """Move one type on to the end of the quarter-hour; return its mean powers."""
    end_s, now_s = (at_s // _STEP_S + 1) * _STEP_S, at_s
    energy_kws = np.zeros(len(nobody))
    while now_s < end_s:
        held_s = machine.steady_s(now_s, end_s - now_s)
        energy_kws += machine.step(now_s, nobody, held_s / _HOUR_S) * held_s
        now_s += held_s
    mean_kw: Values = energy_kws / (end_s - at_s)
    return mean_kw


def _restored(
    ids: Sequence[str], state: Mapping[str, Mapping[str, float]], name: str, own: Values
) -> Values:
    values = [state.get(d, {}).get(name, mine) for d, mine in zip(ids, own, strict=True)]
    return np.array(values, dtype=own.dtype)


def _machine(kind: str, devices: pl.DataFrame, world: World, rng: np.random.Generator) -> _Machine:
    if kind == "battery":
        return Batteries(devices, rng)
    if kind == "ev_charger":
        return EvChargers(devices, Stays(devices["device_id"], world.sessions))
    if kind == "heat_pump":
        return HeatPumps(
            devices, _Outside(world, world.outdoor, world.site_ids, devices["site_id"]), rng
        )
    if kind == "flexible_load":
        return FlexibleLoads(devices, Stays(devices["device_id"], world.load_windows))
    if kind == "chp":
        return Chps(devices)
    available = _Outside(world, world.available, world.driven_ids, devices["device_id"])
    return Loads(available) if kind == "load" else Generators(available)


class _Outside:
    """What some subjects are exposed to, looked up once a quarter-hour."""

    def __init__(self, world: World, drive: Drive, known: pl.Series, subjects: pl.Series) -> None:
        order = {subject: row for row, subject in enumerate(known.to_list())}
        self._rows = np.array([order[subject] for subject in subjects.to_list()], np.int64)
        self._world, self._drive = world, drive
        self._from_s = self._to_s = 0.0
        self._values = np.zeros(len(subjects))

    def __call__(self, at_s: float) -> Values:
        if not self._from_s <= at_s < self._to_s:
            step = self._world.step_of(EPOCH + timedelta(seconds=at_s))
            self._from_s = at_s // _STEP_S * _STEP_S
            self._to_s = self._from_s + _STEP_S
            self._values = self._drive.at(step, self._rows)
        return self._values
