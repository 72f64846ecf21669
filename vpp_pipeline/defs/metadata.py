"""What the Dagster UI shows beside an asset: tables, pictures, column schemas.

Belongs here: turning frames and pictures into Dagster metadata. Does not: drawing
(`reporting.pictures`).
"""

from __future__ import annotations

import base64
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

_OWNER = "team:operations"

_UNITS = {
    "_eur_per_kwh": "EUR/kWh",
    "_eur_per_mwh": "EUR/MWh",
    "_eur_per_kw": "EUR/kW",
    "_eur": "EUR",
    "_kwh": "kWh",
    "_kw": "kW",
    "_c": "°C",
}
_WAY = "positive injects, negative draws"
_SECONDS = "%Y-%m-%d %H:%M:%S UTC"


def column_schema(schema: type[dy.Schema]) -> dict[str, dg.TableSchema]:
    """Return the column schema of a typed frame, as definition metadata."""
    return {
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(
                    name,
                    type=_type_words(column.dtype),
                    description=_words(name, column.description),
                    constraints=dg.TableColumnConstraints(
                        nullable=column.nullable,
                        other=["primary key"] if column.primary_key else None,
                    ),
                )
                for name, column in schema.columns().items()
            ]
        )
    }


def table(frame: pl.DataFrame, rows: int = 20) -> dg.TableMetadataValue:
    """Return the first rows of a frame as a table."""
    shown = frame.head(rows).with_columns(
        pl.selectors.float().round(3),
        pl.selectors.datetime().dt.strftime(_SECONDS),
        (pl.selectors.temporal() - pl.selectors.datetime()).cast(pl.String),
    )
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in shown.iter_rows(named=True)],
        schema=dg.TableSchema(
            [dg.TableColumn(name, type=_type_words(dtype)) for name, dtype in frame.schema.items()]
        ),
    )


def figures(named: dict[str, Any]) -> dict[str, Any]:
    """Return figures as they are read: floats to six digits, and None as a word."""
    return {
        name: "unknown" if value is None else _six_digits(value) for name, value in named.items()
    }


def _six_digits(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _type_words(dtype: pl.DataType) -> str:
    """Return a column's type as a person calls it."""
    match dtype:
        case pl.Enum():
            return "one of " + ", ".join(dtype.categories)
        case pl.Datetime():
            return "Datetime (UTC)"
        case _:
            return str(dtype)


def _words(name: str, description: str | None) -> str | None:
    """Return the unit that a column's name ends with, what it means, and of power which way."""
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)
    told = [unit, description, _WAY if name.endswith("power_kw") else None]
    return "; ".join(part for part in told if part) or None


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG that the UI shows in place."""
    return dg.MetadataValue.md(
        f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def owners() -> list[str]:
    """Return who answers for the plant's assets."""
    return [_OWNER]
