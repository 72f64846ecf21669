"""The columns of the registry as a flat table, derived from the models.

Belongs here: which columns a site, a device type and a connection have, and what each may hold.
Does not: the table itself (`table`), reading files (`table_file`).

Columns bear the fields' own names; a connection's are prefixed `connection_`, and a site's name
and tags `site_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic_core import PydanticUndefined

from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    FlexibleLoad,
    GridConnection,
    HeatPump,
    HttpConnection,
    Load,
    ModbusConnection,
    MqttConnection,
    OcppConnection,
    PvInverter,
    SimulatedConnection,
    Site,
    WindTurbine,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

SITE_FIELDS = {
    "site_id": "site_id",
    "site_name": "name",
    "latitude": "latitude",
    "longitude": "longitude",
    "timezone": "timezone",
    "site_tags": "tags",
}
GRID_FIELDS = {name: name for name in GridConnection.model_fields}


@dataclass(frozen=True)
class Column:
    """A column as one model has it; `schema` is the field's JSON Schema (bounds, pattern)."""

    dtype: pl.DataType
    schema: dict[str, Any]
    required: bool
    default: Any  # None where there is none


def _dtype(schema: dict[str, Any]) -> pl.DataType:
    if schema.get("format") == "time":
        return pl.Time()
    by_type: dict[str, pl.DataType] = {
        "number": pl.Float64(),
        "integer": pl.Int64(),
        "boolean": pl.Boolean(),
        "array": pl.List(pl.String),
        "string": pl.String(),
    }
    return by_type[schema["type"]]


def _columns(model: type[BaseModel], names: dict[str, str]) -> dict[str, Column]:
    """Return a model's columns by name; `names` maps a column to its field."""
    properties = model.model_json_schema()["properties"]
    columns = {}
    for column, name in names.items():
        field = model.model_fields[name]
        schema = properties[name]
        value = next((s for s in schema.get("anyOf", ()) if s["type"] != "null"), schema)
        default = None if field.default is PydanticUndefined else field.default
        columns[column] = Column(_dtype(value), value, field.is_required(), default)
    return columns


def _device(model: type[BaseModel]) -> dict[str, Column]:
    return _columns(model, {name: name for name in model.model_fields if name != "connection"})


def _connection(model: type[BaseModel]) -> dict[str, Column]:
    return _columns(model, {f"connection_{name}": name for name in model.model_fields})


SITE = _columns(Site, SITE_FIELDS) | _columns(GridConnection, GRID_FIELDS)
DEVICE = {
    "battery": _device(Battery),
    "pv": _device(PvInverter),
    "wind": _device(WindTurbine),
    "ev_charger": _device(EvCharger),
    "heat_pump": _device(HeatPump),
    "flexible_load": _device(FlexibleLoad),
    "chp": _device(Chp),
    "load": _device(Load),
}
CONNECTION = {
    "modbus": _connection(ModbusConnection),
    "mqtt": _connection(MqttConnection),
    "http": _connection(HttpConnection),
    "ocpp": _connection(OcppConnection),
    "simulated": _connection(SimulatedConnection),
}
GROUPS = Column(pl.List(pl.String), SITE["site_tags"].schema, required=False, default=())

COLUMNS: dict[str, pl.DataType] = {
    name: column.dtype
    for part in (SITE, *DEVICE.values(), *CONNECTION.values(), {"groups": GROUPS})
    for name, column in part.items()
}
