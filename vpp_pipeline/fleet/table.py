"""The registry as one flat table: a row a device, with its site and connection beside it.

Belongs here: the table's columns, the defaults that the models give, and the way between a
`Fleet` and the table. Does not: reading files (`table_file`), rules (`screen`), the frame that
later stages work on (`frame`).

Columns are the models' fields by their own names; a connection's are prefixed `connection_`,
a site's name and tags `site_`. They are derived from the models, so the two can't drift apart.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import polars as pl
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    Fleet,
    FlexibleLoad,
    GridConnection,
    HeatPump,
    HttpConnection,
    Load,
    ModbusConnection,
    MqttConnection,
    PvInverter,
    SimulatedConnection,
    Site,
    WindTurbine,
)

DEVICE_MODELS: dict[str, type[BaseModel]] = {
    "battery": Battery,
    "pv": PvInverter,
    "wind": WindTurbine,
    "ev_charger": EvCharger,
    "heat_pump": HeatPump,
    "flexible_load": FlexibleLoad,
    "chp": Chp,
    "load": Load,
}
CONNECTION_MODELS: dict[str, type[BaseModel]] = {
    "modbus": ModbusConnection,
    "mqtt": MqttConnection,
    "http": HttpConnection,
    "simulated": SimulatedConnection,
}
SITE_FIELDS = {
    "site_id": "site_id",
    "site_name": "name",
    "latitude": "latitude",
    "longitude": "longitude",
    "timezone": "timezone",
    "site_tags": "tags",
}
GRID_FIELDS = ("import_limit_kw", "export_limit_kw")
SITE_COLUMNS = (*SITE_FIELDS, *GRID_FIELDS)


def limits(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return each field's JSON Schema (type, bounds, pattern); of an optional one, its value's."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return {
        name: next((s for s in field.get("anyOf", ()) if s["type"] != "null"), field)
        for name, field in properties.items()
    }


def device_fields(device_type: str) -> dict[str, dict[str, Any]]:
    """Return the schema of each column that a device type has of its own."""
    fields = limits(DEVICE_MODELS[device_type])
    return {name: schema for name, schema in fields.items() if name != "connection"}


def connection_fields(protocol: str) -> dict[str, dict[str, Any]]:
    """Return the schema of each column that a connection has of its own."""
    fields = limits(CONNECTION_MODELS[protocol])
    return {f"connection_{name}": schema for name, schema in fields.items()}


def site_fields() -> dict[str, dict[str, Any]]:
    """Return the schema of each column that describes the site."""
    site = limits(Site)
    return {column: site[name] for column, name in SITE_FIELDS.items()} | limits(GridConnection)


def _dtype(schema: dict[str, Any]) -> pl.DataType:
    if schema.get("format") == "time":
        return pl.Time()
    scalars: dict[str, pl.DataType] = {
        "number": pl.Float64(),
        "integer": pl.Int64(),
        "boolean": pl.Boolean(),
        "array": pl.List(pl.String),
    }
    return scalars.get(schema["type"], pl.String())


def _columns() -> dict[str, pl.DataType]:
    fields = site_fields()
    for device_type in DEVICE_MODELS:
        fields |= device_fields(device_type)
    for protocol in CONNECTION_MODELS:
        fields |= connection_fields(protocol)
    return {name: _dtype(schema) for name, schema in fields.items()} | {
        "groups": pl.List(pl.String)
    }


COLUMNS: dict[str, pl.DataType] = _columns()


def with_defaults(table: pl.DataFrame) -> pl.DataFrame:
    """Fill the blanks for which a row's site, device type or protocol has a default."""
    defaults: dict[str, list[pl.Expr]] = {}

    def offer(column: str, model: type[BaseModel], name: str, applies: pl.Expr) -> None:
        default = model.model_fields[name].default
        if default is not PydanticUndefined and default is not None:
            value = pl.lit(list(default) if isinstance(default, tuple) else default)
            filled = pl.when(applies).then(value.cast(COLUMNS[column]))
            defaults.setdefault(column, []).append(filled)

    for column, name in SITE_FIELDS.items():
        offer(column, Site, name, pl.lit(value=True))
    for device_type in DEVICE_MODELS:
        for column in device_fields(device_type):
            if column != "type":
                offer(column, DEVICE_MODELS[device_type], column, pl.col("type") == device_type)
    for protocol in CONNECTION_MODELS:
        for column in connection_fields(protocol):
            if column != "connection_protocol":
                name = column.removeprefix("connection_")
                applies = pl.col("connection_protocol") == protocol
                offer(column, CONNECTION_MODELS[protocol], name, applies)
    return table.with_columns(
        *(pl.coalesce(column, *values).alias(column) for column, values in defaults.items()),
        pl.col("groups").fill_null(pl.lit([], dtype=pl.List(pl.String))),
    )


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
    return table.drop("groups").join(
        _memberships(fleet, table), on="device_id", how="left", maintain_order="left"
    ).select(*(c for c in COLUMNS if c != "groups"), pl.col("groups").fill_null([]))


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
        if value is not None and name not in SITE_COLUMNS and name != "groups"
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
