"""A copy of the warehouse for whoever only reads: notebooks, dashboards.

Belongs here: publishing the copy. Does not: reading it (any DuckDB client can, read-only).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from vpp_pipeline.durable import replace_durably
from vpp_pipeline.warehouse.errors import WarehouseError

if TYPE_CHECKING:
    from pathlib import Path

    from vpp_pipeline.warehouse.store import Warehouse


def publish(warehouse: Warehouse, target: Path) -> None:
    """Put a copy of the warehouse, with every commit so far, in the place of `target`.

    Whoever has the old copy open keeps reading it and blocks nobody. Raises `WarehouseError`
    where the copy can't be written; then the old one stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_durably(target) as temporary, warehouse.at_rest() as file:
            shutil.copyfile(file, temporary)
    except OSError as error:
        raise WarehouseError(
            f"{target} can't be written ({error.strerror}), the last snapshot stays: free space "
            "or name another place for it"
        ) from error
