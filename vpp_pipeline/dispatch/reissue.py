"""Commands that stand in the place of others within one interval.

Belongs here: whom other orders stand for than when it was commanded, and the new commands of a
higher version that follow. Does not: what stands (`orders`), the set-points (`guard`), sending.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP, floor_interval
from vpp_pipeline.dispatch.commands import CAPPED_TYPES, GRACE, DueCommands, interval_number
from vpp_pipeline.dispatch.links import WRITABLE
from vpp_pipeline.dispatch.orders import PLAN, STANDING, scopes, standing
from vpp_pipeline.dispatch.schemas import Commands

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from vpp_pipeline.dispatch.orders import Order

OPERATOR = "operator"
"""The plan id of a command that stands on an override or a limit alone: no plan covers its device."""

_PUSHED_BY = timedelta(minutes=2)
"""How long into its interval a device without a command may still be a plan's to command."""

_HAND_IN = timedelta(seconds=10)
"""How long after its `given_at` an order may come into the book."""

_WHAT_STANDS = ["stopped", "override_kw", "low_kw", "high_kw", "site_low_kw", "site_high_kw"]
_SAME_KW = 1e-3


def changed(
    newest: pl.DataFrame, orders: Sequence[Order], devices: pl.DataFrame, now: datetime
) -> pl.Series:
    """Return the ids of the devices whose command was made when other orders stood than now.

    `newest` are rows of `Ledger.newest` of the interval that `now` is in, `devices` is a
    `DeviceFrame`. A device without a command counts where an override asks for one, and where a
    limit stands against what it does by itself (`_by_itself`); one that is stopped does not:
    whoever stopped it releases it. An order comes into the book up to ten seconds after its
    `given_at`: one given that long before a command may have been known to it or not, so both are
    compared with, and a device may be named although nothing changed.
    """
    stands = standing(orders, devices, now)
    compared = pl.concat(
        [
            stands.join(
                _stood(newest, orders, devices, late).select(
                    "device_id", pl.col(_WHAT_STANDS).name.suffix("_then")
                ),
                on="device_id",
                how="left",
                maintain_order="left",
            )
            for late in (timedelta(), _HAND_IN)
        ]
    )
    differs = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(f"{name}_then")) for name in _WHAT_STANDS
    )
    commanded = pl.col("stopped_then").is_not_null()
    unbound = pl.col("device_id").is_in(_by_itself(stands, devices)["device_id"].implode())
    begun = pl.lit(now >= floor_interval(now) + _PUSHED_BY)
    wanted = pl.col("override_kw").is_not_null() | (unbound & begun)
    asked = pl.when(commanded).then(differs).otherwise(wanted)
    return compared.filter(asked, ~pl.col("stopped"))["device_id"].unique(maintain_order=True)


def _stood(
    newest: pl.DataFrame, orders: Sequence[Order], devices: pl.DataFrame, late: timedelta
) -> pl.DataFrame:
    """Return what stood for each commanded device when it was, of orders `late` by so much."""
    moments = newest.select("created_at", "interval_start").unique(maintain_order=True)
    then = [
        standing(
            [order for order in orders if order.given_at <= made_at - late],
            devices.join(
                newest.filter(pl.col("created_at") == made_at), on="device_id", how="semi"
            ),
            max(made_at, start),
        )
        for made_at, start in moments.iter_rows()
    ]
    return pl.concat([pl.DataFrame(schema=STANDING), *then])


def resumed(newest: pl.DataFrame, orders: Sequence[Order], devices: pl.DataFrame) -> pl.Series:
    """Return the ids of the devices that were stopped and resumed since they were commanded.

    They were released in between: what they were told before no longer stands.
    """
    ends = pl.DataFrame(
        [(order.scope, order.given_at) for order in orders if order.kind == "resume"],
        schema={"scope": pl.String, "resumed_at": pl.Datetime("us", "UTC")},
        orient="row",
    )
    return (
        ends.join(scopes(devices), on="scope")
        .join(newest.select("device_id", "created_at"), on="device_id")
        .filter(pl.col("created_at") < pl.col("resumed_at"))["device_id"]
        .unique()
    )


def reissued(  # noqa: PLR0917 - a frame each
    newest: pl.DataFrame,
    device_ids: pl.Series,
    orders: Sequence[Order],
    devices: pl.DataFrame,
    interval_start: datetime,
    now: datetime,
    plan_version: int,
) -> DueCommands:
    """Return commands of `plan_version` for these devices, each with the wish it had before.

    A device without a plan's command gets its override, and for no longer than that is valid, or
    what it does by itself, for the guard to bound where a limit stands against it; one for which
    neither stands any more gets none: the timer ends what it was told.
    """
    stands = standing(orders, devices, now)
    by_itself = _by_itself(stands, devices)
    overrides = _overrides(orders, stands, devices, now)
    of_plan = newest.filter(pl.col("plan_id") != OPERATOR)
    sequence = interval_number(interval_start)
    commands = (
        device_ids.alias("device_id")
        .to_frame()
        .join(
            of_plan.select("device_id", "plan_id", "planned_kw"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .join(overrides, on="device_id", how="left", maintain_order="left")
        .join(by_itself, on="device_id", how="left", maintain_order="left")
        .with_columns(wish_kw=pl.coalesce("planned_kw", "override_kw", "by_itself_kw"))
        .filter(pl.col("wish_kw").is_not_null())
        .select(
            command_id=pl.format("{}.v{}.{}", "device_id", pl.lit(plan_version), pl.lit(sequence)),
            device_id="device_id",
            plan_id=pl.col("plan_id").fill_null(OPERATOR),
            plan_version=pl.lit(plan_version, pl.Int64),
            sequence=pl.lit(sequence, pl.Int64),
            interval_start=pl.lit(interval_start).cast(pl.Datetime("us", "UTC")),
            valid_from=pl.lit(interval_start).cast(pl.Datetime("us", "UTC")),
            valid_until=pl.when(pl.col("plan_id").is_null())
            .then(pl.min_horizontal("until", pl.lit(interval_start + STEP + GRACE)))
            .otherwise(pl.lit(interval_start + STEP + GRACE)),
            planned_kw="wish_kw",
            setpoint_kw="wish_kw",
            guard_reason=pl.lit(""),
        )
    )
    return DueCommands(Commands.validate(commands, cast=True), _none_refused())


def worth_sending(guarded: pl.DataFrame, newest: pl.DataFrame) -> pl.DataFrame:
    """Return those of `guarded` commands that would tell their device something new.

    What it does by itself, unbound, is nothing new to a device that was told nothing.
    """
    untold = (
        pl.col("offered_kw").is_null()
        & (pl.col("plan_id") == OPERATOR)
        & (pl.col("authority") == PLAN)
    )
    return (
        guarded.join(
            newest.select("device_id", "offered_kw"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .filter(
            ~pl.col("refused"),
            ~untold,
            ((pl.col("setpoint_kw") - pl.col("offered_kw")).abs() > _SAME_KW).fill_null(value=True),
        )
        .drop("offered_kw")
    )


def _by_itself(stands: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Return `by_itself_kw` of the devices that a limit stands against while nobody commands them.

    A charger draws all it can at once, PV and wind inject what there is. What other devices do by
    themselves is a thermostat's or a person's, and no power that they could be told.
    """
    kind = pl.col("device_type").cast(pl.String)
    draws = (kind == "ev_charger") & pl.any_horizontal(
        pl.col("low_kw", "site_low_kw").is_not_null()
    )
    injects = kind.is_in(CAPPED_TYPES) & pl.any_horizontal(
        pl.col("high_kw", "site_high_kw").is_not_null()
    )
    return (
        devices.filter(WRITABLE)
        .join(stands, on="device_id", maintain_order="left")
        .select(
            "device_id",
            by_itself_kw=pl.when(draws)
            .then(-pl.col("max_draw_kw"))
            .when(injects)
            .then("max_inject_kw"),
        )
        .drop_nulls("by_itself_kw")
    )


def _overrides(
    orders: Sequence[Order], stands: pl.DataFrame, devices: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """Return a row a device under an override: `override_kw` and `until` when."""
    cancelled = {order.cancels for order in orders}
    ends = pl.DataFrame(
        [
            (order.scope, order.valid_until)
            for order in orders
            if order.kind == "override"
            and order.order_id not in cancelled
            and order.valid_until is not None
            and order.valid_from <= now < order.valid_until
        ],
        schema={"scope": pl.String, "until": pl.Datetime("us", "UTC")},
        orient="row",
    )
    return (
        ends.join(scopes(devices), on="scope", maintain_order="left")
        .unique("device_id", keep="last", maintain_order=True)
        .select("device_id", "until")
        .join(stands.select("device_id", "override_kw"), on="device_id", maintain_order="left")
    )


def _none_refused() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "device_id": pl.String,
            "interval_start": pl.Datetime("us", "UTC"),
            "field": pl.String,
            "value": pl.String,
            "reason": pl.String,
        }
    )
