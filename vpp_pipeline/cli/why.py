"""Why a device does what it does: `vpp why`.

Belongs here: arguments, messages and exit codes. Does not: finding the chain (`dispatch.why`), its
words (`dispatch.why_words`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - click reads the signature

import click
from rich.console import Console
from rich.markdown import Markdown

from vpp_pipeline.cli.home import home_option, settings_of_known_plant
from vpp_pipeline.cli.ordering import moment_of
from vpp_pipeline.dispatch.why import explain
from vpp_pipeline.dispatch.why_words import markdown
from vpp_pipeline.warehouse.store import Warehouse


@click.command()
@click.argument("device")
@click.argument("time", type=moment_of, required=False)
@home_option
@click.option("--json", "as_json", is_flag=True, help="The whole chain, for a program.")
def why(device: str, time: datetime | None, *, as_json: bool, home: Path | None) -> None:
    """Tell why DEVICE was told what it was told at TIME, back to forecasts, prices and readings.

    TIME has its zone, such as 2026-01-31T18:07+01:00; without it, now on the plant's clock.
    """
    settings = settings_of_known_plant(home)
    try:
        moment = settings.clock().now() if time is None else time.astimezone(UTC)
        answer = explain(Warehouse(settings.warehouse_dir), settings, device, moment)
    except LookupError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(answer.model_dump_json(indent=2))
        return
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown(answer)))
    else:
        click.echo(markdown(answer), nl=False)  # a file's tables must not be wrapped
