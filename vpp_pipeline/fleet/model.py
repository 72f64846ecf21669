"""The plant as typed, frozen models: the registry's vocabulary.

Belongs here: what a site, a device, a connection and a group are, and the rules one of them
must keep by itself. Does not: reading files (`registry`), rules across records (`registry`),
frames (`frame`).

Powers are magnitudes in kW here; signs (positive injects) begin where set-points do.
"""

from __future__ import annotations

from datetime import time
from functools import cache
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

Number = Annotated[float, Strict()]  # else `true` would be read as 1
WholeNumber = Annotated[int, Strict()]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
PowerKw = Annotated[Number, Field(gt=0, le=1e6, allow_inf_nan=False)]
PowerKwOrZero = Annotated[Number, Field(ge=0, le=1e6, allow_inf_nan=False)]
EnergyKwh = Annotated[Number, Field(gt=0, le=1e7, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]
Host = Annotated[str, Field(pattern=r"^\S+$")]
Efficiency = Annotated[Number, Field(gt=0, le=1, allow_inf_nan=False)]
Hours = Annotated[Number, Field(ge=0, le=168, allow_inf_nan=False)]


@cache
def time_zones() -> frozenset[str]:
    """Return the names of the time zones a site may stand in (IANA)."""
    return frozenset(available_timezones())


def _broken(reason: str, remedy: str) -> PydanticCustomError:
    """Return the error of a rule between fields; `registry` reads the remedy from its context."""
    return PydanticCustomError("rule", "{reason}", {"reason": reason, "remedy": remedy})


def _check_above(value: float, low: float | None, low_name: str) -> None:
    """Refuse an upper bound not above its lower one; a lower one that is invalid is None here."""
    if low is not None and value <= low:
        raise _broken(f"is not above {low_name} ({low:g})", f"raise it or lower {low_name}")


def _check_at_most(value: float, high: float | None, high_name: str) -> None:
    """Refuse a lower bound above its upper one; an upper one that is invalid is None here."""
    if high is not None and value > high:
        raise _broken(f"is above {high_name} ({high:g})", f"lower it or raise {high_name}")


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class ModbusConnection(_Record):
    """A device behind Modbus TCP: SunSpec, or as its vendor's register map tells."""

    protocol: Literal["modbus"] = "modbus"
    host: Host = "127.0.0.1"
    port: Annotated[WholeNumber, Field(ge=1, le=65535)] = 502
    unit_id: Annotated[WholeNumber, Field(ge=1, le=247)] = 1
    base_address: Literal[0, 40000, 50000] = 40000
    register_map: Identifier | None = None
    """A vendor's map by name; none is SunSpec."""
    tls: StrictBool = False
    credentials: Identifier | None = None
    """Which credentials are shown to the device; secrets themselves are never in the registry."""


class MqttConnection(_Record):
    """A device on a broker, under the topics `vpp/v1/<device>/…`."""

    protocol: Literal["mqtt"] = "mqtt"
    host: Host = "127.0.0.1"
    port: Annotated[WholeNumber, Field(ge=1, le=65535)] = 1883
    tls: StrictBool = False
    credentials: Identifier | None = None


class HttpConnection(_Record):
    """A device behind a REST interface."""

    protocol: Literal["http"] = "http"
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]\S*$")]
    credentials: Identifier | None = None


class OcppConnection(_Record):
    """A charge point that calls our central system, and one of its connectors."""

    protocol: Literal["ocpp"] = "ocpp"
    charge_point_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._=+|@*-]{1,48}$")]
    connector_id: Annotated[WholeNumber, Field(ge=1, le=100)] = 1


class SimulatedConnection(_Record):
    """A simulated device: the simulator chooses a free loopback address when it starts."""

    protocol: Literal["simulated"] = "simulated"
    over: Literal["modbus", "mqtt", "http", "ocpp"]


Connection = Annotated[
    ModbusConnection | MqttConnection | HttpConnection | OcppConnection | SimulatedConnection,
    Field(discriminator="protocol"),
]


class _Device(_Record):
    device_id: Identifier
    connection: Connection
    live: StrictBool = False
    """A real device may be written only where this is true; a simulated one never is live."""
    tags: tuple[Identifier, ...] = ()

    @field_validator("live")
    @classmethod
    def _live_is_not_simulated(cls, live: bool, info: ValidationInfo) -> bool:
        if live and isinstance(info.data.get("connection"), SimulatedConnection):
            raise _broken(
                "a simulated device can't be live", "remove `live` or name the device's address"
            )
        return live


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
    wear_cost_eur_per_kwh: Annotated[Number, Field(ge=0, le=10)] = 0.02
    ramp_kw_per_s: PowerKw | None = None

    @field_validator("max_soc")
    @classmethod
    def _soc_window(cls, max_soc: float, info: ValidationInfo) -> float:
        _check_above(max_soc, info.data.get("min_soc"), "min_soc")
        return max_soc


class PvInverter(_Device):
    """A photovoltaic inverter; its output can be curtailed."""

    type: Literal["pv"] = "pv"
    rated_power_kw: PowerKw
    tilt_deg: Annotated[Number, Field(ge=0, le=90)] = 30.0
    azimuth_deg: Annotated[Number, Field(ge=0, lt=360)] = 180.0


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
    wear_cost_eur_per_kwh: Annotated[Number, Field(ge=0, le=10)] = 0.05
    unmet_cost_eur_per_kwh: Annotated[Number, Field(ge=0, le=100)] = 1.0

    @field_validator("min_charge_kw")
    @classmethod
    def _minimum_below_maximum(cls, min_charge_kw: float, info: ValidationInfo) -> float:
        _check_at_most(min_charge_kw, info.data.get("max_charge_kw"), "max_charge_kw")
        return min_charge_kw


class HeatPump(_Device):
    """A heat pump with the building (or a tank) as its thermal store: one resistance, one capacity.

    Indoor temperature follows C dT/dt = COP·P - (T - T_outdoor)/R.
    """

    type: Literal["heat_pump"] = "heat_pump"
    rated_power_kw: PowerKw
    cop: Annotated[Number, Field(ge=1, le=8)] = 3.2
    thermal_resistance_k_per_kw: Annotated[Number, Field(gt=0, le=1000)] = 6.0
    thermal_capacity_kwh_per_k: Annotated[Number, Field(gt=0, le=1000)] = 4.0
    comfort_min_c: Annotated[Number, Field(ge=-30, le=95)] = 20.0
    comfort_max_c: Annotated[Number, Field(ge=-30, le=95)] = 22.5
    discomfort_cost_eur_per_kwh: Annotated[Number, Field(ge=0, le=100)] = 0.5

    @field_validator("comfort_max_c")
    @classmethod
    def _comfort_band(cls, comfort_max_c: float, info: ValidationInfo) -> float:
        _check_above(comfort_max_c, info.data.get("comfort_min_c"), "comfort_min_c")
        return comfort_max_c


class FlexibleLoad(_Device):
    """A load that needs `energy_kwh` each day between two local times, and may be shifted there.

    A window whose end is not after its start ends on the next day.
    """

    type: Literal["flexible_load"] = "flexible_load"
    rated_power_kw: PowerKw
    energy_kwh: EnergyKwh
    earliest: time = time(8)
    latest: time = time(20)
    interruptible: StrictBool = True
    """Where false it runs at its rated power, once begun, until it is done."""
    unmet_cost_eur_per_kwh: Annotated[Number, Field(ge=0, le=100)] = 1.0

    @field_validator("earliest", "latest")
    @classmethod
    def _local_time(cls, moment: time) -> time:
        if moment.tzinfo is not None:
            raise _broken("is no local time of day", "write the site's local time, such as '20:00'")
        return moment


class Chp(_Device):
    """A combined heat and power unit: off, or between its minimum and its rated power.

    Once on it stays on for `min_run_h`, once off it stays off for `min_rest_h`.
    """

    type: Literal["chp"] = "chp"
    rated_power_kw: PowerKw
    min_power_kw: PowerKwOrZero = 0.0
    min_run_h: Hours = 0.0
    min_rest_h: Hours = 0.0
    ramp_kw_per_min: PowerKw | None = None
    marginal_cost_eur_per_mwh: Annotated[Number, Field(ge=-1000, le=5000)] = 60.0

    @field_validator("min_power_kw")
    @classmethod
    def _minimum_below_rated(cls, min_power_kw: float, info: ValidationInfo) -> float:
        _check_at_most(min_power_kw, info.data.get("rated_power_kw"), "rated_power_kw")
        return min_power_kw


class Load(_Device):
    """What a site draws and nobody steers, as its meter sees it; read, never written."""

    type: Literal["load"] = "load"
    max_power_kw: PowerKw


Device = Annotated[
    Battery | PvInverter | WindTurbine | EvCharger | HeatPump | FlexibleLoad | Chp | Load,
    Field(discriminator="type"),
]


class GridConnection(_Record):
    """What the site may draw from and inject into the grid.

    A site with a failsafe limit is steered by its grid operator: it keeps to the failsafe while
    nothing valid is known of the operator's limit.
    """

    import_limit_kw: PowerKw
    export_limit_kw: PowerKwOrZero
    failsafe_import_kw: PowerKwOrZero | None = None
    failsafe_export_kw: PowerKwOrZero | None = None


class Site(_Record):
    """One grid connection and the devices behind it."""

    site_id: Identifier
    name: str = ""
    latitude: Annotated[Number, Field(ge=-90, le=90)]
    longitude: Annotated[Number, Field(ge=-180, le=180)]
    timezone: str = "Europe/Berlin"
    grid: GridConnection
    tags: tuple[Identifier, ...] = ()
    devices: tuple[Device, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in time_zones():
            raise _broken("is no IANA time zone", "write one such as Europe/Berlin")
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
