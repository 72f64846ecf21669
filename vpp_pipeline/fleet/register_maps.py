"""Which vendors' register maps there are, and which devices each is for.

Belongs here: the maps' names and device types, which a registry is checked against. Does not: what
a map says of registers (`devices.register_map`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parents[1] / "devices" / "register_maps"


def map_files() -> dict[str, Path]:
    """Return the file of each shipped map, by the name that a registry's `register_map` gives it."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


@cache
def device_types_of_maps() -> dict[str, tuple[str, ...]]:
    """Return which device types each map is for; a map with none is for all, as a meter's is."""
    return {
        name: tuple(yaml.safe_load(path.read_text(encoding="utf-8")).get("device_types", ()))
        for name, path in map_files().items()
    }
