"""Dispatchers that die, come twice or find no database, survived end to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import faults_dispatcher
import polars as pl
import pytest
from faults_story import QUARTER, START

from vpp_pipeline.warehouse.errors import LockTimeoutError
from vpp_pipeline.warehouse.store import Warehouse

three = pytest.mark.plant(["modbus", "http", "mqtt"])
two = pytest.mark.plant(["modbus", "http"])


def fault(name, *invariants):
    return pytest.mark.fault(family="Orchestration", fault=name, invariants=invariants)


def push_elsewhere(story, what, nth=1):
    """Push the first interval in another process, to which `what` happens."""
    story.collect()
    story.true_clock.sleep_until(START)
    command = [
        sys.executable,
        str(Path(faults_dispatcher.__file__)),
        str(story.home),
        story.clock.now().isoformat(),
        what,
        str(nth),
        *story.protocols,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, timeout=100, check=False, env=environment)


@pytest.mark.core
@three
@fault(
    "the dispatcher is killed: before the send, after it, after the ack, before a commit", 5, 6, 19
)
@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("after intents", 1),
        ("after SENT", 1),
        ("after SENT", 2),
        ("after send", 1),
        ("after send", 3),
        ("before commit of ACKED", 1),
        ("after ACKED", 1),
    ],
)
def test_after_a_kill_nothing_is_lost_doubled_or_unresolved(story, point, nth):
    killed = push_elsewhere(story, point, nth)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    story.true_clock.sleep_until(START + timedelta(seconds=20))
    assert story.push(collect=False).counts == {"VERIFIED": 6}
    for name in story.devices["device_id"]:
        assert story.applications(name) == [3.0]


@two
@fault("disk full", 5, 19)
def test_on_a_full_disk_nothing_is_sent_that_could_not_be_noted(story):
    with story.runtime.warehouse.write():
        pass
    ended = push_elsewhere(story, faults_dispatcher.DISK_FULL)
    assert ended.returncode == 1, ended.stderr.decode()
    assert story.plant.record == []
    assert story.push(collect=False).counts == {"VERIFIED": 4}


@pytest.mark.core
@two
@fault("two runs for one interval", 5, 14)
def test_of_two_runs_at_once_each_command_goes_out_once(story):
    story.collect()
    story.true_clock.sleep_until(START)
    with ThreadPoolExecutor(2) as runs:
        reports = [runs.submit(story.push, collect=False) for _ in range(2)]
        counts = [report.result().counts for report in reports]
    assert counts == [{"VERIFIED": 4}] * 2
    for name in story.devices["device_id"]:
        assert story.applications(name) == [3.0]


@two
@fault("the database is locked for a while", 5, 19)
def test_a_push_waits_for_a_locked_database(story):
    locked, story_told = threading.Event(), threading.Event()

    def hold():
        with story.runtime.warehouse.write("a long report"):
            locked.set()
            story_told.wait(1.0)

    holder = threading.Thread(target=hold)
    story.before_send["modbus"] = lambda: (holder.start(), locked.wait())
    assert story.push().counts == {"VERIFIED": 4}
    holder.join()


@two
@fault("the database is locked for longer than anybody waits", 5, 19)
def test_without_its_ledger_a_push_sends_nothing(story):
    story.collect()
    usual = story.runtime
    story.runtime = replace(usual, warehouse=Warehouse(usual.settings.warehouse_dir, 0.3))
    with usual.warehouse.write("a very long report"), ThreadPoolExecutor(1) as runs:
        run = runs.submit(story.push, collect=False)
        with pytest.raises(LockTimeoutError):
            run.result()
    story.runtime = usual
    assert story.plant.record == []
    assert story.push(collect=False).counts == {"VERIFIED": 4}


@pytest.mark.core
@two
@fault("the sensor's cursor is replayed", 5, 12)
def test_a_run_asked_for_again_sends_nothing_again(story):
    story.push()
    for _ in range(2):
        assert story.push().counts == {"VERIFIED": 4}
    for name in story.devices["device_id"]:
        assert story.applications(name) == [3.0]
        assert story.path(name).count("SENT") == 1


@two
@fault("a backfill of the past", 21)
def test_a_replay_of_the_past_sends_nothing(story):
    story.true_clock.sleep_until(START + QUARTER)
    assert story.push().counts == {"EXPIRED": 4}
    assert story.plant.record == []


@two
@fault("an older plan's run comes last", 4)
def test_an_older_plan_does_not_follow_a_newer_one(story):
    assert story.push(version=2, kw=2.0).counts == {"VERIFIED": 4}
    assert story.push(version=1, kw=5.0).counts == {"REJECTED": 4}
    assert story.applications("modbus-1") == [2.0]


@two
@fault("the device was made read-only meanwhile", 21)
def test_a_device_that_is_not_live_is_never_written(story):
    story.collect()
    first = pl.col("device_id").str.ends_with("-1")
    story.devices = story.devices.with_columns(simulated=~first, live=pl.lit(value=False))
    assert story.push(collect=False).counts == {"VERIFIED": 2, "REJECTED": 2}
    assert "read-only" in story.words("modbus-1")
    assert story.applications("modbus-1") == story.applications("http-1") == []


@two
@fault("the order book can't be read", 9)
def test_with_a_damaged_order_book_nothing_is_sent_until_it_is_mended(story):
    story.collect()
    story.order("override", "device:modbus-2", power_kw=1.0)
    (book,) = [p for p in story.runtime.settings.order_dir.iterdir() if p.suffix == ".jsonl"]
    kept = book.read_bytes()
    book.write_bytes(kept[: len(kept) // 2] + b"\n")
    assert story.push(collect=False).counts == {"REJECTED": 4}
    assert story.plant.record == []
    book.write_bytes(kept)
    assert story.next_interval().counts == {"VERIFIED": 4}
    assert story.plant.obeyed_kw("modbus-2") == 1.0
