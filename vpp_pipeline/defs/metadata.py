"""What the Dagster UI shows beside an asset: tables, pictures, column schemas.

Belongs here: turning frames and pictures into Dagster metadata. Does not: drawing
(`reporting.pictures`).
"""

from __future__ import annotations

import base64

import dagster as dg
import dataframely as dy
import polars as pl

_OWNER = "team:operations"


def column_schema(schema: type[dy.Schema]) -> dict[str, dg.TableSchema]:
    """Return the column schema of a typed frame, as definition metadata."""
    return {
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(
                    name,
                    type=str(column.dtype),
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                )
                for name, column in schema.columns().items()
            ]
        )
    }


def table(frame: pl.DataFrame, rows: int = 20) -> dg.TableMetadataValue:
    """Return the first rows of a frame as a table."""
    shown = frame.head(rows).with_columns(
        pl.col(pl.Float64).round(3), pl.selectors.temporal().cast(pl.String)
    )
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in shown.iter_rows(named=True)],
        schema=dg.TableSchema(
            [dg.TableColumn(name, type=str(dtype)) for name, dtype in frame.schema.items()]
        ),
    )


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG that the UI shows in place."""
    return dg.MetadataValue.md(
        f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def owners() -> list[str]:
    """Return who answers for the plant's assets."""
    return [_OWNER]
