"""The thresholds of the rules, all in one place.

Belongs here: what a rule takes for too long, too far or too much. Does not: the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class QualitySettings:
    """Thresholds of `row_rules` and `value_rules`; a share is of the rating or the capacity."""

    gap_after: timedelta = timedelta(minutes=45)
    """A longer pause between two readings is a gap: quarter-hours may come late, not fail."""
    clock_ahead: timedelta = timedelta(minutes=5)
    """A reading measured so much after it was known has a clock that runs ahead."""
    clock_behind: timedelta = timedelta(minutes=30)
    """Readings that begin to be known so much later have a clock that was set back, if they do so"""
    clock_behind_lasts: timedelta = timedelta(hours=2)
    """for so long,"""
    clock_behind_readings: int = 6
    """so often in a row, after as many that did not,"""
    clock_behind_before_share: float = 0.1
    """and if no larger share of those before was known so late: it may also be their way."""
    frozen_after: timedelta = timedelta(hours=3)
    """How long a varying power may stay at one value; hourly data stand still for an hour."""
    frozen_readings: int = 4
    temperature_frozen_after: timedelta = timedelta(hours=12)
    """A room behind a coarse thermometer may stand still through a night."""
    frozen_flow_share: float = 0.05
    """A store's content that stands still while so much of its capacity flows is frozen."""
    standby_share: float = 0.02
    """At or below, a power may stand still: a night's PV, a load at standby, a resting battery."""
    at_rating_share: float = 0.98
    """At or above, a power may stand still: it is clipped by the nameplate."""
    beyond_rating_share: float = 1.2
    """No device gives or draws more than this."""
    spike_of_usual: float = 4.0
    """An isolated power of so many times the device's 95th percentile is a spike."""
    wrong_sign_share: float = 0.02
    """More than its own consumption, in a direction the device doesn't have."""
    jump_share: float = 0.05
    """A store's content may step by so much more than its power explains."""
    jump_power_margin: float = 1.2
    jump_k: float = 1.5
    jump_k_per_h: float = 10.0
    """A room's temperature may step by the first and change by the second."""
    dark_share: float = 0.01
    """PV below it is dark; an hour that is dark on most days is night."""
    bright_share: float = 0.05
    """PV above it at night is a sensor whose level or time is shifted."""
    bright_readings: int = 2
    night_majority: float = 0.6
    floor_share: float = 0.08
    """A daily least that moves by more is a shifted level, where it is also more than"""
    floor_of_usual: float = 6.0
    """this many times what it usually moves by."""
    shift_days: int = 4
    """Fewer days show no habit to compare a day with."""
    interpolate_steps: int = 4
    """So many doubted readings in a row are bridged by a line; more are withheld."""
