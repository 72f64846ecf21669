"""A stop in the midst of a push does not keep all later pushes from beginning."""

import dagster as dg
import pytest

from vpp_pipeline.defs.left_runs import end_left_runs


@dg.job
def push():
    """A run that holds a lane."""


@pytest.mark.parametrize(
    ("status", "after"),
    [
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.NOT_STARTED),
        (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS),
    ],
)
def test_a_run_whose_process_a_stop_has_ended_holds_no_lane_after_it(tmp_path, status, after):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(push, status=status)
        assert end_left_runs(instance) == (1 if status is not after else 0)
        assert instance.get_run_by_id(run.run_id).status == after
        assert end_left_runs(instance) == 0
