"""The controller is dead: devices with a timer are back at their default, the others are known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

import watchdog_controller
from click.testing import CliRunner
from defs_plant import FLEET
from devices_mqtt_bench import need_mosquitto
from watchdog_plant import running_plant, wait_until, write_plant

from vpp_pipeline.cli import main
from vpp_pipeline.devices.failsafe import has_failsafe, no_failsafe
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import DEMO_FLEET
from vpp_pipeline.watchdog import Watchdog

RATE = 30.0
VALIDITY_S = 150.0
VENDORS = """\
sites:
  - site_id: alba
    latitude: 39.74
    longitude: 14.82
    grid: {import_limit_kw: 17, export_limit_kw: 12}
    devices:
      - type: ev_charger
        device_id: alba-charger
        connection: {protocol: modbus, host: 192.0.2.1, register_map: go-e-charger}
        max_charge_kw: 11
      - type: battery
        device_id: alba-battery
        connection: {protocol: modbus, host: 192.0.2.2, register_map: huawei-luna2000}
        max_charge_kw: 5
        max_discharge_kw: 5
        energy_capacity_kwh: 10
      - type: battery
        device_id: alba-sunspec
        connection: {protocol: modbus, host: 192.0.2.3}
        max_charge_kw: 5
        max_discharge_kw: 5
        energy_capacity_kwh: 10
"""


def test_invariant_02_with_the_controller_killed_every_device_with_a_timer_falls_back(tmp_path):
    need_mosquitto()
    with running_plant(tmp_path / "home", RATE, DEMO_FLEET.read_text()) as plant:
        devices = plant.runtime.registered_devices()
        timed = {link.device_id for link in device_links(devices) if has_failsafe(link)}
        commanded = timed & set(devices.filter("controllable")["device_id"])
        assert no_failsafe(devices).is_empty()
        with subprocess.Popen(
            [sys.executable, watchdog_controller.__file__, str(VALIDITY_S)],
            env={**os.environ, **plant.environment},
            stdout=subprocess.PIPE,
            text=True,
        ) as controller:
            try:
                assert controller.stdout is not None
                assert controller.stdout.readline() == "accepted\n"
            finally:
                controller.send_signal(signal.SIGKILL)
        obeyed = plant.obeying
        ends = {plant.fleet.plant.setpoint(name).until for name in obeyed}
        assert obeyed.keys() == commanded
        wait_until(lambda: plant.obeying == {}, "every device's timer")
        assert plant.runtime.clock.now() >= max(ends)


def test_invariant_03_devices_without_a_timer_are_told_wherever_the_fleet_is_checked(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(VENDORS)
    told = CliRunner().invoke(main, ["fleet", "check", str(file)])
    assert told.exit_code == 0
    assert "no_failsafe: 1 device " in told.output
    assert "`vpp watchdog` must run" in told.output
    assert told.output.rstrip().endswith("alba-charger")
    file.write_text(FLEET)
    assert "no_failsafe" not in CliRunner().invoke(main, ["fleet", "check", str(file)]).output


def test_invariant_11_a_held_device_that_may_no_longer_be_written_is_named(tmp_path):
    home = tmp_path / "home"
    settings = write_plant(home, rate=1.0, fleet=VENDORS)
    runtime = Runtime.of(settings)
    now = runtime.clock.now()
    held = {"alba-charger": now - timedelta(seconds=1), "alba-battery": now + timedelta(hours=1)}
    Holds(settings.order_dir).hold(held)
    words = "held, but read-only now: mark it `live: true` again, or release it on site"
    with Watchdog(runtime, 1.0) as watchdog:
        assert watchdog.cycle() == [f"alba-charger is not at rest: {words}"]
    environment = {"VPP_HOME": str(home), "VPP_FLEET": str(settings.fleet_file)}
    stopped = CliRunner(env=environment).invoke(main, ["stop", "--within", "1"])
    assert stopped.exit_code == 1
    assert f"NOT released: alba-charger: {words}" in stopped.stderr
    assert f"NOT released: alba-battery: {words}" in stopped.stderr
    assert "alba-sunspec" not in stopped.stderr
