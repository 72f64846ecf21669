"""Fixtures that several test modules share: the small plant, seeded once and copied for each, and a
port."""

from __future__ import annotations

import gc
import os
import sys
from datetime import time

import pytest
from hypothesis import settings

# The suite starts some hundred processes: one compiles what all of them import.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A property that sets no number of examples itself draws as many as HYPOTHESIS_PROFILE says.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_finish():
    """Spare the garbage collector what was imported: it stays, and is too much to look at."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let it go, so that what is left at the end is what was leaked."""
    gc.unfreeze()


@pytest.fixture
def free_port():
    """A port of the loopback that nobody gets before it is bound by name: until then it is kept."""
    from vpp_pipeline.simulation.broker import reserved_port

    with reserved_port() as port:
        yield port


@pytest.fixture(scope="session")
def seeded_home(tmp_path_factory):
    """A plant with a registered fleet, two weeks of history and prices up to today."""
    from defs_plant import TODAY, market_time, open_plant, seed

    home = tmp_path_factory.mktemp("seeded") / "plant"
    now = market_time(TODAY, time(10, 30))
    seed(home, now)
    with open_plant(home, now) as plant:
        assert plant.daemon.launch("collect_prices", partition_key=str(TODAY)).success
    return home


@pytest.fixture(scope="session")
def planned_home(seeded_home, tmp_path_factory):
    """The seeded plant an instant after tomorrow was planned."""
    from defs_plant import TODAY, copied, market_time, open_plant

    home = copied(seeded_home, tmp_path_factory.mktemp("planned") / "plant")
    with open_plant(home, market_time(TODAY, time(10, 30))) as plant:
        assert plant.plan_tomorrow().success
    return home


@pytest.fixture
def plant(seeded_home, tmp_path):
    """A seeded plant of the test's own, at 10:30 on the day before the planned one."""
    from defs_plant import TODAY, copied, market_time, open_plant

    home = copied(seeded_home, tmp_path / "plant")
    with open_plant(home, market_time(TODAY, time(10, 30))) as opened:
        yield opened


@pytest.fixture
def planned_plant(planned_home, tmp_path):
    """A plant of the test's own whose tomorrow was planned at 11:00, which it is now."""
    from defs_plant import TODAY, copied, market_time, open_plant

    home = copied(planned_home, tmp_path / "plant")
    with open_plant(home, market_time(TODAY, time(11))) as opened:
        yield opened
