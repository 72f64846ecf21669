"""A dispatcher in a process of its own, that dies or lacks something as it is told.

Belongs here: pushing a running plant's first interval from outside. Does not: the plant.
Run as `python faults_dispatcher.py HOME NOW FAULT NTH PROTOCOL...`.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dispatch_fakes import Doomed, Watched
from faults_plant import devices_of
from faults_story import PATIENCE_S, START, Hooked, usual_schedule

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import PushSettings
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.fleet.frame import with_endpoints
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.warehouse.store import Warehouse

DISK_FULL = "disk full"


def main(home: Path, now: datetime, fault: str, nth: int, protocols: list[str]) -> None:
    settings = Settings(home, home / "fleet.yaml", "recorded", "")
    runtime = Runtime(settings, ManualClock(now), Warehouse(settings.warehouse_dir))
    endpoints = json.loads(settings.endpoints_file.read_text())
    devices = with_endpoints(devices_of(protocols), endpoints)
    plan = PlanRef("plan-1", 1)
    due = due_commands(plan, usual_schedule(devices, START, 0), devices, START)
    if fault == DISK_FULL:
        full = settings.warehouse_dir / "vpp.duckdb"
        resource.setrlimit(resource.RLIMIT_FSIZE, (full.stat().st_size,) * 2)

    async def pushed() -> None:
        async with runtime.dispatching("doomed") as dispatcher:
            doomed = Doomed(Watched(settings.warehouse_dir), fault, nth)
            drivers = {
                protocol: Hooked(driver, lambda: None, lambda: doomed.reached("after send"))
                for protocol, driver in dispatcher.drivers.items()
                if protocol in protocols
            }
            settings_ = PushSettings(timeout_s=PATIENCE_S, rounds=3)
            whole = replace(dispatcher, drivers=drivers, ledger=doomed, settings=settings_)
            await push(whole, plan, due, devices, START)

    event_loop.run(pushed())


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        datetime.fromisoformat(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
        sys.argv[5:],
    )
