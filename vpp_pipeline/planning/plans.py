"""From what a plan stands on to the plan.

Belongs here: the plan's inputs as one thing, their fingerprint, and the call of the planner. Does
not: reading them (`inputs`, `outlook`), the planner (`optimization`), storing a plan (`defs`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.optimization.planner import PlanSettings, PortfolioTerms, plan
from vpp_pipeline.warehouse.validate import input_hash

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.planner import Plan
    from vpp_pipeline.optimization.schemas import Certificate

_ADDRESS = ["endpoint", "unit_id", "credentials"]
"""Where a device is reached changes no plan, and a simulator tells it anew each time."""


@dataclass(frozen=True)
class PlanInputs:
    """All that a plan depends on, but for its settings."""

    devices: dy.DataFrame[DeviceFrame]
    envelopes: pl.DataFrame
    """`Envelopes` of the horizon"""
    market: pl.DataFrame
    """(interval_start, price_eur_per_mwh, …) as `prices.complete` gives them"""
    settled: pl.DataFrame | None
    """`PortfolioTerms.quarter_hours`; None: no position to keep to"""
    warm: pl.DataFrame
    """`PlanPrices` to begin from; may be empty"""

    @property
    def horizon(self) -> pl.Series:
        """The quarter-hours that are planned."""
        return self.envelopes["interval_start"].unique().sort()

    def fingerprint(self) -> str:
        """Return the SHA-256 of it all: equal inputs, equal fingerprints."""
        frames = {
            "devices": self.devices.drop(_ADDRESS),
            "envelopes": self.envelopes,
            "prices": self.market,
            "warm": self.warm,
        }
        return input_hash(frames | ({} if self.settled is None else {"settled": self.settled}))


def planned(inputs: PlanInputs, settings: PlanSettings) -> Plan:
    """Return the plan of these inputs; raises `ProblemError` where they can't be planned on."""
    return plan(
        inputs.devices,
        inputs.envelopes,
        inputs.market.select("interval_start", "price_eur_per_mwh"),
        settings,
        PortfolioTerms(quarter_hours=inputs.settled),
        inputs.warm,
    )


def certificate_row(certificate: Certificate) -> pl.DataFrame:
    """Return the certificate as the columns that `plans` and `replays` have for it."""
    figures = asdict(certificate) | {"stage_seconds": json.dumps(certificate.stage_seconds)}
    return pl.DataFrame(
        {
            name: pl.Series([value], dtype=pl.Float64 if value is None else None)
            for name, value in figures.items()
        }
    )
