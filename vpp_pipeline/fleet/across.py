"""The rules across records: what no record can tell of itself.

Belongs here: uniqueness of devices and addresses, connections that suit their device, sites that
agree with themselves, on frames of any size. Does not: a record's own rules (`model`, `screen`),
files.
"""

from __future__ import annotations

from difflib import get_close_matches

import polars as pl

from vpp_pipeline.fleet.columns import DEVICE, SITE
from vpp_pipeline.fleet.register_maps import device_types_of_maps

CLASH_SCHEMA = {
    "row": pl.Int64,
    "first_row": pl.Int64,
    "field": pl.String,
    "value": pl.String,
    "reason": pl.String,
    "remedy": pl.String,
}


def clashes(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that repeat what must stand once (`CLASH_SCHEMA`).

    `table` has `row`, `device_id` and the `connection_*` columns of `table.COLUMNS`; nulls clash
    with nothing. `first_row` is where the value stood first.
    """
    modbus = table.filter(pl.col("connection_protocol") == "modbus")
    ocpp = table.filter(pl.col("connection_protocol") == "ocpp")
    address = ["connection_host", "connection_port", "connection_unit_id"]
    connector = ["connection_charge_point_id", "connection_connector_id"]
    return pl.concat(
        [
            _repeats(table, ["device_id"], "device_id").with_columns(
                reason=pl.lit("names two devices"), remedy=pl.lit("give each device its own id")
            ),
            _repeats(modbus, address, "connection_unit_id").with_columns(
                reason=pl.lit("is a Modbus address and unit used twice"),
                remedy=pl.lit("give each device its own host, port or unit_id"),
            ),
            _repeats(ocpp, connector, "connection_connector_id").with_columns(
                reason=pl.lit("is a charge point and connector used twice"),
                remedy=pl.lit("give each device its own charge_point_id or connector_id"),
            ),
        ]
    ).sort("row", "field")


def _repeats(table: pl.DataFrame, keys: list[str], field: str) -> pl.DataFrame:
    return (
        table.drop_nulls(keys)
        .with_columns(first_row=pl.col("row").min().over(keys))
        .filter(pl.col("row") != pl.col("first_row"))
        .select(
            pl.col("row").cast(pl.Int64),
            pl.col("first_row").cast(pl.Int64),
            field=pl.lit(field),
            value=pl.concat_str(keys, separator=":"),
        )
    )


def misfits(table: pl.DataFrame) -> pl.DataFrame:
    """Return what of a connection can't serve its device: (row, field, value, reason, remedy).

    `table` has `row`, `type` and the `connection_*` columns of `table.COLUMNS`; nulls are passed
    over, and so is a type that is not known. A secret in a URL is not in what is returned.
    """
    kind, url, own = pl.col("type"), pl.col("connection_url"), pl.col("connection_register_map")
    known = kind.is_in(list(DEVICE))
    maps = device_types_of_maps()
    unknown = [
        name for name in table["connection_register_map"].unique() if name and name not in maps
    ]
    nearest = {name: ", ".join(get_close_matches(name, maps, len(maps), 0.0)) for name in unknown}
    no_charger = known & (kind != "ev_charger")
    calls_us = pl.format("is spoken by charge points alone, and this is of type {}", kind)
    by_wire = pl.lit("write modbus, mqtt or http, as the device speaks")
    found = [
        _misfit(table, column, (pl.col(column) == "ocpp") & no_charger, calls_us, by_wire)
        for column in ("connection_protocol", "connection_over")
    ]
    found += [
        _misfit(
            table,
            "connection_register_map",
            (own == name) & known & ~kind.is_in(types),
            pl.format("is for type {}, and this is of type {}", pl.lit(" or ".join(types)), kind),
            pl.lit("name this device's own map, or leave it out for SunSpec"),
        )
        for name, types in maps.items()
        if types
    ]
    found += [
        _misfit(
            table,
            "connection_register_map",
            own.is_in(unknown),
            pl.lit("is no register map"),
            pl.format(
                "write one of {}, or leave it out for SunSpec",
                own.replace_strict(nearest, default=None, return_dtype=pl.String),
            ),
        ),
        _misfit(
            table.with_columns(url.str.replace(r"://.*@", "://…@")),
            "connection_url",
            table["connection_url"].str.contains(r"^https?://[^/?#]*@"),
            pl.lit("holds a user or password"),
            pl.lit("name its `credentials` instead, and keep the secret out of this file"),
        ),
    ]
    return pl.concat(found).sort("row", "field")


def _misfit(
    table: pl.DataFrame,
    field: str,
    broken: pl.Expr | pl.Series,
    reason: pl.Expr,
    remedy: pl.Expr,
) -> pl.DataFrame:
    return table.filter(broken).select(
        pl.col("row").cast(pl.Int64),
        field=pl.lit(field),
        value=pl.col(field),
        reason=reason,
        remedy=remedy,
    )


def site_clashes(table: pl.DataFrame) -> pl.DataFrame:
    """Return, once a site and column, the first row that contradicts its site's first row.

    `table` has `row` and a site's columns with their defaults; a null contradicts nothing.
    """
    found = [
        table.drop_nulls(column)
        .with_columns(
            first_row=pl.col("row").first().over("site_id"),
            said=pl.col(column).first().over("site_id"),
        )
        .filter(pl.col(column) != pl.col("said"))
        .unique("site_id", keep="first", maintain_order=True)
        .select(
            pl.col("row").cast(pl.Int64),
            pl.col("first_row").cast(pl.Int64),
            field=pl.lit(column),
            value=_text(column),
            reason=pl.lit("is not what the site's first row says"),
            remedy=pl.lit("write the same on every row of the site"),
        )
        for column in SITE
        if column != "site_id"
    ]
    return pl.concat(found).sort("row", "field")


def _text(column: str) -> pl.Expr:
    if column == "site_tags":
        return pl.col(column).list.join(";")
    return pl.col(column).cast(pl.String)
