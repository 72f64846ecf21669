"""The simulated plant: physics, set-points with their timers, and outages on one clock.

Belongs here: what a gateway may ask of a device (`plant_protocol.Plant`), and saving and going
on. Does not: the physics (`machines`), any wire format, files.
"""

from __future__ import annotations

import math
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from vpp_pipeline.devices.protocol import Reading
from vpp_pipeline.simulation.machines import EPOCH, Machines
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.simulation.world import World

SUB_STEP = timedelta(minutes=1)
_SAMPLE = timedelta(seconds=1)
_TOLERANCE_KW = 1e-6


class Plant:
    """All devices of a DeviceFrame in a world, from the clock's now on.

    A dead device (`set_outage`) does not answer, forgets its set-point and stands still; a dead
    meter's site goes on drawing. Instantaneous values are those of the second that begins.
    """

    def __init__(
        self, devices: pl.DataFrame, world: World, clock: Clock, rng: np.random.Generator
    ) -> None:
        n = len(devices)
        self._devices, self._world, self._clock, self._rng = devices, world, clock, rng
        self._lock = threading.RLock()
        self._at = clock.now()
        self._machines = Machines(devices, world, self._at, rng)
        self._row = {device_id: row for row, device_id in enumerate(devices["device_id"].to_list())}
        self._max_inject_kw = devices["max_inject_kw"].to_numpy()
        self._max_draw_kw = devices["max_draw_kw"].to_numpy()
        self._controllable = devices["controllable"].to_numpy()
        self._setpoint_kw = np.full(n, np.nan)
        self._until_s = np.full(n, np.inf)
        self._command_id: dict[int, str | None] = {}
        self._out = np.zeros(n, bool)
        self._heartbeat = 0
        self._told: dict[str, list[Any]] = {}

    @property
    def clock(self) -> Clock:
        """The clock the physics and the set-points' timers run on."""
        return self._clock

    def advance(self) -> None:
        """Integrate everything up to the clock's now, in steps of at most a minute.

        A set-point that runs out on the way ends exactly then.
        """
        with self._lock:
            now = self._clock.now()
            while self._at < now:
                next_minute = EPOCH + ((self._at - EPOCH) // SUB_STEP + 1) * SUB_STEP
                expiry = self._next_expiry()
                until = min(now, next_minute, expiry)
                self._machines.step(self._at, self._setpoint_kw, self._out, until - self._at)
                self._heartbeat += 1
                self._at = until
                self._told = {}
                if until == expiry:
                    self._forget(np.flatnonzero(self._until_s <= (until - EPOCH).total_seconds()))

    def reading(self, device_id: str) -> Reading:
        """Return the device's measurements, at most a second of clock time old.

        A dead device's reading says only that it is offline.
        """
        with self._lock:
            if self._clock.now() - self._at >= _SAMPLE:
                self.advance()
            row = self._row_of(device_id)
            if self._out[row]:
                return Reading(device_id, self._at, status="offline")
            told = self._values()
            deadline_s = told["deadline_s"][row]
            plugged_in = told["plugged_in"][row]
            return Reading(
                device_id=device_id,
                measured_at=self._at,
                power_kw=told["power_kw"][row],
                setpoint_kw=told["setpoint_kw"][row],
                energy_kwh=told["energy_kwh"][row],
                temperature_c=told["temperature_c"][row],
                plugged_in=None if plugged_in is None else bool(plugged_in),
                target_energy_kwh=told["target_energy_kwh"][row],
                deadline=None if deadline_s is None else EPOCH + timedelta(seconds=deadline_s),
                available_power_kw=told["available_power_kw"][row],
                heartbeat=self._heartbeat,
            )

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        """Obey `setpoint_kw` from now until `until`.

        Raises Refused, with the device's reason, on a value no device may obey.
        """
        with self._lock:
            self.advance()
            row = self._row_of(device_id)
            self._check(row, setpoint_kw, until)
            self._setpoint_kw[row] = setpoint_kw
            self._until_s[row] = (until - EPOCH).total_seconds()
            self._command_id[row] = command_id
            self._told = {}

    def release(self, device_id: str) -> None:
        """Return the device to its default at once."""
        with self._lock:
            self.advance()
            self._forget(np.array([self._row_of(device_id)]))

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        """Return the set-point in force now, if any."""
        with self._lock:
            row = self._row_of(device_id)
            if np.isnan(self._setpoint_kw[row]):
                return None
            until = EPOCH + timedelta(seconds=float(self._until_s[row]))
            if until <= self._clock.now():
                return None
            return AppliedSetpoint(float(self._setpoint_kw[row]), until, self._command_id.get(row))

    def set_outage(self, device_id: str, out: bool) -> None:
        """Take a device out of service, or bring it back; nothing changes if it is so already."""
        with self._lock:
            row = self._row_of(device_id)
            if self._out[row] == out:
                return
            self.advance()
            self._out[row] = out
            self._forget(np.array([row]))

    def is_out(self, device_id: str) -> bool:
        """Tell whether the device is dead."""
        with self._lock:
            return bool(self._out[self._row_of(device_id)])

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs to go on from here, as JSON values."""
        with self._lock:
            ids = self._machines.device_ids.to_list()
            in_force = np.flatnonzero(~np.isnan(self._setpoint_kw)).tolist()
            return {
                "at": self._at.isoformat(),
                "heartbeat": self._heartbeat,
                "out": [ids[row] for row in np.flatnonzero(self._out)],
                "setpoints": {
                    ids[row]: {
                        "setpoint_kw": float(self._setpoint_kw[row]),
                        "until": (EPOCH + timedelta(seconds=self._until_s[row])).isoformat(),
                        "command_id": self._command_id.get(row),
                    }
                    for row in in_force
                },
                "devices": self._machines.state(),
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state and catch up with the clock; unknown devices are left out.

        A state from the clock's future is taken as it stands now: the clock was set back.
        """
        with self._lock:
            self._at = min(datetime.fromisoformat(state["at"]), self._clock.now())
            self._heartbeat = state["heartbeat"]
            self._out[:] = [d in set(state["out"]) for d in self._row]
            self._forget(np.arange(len(self._row)))
            for device_id, kept in state["setpoints"].items():
                if (row := self._row.get(device_id)) is not None:
                    self._setpoint_kw[row] = kept["setpoint_kw"]
                    until = datetime.fromisoformat(kept["until"])
                    self._until_s[row] = (until - EPOCH).total_seconds()
                    self._command_id[row] = kept["command_id"]
            self._machines = Machines(self._devices, self._world, self._at, self._rng)
            self._machines.restore(state["devices"])
            self.advance()

    def _row_of(self, device_id: str) -> int:
        try:
            return self._row[device_id]
        except KeyError:
            raise KeyError(f"no device {device_id!r} in this plant: check the registry") from None

    def _check(self, row: int, setpoint_kw: float, until: datetime) -> None:
        if self._out[row]:
            raise Refused("out of service")
        if not self._controllable[row]:
            raise Refused("read-only: this device takes no set-points")
        if not math.isfinite(setpoint_kw):
            raise Refused(f"set-point {setpoint_kw} kW is not a number a device can obey")
        lowest, highest = 0.0 - float(self._max_draw_kw[row]), float(self._max_inject_kw[row])
        if not lowest - _TOLERANCE_KW <= setpoint_kw <= highest + _TOLERANCE_KW:
            raise Refused(f"set-point {setpoint_kw:g} kW is outside {lowest:g} to {highest:g} kW")
        if until <= self._clock.now():
            raise Refused(f"expired: valid until {until.isoformat()}")

    def _next_expiry(self) -> datetime:
        earliest = float(self._until_s.min(initial=np.inf))
        if math.isinf(earliest):
            return datetime.max.replace(tzinfo=EPOCH.tzinfo)
        return EPOCH + timedelta(seconds=earliest)

    def _forget(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._setpoint_kw[rows] = np.nan
        self._until_s[rows] = np.inf
        for row in rows.tolist():
            self._command_id.pop(row, None)
        self._told = {}

    def _values(self) -> dict[str, list[Any]]:
        """Return every device's values at this moment, None where it has none."""
        if not self._told:
            power_kw = self._machines.power(self._at, self._setpoint_kw, self._out, _SAMPLE)
            arrays = {
                **self._machines.report(),
                "power_kw": power_kw,
                "setpoint_kw": self._setpoint_kw,
            }
            self._told = {
                name: [None if math.isnan(v) else v for v in values.tolist()]
                for name, values in arrays.items()
            }
        return self._told
