"""The registry: a fleet's file, checked as a whole, all problems at once.

Belongs here: choosing how a file is read, and refusing it. Does not: the formats themselves
(`yaml_file`, `table_file`), what a record may be (`model`).

`.yaml` and `.yml` follow `model.Fleet`. `.csv` and `.parquet` hold one row a device, in the
columns of `columns.COLUMNS`: its site's, its own, its connection's (`connection_protocol`,
`connection_host` …), and `tags` and `groups` separated by `;`. A blank takes the default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.fleet import table_file, yaml_file
from vpp_pipeline.fleet.frame import DeviceFrame, device_frame, frame_of
from vpp_pipeline.fleet.problems import Problem, RegistryError, file_problem
from vpp_pipeline.fleet.table import fleet_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import dataframely as dy

    from vpp_pipeline.fleet.model import Fleet

__all__ = ["Problem", "RegistryError", "check", "load", "read_devices"]


def load(path: Path) -> Fleet:
    """Return the fleet of a registry file; raises RegistryError with every problem it has."""
    content = _sound(path)
    return fleet_of(content) if isinstance(content, pl.DataFrame) else content


def read_devices(path: Path) -> dy.DataFrame[DeviceFrame]:
    """Return the devices of a registry file; the way for 100,000 of them in CSV or Parquet.

    Raises RegistryError with every problem the file has.
    """
    content = _sound(path)
    return frame_of(content) if isinstance(content, pl.DataFrame) else device_frame(content)


def check(path: Path) -> list[Problem]:
    """Return everything that is wrong with a registry file; an empty list if nothing is."""
    _, problems = _read(path)
    return problems


def _sound(path: Path) -> Fleet | pl.DataFrame:
    content, problems = _read(path)
    if content is None or problems:
        raise RegistryError(problems)
    return content


def _read(path: Path) -> tuple[Fleet | pl.DataFrame | None, list[Problem]]:
    readers: dict[str, Callable[[bytes, str], tuple[Fleet | pl.DataFrame | None, list[Problem]]]]
    readers = {
        ".yaml": yaml_file.read,
        ".yml": yaml_file.read,
        ".csv": table_file.read_csv,
        ".parquet": table_file.read_parquet,
    }
    file = str(path)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        remedy = f"name it {', '.join(sorted(readers))}"
        return None, [file_problem(file, f"has no known suffix ({path.suffix!r})", remedy)]
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        return None, [file_problem(file, reason, "name a file that exists and is readable")]
    return reader(content, file)
