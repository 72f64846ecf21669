"""Past days planned again: `vpp replay` and `vpp whatif`.

Belongs here: arguments, lines and exit codes. Does not: planning a day again (`planning.replays`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vpp_pipeline.cli.home import home_option, settings_of_known_plant
from vpp_pipeline.planning import as_of as moments
from vpp_pipeline.planning.replays import FailedDay, ReplayedDay, compared, replayed
from vpp_pipeline.planning.variants import Variant, read_variant
from vpp_pipeline.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date

    from vpp_pipeline.planning.as_of import AsOf

_HASH_SHOWN = 16

Told = TypeVar("Told")


def _parsed(read: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def convert(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        try:
            return read(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


_days = click.argument("days", callback=_parsed(moments.days))
_as_of = click.option(
    "--as-of",
    "as_of",
    default=moments.GATE_CLOSURE,
    show_default=True,
    callback=_parsed(moments.as_of),
    help="What was known when: gate-closure, a market time such as 09:30, or an instant.",
)


@click.command()
@_days
@_as_of
@home_option
def replay(days: list[date], as_of: AsOf, home: Path | None) -> None:
    """Plan past DAYS (2022-03-01..2022-03-31) again, on what was known then; sends nothing.

    Each plan's hash is told: the same inputs give the same hash. Costs are of the schedules
    followed to the letter on what was measured, beside the best that could have been done and
    what was really planned. Exit code 1: a day could not be planned, or came out differently.
    """
    click.echo(f"as known at {as_of.text}; EUR, lower is better")
    click.echo(
        f"{'day':10}  {'plan':{_HASH_SHOWN}}  {'cost':>9}  {'best':>9}  {'forecast':>8}  "
        f"{'solver':>8}  {'really':>9}"
    )
    costs, failed, wrong = [], 0, 0
    for told in _told(replayed(Runtime.of(settings_of_known_plant(home)), days, as_of)):
        if isinstance(told, FailedDay):
            failed += 1
            continue
        _echo_replay(told)
        wrong += told.differs
        costs.append(told.cost_eur)
    _echo_sum(f"{len(costs)} days replayed, {failed} could not be; in all", costs)
    sys.exit(1 if failed or wrong else 0)


@click.command()
@_days
@click.argument("variant", type=click.Path(path_type=Path), callback=_parsed(read_variant))
@_as_of
@home_option
def whatif(days: list[date], variant: Variant, as_of: AsOf, home: Path | None) -> None:
    """Plan past DAYS again as they were and as VARIANT, a YAML file, and tell the difference.

    A variant has a name and what it changes: devices, tariff_eur_per_mwh,
    imbalance_spread_eur_per_mwh, plan, forecasts. Both are judged on the same measured values.
    """
    click.echo(f"{variant.name} as known at {as_of.text}; EUR, lower is better")
    click.echo(f"{'day':10}  {'as it was':>10}  {variant.name:>16}  {'difference':>10}")
    differences, failed, wrong = [], 0, 0
    for told in _told(compared(Runtime.of(settings_of_known_plant(home)), days, as_of, variant)):
        if isinstance(told, FailedDay):
            failed += 1
            continue
        before, after = told.as_it_was, told.variant
        click.echo(
            f"{before.replay.day}  {_eur(before.cost_eur):>10}  {_eur(after.cost_eur):>16}  "
            f"{_eur(told.difference_eur):>10}"
        )
        for one in (before, after):
            _echo_notes(one)
            wrong += one.differs
        differences.append(told.difference_eur)
    _echo_sum(
        f"{len(differences)} days compared, {failed} could not be; the difference", differences
    )
    sys.exit(1 if failed or wrong else 0)


def _told(days: Iterable[Told]) -> Iterator[Told]:
    """Yield the days as they come; say at once why one could not be planned."""
    for day in days:
        if isinstance(day, FailedDay):
            click.echo(f"{day.day}  not planned: {day.why}", err=True)
        yield day


def _echo_replay(day: ReplayedDay) -> None:
    verdict = day.replay.judged
    lost = {} if verdict is None else verdict.regret.row(0, named=True)
    click.echo(
        f"{day.replay.day}  {day.replay.schedule_hash[:_HASH_SHOWN]}  {_eur(day.cost_eur):>9}  "
        f"{_eur(lost.get('perfect_foresight_eur')):>9}  {_eur(lost.get('forecast_eur')):>8}  "
        f"{_eur(lost.get('solver_eur')):>8}  "
        f"{_eur(None if verdict is None else verdict.real_plan_eur):>9}"
    )
    _echo_notes(day)


def _echo_notes(day: ReplayedDay) -> None:
    kept, replay = day.kept, day.replay
    notes = []
    if replay.not_judged:
        notes.append(f"no cost: {replay.not_judged}")
    if kept.repeats_plan is not None:
        exactly = "to the last bit" if kept.repeats_it_exactly else "BUT NOT ITS SCHEDULE"
        notes.append(f"repeats plan {kept.repeats_plan} {exactly}")
    if not kept.identical:
        notes.append("DIFFERS from an earlier replay of the same inputs")
    elif kept.earlier:
        notes.append(f"the same as {kept.earlier} before, to the last bit")
    if not replay.unhurried:
        notes.append(
            f"a limit of time may have cut a solver short ({replay.plan.certificate.label}): "
            "it may come out otherwise"
        )
    for note in notes:
        click.echo(f"{'':10}  {note}")


def _echo_sum(what: str, values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    click.echo(f"{what}: {sum(known):.2f} EUR over {len(known)} days with a cost")


def _eur(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
