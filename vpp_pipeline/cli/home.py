"""The plant that a command is about.

Belongs here: finding it by its home, and saying so where there is none. Does not: making one
(`plant`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from vpp_pipeline.settings import Settings

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="The plant's files; else VPP_HOME.",
)


def settings_at(home: Path | None) -> Settings:
    """Return the settings, of the plant at `home` where one is named. Raises ClickException."""
    try:
        settings = Settings.from_environment(
            os.environ | ({} if home is None else {"VPP_HOME": str(home)})
        )
    except ValueError as error:
        raise click.ClickException(f"the plant's settings can't be read: {error}") from error
    try:
        settings.clock()
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(
            f"{settings.clock_file} tells no clock ({error}): put a copy of it back, or take it "
            "away to go by the machine's"
        ) from error
    return settings


def settings_of_known_plant(home: Path | None) -> Settings:
    """Return the settings; raises `ClickException` where their home holds no warehouse."""
    settings = settings_at(home)
    check_warehouse(settings)
    return settings


def check_warehouse(settings: Settings) -> None:
    """Raise `ClickException` where there is no database: whoever reads it would make an empty one."""
    database = settings.warehouse_dir / "vpp.duckdb"
    if not database.exists():
        snapshot = settings.snapshot_file
        kept = f" from its published snapshot {snapshot}" if snapshot.exists() else ""
        raise click.ClickException(
            f"there is no warehouse at {settings.home}: name the plant's home with --home or "
            f"VPP_HOME, or bring back {database}{kept}"
        )
