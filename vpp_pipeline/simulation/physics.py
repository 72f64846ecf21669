"""How each type of device behaves: one small class a type, over all its devices at once.

Belongs here: what power a device takes or gives under a set-point, or by default, and how its
store moves. Does not: the outside (`world`), when a vehicle is there (`stays`), set-points'
timers and outages (`plant`).

Powers are kW, positive injects; a set-point of NaN is none. `power(at_s, setpoint_kw, hours)`
answers without moving; `step` moves the stores as if that power were held for `hours`, so that
energy is accounted for exactly. Steps should not be longer than a minute where set-points move;
with nobody steering one step may be as long as `steady_s` says, for the same energies and means.
Every array has one value a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from numpy.typing import NDArray

    from vpp_pipeline.simulation.stays import Stays

    Values = NDArray[np.float64]
    Outside = Callable[[float], Values]
    """The outside at a moment (seconds since the epoch): available kW, or °C."""

_MINUTE_S = 60.0
_PROTECTION_K = 1.0
_THERMOSTAT_ON = 0.2
_THERMOSTAT_OFF = 0.6


class Batteries:
    """Stationary batteries: they rest by default, and stop at either end of their window."""

    def __init__(self, devices: pl.DataFrame, rng: np.random.Generator) -> None:
        self._lowest, self._highest = (
            _column(devices, "min_energy_kwh"),
            _column(devices, "max_energy_kwh"),
        )
        self._charge = _column(devices, "charge_efficiency")
        self._discharge = _column(devices, "discharge_efficiency")
        self._ramp_kw_per_h = _column(devices, "ramp_kw_per_min", np.inf) * 60
        share = rng.uniform(0.3, 0.7, len(devices))
        self.energy_kwh = self._lowest + share * (self._highest - self._lowest)
        self.power_kw = np.zeros(len(devices))

    def power(self, _at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Follow the set-point within ramp and window."""
        wish = _ramped(_or_zero(setpoint_kw), self.power_kw, self._ramp_kw_per_h * hours)
        return _within_store(
            wish,
            (self.energy_kwh - self._lowest) * self._discharge / hours,
            (self._highest - self.energy_kwh) / self._charge / hours,
        )

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Hold that power for `hours`."""
        self.power_kw = self.power(at_s, setpoint_kw, hours)
        self.energy_kwh = self.energy_kwh + _stored(
            self.power_kw, hours, self._charge, self._discharge
        )
        return self.power_kw

    def steady_s(self, _at_s: float, most_s: float) -> float:
        """Batteries rest once their ramps are down."""
        return min(most_s, _MINUTE_S) if self.power_kw.any() else most_s

    def report(self) -> dict[str, Values]:
        """Return what the devices tell of themselves, by field of a reading."""
        return {"energy_kwh": self.energy_kwh}


class Generators:
    """PV and wind: what the weather allows, or the set-point where that is less."""

    def __init__(self, available: Outside) -> None:
        self._available = available
        self._now_kw = np.zeros(0)

    def power(self, at_s: float, setpoint_kw: Values, _hours: float) -> Values:
        """Run free, or up to the limit."""
        self._now_kw = self._available(at_s)
        return np.fmin(self._now_kw, setpoint_kw)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Nothing is stored: the same as `power`."""
        return self.power(at_s, setpoint_kw, hours)

    def steady_s(self, _at_s: float, most_s: float) -> float:
        """The weather moves by the quarter-hour."""
        return most_s

    def report(self) -> dict[str, Values]:
        """Return what the devices tell of themselves, by field of a reading."""
        return {"available_power_kw": self._now_kw}


class Loads:
    """What a site draws; nobody steers it."""

    def __init__(self, available: Outside) -> None:
        self._drawn = available

    def power(self, at_s: float, _setpoint_kw: Values, _hours: float) -> Values:
        """Draw what is drawn."""
        return self._drawn(at_s)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Nothing is stored: the same as `power`."""
        return self.power(at_s, setpoint_kw, hours)

    def steady_s(self, _at_s: float, most_s: float) -> float:
        """Consumption moves by the quarter-hour."""
        return most_s

    def report(self) -> dict[str, Values]:
        """A meter tells its power only."""
        return {}


class EvChargers:
    """Charge points: by default a vehicle charges at once, at full power, up to its target.

    Under a set-point it may be filled to its capacity. Between zero and the smallest charging
    current nothing flows. Only a bidirectional charger takes anything back.
    """

    def __init__(self, devices: pl.DataFrame, stays: Stays) -> None:
        self._max_draw_kw = _column(devices, "max_draw_kw")
        self._max_inject_kw = _column(devices, "max_inject_kw")
        self._min_active_kw = _column(devices, "min_active_kw")
        self._capacity_kwh = _column(devices, "energy_capacity_kwh")
        self._charge = _column(devices, "charge_efficiency", 1.0)
        self._discharge = _column(devices, "discharge_efficiency", 1.0)
        self._stays = stays
        self.energy_kwh = np.full(len(devices), np.nan)

    def power(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Charge the vehicle that is there."""
        self._plug(at_s)
        free = np.isnan(setpoint_kw)
        wish = np.where(free, -self._max_draw_kw, setpoint_kw)
        wish = np.minimum(np.maximum(wish, -self._max_draw_kw), self._max_inject_kw)
        wish = np.where(np.abs(wish) < self._min_active_kw, 0.0, wish)
        ceiling_kwh = np.where(free, self._stays.target_kwh, self._capacity_kwh)
        held = _within_store(
            wish,
            self.energy_kwh * self._discharge / hours,
            (ceiling_kwh - self.energy_kwh) / self._charge / hours,
        )
        return np.where(self._stays.there, held, 0.0)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Hold that power for `hours`."""
        power_kw = self.power(at_s, setpoint_kw, hours)
        self.energy_kwh = self.energy_kwh + _stored(power_kw, hours, self._charge, self._discharge)
        return power_kw

    def steady_s(self, at_s: float, most_s: float) -> float:
        """Vehicles come and go; a full one ends what it draws within a step exactly."""
        self._plug(at_s)
        return min(most_s, self._stays.steady_until_s(at_s) - at_s)

    def _plug(self, at_s: float) -> None:
        self._stays.move_to(at_s)
        self.energy_kwh = np.where(self._stays.arrived, self._stays.initial_kwh, self.energy_kwh)

    def report(self) -> dict[str, Values]:
        """Return what the devices tell of themselves, by field of a reading."""
        there = self._stays.there
        return {
            "plugged_in": there.astype(float),
            "energy_kwh": np.where(there, self.energy_kwh, np.nan),
            "target_energy_kwh": np.where(there, self._stays.target_kwh, np.nan),
            "deadline_s": np.where(there, self._stays.end_s, np.nan),
        }


class HeatPumps:
    """Heat pumps and their buildings: C dT/dt = COP·P - (T - T_outdoor)/R, solved exactly.

    By default a thermostat switches the pump on at 20 % and off at 60 % of the comfort band.
    Whatever the set-point, it heats at full power one kelvin below the band and stands still one
    kelvin above it; a pump out of service does neither.
    """

    def __init__(self, devices: pl.DataFrame, outdoor_c: Outside, rng: np.random.Generator) -> None:
        self._rated_kw = _column(devices, "max_draw_kw")
        self._cop = _column(devices, "charge_efficiency")
        self._resistance = _column(devices, "thermal_resistance_k_per_kw")
        self._capacity = _column(devices, "thermal_capacity_kwh_per_k")
        self._coldest_c = _column(devices, "comfort_min_c")
        self._warmest_c = _column(devices, "comfort_max_c")
        self._outdoor_c = outdoor_c
        band_k = self._warmest_c - self._coldest_c
        self._time_constant_h = self._resistance * self._capacity
        self._on_below_c = self._coldest_c + _THERMOSTAT_ON * band_k
        self._off_above_c = self._coldest_c + _THERMOSTAT_OFF * band_k
        self.temperature_c = self._coldest_c + rng.uniform(0.2, 0.6, len(devices)) * band_k
        self.heating = np.zeros(len(devices), bool)
        self.out_of_service = np.zeros(len(devices), bool)

    def power(self, _at_s: float, setpoint_kw: Values, _hours: float) -> Values:
        """Follow the set-point, or the thermostat, within the building's protection."""
        wish = np.where(
            np.isnan(setpoint_kw),
            self._rated_kw * self._calls_for_heat(self.temperature_c),
            np.minimum(np.maximum(-setpoint_kw, 0.0), self._rated_kw),
        )
        too_cold = self.temperature_c < self._coldest_c - _PROTECTION_K
        too_warm = self.temperature_c > self._warmest_c + _PROTECTION_K
        drawn = np.where(too_cold, self._rated_kw, np.where(too_warm, 0.0, wish))
        return -np.where(self.out_of_service, 0.0, drawn)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Hold that power for `hours`."""
        power_kw = self.power(at_s, setpoint_kw, hours)
        self.heating = self._calls_for_heat(self.temperature_c)
        self.temperature_c = self._temperature_after(at_s, power_kw, hours)
        return power_kw

    def steady_s(self, at_s: float, most_s: float) -> float:
        """Thermostats look once a minute; the temperature between is exact at any length."""
        heating = self._calls_for_heat(self.temperature_c)
        power_kw = -self._rated_kw * heating
        minutes = np.arange(1, most_s // _MINUTE_S)[:, None]
        later = self._calls_for_heat(self._temperature_after(at_s, power_kw, minutes / 60))
        switches = np.flatnonzero((later != heating).any(axis=1))
        return most_s if switches.size == 0 else float(minutes[switches[0], 0]) * _MINUTE_S

    def _temperature_after(self, at_s: float, power_kw: Values, hours: float | Values) -> Values:
        settles_at_c = self._outdoor_c(at_s) - self._resistance * self._cop * power_kw
        retention = np.exp(-hours / self._time_constant_h)
        after: Values = settles_at_c + (self.temperature_c - settles_at_c) * retention
        return after

    def _calls_for_heat(self, temperature_c: Values) -> NDArray[np.bool_]:
        keeps = self.heating & (temperature_c <= self._off_above_c)
        return keeps | (temperature_c < self._on_below_c)

    def report(self) -> dict[str, Values]:
        """Return what the devices tell of themselves, by field of a reading."""
        return {"temperature_c": self.temperature_c}


class FlexibleLoads:
    """Loads that need an energy in a daily window: by default as early as they may.

    They never draw outside the window, nor more than the window needs.
    """

    def __init__(self, devices: pl.DataFrame, stays: Stays) -> None:
        self._max_draw_kw = _column(devices, "max_draw_kw")
        self._stays = stays
        self.energy_kwh = np.zeros(len(devices))

    def power(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Draw what the set-point, or haste, asks for and the window still needs."""
        self._open(at_s)
        wish = np.where(np.isnan(setpoint_kw), self._max_draw_kw, -setpoint_kw)
        needed_kw = (self._stays.target_kwh - self.energy_kwh) / hours
        most_kw = np.minimum(self._max_draw_kw, np.maximum(needed_kw, 0.0))
        drawn = np.minimum(np.maximum(wish, 0.0), most_kw)
        return -np.where(self._stays.there, drawn, 0.0)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Hold that power for `hours`."""
        power_kw = self.power(at_s, setpoint_kw, hours)
        self.energy_kwh = self.energy_kwh - power_kw * hours
        return power_kw

    def steady_s(self, at_s: float, most_s: float) -> float:
        """Windows open and close; what is done ends what is drawn within a step exactly."""
        self._open(at_s)
        return min(most_s, self._stays.steady_until_s(at_s) - at_s)

    def _open(self, at_s: float) -> None:
        self._stays.move_to(at_s)
        self.energy_kwh = np.where(self._stays.arrived, 0.0, self.energy_kwh)

    def report(self) -> dict[str, Values]:
        """Tell of the window at hand, else of the next one, of which nothing is done yet."""
        return {
            "energy_kwh": np.where(self._stays.there, self.energy_kwh, 0.0),
            "target_energy_kwh": self._stays.target_kwh,
            "deadline_s": np.where(np.isinf(self._stays.end_s), np.nan, self._stays.end_s),
        }


class Chps:
    """Combined heat and power: off, or between minimum and rated power; off by default."""

    def __init__(self, devices: pl.DataFrame) -> None:
        self._min_kw = _column(devices, "min_active_kw")
        self._ramp_kw_per_h = _column(devices, "ramp_kw_per_min", np.inf) * 60
        self.power_kw = np.zeros(len(devices))

    def power(self, _at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Ramp towards the set-point; starting goes to the minimum at once, stopping from it."""
        wish = _or_zero(setpoint_kw)
        runs = (wish >= self._min_kw) & (wish > 0)
        reach = self._ramp_kw_per_h * hours
        running = np.maximum(
            _ramped(np.maximum(wish, self._min_kw), np.maximum(self.power_kw, self._min_kw), reach),
            self._min_kw,
        )
        stopping = np.maximum(self.power_kw - reach, 0.0)
        stopping = np.where(stopping < self._min_kw, 0.0, stopping)
        return np.where(runs, running, stopping)

    def step(self, at_s: float, setpoint_kw: Values, hours: float) -> Values:
        """Hold that power for `hours`."""
        self.power_kw = self.power(at_s, setpoint_kw, hours)
        return self.power_kw

    def steady_s(self, _at_s: float, most_s: float) -> float:
        """Engines stand still once their ramps are down."""
        return min(most_s, _MINUTE_S) if self.power_kw.any() else most_s

    def report(self) -> dict[str, Values]:
        """A generator tells its power only."""
        return {}


def _column(devices: pl.DataFrame, name: str, absent: float = 0.0) -> Values:
    return devices[name].fill_null(absent).to_numpy().astype(float)


def _ramped(wish: Values, last: Values, reach: Values) -> Values:
    return np.minimum(np.maximum(wish, last - reach), last + reach)


def _or_zero(setpoint_kw: Values) -> Values:
    return np.where(np.isnan(setpoint_kw), 0.0, setpoint_kw)


def _within_store(wish: Values, most_inject_kw: Values, most_draw_kw: Values) -> Values:
    """Cut a wish down to what empties or fills the store exactly."""
    lowest, highest = -np.maximum(most_draw_kw, 0.0), np.maximum(most_inject_kw, 0.0)
    return np.minimum(np.maximum(wish, lowest), highest)


def _stored(power_kw: Values, hours: float, charge: Values, discharge: Values) -> Values:
    """Return what a power held for `hours` adds to the store, in kWh."""
    return hours * np.where(power_kw < 0, -power_kw * charge, -power_kw / discharge)
