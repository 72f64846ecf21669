"""The frame that refused rows become.

Belongs here: what a quarantine record is. Does not: making one (`quarantine`).
"""

from __future__ import annotations

import dataframely as dy


class Quarantine(dy.Schema):
    """One row a refused row and broken rule: the whole row, why, and what to do.

    `row_number` counts from 1 within `source`, a file or a feed; 0 is the file as a whole.
    """

    table_name = dy.String()
    source = dy.String()
    row_number = dy.Int64(min=0)
    field = dy.String()
    value = dy.String(nullable=True)
    reason = dy.String()
    remedy = dy.String()
    row_json = dy.String()
    known_at = dy.Datetime(time_zone="UTC", time_unit="us")
