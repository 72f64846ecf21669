"""The kill switch: `vpp stop`, `vpp resume`.

Belongs here: arguments, messages and exit codes. Does not: releasing (`kill_switch`).
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - click reads the signature
from typing import TYPE_CHECKING

import click

from vpp_pipeline.cli import ordering
from vpp_pipeline.cli.home import home_option
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import HoldsDamaged
from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.orders import WORDS_AT_MOST
from vpp_pipeline.kill_switch import keep_releases, release_stopped

if TYPE_CHECKING:
    import polars as pl

    from vpp_pipeline.dispatch.orders import Order
    from vpp_pipeline.runtime import Runtime

_KINDS = ("fleet", "site", "group", "tag", "device")
_UNDER_WAY_S = 6.0  # a batch's time-out and a second: a send made before the order has arrived


@click.command()
@click.argument("scope", default="fleet")
@home_option
@ordering.who_option
@click.option("--why", default="emergency stop", help="The reason, for those who ask later.")
@click.option(
    "--within",
    "within_s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="For how many seconds a device is tried again that was not seen at rest.",
)
def stop(scope: str, home: Path | None, who: str, why: str, within_s: float) -> None:
    """Stop SCOPE (fleet, site:ID, group:ID, tag:TAG, device:ID) and release its devices, now.

    Nothing is sent to them until `vpp resume` of the same scope. Works with Dagster and the
    database down. Exit code 1 names each device that was not seen at its default.
    """
    runtime = ordering.plant_at(home)
    scope, fleet = ("fleet", None) if scope == "fleet" else _meant(runtime, scope)
    order = ordering.ordered(
        runtime, "stop", scope, who=who[:WORDS_AT_MOST] or "nobody", why=why[:WORDS_AT_MOST] or "?"
    )
    given = _given(runtime, order)
    devices = ordering.members(ordering.registered(runtime) if fleet is None else fleet, scope)
    complaints = Heartbeat(runtime.settings.order_dir).complaints(
        runtime.clock.now(), runtime.clock.rate
    )
    try:
        results = release_stopped(runtime, devices, within_s, _UNDER_WAY_S if complaints else 0.0)
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"no release is known: {error}; put that right and stop again, or switch the devices"
            " on site"
        ) from error
    left = {name: result for name, result in results.items() if result.outcome != "ACKED"}
    for device_id, result in left.items():
        click.echo(f"NOT released: {device_id}: {result.detail}", err=True)
    click.echo(f"{len(results) - len(left)} of {len(results)} devices were seen at their default")
    if left:
        trying = "; ".join(complaints) or "the watchdog goes on trying"
        click.echo(f"{trying}; stop again, or switch these devices on site", err=True)
    try:
        keep_releases(runtime, order, results)
    except (OSError, HoldsDamaged) as error:
        click.echo(f"the releases were not noted for the ledger: {error}", err=True)
    sys.exit(0 if given and not left else 1)


def _meant(runtime: Runtime, scope: str) -> tuple[str, pl.DataFrame | None]:
    """Return the scope that is meant, and the fleet.

    Where no fleet is known there is none, and a fully spelt scope is believed.
    """
    try:
        fleet = ordering.registered(runtime)
    except click.ClickException:
        if ":" in scope:
            return scope, None
        raise
    return ordering.named_scope(scope, fleet, _KINDS), fleet


def _given(runtime: Runtime, order: Order) -> bool:
    """Put the stop in the book; tell whether it stands. The devices are released all the same."""
    try:
        ordering.give(runtime, order)
    except click.ClickException as error:
        click.echo(f"{error.message}. End the dispatcher (`vpp up`) by hand!", err=True)
        return False
    click.echo(f"{order.scope} is stopped: {order.words}")
    return True


@click.command()
@click.argument("scope")
@home_option
@ordering.who_option
@ordering.why_option
def resume(scope: str, home: Path | None, who: str, why: str) -> None:
    """Let the plan command SCOPE again, at once, as it was named in `vpp stop`."""
    runtime = ordering.plant_at(home)
    standing = in_force(ordering.read_book(runtime), runtime.clock.now())
    stopped = {order.scope: order for order in standing if order.kind == "stop"}
    if scope not in stopped:
        scope = ordering.named_scope(scope, ordering.registered(runtime), _KINDS)
    if scope not in stopped:
        names = ", ".join(stopped) or "nothing is"
        raise click.ClickException(f"{scope} is not stopped by itself: {names}; see `vpp orders`")
    order = ordering.ordered(runtime, "resume", scope, who=who, why=why)
    ordering.give(runtime, order)
    click.echo(f"{scope} may be commanded again, at once: {order.words}")
    for other in stopped.keys() - {scope}:
        click.echo(f"still stopped: {other}: {stopped[other].words}")
