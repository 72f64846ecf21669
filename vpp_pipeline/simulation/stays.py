"""When a device has a job: vehicles at chargers, and the windows of flexible loads.

Belongs here: stays as frames, one at a time a device, and which stay is the current one. Does
not: what the device does with its stay (`physics`).

A stay is (device_id, arrival, departure, arrival_energy_kwh, target_energy_kwh). Stays begin and
end on whole minutes, so that physics in steps of a minute never cuts one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_UTC = pl.Datetime("us", "UTC")
_SCHEMA: dict[str, pl.DataType] = {
    "device_id": pl.String(),
    "arrival": _UTC,
    "departure": _UTC,
    "arrival_energy_kwh": pl.Float64(),
    "target_energy_kwh": pl.Float64(),
}
_BUSY_SESSIONS = 40
_SHORTEST_STAY = timedelta(minutes=15)
_SMALLEST_NEED_KWH = 0.5
_LOOKAHEAD = timedelta(weeks=2)


def vehicle_stays(
    devices: pl.DataFrame, sessions: pl.DataFrame, rng: np.random.Generator
) -> pl.DataFrame:
    """Give each charger the sessions of one busy recorded station, as stays.

    A charger has its own station while there are enough, and its own shift of up to 20 minutes.
    The vehicle needs what was delivered, but at most nine tenths of what charger and stay allow
    and of its capacity; it leaves when it said, and wants to leave between 75 and 95 % full.
    """
    chargers = devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger").select(
        "device_id", "max_draw_kw", "energy_capacity_kwh", "charge_efficiency"
    )
    if chargers.is_empty():
        return pl.DataFrame(schema=_SCHEMA)
    counts = sessions.group_by("station").len().filter(pl.col("len") >= _BUSY_SESSIONS)
    stations = rng.permutation(counts["station"].sort().to_numpy())
    shift = pl.duration(minutes="shift_minutes")
    stay_h = (pl.col("departure") - pl.col("arrival")).dt.total_seconds() / 3600
    chargeable = pl.col("max_draw_kw") * pl.col("charge_efficiency") * stay_h
    stays = (
        chargers.with_columns(
            station=pl.Series(np.resize(stations, len(chargers)), dtype=pl.String),
            shift_minutes=pl.Series(rng.integers(-20, 21, len(chargers))),
        )
        .join(sessions, on="station", maintain_order="left_right")
        .with_columns(
            arrival=(pl.col("arrival") + pl.duration(seconds=59)).dt.truncate("1m") + shift,
            departure=pl.col("departure").dt.truncate("1m") + shift,
        )
        .filter(pl.col("departure") - pl.col("arrival") >= _SHORTEST_STAY)
        .with_columns(
            need=pl.min_horizontal(
                "delivered_kwh", 0.9 * chargeable, 0.9 * pl.col("energy_capacity_kwh")
            )
        )
        .filter(pl.col("need") >= _SMALLEST_NEED_KWH)
    )
    wish = pl.Series(rng.uniform(0.75, 0.95, len(stays)))
    target = pl.max_horizontal(
        pl.col("need") + 0.05 * pl.col("energy_capacity_kwh"), wish * pl.col("energy_capacity_kwh")
    )
    return (
        stays.with_columns(target_energy_kwh=target)
        .with_columns(arrival_energy_kwh=pl.col("target_energy_kwh") - pl.col("need"))
        .select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())
        .sort("device_id", "arrival")
    )


def windows(devices: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Return the daily windows of flexible loads that begin on the local days of [start, end].

    A window whose end is not after its start ends on the next day. An instant that the clocks
    skip is an hour later, one that comes twice is the first.
    """
    loads = devices.filter(pl.col("device_type").cast(pl.String) == "flexible_load")
    days = pl.DataFrame({"day": pl.date_range(_day(start), _day(end), eager=True)})
    overnight = pl.col("window_end") <= pl.col("window_start")
    last_day = pl.col("day").dt.offset_by(
        pl.when(overnight).then(pl.lit("1d")).otherwise(pl.lit("0d"))
    )
    by_zone = [
        group.join(days, how="cross").select(
            device_id="device_id",
            arrival=_instant(pl.col("day").dt.combine(pl.col("window_start")), str(zone)),
            departure=_instant(last_day.dt.combine(pl.col("window_end")), str(zone)),
            arrival_energy_kwh=pl.lit(0.0),
            target_energy_kwh="required_energy_kwh",
        )
        for (zone,), group in loads.group_by("timezone", maintain_order=True)
    ]
    return pl.concat([pl.DataFrame(schema=_SCHEMA), *by_zone]).sort("device_id", "arrival")


def _day(moment: datetime) -> date:
    return moment.date()


def _instant(local: pl.Expr, zone: str) -> pl.Expr:
    def utc(clock: pl.Expr) -> pl.Expr:
        placed = clock.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return placed.dt.convert_time_zone("UTC").cast(_UTC).dt.truncate("1m")

    return utc(local).fill_null(utc(local + pl.duration(hours=1)))


class Stays:
    """Which stay is the current or the next one of each device, moving forward in time.

    Instants are seconds since the epoch. `there` tells which devices have a stay right now;
    `arrived` which of those began since the last move. `between` gives the stays that touch a
    span; some weeks of them are kept.
    """

    def __init__(
        self, device_ids: pl.Series, between: Callable[[datetime, datetime], pl.DataFrame]
    ) -> None:
        self._order = pl.DataFrame({"device_id": device_ids}).with_row_index("device")
        self._between = between
        self._known_until_s = -np.inf
        self._seen_from_s = np.full(len(device_ids), np.nan)
        self._load(pl.DataFrame(schema=_SCHEMA))
        self.there = np.zeros(len(device_ids), bool)
        self.arrived = self.there

    def move_to(self, at_s: float) -> None:
        """Go on to the stays of a moment; never back."""
        if at_s + _LOOKAHEAD.total_seconds() > self._known_until_s:
            at = datetime.fromtimestamp(at_s, UTC)
            self._load(self._between(at, at + 2 * _LOOKAHEAD))
            self._known_until_s = at_s + 2 * _LOOKAHEAD.total_seconds()
        while (over := self._end[self._current] <= at_s).any():
            self._point_at(self._next + over)
        start = self._start[self._current]
        self.there = start <= at_s
        self.arrived = self.there & (self._seen_from_s != start)
        self._seen_from_s = np.where(self.there, start, self._seen_from_s)

    def steady_until_s(self, at_s: float) -> float:
        """Return when the next of all stays begins or ends after `at_s`, as of the last move."""
        start, end = self._start[self._current], self._end[self._current]
        return float(np.where(start > at_s, start, end).min(initial=np.inf))

    def _load(self, stays: pl.DataFrame) -> None:
        rows = self._order.join(stays, on="device_id").sort("device", "arrival")
        counts = np.bincount(rows["device"].to_numpy(), minlength=len(self._order))
        # one more stay that never comes, so that `_current` always points at a row
        self._start = np.append(_epoch_s(rows["arrival"]), np.inf)
        self._end = np.append(_epoch_s(rows["departure"]), np.inf)
        self._initial = np.append(rows["arrival_energy_kwh"].to_numpy(), np.nan)
        self._target = np.append(rows["target_energy_kwh"].to_numpy(), np.nan)
        self._last = np.cumsum(counts)
        self._point_at((self._last - counts).astype(np.int64))

    def _point_at(self, rows: NDArray[np.int64]) -> None:
        self._next = rows
        self._current = np.where(rows < self._last, rows, len(self._start) - 1)

    @property
    def initial_kwh(self) -> NDArray[np.float64]:
        """The store's content when the current or next stay begins; NaN where there is none."""
        return self._initial[self._current]

    @property
    def target_kwh(self) -> NDArray[np.float64]:
        """What the store must hold at the end; NaN where there is no stay to come."""
        return self._target[self._current]

    @property
    def end_s(self) -> NDArray[np.float64]:
        """When the current or next stay ends; infinite where there is none to come."""
        return self._end[self._current]


def _epoch_s(instants: pl.Series) -> NDArray[np.float64]:
    return instants.dt.epoch("us").to_numpy() / 1e6
