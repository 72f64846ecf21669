"""How a sensor is made, and what of a job is under way already.

Belongs here: what all sensors share. Does not: any sensor.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from inspect import getdoc
from typing import Any

import dagster as dg

from vpp_pipeline.runtime import Runtime

Asked = dg.RunRequest | dg.SkipReason

WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
]
_UNDER_WAY = [*WAITING, dg.DagsterRunStatus.STARTED]


def sensor(job: Any, *, every_s: int) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Make a function a sensor of `job`, switched on; its docstring is what the UI says of it.

    Its run keys are made this warehouse's own. Dagster remembers keys for ever: what an earlier
    plant in the same DAGSTER_HOME had asked for, one begun anew would not get.
    """

    def made(ask: Callable[..., Any]) -> dg.SensorDefinition:
        @wraps(ask)
        def asked(runtime: dg.ResourceParam[Runtime], **given: Any) -> Iterator[Asked]:
            told = ask(runtime=runtime, **given)
            every = list(told) if isinstance(told, Iterator) else [told]
            yield from _of_this_warehouse(every, runtime)

        return dg.sensor(
            job=job,
            minimum_interval_seconds=every_s,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=getdoc(ask),
        )(asked)

    return made


def _of_this_warehouse(told: list[Asked], runtime: Runtime) -> list[Asked]:
    if not any(isinstance(one, dg.RunRequest) for one in told):
        return told
    mark = f"{runtime.warehouse_made_at():%Y%m%dT%H%M%S.%fZ}"
    return [
        one._replace(run_key=f"{one.run_key}@{mark}") if isinstance(one, dg.RunRequest) else one
        for one in told
    ]


def is_under_way(
    context: dg.SensorEvaluationContext,
    job_name: str,
    statuses: Sequence[dg.DagsterRunStatus] = _UNDER_WAY,
) -> bool:
    """Tell whether a run of the job is in one of these states."""
    asked = dg.RunsFilter(job_name=job_name, statuses=list(statuses))
    return bool(context.instance.get_run_records(asked, limit=1))
