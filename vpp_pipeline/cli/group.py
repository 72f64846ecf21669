"""A target for a group, now: `vpp dispatch`.

Belongs here: arguments, messages and exit codes. Does not: sharing a target out and bringing it
to the devices (`dispatch.group`).
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta  # noqa: TC003 - click reads the signature
from pathlib import Path  # noqa: TC003 - click reads the signature
from typing import TYPE_CHECKING
from uuid import uuid4

import click
from pydantic import ValidationError

from vpp_pipeline import event_loop
from vpp_pipeline.cli import ordering
from vpp_pipeline.cli.home import check_warehouse, home_option
from vpp_pipeline.delivery_day import floor_interval
from vpp_pipeline.devices.leases import LeaseHeld
from vpp_pipeline.dispatch.group import GroupReport, GroupTarget, Outlook, dispatch_group, preview
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.flexibility.envelopes import EnvelopeError
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.planning.outlook import outlook, rest_of_day

if TYPE_CHECKING:
    from vpp_pipeline.runtime import Runtime


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("group")
@click.argument("power_kw", metavar="KW", type=float, callback=ordering.finite_kw)
@ordering.until_options
@click.option("--dry-run", is_flag=True, help="Show the shares; order and send nothing.")
@home_option
@ordering.who_option
@ordering.why_option
def dispatch(
    group: str,
    *,
    power_kw: float,
    until: datetime | None,
    span: timedelta | None,
    dry_run: bool,
    home: Path | None,
    who: str,
    why: str,
) -> None:
    """Have GROUP (a group, tag:TAG, site:SITE or fleet) sum to KW, shared out at least wear.

    Positive injects. The shares are overrides in the order book: they end by themselves,
    `vpp orders` shows them as one, and `vpp cancel` ends them. Exit code 1 says that less than the
    target was accepted.
    """
    runtime = ordering.plant_at(home)
    now = runtime.clock.now()
    target = GroupTarget(
        key=f"group-{uuid4().hex[:8]}",
        scope=ordering.named_scope(
            group, ordering.registered(runtime), ["group", "tag", "site", "fleet"]
        ),
        power_kw=power_kw,
        until=ordering.end_of(now, until, span),
        who=who,
        why=why,
    )
    check_warehouse(runtime.settings)
    try:
        known = outlook(runtime, rest_of_day(now, target.until), now)
        if dry_run:
            standing = OrderBook(runtime.settings.order_dir).standing(known.devices, now)
            report = preview(known, target, standing, floor_interval(now))
        else:
            report = event_loop.run(_dispatch(runtime, known, target))
    except ValidationError as error:
        raise ordering.not_an_order(error) from error
    except (EnvelopeError, LeaseHeld, LookupError, OrderBookDamaged, ProblemError) as error:
        raise click.ClickException(str(error)) from error
    _show(report, sent=not dry_run)
    sys.exit(1 if report.shortfall_kw and not dry_run else 0)


async def _dispatch(runtime: Runtime, known: Outlook, target: GroupTarget) -> GroupReport:
    async with runtime.dispatching(f"vpp dispatch by {target.who}") as dispatcher:
        return await dispatch_group(dispatcher, known, target)


def _show(report: GroupReport, *, sent: bool) -> None:
    for device_id, share_kw, accepted_kw, state, why in report.devices.iter_rows():
        accepted = f"accepted {accepted_kw:+z.3f} kW  " if sent else ""
        click.echo(f"{device_id}  share {share_kw:+z.3f} kW  {accepted}{state}  {why}".rstrip())
    for device_id, why in report.skipped.iter_rows():
        click.echo(f"{device_id}  takes no part: {why}")
    reach = f"target {report.target_kw:+z.3f} kW, within reach {report.reachable_kw:+z.3f} kW"
    outcome = f"accepted {report.accepted_kw:+z.3f} kW, shortfall {report.shortfall_kw:+z.3f} kW"
    click.echo(f"{reach}, {outcome}" if sent else reach)
