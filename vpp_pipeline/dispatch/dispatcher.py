"""What dispatch works with, and how patient it is.

Belongs here: the parts a push and a re-check share, and their settings. Does not: what they do
with them (`push`, `recheck`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vpp_pipeline.dispatch.guard import GuardSettings
from vpp_pipeline.dispatch.report import Tolerance
from vpp_pipeline.dispatch.spread import SpreadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.leases import Leases
    from vpp_pipeline.devices.protocol import Driver
    from vpp_pipeline.dispatch.holds import Holds
    from vpp_pipeline.dispatch.ledger import Ledger
    from vpp_pipeline.dispatch.order_book import OrderBook


@dataclass(frozen=True)
class PushSettings:
    """How a push tries. Seconds are wall time: devices and wires know no other."""

    guard: GuardSettings = field(default_factory=GuardSettings)
    spread: SpreadSettings = field(default_factory=SpreadSettings)
    tolerance: Tolerance = field(default_factory=Tolerance)
    timeout_s: float = 5.0  # of one batch of one protocol
    rounds: int = 4  # times each open command is read back, and sent again where it may be
    settle_s: float = 0.5  # before the first read-back; doubles each round
    turn_s: float = 60.0  # how long another push of the interval is waited for


@dataclass(frozen=True)
class Dispatcher:
    """What a push works with. `read_states` returns each device's latest telemetry.

    Under a lease of `leases` an interval is pushed by one run at a time.
    """

    ledger: Ledger
    drivers: Mapping[str, Driver]
    clock: Clock
    read_states: Callable[[], pl.DataFrame]
    orders: OrderBook
    holds: Holds
    leases: Leases
    actor: str
    settings: PushSettings = field(default_factory=PushSettings)
