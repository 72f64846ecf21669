"""Many past days planned again, one after the other, whatever becomes of one of them.

Belongs here: the days of a replay and of a comparison, and their sums. Does not: a single day
(`replay`), the words on a screen (`cli`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpp_pipeline.planning.replay import Replay, ReplayError, replay_day
from vpp_pipeline.planning.replay_store import Kept, keep
from vpp_pipeline.planning.variants import AS_IT_WAS, VariantError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from vpp_pipeline.planning.as_of import AsOf
    from vpp_pipeline.planning.variants import Variant
    from vpp_pipeline.runtime import Runtime


@dataclass(frozen=True)
class ReplayedDay:
    """A day that was planned again, and how it is kept."""

    replay: Replay
    kept: Kept

    @property
    def cost_eur(self) -> float | None:
        """What the plan would have cost; None where it could not be judged."""
        verdict = self.replay.judged
        return None if verdict is None else float(verdict.regret["as_planned_eur"][0])

    @property
    def differs(self) -> bool:
        """Whether the same inputs once gave another schedule: a replay is to be bit-identical."""
        repeated_wrongly = self.kept.repeats_plan is not None and not self.kept.repeats_it_exactly
        return self.replay.unhurried and (not self.kept.identical or repeated_wrongly)


@dataclass(frozen=True)
class FailedDay:
    """A day that could not be planned again."""

    day: date
    why: str


@dataclass(frozen=True)
class ComparedDay:
    """A day as it was, and as a variant of it."""

    as_it_was: ReplayedDay
    variant: ReplayedDay

    @property
    def difference_eur(self) -> float | None:
        """What the variant would have cost more; below 0 it saves."""
        before, after = self.as_it_was.cost_eur, self.variant.cost_eur
        return None if before is None or after is None else after - before


def replayed(
    runtime: Runtime, days: Sequence[date], as_of: AsOf
) -> Iterator[ReplayedDay | FailedDay]:
    """Yield each day planned again as it was known, and stored; a day that fails stops no other."""
    for day in days:
        try:
            yield _replayed(runtime, day, as_of, AS_IT_WAS)
        except ReplayError as error:
            yield FailedDay(day, str(error))


def compared(
    runtime: Runtime, days: Sequence[date], as_of: AsOf, variant: Variant
) -> Iterator[ComparedDay | FailedDay]:
    """Yield each day as it was and as the variant, both judged on the same measured values.

    A day that fails, or whose fleet the variant does not fit, stops no other.
    """
    for day in days:
        try:
            changed = _replayed(runtime, day, as_of, variant)  # what it can't change fails first
            yield ComparedDay(_replayed(runtime, day, as_of, AS_IT_WAS), changed)
        except (ReplayError, VariantError) as error:
            yield FailedDay(day, str(error))


def _replayed(runtime: Runtime, day: date, as_of: AsOf, variant: Variant) -> ReplayedDay:
    replay = replay_day(runtime, day, as_of.of(day), variant)
    return ReplayedDay(replay, keep(runtime, replay))
