"""The fault scenarios' plant, and what is noted of each for the table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("integration", "unit")]


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "fault(family, fault, invariants): the fault of a scenario, for the table"
    )
    config.addinivalue_line("markers", "plant(protocols, **fields): the plant of a scenario")


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
    result = yield
    if running := pyfuncitem.funcargs.get("story"):
        running.finish()
        fault = pyfuncitem.get_closest_marker("fault")
        noted = {**fault.kwargs, "ledger": running.summary()}
        pyfuncitem.user_properties.append(("scenario", noted))
    return result
