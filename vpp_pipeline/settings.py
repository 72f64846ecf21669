"""What an operator may choose, read once from the environment.

Belongs here: the pipeline's settings and where its files stand. Does not: anything a stage
decides by itself, secrets (they are read where they are used).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from vpp_pipeline.clock import Clock, ScaledClock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKET = "DE-LU"
MARKET_TZ = "Europe/Berlin"
_LAST_PORT = 65_535
_REGISTRY_NOTE = "registry.txt"
DEMO_FLEET = Path(__file__).parent / "fleet" / "demo.yaml"


@dataclass(frozen=True)
class Settings:
    """`home` holds all that is written: the warehouse, the landing zone, reports, leases."""

    home: Path
    fleet_file: Path
    price_source: Literal["energy-charts", "recorded"]
    energy_charts_url: str
    weather_url: str | None = None
    """Where Open-Meteo's forecast API answers; none asks for no weather forecasts."""
    imbalance_spread_eur_per_mwh: float = 0.0
    """By how much a deviation from the committed position is dearer than the market's price, and
    a surplus cheaper."""
    fleet_ramp_kw_per_min: float | None = None
    """How fast the set-points of the fleet may move in sum; none is no limit."""
    webhook_port: int | None = None
    """Where HTTP gateways post signed completions, on the loopback; none is polling."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read VPP_HOME, VPP_FLEET, VPP_PRICES, VPP_ENERGY_CHARTS_URL, VPP_WEATHER_URL,
        VPP_IMBALANCE_SPREAD, VPP_FLEET_RAMP and VPP_WEBHOOK_PORT.

        Without VPP_FLEET the registry is the one that the plant was last registered from.
        """
        source = environment.get("VPP_PRICES", "energy-charts")
        if source not in ("energy-charts", "recorded"):
            raise ValueError(
                f"VPP_PRICES is {source!r}: set it to energy-charts (live) or recorded (shipped)"
            )
        home = Path(environment.get("VPP_HOME", "var/vpp")).resolve()
        return cls(
            home=home,
            fleet_file=Path(environment.get("VPP_FLEET") or _registry_of(home)).resolve(),
            price_source="recorded" if source == "recorded" else "energy-charts",
            energy_charts_url=environment.get(
                "VPP_ENERGY_CHARTS_URL", "https://api.energy-charts.info"
            ),
            weather_url=environment.get("VPP_WEATHER_URL") or None,
            imbalance_spread_eur_per_mwh=_spread(environment.get("VPP_IMBALANCE_SPREAD", "0")),
            fleet_ramp_kw_per_min=_ramp(environment.get("VPP_FLEET_RAMP")),
            webhook_port=_port(environment.get("VPP_WEBHOOK_PORT", "")),
        )

    @property
    def registry_note(self) -> Path:
        """Which registry the fleet was last registered from; not there for the demo's."""
        return self.home / _REGISTRY_NOTE

    @property
    def registered_fleet_file(self) -> Path:
        """The fleet as it was last registered, for those who find no sound registry."""
        return self.home / "registered-fleet.json"

    @property
    def warehouse_dir(self) -> Path:
        """The DuckDB file and its lock."""
        return self.home / "warehouse"

    @property
    def snapshot_file(self) -> Path:
        """The published copy of the warehouse, for readers."""
        return self.home / "published" / "vpp.duckdb"

    @property
    def landing_dir(self) -> Path:
        """Where telemetry lands before it is compacted."""
        return self.home / "landing"

    @property
    def drop_dir(self) -> Path:
        """Where a price file may be dropped."""
        return self.home / "drop"

    @property
    def order_dir(self) -> Path:
        """The operators' order book; read and written with no database in between."""
        return self.home / "orders"

    @property
    def lease_dir(self) -> Path:
        """Endpoint leases between processes."""
        return self.home / "leases"

    @property
    def simulation_dir(self) -> Path:
        """The simulated fleet's addresses and state."""
        return self.home / "simulation"

    @property
    def endpoints_file(self) -> Path:
        """The addresses of the simulated devices."""
        return self.simulation_dir / "endpoints.json"

    @property
    def generated_credentials_file(self) -> Path:
        """The credentials that the simulated fleet made for those who come to it."""
        return self.simulation_dir / "credentials.toml"

    @property
    def charge_point_dir(self) -> Path:
        """The central system of the charge points: its address and its command channel."""
        return self.home / "charge-points"

    @property
    def report_dir(self) -> Path:
        """Plan and settlement reports."""
        return self.home / "reports"

    @property
    def clock_file(self) -> Path:
        """The simulated clock that the processes of one plant share; absent for a real plant."""
        return self.home / "clock.json"

    def clock(self) -> Clock:
        """Return the clock of this plant: simulated if one was set, else the machine's."""
        if not self.clock_file.exists():
            return SystemClock()
        stored = json.loads(self.clock_file.read_text())
        return ScaledClock(
            start=datetime.fromisoformat(stored["start"]),
            anchor_epoch_s=stored["anchor_epoch_s"],
            rate=stored["rate"],
        )


def _registry_of(home: Path) -> Path:
    try:
        return Path((home / _REGISTRY_NOTE).read_text())
    except OSError:
        return DEMO_FLEET


def _spread(text: str) -> float:
    try:
        spread = float(text)
    except ValueError:
        spread = math.nan
    if not (math.isfinite(spread) and spread >= 0):
        raise ValueError(
            f"VPP_IMBALANCE_SPREAD is {text!r}: set it to EUR/MWh, 0 or more, such as 25"
        )
    return spread


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _LAST_PORT):
        raise ValueError(
            f"VPP_WEBHOOK_PORT is {text!r}: set it to a port from 1 to {_LAST_PORT}, or leave it"
            " out to poll"
        )
    return int(text)


def _ramp(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        ramp = float(text)
    except ValueError:
        ramp = math.nan
    if not (math.isfinite(ramp) and ramp > 0):
        raise ValueError(
            f"VPP_FLEET_RAMP is {text!r}: set it to kW/min above 0, such as 500, or leave it out"
        )
    return ramp
