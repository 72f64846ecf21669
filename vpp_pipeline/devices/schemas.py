"""The frames that come from devices.

Belongs here: what a reading is. Does not: how it was got (the drivers), what it means later.
"""

from __future__ import annotations

from typing import Any

import dataframely as dy

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class Telemetry(dy.Schema):
    """One row a device and measurement. Positive power injects, negative draws."""

    device_id = dy.String(primary_key=True)
    measured_at = dy.Datetime(primary_key=True, **_UTC)
    power_kw = dy.Float64(nullable=True)
    setpoint_kw = dy.Float64(nullable=True, description="null: none in force")
    energy_kwh = dy.Float64(
        nullable=True,
        description="content of a battery or vehicle; what a flexible load took in its window",
    )
    temperature_c = dy.Float64(nullable=True, description="of what a heat pump heats")
    plugged_in = dy.Bool(nullable=True)
    target_energy_kwh = dy.Float64(nullable=True, description="to be held at the deadline")
    deadline = dy.Datetime(
        nullable=True, description="a vehicle's departure, the end of a load's window", **_UTC
    )
    available_power_kw = dy.Float64(
        nullable=True, description="what PV or wind could give, uncurtailed"
    )
    heartbeat = dy.Int64(nullable=True)
    status = dy.Enum(["ok", "local", "fault", "offline"])
    known_at = dy.Datetime(description="when we learned of it", **_UTC)
