"""The fault scenarios' plant, and what is noted of each for the table.

The suite runs the scenarios that are marked `core`, of each the first case; with VPP_FAULTS=all,
as `python -m tests.faults` does, it runs all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("integration", "unit")]


def pytest_configure(config):
    for marker in (
        "fault(family, fault, invariants): the fault of a scenario, for the table",
        "plant(protocols, **fields): the plant of a scenario",
        "core: a scenario that every run of the suite tries",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    if os.environ.get("VPP_FAULTS") == "all":
        return
    here, seen = Path(__file__).parent, set()
    left_out = []
    for item in items:
        if here not in item.path.parents:
            continue
        if item.get_closest_marker("core") is None or item.function in seen:
            left_out.append(item)
        seen.add(item.function)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def story(request):
    """A running plant; after the scenario it makes the four judgements.

    A fixture named as the marker's `prepared_by` gives it further fields before it starts.
    """
    from faults_story import Story

    plant = request.node.get_closest_marker("plant")
    fields = dict(plant.kwargs)
    if prepare := fields.pop("prepared_by", None):
        fields |= request.getfixturevalue(prepare)
    with Story(*plant.args, **fields) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Judge within the test, so that what is broken is its failure; note what the ledger said."""
    fault = pyfuncitem.get_closest_marker("fault")
    noted = dict(fault.kwargs) if fault else {}
    pyfuncitem.user_properties.append(("scenario", noted))
    result = yield
    if running := pyfuncitem.funcargs.get("story"):
        running.finish()
        noted["ledger"] = running.summary()
    return result
