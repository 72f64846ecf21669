"""Endpoint leases between processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vpp_pipeline.devices.leases import LeaseFileDamaged, LeaseHeld, Leases

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "127.0.0.1:5020"
HOLD = """
import asyncio, sys
from pathlib import Path
from vpp_pipeline.devices.leases import Leases
async def hold():
    lease = await Leases(Path(sys.argv[1]), "collector").acquire(sys.argv[2], 5)
    print(lease.token, flush=True)
    sys.stdin.read()
asyncio.run(hold())
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), ENDPOINT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_refused_are_told_who_holds_the_endpoint(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(LeaseHeld) as refused:
            asyncio.run(Leases(tmp_path, "dispatch").acquire(ENDPOINT, 0))
    finally:
        end(process)
    assert f"{ENDPOINT} is leased by collector (pid {process.pid}); retry" in str(refused.value)


def test_a_killed_holder_leaves_its_lease_and_the_token_grows(tmp_path: Path) -> None:
    process = holder(tmp_path)

    async def wait_for_it() -> int:
        waiting = asyncio.create_task(Leases(tmp_path, "dispatch").acquire(ENDPOINT, 20))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        async with await waiting as lease:
            return lease.token

    try:
        assert asyncio.run(wait_for_it()) == 2
    finally:
        end(process)


def test_a_waiting_lease_blocks_nobody_else(tmp_path: Path) -> None:
    leases = Leases(tmp_path, "one")

    async def take() -> list[str]:
        order: list[str] = []
        first = await leases.acquire(ENDPOINT, 1)
        waiting = asyncio.create_task(Leases(tmp_path, "two").acquire(ENDPOINT, 20))
        async with await leases.acquire("127.0.0.1:5021", 1):
            order.append("other endpoint")
        first.release()
        async with await waiting as second:
            order.append(f"token {second.token}")
        return order

    assert asyncio.run(take()) == ["other endpoint", "token 2"]


def test_tokens_grow_over_all_owners_even_when_the_names_get_shorter(tmp_path: Path) -> None:
    async def tokens() -> list[int]:
        seen = []
        for owner in ("a rather long name for a collector", "b", ""):
            async with await Leases(tmp_path, owner).acquire(ENDPOINT, 1) as lease:
                seen.append(lease.token)
        return seen

    assert asyncio.run(tokens()) == [1, 2, 3]


def test_a_damaged_lease_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    leases = Leases(tmp_path, "one")
    (tmp_path / "127.0.0.1%3A5020.lease").write_text("what is this\n")
    with pytest.raises(LeaseFileDamaged, match="delete the file"):
        asyncio.run(leases.acquire(ENDPOINT, 1))
