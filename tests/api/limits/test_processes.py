"""Several real processes count in one file, and some of them are killed in the middle."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.limits.counter_file import CounterFile
from api.limits.counters import Account, Counted, Counters, Refused
from api.limits.record import (
    CHANGING,
    HELD,
    IN_FLIGHT,
    REQUEST_BUCKETS,
    REQUESTS,
    SLOT_HELD,
    SLOT_IN_FLIGHT,
    TOKEN_BUCKETS,
    TOKENS,
)
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import BUCKETS
from tests.api.limits import hammer

ENOUGH_SECONDS = 60.0


class Hammers:
    """The processes of one test."""

    def __init__(self, path: Path, limits: KeyLimits) -> None:
        self.path, self.limits = path, limits
        self.running: list[subprocess.Popen[str]] = []

    def start(self, tries: int) -> subprocess.Popen[str]:
        """One that is ready to begin."""
        command = [sys.executable, "-m", hammer.__name__, str(self.path), str(tries), self.limits.model_dump_json()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def go(self, *processes: subprocess.Popen[str]) -> None:
        """They begin."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def end(self) -> None:
        """None of them outlives the test."""
        for process in self.running:
            process.kill()
            process.communicate()


def held_by(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    """When it certainly held a request that was let in."""
    said, _ = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 0
    pairs = (line.split() for line in said.splitlines())
    return [(int(begun), int(ended)) for begun, ended in pairs]


def most_at_once(held: list[tuple[int, int]]) -> int:
    """How many of these intervals overlap at most."""
    moments = sorted([(begun, 1) for begun, _ in held] + [(ended, -1) for _, ended in held])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file in which all of a test count."""
    return tmp_path / "counters"


@pytest.fixture
def counters(path: Path) -> Iterator[Counters]:
    """This process is one of those that count."""
    file = CounterFile(path)
    yield Counters(file)
    file.close()


def in_flight(counters: Counters, limits: KeyLimits) -> int:
    """How many are let in until one is refused, settled again at once."""
    account, found = counters.account(hammer.KEY), []
    while isinstance(counted := counters.admit(account, limits, 0), Counted):
        found.append(counted)
    for each in found:
        counters.settle(each, None)
    return len(found)


def assert_true(record: memoryview) -> None:
    """Nothing of a record contradicts the rest."""
    assert record[CHANGING] == 0
    assert record[REQUESTS] == sum(record[REQUEST_BUCKETS : REQUEST_BUCKETS + BUCKETS])
    assert record[TOKENS] == sum(record[TOKEN_BUCKETS : TOKEN_BUCKETS + BUCKETS])
    assert record[IN_FLIGHT] == sum(record[SLOT_IN_FLIGHT:SLOT_HELD])
    assert record[HELD] == sum(record[SLOT_HELD:])


@pytest.fixture
def hammers(path: Path) -> Iterator[Any]:
    """Starts processes with limits."""
    made: list[Hammers] = []

    def make(**limits: int) -> Hammers:
        made.append(Hammers(path, KeyLimits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_together_they_get_exactly_the_limit(hammers: Any, counters: Counters) -> None:
    of_requests = hammers(requests_per_minute=500)
    processes = [of_requests.start(400) for _ in range(3)]
    of_requests.go(*processes)
    assert sum(len(held_by(process)) for process in processes) == 500
    refused = counters.admit(counters.account(hammer.KEY), of_requests.limits, 0)
    assert isinstance(refused, Refused)
    assert refused.standing.requests == 500
    assert refused.standing.tokens == 500 * hammer.TOKENS
    assert refused.standing.month_used == 500 * hammer.TOKENS


def test_killed_ones_hold_nothing_and_break_nothing(hammers: Any, counters: Counters) -> None:
    at_once = hammers(concurrency=2)
    chance = random.Random(7)  # noqa: S311
    steady = [at_once.start(6000) for _ in range(2)]
    at_once.go(*steady)
    for _ in range(6):
        victim = at_once.start(10**9)
        at_once.go(victim)
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(chance.uniform(0.001, 0.05))
        victim.kill()
        victim.wait()
    held = [interval for process in steady for interval in held_by(process)]
    assert held
    assert most_at_once(held) <= 2
    assert in_flight(counters, at_once.limits) == 2
    assert_true(counters.account(hammer.KEY).record)


def test_a_restarted_process_gives_back_what_its_slot_held(hammers: Any, counters: Counters, path: Path) -> None:
    at_once = hammers(concurrency=1)
    victim = at_once.start(10**9)
    at_once.go(victim)
    with pytest.raises(subprocess.TimeoutExpired):
        victim.wait(0.05)
    victim.kill()
    victim.wait()
    again = at_once.start(50)
    at_once.go(again)
    assert len(held_by(again)) == 50
    assert in_flight(counters, at_once.limits) == 1


class KilledError(BaseException):
    """The process ends here."""


class Dying:
    """A record whose owner is killed before it stores a word for the n-th time."""

    def __init__(self, record: memoryview, stores: int) -> None:
        self._record, self._left = record, stores

    def __getitem__(self, word: Any) -> Any:
        return self._record[word]

    def __setitem__(self, word: int, value: int) -> None:
        if self._left == 0:
            raise KilledError
        self._left -= 1
        self._record[word] = value


def dying(account: Account, stores: int) -> Account:
    """The account of such a process."""
    record: Any = Dying(account.record, stores)
    return Account(account.word, account.number, record)


@pytest.mark.parametrize("passed", [0, 3, 200])
def test_whoever_is_killed_at_any_store_leaves_a_request_counted_or_not(path: Path, passed: int) -> None:
    limits = KeyLimits(requests_per_minute=100, tokens_per_minute=1000)
    now = [5000.5]
    file = CounterFile(path)
    counters = Counters(file, monotonic=lambda: now[0], clock=lambda: 1.8e9)
    for stores in range(200):
        key = f"k{stores}"
        account = counters.account(key)
        first = counters.admit(account, limits, 30)
        assert isinstance(first, Counted)
        now[0] += passed
        try:
            counters.admit(dying(account, stores), limits, 50)
        except KilledError:
            found = counters.admit(account, limits, 0)
            assert isinstance(found, Counted)
            fresh = passed < BUCKETS
            assert found.standing.requests in (1 + fresh, 2 + fresh)
            assert found.standing.tokens in (30 * fresh, 30 * fresh + 50)
            assert found.standing.in_flight in (2, 3)
            assert_true(account.record)
        else:
            assert stores >= 10
            break
        now[0] += 1000
    else:
        pytest.fail("it never came to the end")
    file.close()


def test_whoever_is_killed_while_settling_leaves_no_token_twice(path: Path) -> None:
    limits = KeyLimits(tokens_per_minute=1000)
    file = CounterFile(path)
    counters = Counters(file, monotonic=lambda: 5000.5, clock=lambda: 1.8e9)
    for stores in range(200):
        account = counters.account(f"k{stores}")
        counted = counters.admit(account, limits, 50)
        assert isinstance(counted, Counted)
        try:
            counters.settle(counted._replace(account=dying(account, stores)), 20)
        except KilledError:
            found = counters.admit(account, limits, 0)
            assert isinstance(found, Counted)
            assert found.standing.tokens in (20, 50)
            assert found.standing.month_used in (0, 20)
            assert_true(account.record)
        else:
            assert stores > 5
            break
    else:
        pytest.fail("it never came to the end")
    file.close()
