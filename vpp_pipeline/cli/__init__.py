"""The `vpp` command.

Belongs here: which command stands in which module, and how what can be put right is told. Does not:
the commands themselves (one module a concern beside this one), what they do.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import click

from vpp_pipeline.credentials import CredentialError
from vpp_pipeline.fleet.problems import RegistryError
from vpp_pipeline.warehouse.errors import WarehouseError

_MODULE_OF = {
    "cancel": "orders",
    "charge-points": "charge_points",
    "collect": "residents",
    "demo": "plant",
    "dispatch": "group",
    "fleet": "fleet",
    "limit": "orders",
    "orders": "orders",
    "override": "orders",
    "replay": "replay",
    "resume": "kill_switch",
    "simulate": "plant",
    "stop": "kill_switch",
    "up": "plant",
    "watchdog": "residents",
    "whatif": "replay",
    "why": "why",
}
_NOT_OURS = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What the system answers where a file of the plant can't be read or written."""


class _OnDemand(click.Group):
    """Imports a command when it is called: the kill switch must not wait for Dagster's import.

    What a person can put right is told in its own words, anything else with its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CredentialError, RegistryError, WarehouseError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno not in _NOT_OURS or error.filename is None:
                raise
            raise click.ClickException(
                f"{error.filename} can't be used ({error.strerror}): give this user the right to "
                "write there, or name another home with --home or VPP_HOME"
            ) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_MODULE_OF)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _MODULE_OF:
            return None
        module = import_module(f"{__name__}.{_MODULE_OF[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_OnDemand)
def main() -> None:
    """A virtual power plant: telemetry and prices in, a verified schedule for every device out."""
