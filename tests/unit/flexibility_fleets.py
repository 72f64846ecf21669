"""Small fleets, states and forecasts that the tests of envelopes and plans are built from.

Belongs here: making inputs. Does not: any promise.
"""

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    Fleet,
    FlexibleLoad,
    GridConnection,
    Group,
    HeatPump,
    Load,
    PvInverter,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.flexibility.states import usable_states

WINTER_DAY = date(2025, 1, 15)
SPRING_CHANGE = date(2025, 3, 30)
AUTUMN_CHANGE = date(2025, 10, 26)
_HTTP = SimulatedConnection(over="http")
_UTC = pl.Datetime("us", "UTC")


def site(name, devices, *, import_kw=100.0, export_kw=100.0, timezone="Europe/Berlin"):
    return Site(
        site_id=name,
        latitude=52.5,
        longitude=13.4,
        timezone=timezone,
        grid=GridConnection(import_limit_kw=import_kw, export_limit_kw=export_kw),
        devices=tuple(devices),
    )


def battery(name, **given):
    values = {"max_charge_kw": 5, "max_discharge_kw": 5, "energy_capacity_kwh": 10}
    return Battery(device_id=name, connection=_HTTP, **(values | given))


def vehicle(name, **given):
    return EvCharger(device_id=name, connection=_HTTP, **({"max_charge_kw": 11} | given))


def pv(name, **given):
    return PvInverter(device_id=name, connection=_HTTP, **({"rated_power_kw": 8} | given))


def heat_pump(name, **given):
    return HeatPump(device_id=name, connection=_HTTP, **({"rated_power_kw": 3} | given))


def flexible_load(name, **given):
    values = {"rated_power_kw": 2, "energy_kwh": 4}
    return FlexibleLoad(device_id=name, connection=_HTTP, **(values | given))


def chp(name, **given):
    return Chp(device_id=name, connection=_HTTP, **({"rated_power_kw": 20} | given))


def load(name, **given):
    return Load(device_id=name, connection=_HTTP, **({"max_power_kw": 50} | given))


def frame(*sites, groups=()):
    return device_frame(Fleet(sites=sites, groups=tuple(groups)))


def group(name, *members):
    return Group(group_id=name, devices=members)


def telemetry(devices, at, **of_device):
    """One fresh, ordinary reading a device; `of_device` overrides fields of one."""
    rows = []
    for row in devices.iter_rows(named=True):
        kind = str(row["device_type"])
        reading = {"device_id": row["device_id"], "measured_at": at, "power_kw": 0.0}
        if kind == "battery":
            reading["energy_kwh"] = row["energy_capacity_kwh"] / 2
        elif kind == "ev_charger":
            reading |= {
                "energy_kwh": 10.0,
                "plugged_in": True,
                "target_energy_kwh": 40.0,
                "deadline": at + timedelta(hours=14),
            }
        elif kind == "heat_pump":
            reading["temperature_c"] = row["comfort_min_c"] + 1.0
        elif kind == "flexible_load":
            reading["energy_kwh"] = 0.0
        reading |= {"status": "ok", "known_at": at} | of_device.get(row["device_id"], {})
        rows.append(reading)
    schema = {
        "device_id": pl.String,
        "measured_at": _UTC,
        "power_kw": pl.Float64,
        "setpoint_kw": pl.Float64,
        "energy_kwh": pl.Float64,
        "temperature_c": pl.Float64,
        "plugged_in": pl.Boolean,
        "target_energy_kwh": pl.Float64,
        "deadline": _UTC,
        "available_power_kw": pl.Float64,
        "heartbeat": pl.Int64,
        "status": pl.String,
        "known_at": _UTC,
    }
    return pl.DataFrame(rows, schema=schema)


def forecasts(devices, intervals, known_at, *, load_kw=-1.0, sun_kw=4.0):
    """A flat load, and a sun that shines in the middle half of the horizon."""
    steps = len(intervals)
    shine = np.where(np.abs(np.arange(steps) - steps / 2) < steps / 4, sun_kw, 0.0)
    frames = []
    for row in devices.iter_rows(named=True):
        kind = str(row["device_type"])
        if kind in {"load", "pv", "wind"}:
            p50 = np.full(steps, load_kw) if kind == "load" else shine
            frames.append(
                pl.DataFrame({"interval_start": intervals, "p50": p50}).with_columns(
                    target=pl.lit(kind), subject_id=pl.lit(row["device_id"])
                )
            )
    empty = {
        "interval_start": _UTC,
        "p50": pl.Float64,
        "target": pl.String,
        "subject_id": pl.String,
    }
    return pl.concat(frames or [pl.DataFrame(schema=empty)]).with_columns(
        p10=pl.col("p50"), p90=pl.col("p50"), model=pl.lit("test"), known_at=pl.lit(known_at)
    )


def sessions(*rows):
    """Sessions known for certain: (device, arrival, departure, energy_kwh, probability, known_at)."""
    schema = {
        "device_id": pl.String,
        "arrival_p50": _UTC,
        "departure_p50": _UTC,
        "energy_p50_kwh": pl.Float64,
        "probability": pl.Float64,
        "known_at": _UTC,
    }
    told = pl.DataFrame(list(rows), schema=schema, orient="row")
    return told.with_columns(
        pl.col(name).alias(name.replace("p50", quantile))
        for name in ("arrival_p50", "departure_p50", "energy_p50_kwh")
        for quantile in ("p10", "p90")
    )


def temperatures(devices, intervals, outdoor_c=5.0):
    return (
        devices.select("site_id")
        .unique(maintain_order=True)
        .join(pl.DataFrame({"interval_start": intervals}), how="cross")
        .with_columns(temperature_c=pl.lit(outdoor_c))
    )


def prices(intervals, values):
    return pl.DataFrame(
        {"interval_start": intervals, "price_eur_per_mwh": np.broadcast_to(values, len(intervals))}
    ).cast({"price_eur_per_mwh": pl.Float64})


def envelopes(devices, intervals=None, *, of_device=None, expected=None, outdoor_c=5.0, **weather):
    """Envelopes from ordinary states, read just as the horizon starts."""
    intervals = day_intervals(WINTER_DAY, "Europe/Berlin") if intervals is None else intervals
    at = intervals[0]
    states = usable_states(
        devices, telemetry(devices, at, **(of_device or {})), at, timedelta(minutes=10)
    )
    return device_envelopes(
        devices,
        states,
        forecasts(devices, intervals, at, **weather),
        sessions() if expected is None else expected,
        temperatures(devices, intervals, outdoor_c),
        intervals,
        at,
    )


def mixed_fleet(sites, seed=0):
    """`sites` homes, each with a load and PV, and in turn a battery, a vehicle, a heat pump…"""
    rng = np.random.default_rng(seed)
    homes = []
    for i in range(sites):
        devices = [load(f"load-{i}"), pv(f"pv-{i}", rated_power_kw=float(rng.uniform(3, 10)))]
        if i % 2 == 0:
            kw = float(rng.uniform(3, 8))
            devices.append(
                battery(
                    f"battery-{i}",
                    max_charge_kw=kw,
                    max_discharge_kw=kw,
                    energy_capacity_kwh=float(rng.uniform(5, 20)),
                )
            )
        if i % 3 != 1:
            two_way = 7.0 if i % 4 == 0 else 0.0
            devices.append(vehicle(f"vehicle-{i}", max_discharge_kw=two_way))
        if i % 3 == 1:
            devices.append(heat_pump(f"heat-pump-{i}"))
        if i % 4 == 3:
            devices.append(flexible_load(f"washer-{i}", earliest=time(22), latest=time(6)))
        if i % 5 == 4:
            devices.append(chp(f"chp-{i}", min_power_kw=8, ramp_kw_per_min=0.5))
        homes.append(site(f"site-{i}", devices, import_kw=14, export_kw=10))
    return frame(*homes)


def hour(at, hours):
    return at + timedelta(hours=hours)


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)
