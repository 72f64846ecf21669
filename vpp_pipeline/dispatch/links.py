"""The registry's devices as the drivers need them.

Belongs here: `DeviceFrame` → `DeviceLink`, who may be written, and the words for who may not.
Does not: connections.
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.devices.protocol import DeviceLink

WRITABLE = pl.col("controllable") & (pl.col("simulated") | pl.col("live"))
"""Of a `DeviceFrame`, who may be written: it can be controlled, and is simulated or marked `live`."""

READ_ONLY = "read-only: mark the device `live: true` to command it"
NO_ADDRESS = "no address: start the simulator, or register the device's endpoint"


def device_links(devices: pl.DataFrame) -> list[DeviceLink]:
    """Return a link for each row of a `DeviceFrame` whose endpoint is known.

    A device without an endpoint (its simulator has not started) has no link.
    """
    rows = devices.filter(pl.col("endpoint").is_not_null()).select(
        "device_id",
        device_type=pl.col("device_type").cast(pl.String),
        protocol=pl.col("protocol").cast(pl.String),
        endpoint="endpoint",
        unit_id="unit_id",
        max_inject_kw="max_inject_kw",
        max_draw_kw="max_draw_kw",
        register_map="register_map",
        base_address="base_address",
        tls="tls",
        credentials="credentials",
        energy_capacity_kwh="energy_capacity_kwh",
        writable=WRITABLE,
    )
    return [DeviceLink(**row) for row in rows.iter_rows(named=True)]
