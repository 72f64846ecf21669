"""The models' rules as Polars expressions, so that a table of 100,000 devices is judged at once.

Belongs here: which rows a model would refuse. Does not: why, in words (`table_file` asks the
model itself), rules across records (`across`).

Bounds, patterns and required fields are read from the models; only the rules between two fields
stand here a second time.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import polars as pl

from vpp_pipeline.fleet.columns import CONNECTION, DEVICE, GROUPS, SITE, Column
from vpp_pipeline.fleet.model import time_zones


def refused(table: pl.DataFrame) -> pl.Series:
    """Return, for each row of a table with its defaults filled in, whether a model refuses it."""
    broken = [
        *_broken_fields(SITE),
        *_broken_fields({"groups": GROUPS}),
        *_broken_choice("type", DEVICE),
        *_broken_choice("connection_protocol", CONNECTION),
        *_broken_pairs(),
        ~pl.col("timezone").is_in(time_zones()),
    ]
    verdict = pl.any_horizontal(rule.fill_null(value=False) for rule in broken)
    return table.select(refused=verdict)["refused"]


def _broken_choice(discriminator: str, choices: dict[str, dict[str, Column]]) -> list[pl.Expr]:
    """Return the rules of the one model that a row chooses, and that it has no other's fields."""
    chosen = pl.col(discriminator)
    everything = {column for own in choices.values() for column in own}
    broken = [chosen.is_null() | ~chosen.is_in(list(choices))]
    for choice, own in choices.items():
        foreign = [pl.col(column).is_not_null() for column in sorted(everything - own.keys())]
        broken += [(chosen == choice) & rule for rule in [*_broken_fields(own), *foreign]]
    return broken


def _broken_fields(columns: dict[str, Column]) -> list[pl.Expr]:
    missing = [pl.col(name).is_null() for name, column in columns.items() if column.required]
    return missing + [_outside(pl.col(name), column.schema) for name, column in columns.items()]


def _outside(value: pl.Expr, schema: dict[str, Any]) -> pl.Expr:
    """Return whether a value is outside its JSON Schema; a blank is not."""
    if schema["type"] == "array":
        return value.list.eval(_outside(pl.element(), schema["items"])).list.any()
    tests = [pl.lit(value=False)]
    if schema["type"] == "number":
        tests.append(~value.is_finite())
    if "minimum" in schema:
        tests.append(value < schema["minimum"])
    if "exclusiveMinimum" in schema:
        tests.append(value <= schema["exclusiveMinimum"])
    if "maximum" in schema:
        tests.append(value > schema["maximum"])
    if "exclusiveMaximum" in schema:
        tests.append(value >= schema["exclusiveMaximum"])
    if "pattern" in schema:
        tests.append(~value.str.contains(schema["pattern"]))
    if "enum" in schema:
        tests.append(~value.is_in(schema["enum"]))
    return reduce(or_, tests)


def _broken_pairs() -> list[pl.Expr]:
    """Return the rules between two fields, as the models' validators have them."""
    return [
        pl.col("max_soc") <= pl.col("min_soc"),
        pl.col("comfort_max_c") <= pl.col("comfort_min_c"),
        pl.col("min_charge_kw") > pl.col("max_charge_kw"),
        pl.col("min_power_kw") > pl.col("rated_power_kw"),
        pl.col("live") & (pl.col("connection_protocol") == "simulated"),
    ]
