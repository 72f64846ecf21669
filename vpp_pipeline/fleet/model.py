"""The plant as typed, frozen models: the registry's vocabulary.

Belongs here: what a site, a device, a connection and a group are, and the rules one of them
must keep by itself. Does not: reading files (`registry`), rules across records (`registry`),
frames (`frame`).

Powers are magnitudes in kW here; signs (positive injects) begin where set-points do.
"""

from __future__ import annotations

from datetime import time
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
PowerKw = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
PowerKwOrZero = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
EnergyKwh = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Efficiency = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModbusConnection(_Record):
    """A SunSpec device behind Modbus TCP."""

    protocol: Literal["modbus"] = "modbus"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 502
    unit_id: Annotated[int, Field(ge=1, le=247)] = 1
    base_address: Literal[0, 40000, 50000] = 40000


class MqttConnection(_Record):
    """A device on a broker, under the topics `vpp/v1/<device>/…`."""

    protocol: Literal["mqtt"] = "mqtt"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883


class HttpConnection(_Record):
    """A device behind a REST interface."""

    protocol: Literal["http"] = "http"
    url: Annotated[str, Field(pattern=r"^https?://")]


class SimulatedConnection(_Record):
    """A simulated device: the simulator chooses a free loopback address when it starts."""

    protocol: Literal["simulated"] = "simulated"
    over: Literal["modbus", "mqtt", "http"]


Connection = Annotated[
    ModbusConnection | MqttConnection | HttpConnection | SimulatedConnection,
    Field(discriminator="protocol"),
]


class _Device(_Record):
    device_id: Identifier
    connection: Connection
    live: bool = False
    """A real device may be written only where this is true; a simulated one never is live."""
    tags: tuple[Identifier, ...] = ()

    @model_validator(mode="after")
    def _live_is_not_simulated(self) -> Self:
        if self.live and isinstance(self.connection, SimulatedConnection):
            raise ValueError("a simulated device can't be live: remove `live` or name its address")
        return self


class Battery(_Device):
    """A stationary battery."""

    type: Literal["battery"] = "battery"
    max_charge_kw: PowerKw
    max_discharge_kw: PowerKw
    energy_capacity_kwh: EnergyKwh
    min_soc: Fraction = 0.1
    max_soc: Fraction = 0.95
    charge_efficiency: Efficiency = 0.95
    discharge_efficiency: Efficiency = 0.95
    wear_cost_eur_per_kwh: Annotated[float, Field(ge=0, le=10)] = 0.02
    ramp_kw_per_s: PowerKw | None = None

    @model_validator(mode="after")
    def _soc_window(self) -> Self:
        if self.min_soc >= self.max_soc:
            raise ValueError(f"min_soc {self.min_soc} is not below max_soc {self.max_soc}")
        return self


class PvInverter(_Device):
    """A photovoltaic inverter; its output can be curtailed."""

    type: Literal["pv"] = "pv"
    rated_power_kw: PowerKw
    tilt_deg: Annotated[float, Field(ge=0, le=90)] = 30.0
    azimuth_deg: Annotated[float, Field(ge=0, lt=360)] = 180.0


class WindTurbine(_Device):
    """A wind turbine; its output can be curtailed."""

    type: Literal["wind"] = "wind"
    rated_power_kw: PowerKw


class EvCharger(_Device):
    """A charge point; with `max_discharge_kw > 0` a bidirectional one (V2G)."""

    type: Literal["ev_charger"] = "ev_charger"
    max_charge_kw: PowerKw
    min_charge_kw: PowerKwOrZero = 1.4
    max_discharge_kw: PowerKwOrZero = 0.0
    vehicle_capacity_kwh: EnergyKwh = 60.0
    charge_efficiency: Efficiency = 0.92
    discharge_efficiency: Efficiency = 0.92
    wear_cost_eur_per_kwh: Annotated[float, Field(ge=0, le=10)] = 0.05
    unmet_cost_eur_per_kwh: Annotated[float, Field(ge=0, le=100)] = 1.0

    @model_validator(mode="after")
    def _minimum_below_maximum(self) -> Self:
        if self.min_charge_kw > self.max_charge_kw:
            raise ValueError(
                f"min_charge_kw {self.min_charge_kw} is above max_charge_kw {self.max_charge_kw}"
            )
        return self


class HeatPump(_Device):
    """A heat pump with the building (or a tank) as its thermal store: one resistance, one capacity.

    Indoor temperature follows C dT/dt = COP·P - (T - T_outdoor)/R.
    """

    type: Literal["heat_pump"] = "heat_pump"
    rated_power_kw: PowerKw
    cop: Annotated[float, Field(ge=1, le=8)] = 3.2
    thermal_resistance_k_per_kw: Annotated[float, Field(gt=0, le=1000)] = 6.0
    thermal_capacity_kwh_per_k: Annotated[float, Field(gt=0, le=1000)] = 4.0
    comfort_min_c: Annotated[float, Field(ge=-30, le=95)] = 20.0
    comfort_max_c: Annotated[float, Field(ge=-30, le=95)] = 22.5
    discomfort_cost_eur_per_kwh: Annotated[float, Field(ge=0, le=100)] = 0.5

    @model_validator(mode="after")
    def _comfort_band(self) -> Self:
        if self.comfort_min_c >= self.comfort_max_c:
            raise ValueError(
                f"comfort_min_c {self.comfort_min_c} is not below comfort_max_c {self.comfort_max_c}"
            )
        return self


class FlexibleLoad(_Device):
    """A load that needs `energy_kwh` each day between two local times, and may be shifted there.

    A window whose end is not after its start ends on the next day.
    """

    type: Literal["flexible_load"] = "flexible_load"
    rated_power_kw: PowerKw
    energy_kwh: EnergyKwh
    earliest: time = time(8)
    latest: time = time(20)
    unmet_cost_eur_per_kwh: Annotated[float, Field(ge=0, le=100)] = 1.0


class Chp(_Device):
    """A combined heat and power unit: off, or between its minimum and its rated power."""

    type: Literal["chp"] = "chp"
    rated_power_kw: PowerKw
    min_power_kw: PowerKwOrZero = 0.0
    ramp_kw_per_min: PowerKw | None = None
    marginal_cost_eur_per_mwh: Annotated[float, Field(ge=-1000, le=5000)] = 60.0

    @model_validator(mode="after")
    def _minimum_below_rated(self) -> Self:
        if self.min_power_kw > self.rated_power_kw:
            raise ValueError(
                f"min_power_kw {self.min_power_kw} is above rated_power_kw {self.rated_power_kw}"
            )
        return self


class Load(_Device):
    """What a site draws and nobody steers, as its meter sees it; read, never written."""

    type: Literal["load"] = "load"
    max_power_kw: PowerKw


Device = Annotated[
    Battery | PvInverter | WindTurbine | EvCharger | HeatPump | FlexibleLoad | Chp | Load,
    Field(discriminator="type"),
]


class GridConnection(_Record):
    """What the site may draw from and inject into the grid."""

    import_limit_kw: PowerKw
    export_limit_kw: PowerKwOrZero


class Site(_Record):
    """One grid connection and the devices behind it."""

    site_id: Identifier
    name: str = ""
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    timezone: str = "Europe/Berlin"
    grid: GridConnection
    tags: tuple[Identifier, ...] = ()
    devices: tuple[Device, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError(f"{name!r} is no IANA time zone; write one such as Europe/Berlin")
        return name


class Group(_Record):
    """A named set of devices: those listed, and those that carry one of the tags."""

    group_id: Identifier
    devices: tuple[Identifier, ...] = ()
    tags: tuple[Identifier, ...] = ()


class Fleet(_Record):
    """All sites and groups. Build one with `registry.load`, which checks it as a whole."""

    sites: tuple[Site, ...]
    groups: tuple[Group, ...] = ()
