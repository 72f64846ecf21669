"""The plant as a whole: `vpp demo`, `vpp up`, `vpp simulate`.

Belongs here: arguments, messages and exit codes. Does not: what the commands do.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vpp_pipeline import up as live
from vpp_pipeline.cli.home import settings_at
from vpp_pipeline.cli.stopping import until_stopped
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.simulation import of_registry

if TYPE_CHECKING:
    from vpp_pipeline.settings import Settings

_LIVE_START = datetime(2020, 9, 14, 4, 0, tzinfo=UTC)


@click.command()
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/demo"),
    show_default=True,
    help="Where the demo's files go; an earlier demo there is replaced.",
)
def demo(home: Path) -> None:
    """Run a whole delivery day at high speed and report what it was worth."""
    from vpp_pipeline import demo as demonstration  # noqa: PLC0415 - slow; a live plant does without

    try:
        passed = demonstration.run(home.resolve())
    except demonstration.DemoError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(0 if passed else 1)


@click.command()
@click.option("--speed", type=click.FloatRange(1, 300), default=10.0, show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/up"),
    show_default=True,
)
def up(speed: float, port: int, home: Path) -> None:
    """Run a live simulated plant under the Dagster UI; Ctrl-C stops all of it.

    The plant's clock starts in September 2020, where the shipped prices are, runs at SPEED times
    the wall clock, and goes on where it was when it is started again.
    """
    environment = {"VPP_HOME": str(home.resolve()), "VPP_PRICES": "recorded"}
    os.environ.update(environment)
    settings = settings_at(None)
    dagster_home = Path(os.environ.get("DAGSTER_HOME", live.REPOSITORY / "dagster_home")).resolve()
    words = f"vpp up with its UI at port {port} and the plant in {settings.home}"
    try:
        with ExitStack() as held:
            live.prepare_dagster_home(dagster_home)
            held.enter_context(live.alone(dagster_home / "vpp-up.lock", words))
            live.check_no_other_dagster(dagster_home)
            live.check_port_is_free(port)
            live.prepare_dagster_store(dagster_home)
            held.enter_context(live.alone(settings.clock_file.with_suffix(".lock"), words))
            _begin(settings, speed, port)
            environment["DAGSTER_HOME"] = str(dagster_home)
            sys.exit(live.run(settings, environment, live.parts(port)))
    except live.StartError as error:
        raise click.ClickException(str(error)) from error


def _begin(settings: Settings, speed: float, port: int) -> None:
    """Set the plant's clock going and say where it can be seen; before a first start lies history."""
    first = not settings.clock_file.exists()
    live.resume_clock(settings, _LIVE_START, speed)
    if first:
        click.echo("first start: writing weeks of measured history …")
        of_registry.seed_history(Runtime.of(settings))
    click.echo(
        f"Dagster UI, in half a minute: http://127.0.0.1:{port}   plant clock: "
        f"{settings.clock().now():%Y-%m-%d %H:%M} UTC at {speed:g}x   Ctrl-C stops everything\n"
        f"for `vpp orders` and the like, in another shell: export VPP_HOME={settings.home}"
    )


@click.command()
def simulate() -> None:
    """Run the simulated fleet on the real protocols, on loopback, until stopped."""
    of_registry.simulate(Runtime.of(settings_at(None)), until_stopped())
