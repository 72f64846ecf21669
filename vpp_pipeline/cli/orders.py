"""Orders that run out: `vpp override`, `vpp limit`, `vpp cancel`; and all in force: `vpp orders`.

Belongs here: arguments, messages and exit codes. Does not: what an order does (`dispatch.orders`).
"""

from __future__ import annotations

from datetime import datetime, timedelta  # noqa: TC003 - click reads the signature
from pathlib import Path  # noqa: TC003 - click reads the signature
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from vpp_pipeline.cli import ordering
from vpp_pipeline.cli.home import home_option
from vpp_pipeline.dispatch.cancelling import NothingToCancel, cancellation, in_words, named
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds, HoldsDamaged
from vpp_pipeline.dispatch.in_force import in_force, orders_frame, targets_as_one
from vpp_pipeline.dispatch.orders import standing

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
@click.argument("device")
@click.option("--power-kw", type=float, required=True, help="Positive injects, negative draws.")
@ordering.until_options
@home_option
@ordering.who_option
@ordering.why_option
def override(
    device: str,
    *,
    power_kw: float,
    until: datetime | None,
    span: timedelta | None,
    home: Path | None,
    who: str,
    why: str,
) -> None:
    """Put a power of your own in place of the plan's for DEVICE, inside every limit.

    For PV and wind it is the most they may inject.
    """
    runtime = ordering.plant_at(home)
    valid_until = ordering.end_of(runtime.clock.now(), until, span)
    devices = ordering.registered(runtime)
    scope = ordering.named_scope(device, devices, ["device"])
    row = ordering.members(devices, scope).row(0, named=True)
    if not row["controllable"]:
        raise click.ClickException(f"{scope} is read, never commanded: name another device")
    if not -row["max_draw_kw"] <= power_kw <= row["max_inject_kw"]:
        raise click.ClickException(
            f"--power-kw {power_kw:g} is beyond the nameplate of {scope}: "
            f"name one from {-row['max_draw_kw']:g} to {row['max_inject_kw']:g}"
        )
    order = ordering.ordered(
        runtime, "override", scope, who=who, why=why, valid_until=valid_until, power_kw=power_kw
    )
    ordering.give(runtime, order)
    click.echo(f"{scope} {power_kw:+g} kW: {order.words}")


@click.command()
@click.argument("site")
@click.option(
    "--import-kw",
    type=click.FloatRange(min=0),
    callback=ordering.finite_kw,
    help="The most it may draw.",
)
@click.option(
    "--export-kw",
    type=click.FloatRange(min=0),
    callback=ordering.finite_kw,
    help="The most it may inject.",
)
@click.option("--none", "lifted", is_flag=True, help="No limit: ends the failsafe for so long.")
@ordering.until_options
@home_option
@ordering.who_option
@ordering.why_option
def limit(
    site: str,
    *,
    import_kw: float | None,
    export_kw: float | None,
    lifted: bool,
    until: datetime | None,
    span: timedelta | None,
    home: Path | None,
    who: str,
    why: str,
) -> None:
    """Bound the net power of SITE as the grid operator says.

    A device may be named too: it alone is bound then. So may a group, a tag or the fleet: each
    site with a device in it is, on its own and as a whole.
    """
    if lifted == (import_kw is not None or export_kw is not None):
        raise click.UsageError("name --import-kw, --export-kw or both; or --none for no limit")
    runtime = ordering.plant_at(home)
    valid_until = ordering.end_of(runtime.clock.now(), until, span)
    kinds = ["site", "fleet", "group", "tag", "device"]
    order = ordering.ordered(
        runtime,
        "grid_limit",
        ordering.named_scope(site, ordering.registered(runtime), kinds),
        who=who,
        why=why,
        valid_until=valid_until,
        min_kw=None if import_kw is None else 0.0 - import_kw,
        max_kw=export_kw,
    )
    ordering.give(runtime, order)
    click.echo(f"{order.scope} {_what(order.model_dump())}: {order.words}")


@click.command()
@click.argument("name", metavar="ORDER")
@home_option
@ordering.who_option
@ordering.why_option
def cancel(name: str, home: Path | None, who: str, why: str) -> None:
    """End a limit or an override before its time; a stop ends by `vpp resume`.

    ORDER is its name in `vpp orders`; that of a group's target ends all its shares.
    """
    runtime = ordering.plant_at(home)
    now = runtime.clock.now()
    try:
        ended = named(ordering.read_book(runtime), name, now)
        ordering.give(runtime, *(cancellation(order, who, why, now) for order in ended))
    except NothingToCancel as error:
        raise click.ClickException(str(error)) from error
    except ValidationError as error:
        raise ordering.not_an_order(error) from error
    click.echo(f"cancelled: {in_words(ended, name)}")


@click.command()
@home_option
def orders(home: Path | None) -> None:
    """Show the orders in force, what they hold back, and whether the watchdog runs."""
    runtime = ordering.plant_at(home)
    now = runtime.clock.now()
    book = ordering.read_book(runtime)
    held = targets_as_one(orders_frame(in_force(book, now)))
    rows = [
        (told["order_id"], told["scope"], _what(told), _until(told), told["who"], told["why"])
        for told in held.iter_rows(named=True)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if not rows:
        click.echo("no order is in force")
    counts = standing(book, ordering.registered(runtime), now)["authority"].value_counts(sort=True)
    for authority, count in counts.drop_nulls().iter_rows():
        click.echo(f"{count} devices under {authority}")
    try:
        for device_id, until in sorted(Holds(runtime.settings.order_dir).read().items()):
            click.echo(
                f"{device_id} has no timer and is commanded until {until:%Y-%m-%d %H:%M} UTC"
            )
    except HoldsDamaged as error:
        click.echo(str(error), err=True)
    complaints = Heartbeat(runtime.settings.order_dir).complaints(now, runtime.clock.rate)
    click.echo("; ".join(complaints) or "the watchdog runs", err=bool(complaints))


def _what(order: Mapping[str, Any]) -> str:
    match order["kind"]:
        case "stop":
            return "stopped"
        case "override":
            return "shares" if order["target"] else f"{order['power_kw']:+g} kW"
        case _:
            least_kw, most_kw = order["min_kw"], order["max_kw"]
            bounds = [
                "" if least_kw is None else f"draws at most {-least_kw:g} kW",
                "" if most_kw is None else f"injects at most {most_kw:g} kW",
            ]
            each = "" if order["scope"].startswith(("site:", "device:")) else "each site "
            return each + (", ".join(filter(None, bounds)) or "no limit")


def _until(order: Mapping[str, Any]) -> str:
    if order["valid_until"] is None:
        return "until resumed"
    return f"until {order['valid_until']:%Y-%m-%d %H:%M} UTC"
