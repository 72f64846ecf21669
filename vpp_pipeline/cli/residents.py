"""Processes that stand beside Dagster until they are stopped: `vpp collect`, `vpp watchdog`.

Belongs here: arguments and messages. Does not: the loops.
"""

from __future__ import annotations

from datetime import timedelta

import click

from vpp_pipeline import collector
from vpp_pipeline import watchdog as watching
from vpp_pipeline.cli.home import settings_at
from vpp_pipeline.cli.stopping import until_stopped
from vpp_pipeline.dispatch.heartbeat import WatchdogRuns
from vpp_pipeline.runtime import Runtime

_COLLECT_EVERY = timedelta(minutes=5)
_WATCH_EVERY_S = 2.0


@click.command()
def collect() -> None:
    """Poll every device and land its readings, until stopped."""
    settings = settings_at(None)
    settings.home.mkdir(parents=True, exist_ok=True)
    collector.run(Runtime.of(settings), _COLLECT_EVERY, until_stopped())


@click.command()
def watchdog() -> None:
    """Release stopped devices, and those whose set-point has run out with no timer, until stopped."""
    try:
        watching.run(Runtime.of(settings_at(None)), _WATCH_EVERY_S, until_stopped())
    except WatchdogRuns as error:
        raise click.ClickException(str(error)) from error
