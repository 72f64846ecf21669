"""Prices dropped as a file, CSV or Parquet.

Belongs here: what a price file holds. Does not: reading such a file (`dropped_file`), watching a
folder (`defs`), what all feeds share (`feeds`).

Columns: `market`, `start` (ISO 8601 with an offset or Z), `price_eur_per_mwh` and, if it is not
15, `resolution_minutes` (15, 30 or 60).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.markets.dropped_file import (
    Form,
    candidates,
    file_rules,
    ragged_rows,
    read_dropped,
)
from vpp_pipeline.markets.feeds import FeedResult, RejectedRows, judge

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from vpp_pipeline.markets.schemas import Prices

_FORM = Form("prices", ("price_eur_per_mwh",))
_NAME = "price_file"


def read_price_file(
    path: Path, known_at: datetime, of_market: str | None = None
) -> FeedResult[Prices]:
    """Return a file's prices as quarter-hours, and the rows that were refused.

    Rows are numbered from 1, header excluded; with `of_market` those of others are refused. Raises
    FeedError if the file can't be read or its columns are not those above.
    """
    cells = read_dropped(path, _FORM)
    rows = candidates(cells, _FORM).rename({"price_eur_per_mwh_text": "price_text"})
    result = judge(rows, file_rules(of_market), str(path), known_at, _NAME)
    rejected = pl.concat([result.rejected, ragged_rows(cells)]).sort("row_number")
    return replace(result, rejected=RejectedRows.validate(rejected))
