"""The registry as one flat table: a row a device, with its site and connection beside it.

Belongs here: the defaults of the table's blanks, and the way between a `Fleet` and the table.
Does not: which columns there are (`columns`), reading files (`table_file`), rules (`screen`), the
frame that later stages work on (`frame`).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import polars as pl

from vpp_pipeline.fleet.columns import (
    COLUMNS,
    CONNECTION,
    DEVICE,
    GRID_FIELDS,
    GROUPS,
    SITE,
    SITE_FIELDS,
    Column,
)
from vpp_pipeline.fleet.model import Fleet

_DISCRIMINATORS = ("type", "connection_protocol")


def with_defaults(table: pl.DataFrame) -> pl.DataFrame:
    """Fill the blanks for which a row's site, device type or protocol has a default."""
    always = pl.lit(value=True)
    parts: list[tuple[dict[str, Column], pl.Expr]] = [(SITE, always), ({"groups": GROUPS}, always)]
    parts += [(columns, pl.col("type") == name) for name, columns in DEVICE.items()]
    parts += [(own, pl.col("connection_protocol") == name) for name, own in CONNECTION.items()]
    offers: dict[str, list[pl.Expr]] = {}
    for columns, applies in parts:
        for name, column in columns.items():
            if column.default is not None and name not in _DISCRIMINATORS:
                default = list(column.default) if column.default == () else column.default
                value = pl.lit(default, dtype=column.dtype)
                offers.setdefault(name, []).append(pl.when(applies).then(value))
    return table.with_columns(pl.coalesce(name, *values) for name, values in offers.items())


def table_of(fleet: Fleet) -> pl.DataFrame:
    """Return a fleet as the flat table, with every group a device belongs to in `groups`."""
    rows = [
        {column: getattr(site, name) for column, name in SITE_FIELDS.items()}
        | site.grid.model_dump()
        | device.model_dump(exclude={"connection"})
        | {f"connection_{k}": v for k, v in device.connection.model_dump().items()}
        for site in fleet.sites
        for device in site.devices
    ]
    table = pl.DataFrame(rows, schema=COLUMNS)
    return (
        table.drop("groups")
        .join(_memberships(fleet, table), on="device_id", how="left", maintain_order="left")
        .select(*(c for c in COLUMNS if c != "groups"), pl.col("groups").fill_null([]))
    )


def _memberships(fleet: Fleet, table: pl.DataFrame) -> pl.DataFrame:
    """Return each grouped device's `groups`: listed by name, or through its or its site's tags."""
    listed = pl.DataFrame(
        [(g.group_id, d) for g in fleet.groups for d in g.devices],
        schema={"group_id": pl.String, "device_id": pl.String},
        orient="row",
    )
    wanted = pl.DataFrame(
        [(g.group_id, t) for g in fleet.groups for t in g.tags],
        schema={"group_id": pl.String, "tag": pl.String},
        orient="row",
    )
    tagged = (
        table.select("device_id", tag=pl.concat_list("tags", "site_tags"))
        .explode("tag", empty_as_null=False)
        .join(wanted, on="tag")
        .select("group_id", "device_id")
    )
    return (
        pl.concat([listed, tagged])
        .unique()
        .group_by("device_id")
        .agg(groups=pl.col("group_id").sort())
    )


def device_tree(row: dict[str, Any]) -> dict[str, Any]:
    """Return a table row's device as the tree that its model validates; blanks are left out."""
    given = {
        name: value
        for name, value in row.items()
        if value is not None and name not in SITE and name != "groups"
    }
    connection = {
        name.removeprefix("connection_"): given.pop(name)
        for name in list(given)
        if name.startswith("connection_")
    }
    return given | {"connection": connection}


def site_tree(row: dict[str, Any], devices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table row's site, with its devices, as the tree that its model validates."""
    site = {name: row[column] for column, name in SITE_FIELDS.items() if row[column] is not None}
    grid = {name: row[name] for name in GRID_FIELDS if row[name] is not None}
    return site | {"grid": grid, "devices": devices}


def fleet_of(table: pl.DataFrame) -> Fleet:
    """Return a checked table as a fleet: one object a device, so for documents, not for paths."""
    rows = table.sort("site_id", maintain_order=True).to_dicts()
    sites = []
    for _, members in groupby(rows, key=lambda row: row["site_id"]):
        site_rows = list(members)
        sites.append(site_tree(site_rows[0], [device_tree(row) for row in site_rows]))
    groups = (
        table.select("device_id", group_id="groups")
        .explode("group_id", empty_as_null=False)
        .drop_nulls("group_id")
        .group_by("group_id")
        .agg(devices=pl.col("device_id").sort())
        .sort("group_id")
    )
    return Fleet.model_validate({"sites": sites, "groups": groups.to_dicts()})
