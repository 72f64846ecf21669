"""The fleet as a frame: one row a device, the shape every vectorised stage works on.

Belongs here: the schema and `Fleet` → frame. Does not: state that changes (telemetry).
"""

from __future__ import annotations

import dataframely as dy


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
    protocol = dy.Enum(["modbus", "mqtt", "http"])
    endpoint = dy.String(nullable=True)  # host:port or URL; null until a simulator has told it
    unit_id = dy.Int64(nullable=True)  # Modbus unit
    live = dy.Bool()
    simulated = dy.Bool()
    controllable = dy.Bool()  # false for a plain load
    tags = dy.List(dy.String())  # the device's own and its site's
    groups = dy.List(dy.String())
    latitude = dy.Float64()
    longitude = dy.Float64()
    timezone = dy.String()
    site_import_limit_kw = dy.Float64(min=0)
    site_export_limit_kw = dy.Float64(min=0)
    max_inject_kw = dy.Float64(min=0)
    max_draw_kw = dy.Float64(min=0)
    min_active_kw = dy.Float64(min=0)  # smallest non-zero power: EV 6 A, CHP minimum; else 0
    energy_capacity_kwh = dy.Float64(nullable=True)
    min_energy_kwh = dy.Float64(nullable=True)
    max_energy_kwh = dy.Float64(nullable=True)
    charge_efficiency = dy.Float64(nullable=True)  # COP for a heat pump, 1 for a flexible load
    discharge_efficiency = dy.Float64(nullable=True)
    wear_cost_eur_per_kwh = dy.Float64(min=0)  # per kWh through the device; 0 where it has none
    unmet_cost_eur_per_kwh = dy.Float64(nullable=True)  # EV, flexible load, heat pump (discomfort)
    thermal_resistance_k_per_kw = dy.Float64(nullable=True)
    thermal_capacity_kwh_per_k = dy.Float64(nullable=True)
    comfort_min_c = dy.Float64(nullable=True)
    comfort_max_c = dy.Float64(nullable=True)
    required_energy_kwh = dy.Float64(nullable=True)  # flexible load: a day's need
    window_start = dy.Time(nullable=True)  # flexible load, local time
    window_end = dy.Time(nullable=True)
    ramp_kw_per_min = dy.Float64(nullable=True)
    marginal_cost_eur_per_mwh = dy.Float64(nullable=True)  # CHP
    tilt_deg = dy.Float64(nullable=True)
    azimuth_deg = dy.Float64(nullable=True)
