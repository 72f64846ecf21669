"""Which devices fall back to their default by themselves when their controller dies.

Belongs here: who has a native timer. Does not: arming it (the drivers), releasing those without
one (`watchdog`).

SunSpec 704 has a reversion timer, our MQTT and HTTP contracts end a command at its `valid_until`,
an OCPP charging profile has a validity. Of a vendor's registers the map tells; a map that nobody
knows is taken to have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.devices.register_map import maps_with_a_timer

if TYPE_CHECKING:
    from vpp_pipeline.devices.protocol import DeviceLink


def has_failsafe(link: DeviceLink) -> bool:
    """Tell whether the device ends a set-point by itself."""
    return link.register_map is None or link.register_map in maps_with_a_timer()


def no_failsafe(devices: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a `DeviceFrame` that can be commanded and hold a set-point for ever."""
    timed = pl.col("register_map").is_in(sorted(maps_with_a_timer()))
    return devices.filter("controllable", pl.col("register_map").is_not_null(), ~timed)
