"""What the plan behind a set-point stood on, for one device and quarter-hour, as known then.

Belongs here: schedule row, envelope, forecasts, prices and readings of one device. Does not: the
command and its chain (`why`), the words for an operator (`why_words`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline.delivery_day import STEP

if TYPE_CHECKING:
    from vpp_pipeline.warehouse.store import Connection

Row = dict[str, Any]

_READING_REACH = timedelta(days=1)  # an older one is no state of a device


class Grounds:
    """What a plan stood on for one device and quarter-hour."""

    def __init__(
        self,
        connection: Connection,
        device: Row,
        interval_start: datetime,
        command: Row | None,
        plan: Row | None,
    ) -> None:
        self._connection = connection
        self._device = device
        self._start = interval_start if command is None else command["interval_start"]
        self._plan = plan

    def schedule(self) -> Row | None:
        """Return the plan's row."""
        if self._plan is None:
            return None
        return first(
            self._connection.frame(
                "dispatch_schedule_row",
                plan_id=self._plan["plan_id"],
                device_id=self._device["device_id"],
                interval_start=self._start,
            )
        )

    def envelope(self) -> Row | None:
        """Return the envelope's row that the plan stood on."""
        if self._plan is None:
            return None
        return first(
            self._connection.frame(
                "dispatch_envelope",
                device_id=self._device["device_id"],
                interval_start=self._start,
                start=self._plan["horizon_start"],
                end_=self._plan["horizon_end"],
                as_of=self._plan["as_of"],
            )
        )

    def forecasts(self, envelope: Row | None) -> list[Row]:
        """Return the forecasts that the envelope was made from."""
        if envelope is None:
            return []
        target, subject = {
            "load": ("load", "device_id"),
            "pv": ("pv", "device_id"),
            "wind": ("wind", "device_id"),
            "heat_pump": ("temperature", "site_id"),
        }.get(self._device["device_type"], (None, "device_id"))
        if target is None:
            return []
        rows = self._connection.frame(
            "warehouse_forecasts", target=target, **self._span(), as_of=envelope["known_at"]
        )
        return rows.filter(pl.col("subject_id") == self._device[subject]).to_dicts()

    def sessions(self, envelope: Row | None) -> list[Row]:
        """Return the vehicles that were expected at a charger."""
        if envelope is None or self._device["device_type"] != "ev_charger":
            return []
        rows = self._connection.frame(
            "warehouse_session_forecasts", **self._span(), as_of=envelope["known_at"]
        )
        return rows.filter(pl.col("device_id") == self._device["device_id"]).to_dicts()

    def prices(self, market: str) -> list[Row]:
        """Return the market's price of the quarter-hour: published, or else forecast."""
        if self._plan is None:
            return []
        known: dict[str, Any] = {**self._span(), "as_of": self._plan["as_of"]}
        published = self._connection.frame("warehouse_prices", market=market, **known)
        if not published.is_empty():
            return published.with_columns(basis=pl.lit("published")).to_dicts()
        forecast = self._connection.frame("warehouse_forecasts", target="price", **known)
        return (
            forecast.filter(pl.col("subject_id") == market)
            .with_columns(basis=pl.lit("forecast"), price_eur_per_mwh="p50")
            .to_dicts()
        )

    def _span(self) -> dict[str, Any]:
        return {"start": self._start, "end_": self._start + STEP}


def readings(
    connection: Connection,
    device_id: str,
    landed: pl.DataFrame,
    uses: list[tuple[str, datetime]],
) -> list[Row]:
    """Return the newest reading known at each of the moments, told once where it is the same."""
    devices = pl.DataFrame({"device_id": [device_id]})
    rows: dict[datetime, Row] = {}
    for used_for, as_of in uses:
        start = as_of - _READING_REACH
        stored = connection.frame(
            "warehouse_readings",
            {"devices": devices},
            start=start,
            end_=as_of + timedelta(microseconds=1),
            as_of=as_of,
        )
        fresh = landed.filter(
            pl.col("device_id") == device_id,
            pl.col("measured_at") >= start,
            pl.col("measured_at") <= as_of,
            pl.col("known_at") <= as_of,
        )
        both = pl.concat([stored, fresh.select(stored.columns)]).sort(
            "measured_at", "known_at", maintain_order=True
        )
        if not both.is_empty():
            newest = both.row(-1, named=True)
            rows.setdefault(newest["measured_at"], {"used_for": used_for, **newest})
    return list(rows.values())


def first(frame: pl.DataFrame) -> Row | None:
    """Return the first row, or none."""
    return None if frame.is_empty() else frame.row(0, named=True)
