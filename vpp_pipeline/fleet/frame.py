"""The fleet as a frame: one row a device, the shape every vectorised stage works on.

Belongs here: the schema and `Fleet` → frame. Does not: state that changes (telemetry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl

from vpp_pipeline.fleet.table import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vpp_pipeline.fleet.model import Fleet

_NAMED_AT_MOST = 10


class DeviceFrame(dy.Schema):
    """One row a device. A column that a type does not have is null there.

    Powers are magnitudes in kW. `max_inject_kw` and `max_draw_kw` are the nameplate in the
    pipeline's sign: a set-point lies in [-max_draw_kw, max_inject_kw]. A store is anything that
    has an energy: a battery, a vehicle, the building behind a heat pump (kWh thermal above
    `comfort_min_c`), a flexible load (kWh consumed in the window).
    """

    device_id = dy.String(primary_key=True)
    site_id = dy.String()
    device_type = dy.Enum(
        ["battery", "pv", "wind", "ev_charger", "heat_pump", "flexible_load", "chp", "load"]
    )
    protocol = dy.Enum(["modbus", "mqtt", "http", "ocpp"])
    endpoint = dy.String(
        nullable=True, description="host:port, URL, charge point; null until a simulator told"
    )
    unit_id = dy.Int64(nullable=True, description="Modbus unit, OCPP connector")
    register_map = dy.String(nullable=True, description="Modbus: a vendor's map; null is SunSpec")
    base_address = dy.Int64(
        nullable=True, description="Modbus: where a SunSpec map is looked for first"
    )
    tls = dy.Bool()
    credentials = dy.String(nullable=True, description="their name, never a secret")
    live = dy.Bool()
    simulated = dy.Bool()
    controllable = dy.Bool(description="false for a plain load")
    tags = dy.List(dy.String(), description="the device's own and its site's")
    groups = dy.List(dy.String())
    latitude = dy.Float64()
    longitude = dy.Float64()
    timezone = dy.String()
    site_import_limit_kw = dy.Float64(min=0)
    site_export_limit_kw = dy.Float64(min=0)
    site_failsafe_import_kw = dy.Float64(
        min=0, nullable=True, description="while nothing was heard from the grid operator"
    )
    site_failsafe_export_kw = dy.Float64(
        min=0, nullable=True, description="while nothing was heard from the grid operator"
    )
    max_inject_kw = dy.Float64(min=0)
    max_draw_kw = dy.Float64(min=0)
    min_active_kw = dy.Float64(
        min=0, description="smallest non-zero power: EV 6 A, CHP minimum; else 0"
    )
    energy_capacity_kwh = dy.Float64(nullable=True)
    min_energy_kwh = dy.Float64(nullable=True)
    max_energy_kwh = dy.Float64(nullable=True)
    charge_efficiency = dy.Float64(
        nullable=True, description="COP for a heat pump, 1 for a flexible load"
    )
    discharge_efficiency = dy.Float64(nullable=True)
    wear_cost_eur_per_kwh = dy.Float64(
        min=0, description="per kWh through the device; 0 where it has none"
    )
    unmet_cost_eur_per_kwh = dy.Float64(
        nullable=True, description="EV, flexible load, heat pump (discomfort)"
    )
    thermal_resistance_k_per_kw = dy.Float64(nullable=True)
    thermal_capacity_kwh_per_k = dy.Float64(nullable=True)
    comfort_min_c = dy.Float64(nullable=True)
    comfort_max_c = dy.Float64(nullable=True)
    required_energy_kwh = dy.Float64(nullable=True, description="flexible load: a day's need")
    window_start = dy.Time(nullable=True, description="flexible load, local time")
    window_end = dy.Time(nullable=True)
    interruptible = dy.Bool(
        description="false for a load that runs on, once begun, until it is done"
    )
    ramp_kw_per_min = dy.Float64(nullable=True)
    min_run_h = dy.Float64(min=0, description="CHP: least time on, and off; else 0")
    min_rest_h = dy.Float64(min=0)
    marginal_cost_eur_per_mwh = dy.Float64(nullable=True, description="CHP")
    tilt_deg = dy.Float64(nullable=True)
    azimuth_deg = dy.Float64(nullable=True)


def device_frame(fleet: Fleet) -> dy.DataFrame[DeviceFrame]:
    """Return a fleet's devices in the registry's order, one row each."""
    return frame_of(table_of(fleet))


def frame_of(table: pl.DataFrame) -> dy.DataFrame[DeviceFrame]:
    """Return the devices of a checked flat table (`table.COLUMNS`, defaults filled in).

    A simulated device has no endpoint yet; see `with_endpoints`.
    """
    kind, protocol = pl.col("type"), pl.col("connection_protocol")
    rated = pl.col("rated_power_kw")
    simulated = protocol == "simulated"
    thermal_kwh = (pl.col("comfort_max_c") - pl.col("comfort_min_c")) * pl.col(
        "thermal_capacity_kwh_per_k"
    )
    capacity = pl.coalesce("energy_capacity_kwh", "vehicle_capacity_kwh", thermal_kwh, "energy_kwh")
    frame = table.select(
        "device_id",
        "site_id",
        "latitude",
        "longitude",
        "timezone",
        "groups",
        "live",
        "thermal_resistance_k_per_kw",
        "thermal_capacity_kwh_per_k",
        "comfort_min_c",
        "comfort_max_c",
        "marginal_cost_eur_per_mwh",
        "tilt_deg",
        "azimuth_deg",
        device_type=kind,
        protocol=pl.when(simulated).then("connection_over").otherwise(protocol),
        endpoint=pl.coalesce(
            "connection_url",
            pl.format("{}:{}", pl.col("connection_host"), pl.col("connection_port")),
            "connection_charge_point_id",
        ),
        unit_id=pl.coalesce("connection_unit_id", "connection_connector_id"),
        register_map=pl.col("connection_register_map"),
        base_address=pl.col("connection_base_address"),
        tls=pl.col("connection_tls").fill_null(value=False),
        credentials=pl.col("connection_credentials"),
        simulated=simulated,
        controllable=kind != "load",
        tags=pl.concat_list("tags", "site_tags").list.unique().list.sort(),
        site_import_limit_kw=pl.col("import_limit_kw"),
        site_export_limit_kw=pl.col("export_limit_kw"),
        site_failsafe_import_kw=pl.col("failsafe_import_kw"),
        site_failsafe_export_kw=pl.col("failsafe_export_kw"),
        max_inject_kw=pl.coalesce(
            "max_discharge_kw", pl.when(kind.is_in(["pv", "wind", "chp"])).then(rated), 0.0
        ),
        max_draw_kw=pl.coalesce(
            "max_charge_kw",
            "max_power_kw",
            pl.when(kind.is_in(["heat_pump", "flexible_load"])).then(rated),
            0.0,
        ),
        min_active_kw=pl.coalesce("min_charge_kw", "min_power_kw", 0.0),
        energy_capacity_kwh=capacity,
        min_energy_kwh=pl.coalesce(pl.col("min_soc") * capacity, capacity * 0),
        max_energy_kwh=pl.coalesce(pl.col("max_soc") * capacity, capacity),
        charge_efficiency=pl.coalesce(
            "charge_efficiency", "cop", pl.when(kind == "flexible_load").then(1.0)
        ),
        discharge_efficiency=pl.coalesce(
            "discharge_efficiency", pl.when(kind.is_in(["heat_pump", "flexible_load"])).then(1.0)
        ),
        wear_cost_eur_per_kwh=pl.coalesce("wear_cost_eur_per_kwh", 0.0),
        unmet_cost_eur_per_kwh=pl.coalesce("unmet_cost_eur_per_kwh", "discomfort_cost_eur_per_kwh"),
        required_energy_kwh=pl.col("energy_kwh"),
        window_start=pl.col("earliest"),
        window_end=pl.col("latest"),
        interruptible=pl.col("interruptible").fill_null(value=True),
        min_run_h=pl.col("min_run_h").fill_null(0.0),
        min_rest_h=pl.col("min_rest_h").fill_null(0.0),
        ramp_kw_per_min=pl.coalesce("ramp_kw_per_min", pl.col("ramp_kw_per_s") * 60),
    )
    return DeviceFrame.validate(frame, cast=True)


def told_endpoints(
    devices: dy.DataFrame[DeviceFrame], endpoints: Mapping[str, Mapping[str, Any]]
) -> dy.DataFrame[DeviceFrame]:
    """Return the devices with the addresses that a simulator has told, or null where it has not.

    `endpoints` maps a device to `{"endpoint": host:port or URL}` and where it has them its
    `unit_id` (Modbus) and the name of its `credentials`; real devices keep their own.
    """
    told = pl.DataFrame(
        [
            (name, told["endpoint"], told.get("unit_id"), told.get("credentials"))
            for name, told in endpoints.items()
        ],
        schema={
            "device_id": pl.String,
            "told": pl.String,
            "told_unit": pl.Int64,
            "told_credentials": pl.String,
        },
        orient="row",
    )
    merged = devices.join(told, on="device_id", how="left", maintain_order="left").with_columns(
        endpoint=pl.when("simulated").then("told").otherwise("endpoint"),
        unit_id=pl.when("simulated").then("told_unit").otherwise("unit_id"),
        credentials=pl.when("simulated").then("told_credentials").otherwise("credentials"),
    )
    return DeviceFrame.validate(merged.select(devices.columns))


def with_endpoints(
    devices: dy.DataFrame[DeviceFrame], endpoints: Mapping[str, Mapping[str, Any]]
) -> dy.DataFrame[DeviceFrame]:
    """Return the devices with every address, as `told_endpoints` does.

    Raises ValueError naming the devices that are left without one.
    """
    merged = told_endpoints(devices, endpoints)
    silent = merged.filter(pl.col("endpoint").is_null())["device_id"].to_list()
    if silent:
        names = ", ".join(silent[:_NAMED_AT_MOST])
        raise ValueError(
            f"{len(silent)} devices have no endpoint: {names}"
            f"{' …' if len(silent) > _NAMED_AT_MOST else ''};"
            " start the simulator with this fleet, or give them a real connection"
        )
    return merged
