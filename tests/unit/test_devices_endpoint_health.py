"""Rate limit, back-off and circuit breaker of an endpoint, on a clock that the test moves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.endpoint_health import EndpointHealth, HealthLimits, NotAdmitted

GATEWAY = "10.0.0.7:502"
EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "succeeded", "failed", "quiet"]), st.floats(0.0, 40.0)),
    max_size=60,
)


class Hands:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def health_of(**limits: float) -> tuple[EndpointHealth, Hands]:
    hands = Hands()
    return EndpointHealth(HealthLimits(**limits), hands), hands


def is_admitted(health: EndpointHealth, endpoint: str = GATEWAY, patience_s: float = 0.5) -> bool:
    try:
        health.admit(endpoint, patience_s)
    except NotAdmitted:
        return False
    return True


def break_down(health: EndpointHealth) -> None:
    for _ in range(3):
        health.failed(GATEWAY, "no route")


def test_a_circuit_opens_after_three_failures_in_a_row_and_says_who_since_when_and_until_when() -> (
    None
):
    health, hands = health_of()
    for _ in range(2):
        health.failed(GATEWAY, "no route")
    assert is_admitted(health)
    hands.now_s += 4
    health.failed(GATEWAY, "it hangs")
    hands.now_s += 0.25
    with pytest.raises(NotAdmitted) as told:
        health.admit(GATEWAY, 5.0)
    words = str(told.value)
    assert words.startswith(f"{GATEWAY} is left alone: 3 failures in a row since 4.2 s ago")
    assert "it hangs" in words
    assert words.endswith("it is tried again in 0.8 s")


def test_an_answer_in_between_forgives_the_failures_before_it() -> None:
    health, _ = health_of()
    for _ in range(10):
        health.failed(GATEWAY, "no route")
        health.failed(GATEWAY, "no route")
        health.succeeded(GATEWAY)
    assert is_admitted(health)


def test_an_open_circuit_costs_the_other_endpoints_nothing() -> None:
    health, _ = health_of()
    break_down(health)
    assert not is_admitted(health)
    assert is_admitted(health, "10.0.0.8:502")


def test_pauses_double_from_one_second_to_thirty_with_one_probe_after_each() -> None:
    health, hands = health_of()
    break_down(health)
    for pause_s in [1, 2, 4, 8, 16, 30, 30]:
        hands.now_s += pause_s - 0.01
        assert not is_admitted(health)
        hands.now_s += 0.02
        assert is_admitted(health)
        assert not is_admitted(health), "a second request beside the probe"
        health.failed(GATEWAY, "still no route")


def test_a_probe_that_is_answered_closes_the_circuit_and_forgets_the_pauses() -> None:
    health, hands = health_of()
    break_down(health)
    hands.now_s += 1.1
    assert is_admitted(health)
    health.succeeded(GATEWAY)
    assert all(is_admitted(health) for _ in range(10))
    break_down(health)
    hands.now_s += 1.1
    assert is_admitted(health)


def test_a_probe_of_which_nobody_tells_gives_way_to_the_next_when_its_time_is_over() -> None:
    health, hands = health_of()
    break_down(health)
    hands.now_s += 1.1
    assert is_admitted(health, patience_s=5.0)
    hands.now_s += 4.9
    assert not is_admitted(health)
    hands.now_s += 0.2
    assert is_admitted(health)


def test_what_was_under_way_when_the_circuit_opened_does_not_make_the_pause_longer() -> None:
    health, hands = health_of()
    break_down(health)
    hands.now_s += 0.9
    for _ in range(50):
        health.failed(GATEWAY, "late news")
    hands.now_s += 0.2
    assert is_admitted(health)


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    health, hands = health_of(requests_per_s=10, burst=3)
    waits_s = [health.admit(GATEWAY, 5.0) for _ in range(6)]
    assert waits_s == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    hands.now_s += 60
    assert [health.admit(GATEWAY, 5.0) for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


def test_a_request_that_would_wait_too_long_is_refused_and_not_counted() -> None:
    health, _ = health_of(requests_per_s=10, burst=1)
    health.admit(GATEWAY, 5.0)
    for _ in range(100):
        with pytest.raises(NotAdmitted, match=r"10\.0\.0\.7:502 is not asked .* 10/s"):
            health.admit(GATEWAY, 0.05)
    assert health.admit(GATEWAY, 5.0) == pytest.approx(0.1)


def test_who_asks_for_quiet_gets_it_for_five_minutes_at_most() -> None:
    health, hands = health_of()
    health.hold(GATEWAY, 20)
    assert health.admit(GATEWAY, 60.0) == pytest.approx(20)
    with pytest.raises(NotAdmitted, match=r"another 20\.0 s by its own wish"):
        health.admit(GATEWAY, 5.0)
    health.succeeded(GATEWAY)
    assert not is_admitted(health), "an answer to an earlier request ends no wish"
    health.hold(GATEWAY, 1e9)
    hands.now_s += 300
    assert is_admitted(health)


@pytest.mark.parametrize(
    "limits",
    [
        {"longest_pause_s": 301.0},
        {"first_pause_s": 0.0},
        {"first_pause_s": 60.0},
        {"failures_until_open": 0},
        {"requests_per_s": 0.0},
        {"burst": 0},
        {"first_pause_s": float("nan")},
    ],
)
def test_limits_that_would_stop_for_ever_or_never_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at most|at least"):
        HealthLimits(**limits)


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_whatever_happens_an_endpoint_is_admitted_again_within_five_minutes(
    events: list[tuple[str, float]],
) -> None:
    health, hands = health_of(longest_pause_s=300.0)
    for kind, number in events:
        hands.now_s += number
        match kind:
            case "ask":
                is_admitted(health)
            case "succeeded":
                health.succeeded(GATEWAY)
            case "failed":
                health.failed(GATEWAY, "no route")
            case _:
                health.hold(GATEWAY, number * 1e3)
    hands.now_s += 300.001
    assert is_admitted(health)


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_while_only_failures_come_a_request_goes_but_once_a_pause(
    events: list[tuple[str, float]],
) -> None:
    health, hands = health_of()
    break_down(health)
    probes_s = []
    for kind, number in events:
        hands.now_s += number / 4
        if kind == "ask":
            if is_admitted(health):
                probes_s.append(hands.now_s)
        else:
            health.failed(GATEWAY, "no route")
    assert all(later - earlier >= 0.999 for earlier, later in itertools.pairwise(probes_s))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0.0, 0.5)),
        min_size=1,
        max_size=60,
    ),
    st.floats(1.0, 50.0),
    st.integers(1, 8),
)
def test_no_window_of_time_sees_more_requests_than_the_bucket_holds_and_gets(
    asks: list[tuple[bool, float]], requests_per_s: float, burst: int
) -> None:
    health, hands = health_of(requests_per_s=requests_per_s, burst=burst)
    sent_s = []
    for quiet, gap_s in asks:
        hands.now_s += gap_s
        if quiet:
            health.hold(GATEWAY, gap_s)
        sent_s.append(hands.now_s + health.admit(GATEWAY, 1e9))
    sent_s.sort()
    for first, last in itertools.combinations(range(len(sent_s)), 2):
        allowed = burst + (sent_s[last] - sent_s[first]) * requests_per_s
        assert last - first + 1 <= allowed + 1e-3
