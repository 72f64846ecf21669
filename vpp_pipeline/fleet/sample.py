"""Made-up fleets of any size, for trying things out and for measuring them.

Belongs here: drawing sites and devices with ratings as they are sold. Does not: the fleet of the
demo (`demo.yaml`), how simulated devices behave (`simulation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.fleet.columns import COLUMNS
from vpp_pipeline.fleet.table import fleet_of, with_defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from vpp_pipeline.fleet.model import Fleet

_FEWEST = 5
_DEVICES_A_SITE = 4
_LATITUDE, _LONGITUDE = 39.74, 14.82  # where the sun fits the shipped PV measurements
_TWO_WAY_SHARE = 0.2

# Shares of a residential and small commercial fleet, usual protocols, and a small unit's rating.
_MIX = pl.DataFrame(
    [
        ("battery", "modbus", 0.28, 5.0),
        ("pv", "modbus", 0.22, 8.0),
        ("ev_charger", "mqtt", 0.18, 11.0),
        ("heat_pump", "http", 0.12, 3.0),
        ("flexible_load", "mqtt", 0.07, 4.0),
        ("chp", "modbus", 0.01, 15.0),
        ("wind", "modbus", 0.01, 30.0),
        ("load", "mqtt", 0.11, 6.0),
    ],
    schema=["type", "connection_over", "share", "unit_kw"],
    orient="row",
)


def sample_fleet(devices: int, seed: int) -> Fleet:
    """Return a simulated fleet of so many devices (5 or more); the same for the same seed."""
    return fleet_of(sample_table(devices, seed))


def sample_table(devices: int, seed: int) -> pl.DataFrame:
    """Return the fleet of `sample_fleet` as the registry's flat table: quick for 100,000 devices.

    About four devices stand behind one grid connection, which is sized for 70 % of what they
    could draw at once and all that they could inject. Raises ValueError below 5 devices.
    """
    if devices < _FEWEST:
        raise ValueError(f"{devices} devices are too few for a sample; ask for {_FEWEST} or more")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(_MIX.height, devices - _FEWEST, p=_MIX["share"].to_numpy())
    number = np.arange(devices)
    spread = rng.uniform(0.8, 1.2, devices)
    size = rng.choice([1.0, 1.0, 1.0, 2.0, 5.0], devices)
    frame = _MIX[np.concatenate([np.arange(_FEWEST), drawn])].with_columns(
        number=number,
        site=number // _DEVICES_A_SITE,
        size=size,
        spread=spread,
        two_way=rng.random(devices) < _TWO_WAY_SHARE,
        north_deg=rng.uniform(-0.3, 0.3, devices),
        east_deg=rng.uniform(-0.3, 0.3, devices),
        turned_deg=rng.uniform(-60, 60, devices),
    )
    return with_defaults(_rated(frame).select(COLUMNS.keys()))


def _rated(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the drawn devices with every column of the registry's table."""
    rating = (pl.col("unit_kw") * pl.col("size") * pl.col("spread")).round(1)
    battery, charger = _value_of("battery"), _value_of("ev_charger")
    pump, shiftable, chp = _value_of("heat_pump"), _value_of("flexible_load"), _value_of("chp")
    pv, wind, load = _value_of("pv"), _value_of("wind"), _value_of("load")
    charger_kw = pl.when(pl.col("size") > 1).then(22.0).otherwise(11.0)
    own = frame.with_columns(
        device_id=pl.format("{}-{}", "type", pl.col("number").cast(pl.String).str.zfill(6)),
        site_id=pl.format("site-{}", pl.col("site").cast(pl.String).str.zfill(5)),
        latitude=(_LATITUDE + pl.col("north_deg").first().over("site")).round(4),
        longitude=(_LONGITUDE + pl.col("east_deg").first().over("site")).round(4),
        connection_protocol=pl.lit("simulated"),
        tags=pl.concat_list("type"),
        groups=pl.concat_list(
            pl.when(pl.col("north_deg").first().over("site") > 0)
            .then(pl.lit("north"))
            .otherwise(pl.lit("south"))
        ),
        max_charge_kw=pl.coalesce(battery(rating), charger(charger_kw)),
        max_discharge_kw=pl.coalesce(
            battery(rating), charger(pl.when("two_way").then(charger_kw).otherwise(0.0))
        ),
        energy_capacity_kwh=battery(rating * 2),
        vehicle_capacity_kwh=charger((60 * pl.col("spread")).round(0)),
        rated_power_kw=pl.coalesce(kind(rating) for kind in (pv, wind, pump, shiftable, chp)),
        azimuth_deg=pv((180 + pl.col("turned_deg")).round(0)),
        cop=pump((3.2 * pl.col("spread")).round(2)),
        thermal_resistance_k_per_kw=pump((6 / pl.col("size")).round(2)),
        thermal_capacity_kwh_per_k=pump(4 * pl.col("size")),
        energy_kwh=shiftable((rating * 3).round(1)),
        min_power_kw=chp((rating / 2).round(1)),
        max_power_kw=load(rating),
    )
    draws = pl.coalesce(
        "max_charge_kw", "max_power_kw", pl.coalesce(pump(rating), shiftable(rating)), 0.0
    )
    injects = pl.coalesce("max_discharge_kw", pv(rating), wind(rating), chp(rating), 0.0)
    limited = own.with_columns(
        import_limit_kw=pl.max_horizontal(draws.sum().over("site") * 0.7, 5.0).round(1),
        export_limit_kw=injects.sum().over("site").round(1),
    )
    blank = {name: dtype for name, dtype in COLUMNS.items() if name not in limited.columns}
    return limited.with_columns(pl.lit(None, dtype=t).alias(name) for name, t in blank.items())


def _value_of(device_type: str) -> Callable[[pl.Expr], pl.Expr]:
    """Return what gives an expression's value to one device type and null to all others."""
    return lambda value: pl.when(pl.col("type") == device_type).then(value)
