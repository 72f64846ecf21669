"""The registry: `vpp fleet check`.

Belongs here: arguments, messages and exit codes. Does not: the rules of a registry (`fleet`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vpp_pipeline.devices.failsafe import no_failsafe
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.unlikely import unlikely
from vpp_pipeline.settings import DEMO_FLEET

_NAMED_AT_MOST = 20


@click.group()
def fleet() -> None:
    """The registry of sites and devices."""


@fleet.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEMO_FLEET)
def check(file: Path) -> None:
    """Name every error in a fleet FILE (YAML, CSV or Parquet), with its place and remedy.

    What is no error and yet unlikely (Wh for kWh, W for kW) is warned of.
    """
    problems = registry.check(file)
    for problem in problems:
        click.echo(str(problem), err=True)
    if problems:
        click.echo(f"{file}: {_counted(len(problems), 'problem')}", err=True)
        sys.exit(1)
    devices = registry.read_devices(file)
    warnings = unlikely(devices)
    for device_id, field, value, reason, remedy in warnings.iter_rows():
        click.echo(f"{file}: warning: {device_id} {field} {value:g} {reason}; {remedy}", err=True)
    click.echo(
        f"{file}: {_counted(devices.height, 'device')} at "
        f"{_counted(devices['site_id'].n_unique(), 'site')}, no problems"
        + (f", {_counted(warnings.height, 'warning')}" if warnings.height else "")
    )
    without = no_failsafe(devices)["device_id"].to_list()
    if without:
        names = ", ".join(without[:_NAMED_AT_MOST]) + (
            " …" if len(without) > _NAMED_AT_MOST else ""
        )
        click.echo(
            f"no_failsafe: {_counted(len(without), 'device')} without a timer that ends a set-point; "
            f"`vpp watchdog` must run to release them: {names}"
        )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
