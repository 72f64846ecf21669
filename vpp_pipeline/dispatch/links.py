"""The registry's devices as the drivers need them.

Belongs here: `DeviceFrame` → `DeviceLink`, who may be written, and the words for who may not.
Does not: connections.
"""

from __future__ import annotations

from dataclasses import fields

import polars as pl

from vpp_pipeline.devices.protocol import DeviceLink

WRITABLE = pl.col("controllable") & (pl.col("simulated") | pl.col("live"))
"""Of a `DeviceFrame`, who may be written: it can be controlled, and is simulated or marked `live`."""

READ_ONLY = "read-only: mark the device `live: true` to command it"
HELD_READ_ONLY = "held, but read-only now: mark it `live: true` again, or release it on site"
NO_ADDRESS = "no address: start the simulator, or register the device's endpoint"


def device_links(devices: pl.DataFrame) -> list[DeviceLink]:
    """Return a link for each row of a `DeviceFrame` whose endpoint is known.

    A device without an endpoint (its simulator has not started) has no link.
    """
    rows = (
        devices.filter(pl.col("endpoint").is_not_null())
        .with_columns(pl.col("device_type", "protocol").cast(pl.String), writable=WRITABLE)
        .select(field.name for field in fields(DeviceLink))
    )
    return [DeviceLink(*row) for row in rows.iter_rows()]
