"""The central system of the charge points: `vpp charge-points`.

Belongs here: arguments, messages and exit codes. Does not: the central system itself.
"""

from __future__ import annotations

from pathlib import Path

import click

from vpp_pipeline import central_system
from vpp_pipeline.cli.home import settings_at
from vpp_pipeline.cli.stopping import until_stopped
from vpp_pipeline.credentials import Credentials, redact_logs


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Where charge points call; without it a free port, for simulated ones.",
)
@click.option("--certificate", type=click.Path(path_type=Path, dir_okay=False), help="PEM; TLS.")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="PEM.")
def charge_points(host: str, port: int, certificate: Path | None, key: Path | None) -> None:
    """Let charge points (OCPP 1.6) call, and drivers command them, until stopped.

    A charge point calls ws://HOST:PORT/<its id in the registry>. Its password is that of the
    credentials with its id; on a loopback address it may have none.
    """
    settings = settings_at(None)
    try:
        credentials = Credentials.read()
        redact_logs(credentials)
        central_system.run(
            settings,
            settings.clock(),
            credentials,
            central_system.Listening(host, port, certificate, key),
            until_stopped(),
        )
    except central_system.CentralSystemError as error:
        raise click.ClickException(str(error)) from error
