"""Values that a registry may hold and hardly any plant has: most often Wh for kWh, or W for kW.

Belongs here: rules that warn, on frames of any size. Does not: what is refused (`model`, `across`).
"""

from __future__ import annotations

import polars as pl

_LONGEST_H = 100.0
"""At full power: iron-air batteries last as long, and a car at a household's socket fills sooner."""
_SHORTEST_H = 0.1
"""At full power; what is built for less is no store of energy."""
_DAY_H = 24.0
_SLACK_H = 1e-6
_NANOSECONDS_AN_HOUR = 3.6e12
_TIMES_THE_CONNECTION = 10.0
_TIMES_THE_DEVICES = 100.0

_ENERGY_FIELDS = {
    "battery": "energy_capacity_kwh",
    "ev_charger": "vehicle_capacity_kwh",
    "flexible_load": "energy_kwh",
}
_IN_KWH = "write energies in kWh and powers in kW (1,000 Wh are 1 kWh)"
_IN_KW = "write powers in kW (1,000 W are 1 kW), or the connection's own limits"
_WIDER = "widen its window (earliest, latest), or correct its energy or power"
_LIMIT_IN_KW = "write limits in kW (1,000 W are 1 kW), or what is missing behind it"


def unlikely(devices: pl.DataFrame) -> pl.DataFrame:
    """Return what of a `DeviceFrame` is worth a second look, in its order.

    Rows: (name, field, value, reason, remedy); `name` is the device's, or the site's where a
    value is the site's.
    """
    power_kw = pl.max_horizontal("max_inject_kw", "max_draw_kw")
    connection_kw = pl.max_horizontal("site_import_limit_kw", "site_export_limit_kw")
    looked_at = devices.with_row_index("row").with_columns(
        pl.col("device_type").cast(pl.String),
        power_kw=power_kw,
        hours=pl.col("energy_capacity_kwh") / power_kw,
        times=power_kw / connection_kw,
    )
    return (
        pl.concat(
            [
                _unlikely_stores(looked_at),
                _short_windows(looked_at),
                _unlikely_powers(looked_at),
                _unlikely_connections(looked_at),
                _failsafes_above(looked_at),
                _never_discharged(looked_at),
            ]
        )
        .sort("row", maintain_order=True)
        .drop("row")
    )


def _unlikely_stores(devices: pl.DataFrame) -> pl.DataFrame:
    daily = pl.col("device_type") == "flexible_load"
    hours = pl.col("hours").round().cast(pl.Int64)
    reason = (
        pl.when(daily & (pl.col("hours") > _DAY_H))
        .then(pl.format("a day takes {} h at its power", hours))
        .when(~daily & (pl.col("hours") > _LONGEST_H))
        .then(pl.format("is {} h at its power", hours))
        .when(~daily & (pl.col("hours") < _SHORTEST_H))
        .then(pl.format("is {} min at its power", (pl.col("hours") * 60).round_sig_figs(3)))
    )
    return (
        devices.filter(pl.col("device_type").is_in(list(_ENERGY_FIELDS)))
        .select(
            "row",
            name="device_id",
            field=pl.col("device_type").replace_strict(_ENERGY_FIELDS),
            value="energy_capacity_kwh",
            reason=reason,
            remedy=pl.lit(_IN_KWH),
        )
        .drop_nulls("reason")
    )


def _short_windows(devices: pl.DataFrame) -> pl.DataFrame:
    """Return the daily loads whose energy can't be taken between `earliest` and `latest`."""
    start, end = pl.col("window_start").cast(pl.Int64), pl.col("window_end").cast(pl.Int64)
    past_midnight_h = pl.when(end <= start).then(_DAY_H).otherwise(0.0)
    window_h = (end - start) / _NANOSECONDS_AN_HOUR + past_midnight_h
    hours = pl.col("hours")
    too_long = (hours > window_h + _SLACK_H) & (hours <= _DAY_H)
    return devices.filter(pl.col("device_type") == "flexible_load", too_long).select(
        "row",
        name="device_id",
        field=pl.lit("energy_kwh"),
        value="energy_capacity_kwh",
        reason=pl.format(
            "takes {} h at its power, and its window has {} h",
            hours.round_sig_figs(3),
            window_h.round_sig_figs(3),
        ),
        remedy=pl.lit(_WIDER),
    )


def _unlikely_powers(devices: pl.DataFrame) -> pl.DataFrame:
    discharges = pl.col("max_inject_kw") > pl.col("max_draw_kw")
    field = (
        pl.when(pl.col("device_type").is_in(["battery", "ev_charger"]))
        .then(
            pl.when(discharges).then(pl.lit("max_discharge_kw")).otherwise(pl.lit("max_charge_kw"))
        )
        .when(pl.col("device_type") == "load")
        .then(pl.lit("max_power_kw"))
        .otherwise(pl.lit("rated_power_kw"))
    )
    return devices.filter(pl.col("times") > _TIMES_THE_CONNECTION).select(
        "row",
        name="device_id",
        field=field,
        value="power_kw",
        reason=pl.format(
            "is {} times what its site's connection may carry",
            pl.col("times").round().cast(pl.Int64),
        ),
        remedy=pl.lit(_IN_KW),
    )


def _unlikely_connections(devices: pl.DataFrame) -> pl.DataFrame:
    sites = devices.group_by("site_id", maintain_order=True).agg(
        pl.col("row", "site_import_limit_kw", "site_export_limit_kw").first(),
        behind_kw=pl.col("power_kw").sum(),
    )
    limits = {"import_limit_kw": "site_import_limit_kw", "export_limit_kw": "site_export_limit_kw"}
    return pl.concat(
        sites.filter(pl.col(column) > _TIMES_THE_DEVICES * pl.col("behind_kw")).select(
            "row",
            name="site_id",
            field=pl.lit(field),
            value=column,
            reason=pl.format(
                "is {} times what all devices behind it can do",
                (pl.col(column) / pl.col("behind_kw")).round().cast(pl.Int64),
            ),
            remedy=pl.lit(_LIMIT_IN_KW),
        )
        for field, column in limits.items()
    )


def _failsafes_above(devices: pl.DataFrame) -> pl.DataFrame:
    """Return the failsafe limits that lie above their connection's own, and so change nothing."""
    sites = devices.unique("site_id", keep="first", maintain_order=True)
    return pl.concat(
        sites.filter(pl.col(f"site_failsafe_{way}_kw") > pl.col(f"site_{way}_limit_kw")).select(
            "row",
            name="site_id",
            field=pl.lit(f"failsafe_{way}_kw"),
            value=f"site_failsafe_{way}_kw",
            reason=pl.format(f"is above {way}_limit_kw ({{}})", f"site_{way}_limit_kw"),
            remedy=pl.lit(f"lower it, or raise {way}_limit_kw"),
        )
        for way in ("import", "export")
    )


def _never_discharged(devices: pl.DataFrame) -> pl.DataFrame:
    return devices.filter(pl.col("protocol") == "ocpp", pl.col("max_inject_kw") > 0).select(
        "row",
        name="device_id",
        field=pl.lit("max_discharge_kw"),
        value="max_inject_kw",
        reason=pl.lit("can't be commanded: OCPP 1.6 knows no discharging"),
        remedy=pl.lit("leave it out, or write the protocol that can"),
    )
