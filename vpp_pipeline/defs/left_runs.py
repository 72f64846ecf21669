"""Dagster's store before web server and daemon begin: its tables, and runs that have no process.

Belongs here: what one process has to do alone, `python -m vpp_pipeline.defs.left_runs`. Does not:
starting the others (`up`).
"""

from __future__ import annotations

import dagster as dg

_WITH_A_PROCESS = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def end_left_runs(instance: dg.DagsterInstance) -> int:
    """Call every run failed whose process a stop has ended with it; return how many.

    Such a run holds its lane for ever: no push, or no plan, would begin again. Dagster retries what
    failed so.
    """
    left = instance.get_runs(dg.RunsFilter(statuses=_WITH_A_PROCESS))
    for run in left:
        instance.report_run_failed(run, "the plant was stopped while this ran")
    return len(left)


def main() -> None:
    """Make the tables of DAGSTER_HOME and end what was left running there."""
    with dg.DagsterInstance.get() as instance:
        instance.all_instigator_state()
        end_left_runs(instance)


if __name__ == "__main__":
    main()
