"""The ledger on a real database, under two runs that crash: its promises hold at every step.

`HYPOTHESIS_PROFILE=thorough` takes many more steps.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest
from dispatch_fakes import BEFORE, START, due, plant
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.dispatch.commands import PlanRef
from vpp_pipeline.dispatch.ledger import Ledger, events
from vpp_pipeline.dispatch.lifecycle import FINAL, PROVEN_BY_READ_BACK, TRANSITIONS, State
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import Mapping

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
DEVICES = plant(1).head(2)
NAMES = DEVICES["device_id"].to_list()
VERSIONS = [1, 2]
COMMANDS = {
    version: due(DEVICES, plan=PlanRef(f"plan-{version}", version)).commands for version in VERSIONS
}
ALL = """
SELECT command_events.*, device_id, plan_version
FROM command_events JOIN commands USING (command_id)
ORDER BY event_id
"""
RAW = st.sampled_from(["", "0x0A"])
RUNS = st.sampled_from(["run-1", "run-2"])
SOME = st.sets(st.sampled_from(NAMES), min_size=1)


class LedgerMachine(RuleBasedStateMachine):
    """Two runs record what they will; the last states and all rows are checked after each step."""

    template: Path  # a migrated database, copied for each example

    @initialize()
    def open(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ledger-"))
        shutil.copy(self.template, self.home / "vpp.duckdb")
        self.ledger = Ledger(Warehouse(self.home))
        self.seen = self.rows()
        self.fence = {"run-1": 1, "run-2": 2}
        self.ledger.record_intents(COMMANDS[1], BEFORE, "run-1")

    def teardown(self) -> None:
        """Whatever happened, what is overdue can be ended."""
        now = START + STEP
        self.ledger.expire(now, "run-1")
        assert self.ledger.overdue(now).is_empty()
        assert set(self.states().values()) <= FINAL
        shutil.rmtree(self.home, ignore_errors=True)

    @rule(version=st.sampled_from(VERSIONS), run=RUNS)
    def intend(self, version: int, run: str) -> None:
        known = set(self.states())
        told = self.ledger.record_intents(COMMANDS[version], BEFORE, run)
        assert set(told["command_id"]) == known & set(COMMANDS[version]["command_id"])

    @rule(version=st.sampled_from(VERSIONS), names=SOME, run=RUNS)
    def begin(self, version: int, names: set[str], run: str) -> None:
        before, last_fence = self.states(), self.last_fences()
        batch = COMMANDS[version].filter(pl.col("device_id").is_in(list(names)))
        claims = events(batch, State.SENT, BEFORE, run, fence=self.fence[run])
        refused = self.ledger.record_claimed_intents(COMMANDS[version], claims, BEFORE, run)
        after = self.states()
        for id_, device_id in COMMANDS[version].select("command_id", "device_id").iter_rows():
            fenced = self.fence[run] < last_fence.get(device_id, 0)
            if id_ in before:
                assert after[id_] == before[id_]
            elif version == 1 and device_id in self.newer(before):
                assert after[id_] == State.REJECTED
            elif device_id not in names or fenced:
                assert after[id_] == State.PLANNED
            else:
                assert after[id_] == State.SENT
                continue
            assert (id_ in refused["command_id"]) == (device_id in names)

    @rule(
        version=st.sampled_from(VERSIONS),
        names=SOME,
        run=RUNS,
        state=st.sampled_from(State),
        raw=RAW,
    )
    def try_anything(self, version: int, names: set[str], run: str, state: State, raw: str) -> None:
        self.record(version, names, state, run, raw)

    @rule(run=RUNS, data=st.data())
    def go_on(self, run: str, data: st.DataObject) -> None:
        open_ = {id_: was for id_, was in self.states().items() if was not in FINAL}
        if open_:
            id_ = data.draw(st.sampled_from(sorted(open_)))
            legal = TRANSITIONS[State(open_[id_])] - FINAL
            state = State.SENT if State.SENT in legal else data.draw(st.sampled_from(sorted(legal)))
            name, version, _ = id_.split(".")
            self.record(int(version.removeprefix("v")), {name}, state, run, "0x0A")

    @rule()
    def crash(self) -> None:
        self.ledger = Ledger(Warehouse(self.home))

    def record(self, version: int, names: set[str], state: State, run: str, raw: str) -> None:
        """Record a batch, and hold what is refused against what should have been."""
        batch = COMMANDS[version].filter(pl.col("device_id").is_in(list(names)))
        before = self.states()
        fence = self.fence[run] if state is State.SENT else None
        refused = self.ledger.record_events(
            events(batch, state, START, run, read_back=raw, fence=fence)
        )
        after = self.states()
        newer, fences = self.newer(before), self.last_fences()
        for id_, device_id in batch.select("command_id", "device_id").iter_rows():
            was = before.get(id_)
            legal = was is not None and state in TRANSITIONS[State(was)]
            proven = (was, state) not in PROVEN_BY_READ_BACK or raw
            superseded = state is State.SENT and version == 1 and device_id in newer
            fenced = fence is not None and fence < fences.get(device_id, 0)
            if not (legal and proven):
                assert after.get(id_) == was
            elif superseded:
                assert after[id_] == State.REJECTED
            elif fenced:
                assert after[id_] == was
            else:
                assert after[id_] == state
                continue
            assert id_ in refused["command_id"]

    def newer(self, known: Mapping[str, str]) -> set[str]:
        """Return the devices of which the newer plan's command is known."""
        return {name for name in NAMES if any(id_.startswith(f"{name}.v2.") for id_ in known)}

    def last_fences(self) -> dict[str, int]:
        claims = self.seen.filter(pl.col("state") == "SENT").group_by("device_id")
        return dict(claims.agg(pl.col("fence").max().fill_null(0)).rows())

    def rows(self) -> pl.DataFrame:
        with duckdb.connect(self.home / "vpp.duckdb", read_only=True) as session:
            return session.sql(ALL).pl()

    def states(self) -> dict[str, str]:
        return dict(self.rows().select("command_id", "state").rows())

    @invariant()
    def nothing_stored_was_changed(self) -> None:
        rows = self.rows()
        assert rows.head(self.seen.height).equals(self.seen)
        self.seen = rows

    @invariant()
    def every_history_is_sound(self) -> None:
        for history in self.seen.partition_by("command_id", maintain_order=True):
            states = history["state"].to_list()
            assert states[0] == State.PLANNED
            assert states.count("PLANNED") == 1
            for before, (after, raw) in zip(
                states, history.select("state", "read_back").rows()[1:], strict=False
            ):
                assert State(after) in TRANSITIONS[State(before)]
                assert after != "SENT" or before in {"PLANNED", "FAILED"}
                assert raw or (before, after) not in PROVEN_BY_READ_BACK
                assert before not in FINAL or after in {"VERIFIED", "OVERRIDDEN"}


@pytest.fixture(scope="module", autouse=True)
def _new_warehouse(tmp_path_factory):
    LedgerMachine.template = tmp_path_factory.mktemp("new") / "vpp.duckdb"
    with Warehouse(LedgerMachine.template.parent).read():
        pass


TestInvariant19LedgerMachine = LedgerMachine.TestCase
TestInvariant19LedgerMachine.settings = settings(
    max_examples=40 if THOROUGH else 4,
    stateful_step_count=40 if THOROUGH else 12,
    deadline=None,
)
