"""The kill switch: `vpp stop`, `vpp resume`.

Belongs here: arguments, messages and exit codes. Does not: releasing (`kill_switch`).
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - click reads the signature

import click

from vpp_pipeline.cli import ordering
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.release import releasable
from vpp_pipeline.kill_switch import release_stopped

_KINDS = ("fleet", "site", "group", "tag", "device")
_UNDER_WAY_S = 6.0  # a batch's time-out and a second: a send made before the order has arrived


@click.command()
@click.argument("scope", default="fleet")
@ordering.home_option
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
    if scope != "fleet":
        scope = ordering.named_scope(scope, ordering.registered(runtime), _KINDS)
    order = ordering.give(runtime, "stop", scope, who=who, why=why)
    click.echo(f"{scope} is stopped: {order.words}")
    devices = ordering.members(ordering.registered(runtime), scope)
    complaints = Heartbeat(runtime.settings.order_dir).complaints(
        runtime.clock.now(), runtime.clock.rate
    )
    try:
        left = release_stopped(
            runtime, order, devices, within_s, _UNDER_WAY_S if complaints else 0.0
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"the order stands, but not every release is known: {error}; put that right and stop"
            " again, or switch the devices on site"
        ) from error
    for device_id, words in left.items():
        click.echo(f"NOT released: {device_id}: {words}", err=True)
    links, silent = releasable(devices)
    commanded = len(links) + len(silent)
    click.echo(f"{commanded - len(left)} of {commanded} devices were seen at their default")
    if left:
        click.echo(
            "The order stands and nothing more is sent. "
            + ("; ".join(complaints) or "The watchdog goes on trying")
            + "; stop again, or switch these devices on site.",
            err=True,
        )
    sys.exit(1 if left else 0)


@click.command()
@click.argument("scope")
@ordering.home_option
@ordering.who_option
@ordering.why_option
def resume(scope: str, home: Path | None, who: str, why: str) -> None:
    """Let the plan command SCOPE again, as it was named in `vpp stop`."""
    runtime = ordering.plant_at(home)
    standing = in_force(ordering.read_book(runtime), runtime.clock.now())
    stopped = {order.scope: order for order in standing if order.kind == "stop"}
    if scope not in stopped:
        scope = ordering.named_scope(scope, ordering.registered(runtime), _KINDS)
    if scope not in stopped:
        names = ", ".join(stopped) or "nothing is"
        raise click.ClickException(f"{scope} is not stopped by itself: {names}; see `vpp orders`")
    order = ordering.give(runtime, "resume", scope, who=who, why=why)
    click.echo(f"{scope} is commanded again from its next interval: {order.words}")
    for other in stopped.keys() - {scope}:
        click.echo(f"still stopped: {other}: {stopped[other].words}")
