"""The life of a command, tried by two runs that die, on a device whose answers get lost.

`HYPOTHESIS_PROFILE=thorough` makes 100,000 transitions of each machine.
"""

from __future__ import annotations

import os
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vpp_pipeline.dispatch.lifecycle import FINAL, PROVEN_BY_READ_BACK, TRANSITIONS, State, is_legal

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
SETTINGS = settings(
    max_examples=2_000 if THOROUGH else 25,
    stateful_step_count=50 if THOROUGH else 30,
    deadline=None,
)
RAW = st.sampled_from(["", "0x0A"])
RUNS = st.sampled_from(["run-1", "run-2"])


class _Command:
    """One command as the ledger keeps it: legal events only, evidence where it is needed."""

    def __init__(self) -> None:
        self.events: list[tuple[State, str]] = []

    @property
    def state(self) -> State | None:
        return self.events[-1][0] if self.events else None

    def tell(self, after: State, read_back: str = "") -> bool:
        unproven = (self.state, after) in PROVEN_BY_READ_BACK and not read_back
        if unproven or not is_legal(self.state, after):
            return False
        self.events.append((after, read_back))
        return True

    def check(self) -> None:
        states = [state for state, _ in self.events]
        assert states[:1] in ([], [State.PLANNED])
        assert states.count(State.PLANNED) <= 1
        claims = [at for at, state in enumerate(states) if state is State.SENT]
        for earlier, later in pairwise(claims):
            between = self.events[earlier + 1 : later]
            assert between[-1][0] is State.FAILED
            if State.UNKNOWN in [state for state, _ in between]:
                assert between[-1][1], "a resend after doubt without a read-back"
        ends = [at for at, state in enumerate(states) if state in FINAL]
        if ends:
            assert set(states[ends[0] :]) <= FINAL
            assert State.VERIFIED not in states[ends[0] + 1 :] or states[ends[0]] is State.VERIFIED
        for before, (after, read_back) in zip(states, self.events[1:], strict=False):
            if after is State.VERIFIED or (before, after) == (State.UNKNOWN, State.FAILED):
                assert read_back


class AnythingIsTried(RuleBasedStateMachine):
    """Whatever is told in whatever order, the history keeps its promises."""

    def __init__(self) -> None:
        super().__init__()
        self.command = _Command()

    @precondition(lambda self: TRANSITIONS[self.command.state])
    @rule(data=st.data(), read_back=RAW)
    def go_on(self, data: st.DataObject, read_back: str) -> None:
        legal = TRANSITIONS[self.command.state]
        self.tell(data.draw(st.sampled_from(sorted(legal - FINAL or legal))), read_back)

    @rule(after=st.sampled_from(State), read_back=RAW)
    def try_anything(self, after: State, read_back: str) -> None:
        self.tell(after, read_back)

    def tell(self, after: State, read_back: str) -> None:
        before = list(self.command.events)
        assert self.command.tell(after, read_back) == (len(self.command.events) > len(before))
        assert self.command.events[: len(before)] == before

    @invariant()
    def history_is_sound(self) -> None:
        self.command.check()

    @precondition(lambda self: self.command.state in FINAL)
    @rule()
    def turn_to_another_command(self) -> None:
        self.command = _Command()


class TwoRunsAndADevice(RuleBasedStateMachine):
    """Runs that tell the truth as they know it, and die anywhere; a device that reads back true.

    One run at a time holds the dispatcher's lease, so that a claim of a living run is not
    doubted by the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.command = _Command()
        self.holder: str | None = None
        self.applied = 0

    @rule()
    def intend(self) -> None:
        self.command.tell(State.PLANNED)

    @rule(run=RUNS)
    def claim(self, run: str) -> None:
        if self.command.tell(State.SENT):
            assert self.holder is None
            self.holder = run

    @precondition(lambda self: self.holder)
    @rule(arrives=st.booleans(), answer=st.sampled_from(["yes", "no", "lost", "run dies"]))
    def send(self, arrives: bool, answer: str) -> None:
        self.holder = None
        self.applied += arrives and answer != "no"
        if answer == "yes" and arrives:
            assert self.command.tell(State.ACKED)
        elif answer == "no" and arrives:
            assert self.command.tell(State.REJECTED)
        elif answer == "lost":
            assert self.command.tell(State.UNKNOWN)
        elif answer != "run dies":
            assert self.command.tell(State.FAILED)

    @precondition(lambda self: self.command.state is State.SENT and self.holder is None)
    @rule()
    def doubt_what_a_dead_run_left(self) -> None:
        assert self.command.tell(State.UNKNOWN)

    @precondition(lambda self: self.command.state in {State.UNKNOWN, State.ACKED, State.APPLIED})
    @rule(reachable=st.booleans())
    def read_back(self, reachable: bool) -> None:
        if not reachable:
            self.command.tell(State.UNKNOWN)
        elif self.applied:
            assert self.command.tell(State.VERIFIED, "ours")
        else:
            assert self.command.tell(State.FAILED, "another's")

    @precondition(lambda self: self.command.state not in {State.SENT, None})
    @rule(how=st.sampled_from([State.EXPIRED, State.OVERRIDDEN, State.REJECTED]))
    def end(self, how: State) -> None:
        self.command.tell(how)

    @invariant()
    def applied_at_most_once(self) -> None:
        self.command.check()
        assert self.applied <= 1

    def teardown(self) -> None:
        """A command that has begun can always be ended."""
        if self.command.state not in FINAL | {None}:
            assert self.command.tell(State.EXPIRED)


TestInvariant06AnythingIsTried = AnythingIsTried.TestCase
TestInvariant06AnythingIsTried.settings = SETTINGS
TestInvariant05TwoRunsAndADevice = TwoRunsAndADevice.TestCase
TestInvariant05TwoRunsAndADevice.settings = SETTINGS
