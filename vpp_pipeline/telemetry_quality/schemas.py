"""The frame that doubted readings are told in.

Belongs here: what a flag is. Does not: finding one (`flags`).
"""

from __future__ import annotations

from typing import Any

import dataframely as dy

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}

ROW_RULES = [
    "gap",
    "duplicate",
    "out_of_order",
    "clock_future",
    "clock_back",
    "clock_behind",
    "dst_double",
    "dst_missing",
]
VALUE_RULES = ["frozen", "spike", "sign_flip", "shifted"]
TOLD_ONLY = ["shifted"]
"""A new habit looks like a shifted sensor too often for its values to be taken away."""


class TelemetryFlags(dy.Schema):
    """One row a reading, signal and rule it breaks; the reading itself stays as it came.

    `signal` is a column of `Telemetry`, or `reading` where the row as a whole is meant. `repair`
    tells what stands in for the value where it is used: `kept` (the rule takes no value away),
    `withheld` (nothing does), `interpolated` or `negated` (`repaired_value` does).
    """

    device_id = dy.String(primary_key=True)
    measured_at = dy.Datetime(primary_key=True, **_UTC)
    reading_known_at = dy.Datetime(primary_key=True, **_UTC)
    signal = dy.Enum(
        ["reading", "power_kw", "available_power_kw", "energy_kwh", "temperature_c"],
        primary_key=True,
    )
    rule = dy.Enum([*ROW_RULES, *VALUE_RULES], primary_key=True)
    raw_value = dy.Float64(nullable=True)
    repair = dy.Enum(["kept", "withheld", "interpolated", "negated"])
    repaired_value = dy.Float64(nullable=True)
    known_at = dy.Datetime(**_UTC)
