"""The plant that a command is about.

Belongs here: finding it by its home, and saying so where there is none. Does not: making one
(`plant`).
"""

from __future__ import annotations

import click

from vpp_pipeline.settings import Settings


def settings_of_known_plant() -> Settings:
    """Return the settings; raises `ClickException` where their home holds no warehouse."""
    settings = Settings.from_environment()
    if not settings.warehouse_dir.exists():
        raise click.ClickException(
            f"{settings.warehouse_dir} does not exist: set VPP_HOME to the plant's home"
        )
    return settings
