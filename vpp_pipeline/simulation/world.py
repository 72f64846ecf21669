"""What the outside does to each simulated device: consumption, sun, wind, cold and vehicles.

Belongs here: giving each device its share of the recorded data, at any time. Does not: what a
device makes of it (`physics`), the recorded data themselves (`markets.recorded`).

Outside the recorded window the world goes round: after its end, and before its start, it repeats
in laps of whole weeks (the shipped window: twelve), so that a weekday stays one. A lap is counted
in UTC; only the daily windows of flexible loads follow the calendar and its clock changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, intervals
from vpp_pipeline.markets import recorded
from vpp_pipeline.simulation.stays import vehicle_stays, windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DAY = timedelta(days=1)
_WEEK = timedelta(weeks=1)
_WEEK_STEPS = 7 * 96
_HOME_WEEKS = 12
_HOMES = 5  # the first columns of the base; PV and wind follow
_PV_COLUMN = _HOMES
_WIND_COLUMN = _HOMES + 1


@dataclass(frozen=True)
class Drive:
    """A quantity outside, for each subject: `scale * base[(step + offset) % period, column] + shift`.

    `base` is (steps, columns), by the quarter-hour from the window's start; the rest are one
    value a subject. Steps are those of the recorded window.
    """

    base: NDArray[np.float64]
    column: NDArray[np.int64]
    offset: NDArray[np.int64]
    period: NDArray[np.int64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def at(self, step: int, subjects: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the subjects' values in one quarter-hour."""
        row = (step + self.offset[subjects]) % self.period[subjects]
        values: NDArray[np.float64] = self.base[row, self.column[subjects]]
        return self.scale[subjects] * values + self.shift[subjects]

    def each(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return all subjects' values as (subjects, steps)."""
        row = (steps + self.offset[:, None]) % self.period[:, None]
        values: NDArray[np.float64] = self.base[row, self.column[:, None]]
        return self.scale[:, None] * values + self.shift[:, None]


@dataclass(frozen=True)
class World:
    """The outside of a fleet at any time; the same for the same devices and seed.

    What was recorded in [start, end), a week or longer, is repeated beyond it. `available`: signed
    kW of each load, PV and wind device (`driven_ids`). `outdoor`: °C of each site (`site_ids`).
    `recorded_stays`: vehicles at chargers that arrive in the window, as in `stays`.
    """

    start: datetime
    end: datetime
    driven_ids: pl.Series
    available: Drive
    site_ids: pl.Series
    outdoor: Drive
    recorded_stays: pl.DataFrame
    flexible_loads: pl.DataFrame

    @property
    def lap(self) -> timedelta:
        """After how long the recorded window repeats: its whole weeks."""
        return (self.end - self.start) // _WEEK * _WEEK

    def step_of(self, at: datetime) -> int:
        """Return the number of the recorded quarter-hour that stands for the one that holds `at`."""
        return (at - self._lap_of(at) * self.lap - self.start) // STEP

    def profiles(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what loads draw and PV and wind could give in the quarter-hours of [start, end).

        (device_id, interval_start, available_kw), signed: a load is negative.
        """
        return self._frame(
            "device_id", self.driven_ids, self.available, "available_kw", (start, end)
        )

    def temperature(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return the sites' outdoor temperatures: (site_id, interval_start, temperature_c)."""
        return self._frame("site_id", self.site_ids, self.outdoor, "temperature_c", (start, end))

    def sessions(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return the vehicles' stays that touch [start, end), by device and arrival.

        (device_id, arrival, departure, arrival_energy_kwh, target_energy_kwh); energies are the
        vehicle's content. A vehicle that would come to an occupied charger does not come.
        """
        laps = range(self._lap_of(start) - 1, self._lap_of(end) + 1)
        stays = pl.concat([self._stays_of(lap) for lap in laps]).sort("device_id", "arrival")
        free_from = pl.col("departure").shift().over("device_id")
        vacant = free_from.is_null() | (pl.col("arrival") >= free_from)
        return _touching(stays.filter(vacant), start, end)

    def load_windows(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return the windows of flexible loads that touch [start, end), as `sessions` does stays."""
        around = windows(self.flexible_loads, start - 2 * _DAY, end + _DAY)
        return _touching(around, start, end)

    def _lap_of(self, at: datetime) -> int:
        """Return how many laps after (before, if negative) the recorded window `at` is."""
        if at < self.start:
            return (at - self.start) // self.lap
        return max(0, (at - self.end) // self.lap + 1)

    def _stays_of(self, lap: int) -> pl.DataFrame:
        """Return the stays that arrive in a lap, at their time in it."""
        first = self.start if lap <= 0 else self.end - self.lap
        last = self.end if lap >= 0 else self.start + self.lap
        arrivals = pl.col("arrival").is_between(first, last, closed="left")
        return self.recorded_stays.filter(arrivals).with_columns(
            pl.col("arrival", "departure") + lap * self.lap
        )

    def _frame(
        self,
        key: str,
        subjects: pl.Series,
        drive: Drive,
        value: str,
        span: tuple[datetime, datetime],
    ) -> pl.DataFrame:
        start, end = span
        starts = intervals(start, end)
        if starts.is_empty() or subjects.is_empty():
            times = starts.clear()
            return pl.DataFrame(
                {key: subjects.clear(), "interval_start": times, value: pl.Series(dtype=pl.Float64)}
            )
        steps = np.array([self.step_of(at) for at in starts.to_list()])
        return pl.DataFrame(
            {
                key: subjects.gather(np.repeat(np.arange(len(subjects)), len(starts))),
                "interval_start": starts.gather(np.tile(np.arange(len(starts)), len(subjects))),
                value: drive.each(steps).ravel(),
            }
        )


def recorded_world(devices: pl.DataFrame, rng: np.random.Generator) -> World:
    """Give each device of a DeviceFrame its share of the recorded data.

    A load is one of five measured homes, moved by whole weeks and scaled so that its peak is 60
    to 90 % of its rating. PV is the measured plant times the rating, wind Luxembourg's, each
    times a factor of the site. A site's temperature is the measured one, half a degree
    more or less. Chargers and flexible loads: see `stays`.
    """
    start, end = recorded.WINDOW_START, recorded.WINDOW_END
    site_ids = devices["site_id"].unique().sort()
    return World(
        start=start,
        end=end,
        driven_ids=_driven(devices)["device_id"],
        available=_available(_driven(devices), site_ids, rng),
        site_ids=site_ids,
        outdoor=_outdoor(site_ids, rng),
        recorded_stays=vehicle_stays(devices, recorded.ev_sessions(), rng),
        flexible_loads=devices.filter(pl.col("device_type").cast(pl.String) == "flexible_load"),
    )


def _touching(stays: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    return stays.filter(pl.col("departure") > start, pl.col("arrival") < end)


def _driven(devices: pl.DataFrame) -> pl.DataFrame:
    return devices.filter(pl.col("device_type").cast(pl.String).is_in(["load", "pv", "wind"]))


def _available(driven: pl.DataFrame, site_ids: pl.Series, rng: np.random.Generator) -> Drive:
    homes = recorded.household_load().pivot(on="home", index="interval_start", values="load_kw")
    base = np.column_stack(
        [
            homes.drop("interval_start").to_numpy(),
            recorded.pv()["power_per_kw"].to_numpy(),
            recorded.wind()["power_per_kw"].to_numpy(),
        ]
    )
    n, device_type = len(driven), driven["device_type"].cast(pl.String).to_numpy()
    is_load, is_pv = device_type == "load", device_type == "pv"
    home = rng.integers(0, _HOMES, n)
    site = np.searchsorted(site_ids.to_numpy(), driven["site_id"].to_numpy())
    site_factor = rng.uniform(0.92, 1.0, len(site_ids))[site]
    peak_kw = base[:, :_HOMES].max(axis=0)[home]
    weeks = rng.integers(0, _HOME_WEEKS, n)
    draw = driven["max_draw_kw"].to_numpy() * rng.uniform(0.6, 0.9, n) / peak_kw
    return Drive(
        base=base,
        column=np.where(is_load, home, np.where(is_pv, _PV_COLUMN, _WIND_COLUMN)),
        offset=np.where(is_load, weeks * _WEEK_STEPS, 0),
        period=np.where(is_load, _HOME_WEEKS * _WEEK_STEPS, len(base)),
        scale=np.where(is_load, -draw, driven["max_inject_kw"].to_numpy() * site_factor),
        shift=np.zeros(n),
    )


def _outdoor(site_ids: pl.Series, rng: np.random.Generator) -> Drive:
    base, n = recorded.temperature()["temperature_c"].to_numpy()[:, None], len(site_ids)
    return Drive(
        base=base,
        column=np.zeros(n, np.int64),
        offset=np.zeros(n, np.int64),
        period=np.full(n, len(base)),
        scale=np.ones(n),
        shift=np.round(rng.uniform(-0.5, 0.5, n), 2),
    )
