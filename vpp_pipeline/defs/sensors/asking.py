"""How a sensor is made, and what of a job is under way already.

Belongs here: what all sensors share. Does not: any sensor.
"""

from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import Any

import dagster as dg

WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
]
_UNDER_WAY = [*WAITING, dg.DagsterRunStatus.STARTED]


def sensor(job: Any, *, every_s: int) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Make a function a sensor of `job`, switched on; its docstring is what the UI says of it."""

    def made(ask: Callable[..., Any]) -> dg.SensorDefinition:
        return dg.sensor(
            job=job,
            minimum_interval_seconds=every_s,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=getdoc(ask),
        )(ask)

    return made


def is_under_way(
    context: dg.SensorEvaluationContext,
    job_name: str,
    statuses: Sequence[dg.DagsterRunStatus] = _UNDER_WAY,
) -> bool:
    """Tell whether a run of the job is in one of these states."""
    asked = dg.RunsFilter(job_name=job_name, statuses=list(statuses))
    return bool(context.instance.get_run_records(asked, limit=1))
