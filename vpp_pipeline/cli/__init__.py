"""The `vpp` command.

Belongs here: which command stands in which module. Does not: the commands themselves (one module
a concern beside this one), what they do.
"""

from __future__ import annotations

from importlib import import_module

import click

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


class _OnDemand(click.Group):
    """Imports a command when it is called: the kill switch must not wait for Dagster's import."""

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
