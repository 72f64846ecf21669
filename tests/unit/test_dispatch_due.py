from datetime import timedelta

import polars as pl
from dispatch_cases import START
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.dispatch.due import due, run_key

QUARTER = timedelta(minutes=15)
LEAD = timedelta(minutes=2)


def plan(version: int, start=START, quarters: int = 96, revision: int = 0) -> dict[str, object]:
    return {
        "plan_id": f"plan-{version}",
        "plan_version": version,
        "revision": revision,
        "horizon_start": start,
        "horizon_end": start + quarters * QUARTER,
    }


def released(*plans: dict[str, object]) -> pl.DataFrame:
    schema = {name: pl.Datetime("us", "UTC") for name in ("horizon_start", "horizon_end")}
    return pl.DataFrame(plans or [plan(1)], schema_overrides=schema).head(len(plans))


def test_the_running_interval_is_due_and_the_next_once_it_is_within_the_lead():
    plans = released(plan(1))
    early = due(plans, set(), START + timedelta(minutes=5), LEAD)
    late = due(plans, set(), START + timedelta(minutes=14), LEAD)
    assert [push.interval_start for push in early] == [START]
    assert [push.interval_start for push in late] == [START, START + QUARTER]


def test_what_was_pushed_is_not_due_again():
    plans = released(plan(1))
    (first,) = due(plans, set(), START, LEAD)
    assert due(plans, {first.run_key}, START, LEAD) == []


def test_a_re_plan_makes_the_running_interval_due_again_under_another_key():
    (first,) = due(released(plan(1)), set(), START, LEAD)
    (second,) = due(released(plan(1), plan(2, revision=1)), {first.run_key}, START, LEAD)
    assert (second.plan_version, second.revision) == (2, 1)
    assert second.run_key != first.run_key


def test_a_newer_plan_that_begins_later_leaves_the_running_interval_to_the_older():
    plans = released(plan(1), plan(2, start=START + QUARTER, revision=1))
    found = due(plans, set(), START + timedelta(minutes=14), LEAD)
    assert [(push.plan_version, push.interval_start) for push in found] == [
        (1, START),
        (2, START + QUARTER),
    ]


def test_without_a_plan_nothing_is_due():
    assert due(released(), set(), START, LEAD) == []
    assert due(released(plan(1, quarters=4)), set(), START + timedelta(hours=2), LEAD) == []


def test_the_run_key_names_plan_revision_and_interval():
    assert run_key("plan-1", 3, START) == "dispatch:plan-1:r3:20260301T1000Z"


@given(
    versions=st.lists(st.tuples(st.integers(-8, 8), st.integers(1, 20)), max_size=4),
    now_min=st.integers(0, 120),
    lead_min=st.integers(0, 60),
)
@settings(max_examples=40, deadline=None)
def test_invariant_21_an_interval_that_is_over_is_never_due(versions, now_min, lead_min):
    plans = released(
        *(
            plan(version, START + offset * QUARTER, quarters)
            for version, (offset, quarters) in enumerate(versions)
        )
    )
    now, lead = START + timedelta(minutes=now_min), timedelta(minutes=lead_min)
    found = due(plans, set(), now, lead)
    for push in found:
        assert push.interval_start + QUARTER > now
        assert push.interval_start <= now or push.interval_start < now + lead
        covering = plans.filter(
            pl.col("horizon_start") <= push.interval_start,
            pl.col("horizon_end") > push.interval_start,
        )
        assert push.plan_version == covering["plan_version"].max()
    assert len({push.interval_start for push in found}) == len(found)
