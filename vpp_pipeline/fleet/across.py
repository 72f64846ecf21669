"""The rules across records: what no record can tell of itself.

Belongs here: uniqueness of devices and addresses, sites that agree with themselves, groups that
name what exists, on frames of any size. Does not: a record's own rules (`model`, `screen`), files.
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.fleet.columns import SITE

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
    address = ["connection_host", "connection_port", "connection_unit_id"]
    return pl.concat(
        [
            _repeats(table, ["device_id"], "device_id").with_columns(
                reason=pl.lit("names two devices"), remedy=pl.lit("give each device its own id")
            ),
            _repeats(modbus, address, "connection_unit_id").with_columns(
                reason=pl.lit("is a Modbus address and unit used twice"),
                remedy=pl.lit("give each device its own host, port or unit_id"),
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
