"""Counting in one process, by a clock that the test moves: never more than the limits, and not much less."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.limits.counter_file import CounterFile
from api.limits.counters import Counted, Counters, Refused
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import WINDOW_SECONDS, Refusal, month_begins, month_of

NOVEMBER = datetime(2026, 11, 21, 13, 30, tzinfo=UTC).timestamp()
MONTH = month_of(NOVEMBER)


class Clock:
    """Both clocks of a host that has been up for a while."""

    def __init__(self) -> None:
        self.up = 5000.25
        self.now = NOVEMBER

    def pass_(self, seconds: float) -> None:
        """Time goes on."""
        self.up += seconds
        self.now += seconds


@contextmanager
def counting(path: Path, clock: Clock) -> Iterator[Counters]:
    """Counters as a new process opens them."""
    file = CounterFile(path)
    try:
        yield Counters(file, monotonic=lambda: clock.up, clock=lambda: clock.now)
    finally:
        file.close()


@pytest.fixture
def clock() -> Clock:
    """Some afternoon in November."""
    return Clock()


@pytest.fixture
def counters(tmp_path: Path, clock: Clock) -> Iterator[Counters]:
    """Nothing counted yet."""
    with counting(tmp_path / "counters", clock) as made:
        yield made


def admit(counters: Counters, limits: KeyLimits, tokens: int = 0, key: str = "k") -> Counted:
    """A request that must be let in."""
    found = counters.admit(counters.account(key), limits, tokens)
    assert isinstance(found, Counted), found
    return found


def refuse(counters: Counters, limits: KeyLimits, tokens: int = 0, key: str = "k") -> Refused:
    """A request that must not be."""
    found = counters.admit(counters.account(key), limits, tokens)
    assert isinstance(found, Refused), found
    return found


def test_requests_of_a_minute(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=3)
    clock.up = 5000.75
    assert [admit(counters, limits).standing.requests for _ in range(2)] == [1, 2]
    clock.pass_(10)
    assert admit(counters, limits).standing.requests_reset == 60.25, "5010.75 counts until 5071"
    refused = refuse(counters, limits)
    assert (refused.reason, refused.wait) == (Refusal.REQUESTS, 50.25), "5000.75 counts until 5061"
    clock.pass_(50.24)
    assert refuse(counters, limits).wait == pytest.approx(0.01)
    clock.pass_(0.01)
    assert admit(counters, limits).standing.requests == 2
    admit(counters, limits)
    assert refuse(counters, limits).wait == 10
    admit(counters, limits, key="another key")


def test_tokens_are_reserved_then_settled(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(tokens_per_minute=100)
    first = admit(counters, limits, 60)
    assert refuse(counters, limits, 41).reason is Refusal.TOKENS
    second = admit(counters, limits, 40)
    clock.pass_(2)
    counters.settle(first, 10)
    assert admit(counters, limits, 50).standing.tokens == 100
    counters.settle(second, None)
    assert admit(counters, limits, 40).standing.tokens == 100
    assert refuse(counters, limits, 101).reason is Refusal.TOO_LARGE


def test_an_overrun_is_carried_until_its_own_minute_has_passed(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(tokens_per_minute=100)
    counted = admit(counters, limits, 10)
    clock.pass_(300)
    counters.settle(counted, 250)
    refused = refuse(counters, limits, 1)
    assert (refused.standing.tokens, refused.wait) == (240, 60.75)
    clock.pass_(60.75)
    admit(counters, limits, 100)


def test_a_reservation_that_counts_no_longer_gives_nothing_back(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(tokens_per_minute=100)
    slow = admit(counters, limits, 100)
    clock.pass_(61)
    admit(counters, limits, 100)
    counters.settle(slow, 0)
    assert refuse(counters, limits, 1).standing.tokens == 100


def test_requests_at_once(counters: Counters) -> None:
    limits = KeyLimits(concurrency=2)
    one, _ = admit(counters, limits), admit(counters, limits)
    refused = refuse(counters, limits)
    assert (refused.reason, refused.wait, refused.standing.in_flight) == (Refusal.CONCURRENCY, 1.0, 2)
    counters.settle(one, None)
    admit(counters, limits)
    refuse(counters, limits)


def test_the_tokens_of_a_month(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(tokens_per_month=1000)
    first = admit(counters, limits, 600)
    held = refuse(counters, limits, 500)
    assert (held.reason, held.wait) == (Refusal.MONTH_HELD, 1.0), "the first may give some back"
    counters.settle(first, 900)
    refused = refuse(counters, limits, 101)
    assert (refused.reason, refused.wait, refused.month) == (Refusal.MONTH, float("inf"), MONTH)
    assert refused.standing.month_used == 900
    counters.settle(admit(counters, limits, 100), 150)
    assert refuse(counters, limits, 0).standing.month_used == 1050
    clock.now = month_begins(MONTH + 1).timestamp() - 0.001
    refuse(counters, limits, 0)
    clock.now += 0.001
    admit(counters, limits, 1000)


def test_what_other_hosts_used_counts_towards_the_month(counters: Counters) -> None:
    limits, account = KeyLimits(tokens_per_month=1000), counters.account("k")
    counters.settle(admit(counters, limits, 300), 300)
    counters.at_least(account, MONTH, 200)
    assert admit(counters, limits).standing.month_used == 300, "ours is just not known there yet"
    counters.at_least(account, MONTH, 800)
    assert admit(counters, limits).standing.month_used == 800
    counters.at_least(account, MONTH - 1, 5000)
    assert admit(counters, limits).standing.month_used == 800, "that was last month"


def test_a_restart_goes_on_counting(tmp_path: Path, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=2, tokens_per_month=100, concurrency=1)
    with counting(tmp_path / "counters", clock) as counters:
        counters.settle(admit(counters, limits, 90), 90)
        admit(counters, limits, 5)
    with counting(tmp_path / "counters", clock) as counters:
        assert refuse(counters, limits).reason is Refusal.REQUESTS
        clock.pass_(62)
        assert refuse(counters, limits, 11).reason is Refusal.MONTH
        assert admit(counters, limits, 10).standing.in_flight == 1, "what was worked on ended with its process"


def test_a_host_that_started_anew_forgets_nothing_for_a_minute(tmp_path: Path, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=2, tokens_per_minute=100)
    with counting(tmp_path / "counters", clock) as counters:
        counters.settle(admit(counters, limits, 50), 20)
        clock.pass_(30)
        admit(counters, limits, 50)
    clock.up = 12.0
    with counting(tmp_path / "counters", clock) as counters:
        refused = refuse(counters, limits)
        assert (refused.wait, refused.standing.tokens) == (61, 70)
        clock.pass_(61)
        admit(counters, limits, 100)


def test_keys_that_are_no_more_are_forgotten_when_they_are_idle(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=1)
    for key in ("kept", "busy", "gone"):
        counted = admit(counters, limits, key=key)
        if key != "busy":
            counters.settle(counted, None)
    before = {key: counters.account(key).number for key in ("kept", "busy", "gone")}
    clock.pass_(599)
    counters.forget({"kept"}, idle_seconds=600)
    assert counters.account("gone").number == before["gone"]
    clock.pass_(2)
    counters.forget({"kept"}, idle_seconds=600)
    assert counters.account("new").number == before["gone"], "its room is there for others"
    assert {key: counters.account(key).number for key in ("kept", "busy")} == {
        key: number for key, number in before.items() if key != "gone"
    }


def test_an_account_whose_record_went_to_another_key_finds_its_own_again(counters: Counters, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=1)
    account = counters.account("k")
    clock.pass_(1)
    counters.forget(set(), idle_seconds=0)
    admit(counters, limits, key="another key")
    assert isinstance(counters.admit(account, limits, 0), Counted)
    assert account.number != counters.account("another key").number
    assert isinstance(counters.admit(account, limits, 0), Refused)


@dataclass(frozen=True)
class Step:
    """After a pause, a request comes, or one ends."""

    pause: float
    kind: Literal["admit", "settle"]
    tokens: int


steps = st.lists(
    st.builds(
        Step,
        pause=st.one_of(
            st.just(0.0),
            st.floats(min_value=0, max_value=5),
            st.floats(min_value=59, max_value=61),  # the very edge of the window
            st.floats(min_value=20, max_value=90),
        ),
        kind=st.sampled_from(["admit", "admit", "settle"]),
        tokens=st.integers(min_value=0, max_value=60),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_never_more_than_the_limits_and_hardly_less(
    tmp_path_factory: pytest.TempPathFactory, story: list[Step]
) -> None:
    limits = KeyLimits(requests_per_minute=5, tokens_per_minute=100, concurrency=4, tokens_per_month=600)
    clock = Clock()
    charges: list[list[float]] = []  # of each request let in: when, and how many tokens it is charged with
    overruns: list[list[float]] = []
    running: list[tuple[Counted, list[float]]] = []
    month = 0
    with counting(tmp_path_factory.mktemp("story") / "counters", clock) as counters:
        account = counters.account("k")
        for step in story:
            clock.pass_(step.pause)
            if step.kind == "settle":
                if running:
                    counted, charge = running.pop(0)
                    counters.settle(counted, step.tokens)
                    month += step.tokens
                    overruns.append([clock.up, max(0, step.tokens - charge[1])])
                    charge[1] = min(charge[1], step.tokens)
                continue

            def within(seconds: float) -> tuple[int, float]:
                since = clock.up - seconds
                tokens = sum(count for when, count in charges + overruns if when > since)
                return sum(1 for when, _ in charges if when > since), tokens

            held = sum(charge[1] for _, charge in running)
            found = counters.admit(account, limits, step.tokens)
            requests, tokens = within(WINDOW_SECONDS)
            if isinstance(found, Counted):
                assert requests < 5
                assert tokens + step.tokens <= 100
                assert len(running) < 4
                assert month + held + step.tokens <= 600
                charge = [clock.up, float(step.tokens)]
                charges.append(charge)
                running.append((found, charge))
            else:
                requests, tokens = within(WINDOW_SECONDS + 1)  # seconds count whole
                assert (
                    requests >= 5 or tokens + step.tokens > 100 or len(running) >= 4 or month + held + step.tokens > 600
                )
