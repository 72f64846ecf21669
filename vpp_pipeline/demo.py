"""The demo: one delivery day at high speed, through the real assets, sensors and protocols.

Belongs here: the day's script (clock, surprise, outage) and the summary. Does not: anything a
real day needs (the assets), the simulator's insides (`simulation`).

The clock is moved by hand from boundary to boundary, and every sensor is asked as the daemon
would ask it, so that the same seed gives the same day however slow the machine is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vpp_pipeline import central_system
from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.collector import Collector
from vpp_pipeline.defs.stepped import SteppedDaemon, stepped_daemon
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import DEMO_FLEET, MARKET, MARKET_TZ, Settings
from vpp_pipeline.simulation.of_registry import open_fleet, seed_history
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from vpp_pipeline.simulation.fleet import SimulatedFleet

DAY = date(2020, 8, 26)
SURPRISE_AT = time(15, 5)
OUTAGE_DEVICE = "depot-battery"
OUTAGE_FROM, OUTAGE_TO = time(17, 10), time(18, 40)

_STORY = {
    SURPRISE_AT: "a price file is dropped: the evening is far dearer than the auction said",
    OUTAGE_FROM: f"{OUTAGE_DEVICE} stops answering",
    OUTAGE_TO: f"{OUTAGE_DEVICE} is back",
}
_MARK = ".vpp-demo"
_MOST_NET_ERROR = 0.03
_LOOKS_AT_MINUTES = (15, 45)  # a re-plan takes seconds: every half hour is often enough to see it
_JUDGES_AT_MINUTE = 45  # once an hour: whether the power followed its set-points
_POLL_TIMEOUT_S = 5.0
_POLLS = (timedelta(minutes=2), timedelta(minutes=11))


class DemoError(RuntimeError):
    """Something stands in the way of the demo; the text names the remedy."""


def run(home: Path) -> bool:
    """Run the demo day under `home`, print its summary; True when its promises were kept."""
    console = Console()
    _make_empty(home)
    settings = Settings(home, DEMO_FLEET, "recorded", "")
    start, end = market_day.bounds(DAY, MARKET_TZ)
    clock = ManualClock(_local(DAY - timedelta(days=1), time(10, 30)))
    runtime = Runtime(settings, clock, Warehouse(settings.warehouse_dir))
    fleet = open_fleet(runtime)
    fleet.start(ticking=False)
    clock.on_move = fleet.step
    try:
        with (
            central_system.in_background(settings, clock),
            stepped_daemon(runtime) as daemon,
            Collector(runtime, _POLL_TIMEOUT_S) as collector,
            _progress(console) as progress,
        ):
            task = progress.add_task("writing two weeks of measured history", total=100)
            seed_history(runtime)
            daemon.ask("changed_registry")
            daemon.launch("compact")
            progress.update(task, description="planning the day ahead")
            _day_before(collector, daemon, clock, start)
            quarter_hours = market_day.day_intervals(DAY, MARKET_TZ).to_list()
            progress.update(task, total=len(quarter_hours))
            for boundary in quarter_hours:
                progress.update(
                    task, advance=1, description=f"{boundary.astimezone(ZoneInfo(MARKET_TZ)):%H:%M}"
                )
                for moment, words in _STORY.items():
                    if boundary <= _local(DAY, moment) < boundary + market_day.STEP:
                        console.print(f"{moment:%H:%M}  {words}")
                _quarter_hour(runtime, fleet, collector, daemon, boundary)
            clock.sleep_until(end + timedelta(minutes=31))
            daemon.ask("finished_day")
            failures = daemon.failures
    finally:
        fleet.stop()
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    day = summary(runtime)
    _show(day, runtime, console)
    return day.promises_kept and not failures


def _make_empty(home: Path) -> None:
    """Replace an earlier demo at `home`; only what a demo has made is ever removed."""
    if home.exists() and any(home.iterdir()) and not (home / _MARK).exists():
        raise DemoError(f"{home} holds something that is no demo: name an empty folder with --home")
    try:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        (home / _MARK).touch()
    except OSError as error:
        raise DemoError(
            f"{home} can't be written ({error.strerror}): name another folder with --home"
        ) from error


def _day_before(
    collector: Collector, daemon: SteppedDaemon, clock: ManualClock, start: datetime
) -> None:
    """Plan before gate closure on forecast prices, and again when the auction has spoken."""
    eve = DAY - timedelta(days=1)
    collector.collect()
    daemon.launch("collect_prices", partition_key=str(eve))
    clock.sleep_until(_local(eve, time(11, 0)))
    collector.collect()
    daemon.fire("before_gate_closure")
    clock.sleep_until(_local(eve, time(11, 55)))
    collector.collect()  # for a replay, which plans on what was known at gate closure
    clock.sleep_until(_local(eve, time(12, 58)))
    collector.collect()
    daemon.ask("published_prices")
    daemon.ask("changed_picture")
    while clock.now() < start - timedelta(minutes=15):
        clock.sleep_until(clock.now() + timedelta(minutes=30))
    clock.sleep_until(start - timedelta(minutes=4))
    collector.collect()
    daemon.ask("changed_picture")


def _quarter_hour(
    runtime: Runtime,
    fleet: SimulatedFleet,
    collector: Collector,
    daemon: SteppedDaemon,
    boundary: datetime,
) -> None:
    """Push this quarter-hour's commands ahead of its start, then watch it pass."""
    clock = runtime.clock
    clock.sleep_until(boundary - runtime.dispatch_lead / 2)
    daemon.ask("due_dispatch")
    clock.sleep_until(boundary)
    for after in _POLLS:
        clock.sleep_until(boundary + after)
        _happenings(runtime, fleet)
        collector.collect()
    daemon.ask("dropped_price_files")
    daemon.ask("landed_telemetry")
    if boundary.minute in _LOOKS_AT_MINUTES:
        daemon.ask("changed_picture")
    if boundary.minute == _JUDGES_AT_MINUTE:
        daemon.ask("finished_interval")


def _happenings(runtime: Runtime, fleet: SimulatedFleet) -> None:
    """Let the day's surprise and outage happen when their time has come."""
    now = runtime.clock.now()
    out = _local(DAY, OUTAGE_FROM) <= now < _local(DAY, OUTAGE_TO)
    fleet.plant.set_outage(OUTAGE_DEVICE, out)
    marker = runtime.settings.home / "surprise.csv"
    if now >= _local(DAY, SURPRISE_AT) and not marker.exists():
        rows = _dear_evening(runtime)
        rows.write_csv(marker)
        runtime.settings.drop_dir.mkdir(exist_ok=True)
        shutil.copy(marker, runtime.settings.drop_dir / "evening-prices.csv")


@dataclass(frozen=True)
class Summary:
    """The demo day's figures, as stored."""

    costs_eur: dict[str, float]
    lost_eur: dict[str, float]
    commands: dict[str, int]
    plans: int
    moved_kwh: float
    net_error: float
    absolute_error: float
    outage_quarter_hours: int

    @property
    def promises_kept(self) -> bool:
        """Managed between the other two, energy within 3 %, every command's fate known."""
        costs = self.costs_eur
        return (
            costs["perfect_foresight"] <= costs["managed"] < costs["unmanaged"]
            and self.net_error <= _MOST_NET_ERROR
            and set(self.commands) <= {"VERIFIED", "REJECTED", "FAILED", "EXPIRED", "OVERRIDDEN"}
        )


def summary(runtime: Runtime) -> Summary:
    """Read the demo day's figures from the warehouse."""
    start, end = market_day.bounds(DAY, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        error = connection.frame("defs_delivery_error", delivery_day=DAY).row(0, named=True)
        lost = connection.frame("defs_regret", delivery_day=DAY).row(0, named=True)
        churn = connection.frame("defs_plan_churn", delivery_day=DAY)
        return Summary(
            costs_eur=dict(
                connection.frame("defs_settlement", delivery_day=DAY)
                .select("basis", "total_eur")
                .iter_rows()
            ),
            lost_eur={cause: lost[f"{cause}_eur"] for cause in ("solver", "forecast", "execution")},
            commands=dict(
                connection.frame("defs_command_counts", start=start, end_=end).iter_rows()
            ),
            plans=connection.frame("defs_plans_of_day", delivery_day=DAY).height,
            moved_kwh=float(churn["moved_kwh"].sum()),
            net_error=error["net_error"],
            absolute_error=error["absolute_error"],
            outage_quarter_hours=error["excluded_intervals"],
        )


def _show(day: Summary, runtime: Runtime, console: Console) -> None:
    table = Table(title=f"Delivery day {DAY}", show_header=False)
    for basis, cost_eur in day.costs_eur.items():
        table.add_row(f"cost, {basis.replace('_', ' ')}", f"{cost_eur:.2f} EUR")
    saved = day.costs_eur["unmanaged"] - day.costs_eur["managed"]
    possible = day.costs_eur["unmanaged"] - day.costs_eur["perfect_foresight"]
    table.add_row("saved of what was possible", f"{saved:.2f} of {possible:.2f} EUR")
    for cause, lost_eur in day.lost_eur.items():
        table.add_row(f"  lost to {cause}", f"{lost_eur:.2f} EUR")
    table.add_row("planned against delivered, the day", f"{day.net_error:.2%}")
    table.add_row("  quarter-hour by quarter-hour", f"{day.absolute_error:.2%}")
    table.add_row("  left out for the outage", f"{day.outage_quarter_hours} device-quarter-hours")
    table.add_row("plans", f"{day.plans}, re-plans moved {day.moved_kwh:.0f} kWh")
    for state, count in day.commands.items():
        table.add_row(f"commands {state}", str(count))
    console.print(table)
    console.print(f"Report: {runtime.settings.report_dir / f'{DAY}.html'}")


def _dear_evening(runtime: Runtime) -> pl.DataFrame:
    """Return the evening's prices as a file drop: three times what the auction said."""
    first, last = _local(DAY, time(18)), _local(DAY, time(21))
    with runtime.warehouse.read() as connection:
        known = connection.frame(
            "warehouse_prices", market=MARKET, start=first, end_=last, as_of=runtime.clock.now()
        )
    return known.select(
        "market",
        start=pl.col("interval_start").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        price_eur_per_mwh=(pl.col("price_eur_per_mwh") * 3 + 40).round(2),
    )


def _local(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment, ZoneInfo(MARKET_TZ)).astimezone(UTC)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"), BarColumn(), TimeElapsedColumn(), console=console
    )
