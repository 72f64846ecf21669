"""A small plant and its frames, as dispatch's tests need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    Fleet,
    GridConnection,
    HeatPump,
    HttpConnection,
    Load,
    ModbusConnection,
    MqttConnection,
    PvInverter,
    Site,
)

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
BATTERY = Battery(
    device_id="battery",
    connection=ModbusConnection(),
    live=True,
    max_charge_kw=10,
    max_discharge_kw=8,
    energy_capacity_kwh=20,
    min_soc=0.1,
    max_soc=0.9,
    charge_efficiency=0.8,
    discharge_efficiency=0.5,
)
PV = PvInverter(device_id="pv", connection=ModbusConnection(), live=True, rated_power_kw=12)
EV = EvCharger(
    device_id="ev",
    connection=MqttConnection(),
    live=True,
    max_charge_kw=11,
    min_charge_kw=1.4,
    max_discharge_kw=5,
)
CHP = Chp(
    device_id="chp",
    connection=HttpConnection(url="http://127.0.0.1:1"),
    live=True,
    rated_power_kw=30,
    min_power_kw=9,
)
HEAT_PUMP = HeatPump(
    device_id="heat-pump", connection=MqttConnection(), live=False, rated_power_kw=3
)
LOAD = Load(device_id="load", connection=ModbusConnection(), max_power_kw=9)
ALL = (BATTERY, PV, EV, CHP, HEAT_PUMP, LOAD)


@cache
def devices(*plant: object) -> pl.DataFrame:
    return device_frame(
        Fleet(
            sites=(
                Site(
                    site_id="site",
                    latitude=52.5,
                    longitude=13.4,
                    grid=GridConnection(import_limit_kw=100, export_limit_kw=100),
                    devices=plant or ALL,
                ),
            )
        )
    )


def schedules(rows: dict[str, float | None], start: datetime = START) -> pl.DataFrame:
    """PV rows carry their number as the cap, all others as the set-point."""
    return pl.DataFrame(
        [
            (name, start, 0.0, kw, None)
            if name in {"pv", "wind"}
            else (name, start, kw, None, None)
            for name, kw in rows.items()
        ],
        schema={
            "device_id": pl.String,
            "interval_start": pl.Datetime("us", "UTC"),
            "power_kw": pl.Float64,
            "limit_kw": pl.Float64,
            "energy_kwh": pl.Float64,
        },
        orient="row",
    )


def telemetry(device_id: str, **fields: object) -> pl.DataFrame:
    """One healthy reading, just before START, but for `fields`."""
    healthy = {
        "energy_kwh": 10.0 if device_id == "battery" else None,
        "plugged_in": True if device_id == "ev" else None,
    }
    row = {
        "device_id": device_id,
        "measured_at": START - timedelta(seconds=5),
        "status": "ok",
        **healthy,
        **fields,
    }
    schema = {
        name: dtype for name, dtype in Telemetry.create_empty().schema.items() if name != "status"
    }
    return pl.DataFrame([row], schema={**schema, "status": pl.String})


def fleet_telemetry(**fields: object) -> pl.DataFrame:
    return pl.concat([telemetry(device.device_id, **fields) for device in ALL])
