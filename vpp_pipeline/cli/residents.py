"""Processes that stand beside Dagster until they are stopped: `vpp collect`.

Belongs here: arguments and messages. Does not: the loops.
"""

from __future__ import annotations

from datetime import timedelta

import click

from vpp_pipeline import collector
from vpp_pipeline.cli.stopping import until_stopped
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings

_COLLECT_EVERY = timedelta(minutes=5)


@click.command()
def collect() -> None:
    """Poll every device and land its readings, until stopped."""
    collector.run(Runtime.of(Settings.from_environment()), _COLLECT_EVERY, until_stopped())
