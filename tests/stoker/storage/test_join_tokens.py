"""One-time join tokens: one worker each."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from stoker.domain.join_tokens import JoinTokenProblem, JoinTokenStatus, TokenRefused
from stoker.storage.engine import Database
from stoker.storage.join_tokens import SHOWN_FOR, JoinTokens
from stoker.storage.workers import Workers
from tests.builders import make_worker
from tests.stoker.storage.conftest import Clock

HOUR = timedelta(hours=1)


def add(database: Database, clock: Clock, name: str = "t1", **labels: str) -> None:
    """A token for an hour, whose HMAC is `digest of <id>`."""
    with database.write() as session:
        JoinTokens(session, clock()).add(name, f"digest of {name}", labels=labels, valid=HOUR)


def use(database: Database, clock: Clock, worker: str, name: str = "t1", digest: str = "") -> object:
    """What came of using it: the labels, or why not. One that joined is a worker then."""
    with database.write() as session:
        used = JoinTokens(session, clock()).use(name, digest or f"digest of {name}", worker)
        if isinstance(used, TokenRefused):
            return used.problem
        Workers(session, clock()).join(make_worker(name=worker), credential_hash="", engine_secret="")
        return used.labels


def look(database: Database, clock: Clock, worker: str, name: str = "t1", digest: str = "") -> object:
    """Whether it would be of use."""
    with database.read() as session:
        found = JoinTokens(session, clock()).look(name, digest or f"digest of {name}", worker)
    return found.problem if isinstance(found, TokenRefused) else found.labels


def report(database: Database, clock: Clock, worker: str) -> None:
    """As the worker reports."""
    with database.write() as session:
        Workers(session, clock()).report(make_worker(name=worker))


def test_one_worker_joins_with_it(database: Database, clock: Clock) -> None:
    add(database, clock, zone="lab")
    assert look(database, clock, "w1") == {"zone": "lab"}
    assert use(database, clock, "w1") == {"zone": "lab"}
    for attempt in (look, use):
        assert attempt(database, clock, "w2") is JoinTokenProblem.USED
    with database.read() as session:
        (status,) = JoinTokens(session, clock()).all()
    assert (status.used_by, status.used_at, status.expires_at) == ("w1", clock(), clock() + HOUR)


def test_the_same_worker_may_use_it_again_until_it_has_reported(database: Database, clock: Clock) -> None:
    add(database, clock)
    assert use(database, clock, "w1") == {}
    clock.advance(minutes=10)
    for attempt in (look, use):
        assert attempt(database, clock, "w1") == {}, "its answer may never have come"
    clock.advance(seconds=5)
    report(database, clock, "w1")
    for attempt in (look, use):
        assert attempt(database, clock, "w1") is JoinTokenProblem.USED


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(3599, {}), (3600, JoinTokenProblem.EXPIRED), (9999, JoinTokenProblem.EXPIRED)]
)
def test_it_expires(database: Database, clock: Clock, seconds: int, outcome: object) -> None:
    add(database, clock)
    clock.advance(seconds=seconds)
    assert look(database, clock, "w1") == outcome
    assert use(database, clock, "w1") == outcome


def test_one_that_expired_lets_its_own_worker_in_no_more(database: Database, clock: Clock) -> None:
    add(database, clock)
    use(database, clock, "w1")
    clock.advance(hours=1)
    assert use(database, clock, "w1") is JoinTokenProblem.EXPIRED


@pytest.mark.parametrize(("token_id", "digest"), [("t2", ""), ("t1", "digest of another"), ("t1", "digest of t2")])
def test_a_token_that_is_not_known(database: Database, clock: Clock, token_id: str, digest: str) -> None:
    add(database, clock)
    for attempt in (look, use):
        assert attempt(database, clock, "w1", token_id, digest) is JoinTokenProblem.UNKNOWN


def test_one_that_was_taken_back_is_not_known(database: Database, clock: Clock) -> None:
    add(database, clock)
    for expected in (True, False):
        with database.write() as session:
            assert JoinTokens(session, clock()).remove("t1") is expected
    assert use(database, clock, "w1") is JoinTokenProblem.UNKNOWN


def test_pages_and_what_is_forgotten(database: Database, clock: Clock) -> None:
    for token_id in ("b", "a", "c"):
        add(database, clock, token_id)

    def listed(**page: object) -> list[str]:
        with database.read() as session:
            return [status.id for status in JoinTokens(session, clock()).all(**page)]  # type: ignore[arg-type]

    assert listed() == ["a", "b", "c"]
    assert listed(after="a", limit=1) == ["b"]
    clock.advance(seconds=(HOUR + SHOWN_FOR).total_seconds())
    add(database, clock, "d")
    assert listed() == ["a", "b", "c", "d"], "seven days to the second"
    clock.advance(seconds=1)
    add(database, clock, "e")
    assert listed() == ["d", "e"]


@pytest.fixture
def processes(database_url: str, database: Database) -> Iterator[list[Database]]:
    """The same database as several processes have it."""
    with ExitStack() as stack:
        opened = [Database(database_url) for _ in range(4)]
        for one in opened:
            stack.callback(one.close)
        yield opened


def test_of_several_that_use_it_at_once_one_gets_in(processes: list[Database], clock: Clock) -> None:
    add(processes[0], clock)
    start = threading.Barrier(len(processes))
    outcomes: dict[str, JoinTokenStatus | TokenRefused] = {}

    def join(number: int, database: Database) -> None:
        start.wait(30)
        with database.write() as session:
            outcomes[f"w{number}"] = JoinTokens(session, clock()).use("t1", "digest of t1", f"w{number}")

    threads = [threading.Thread(target=join, args=item) for item in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    let_in = [name for name, outcome in outcomes.items() if isinstance(outcome, JoinTokenStatus)]
    refused = [outcome.problem for outcome in outcomes.values() if isinstance(outcome, TokenRefused)]
    assert (len(let_in), refused) == (1, [JoinTokenProblem.USED] * 3)
    with processes[0].read() as session:
        (status,) = JoinTokens(session, clock()).all()
    assert status.used_by == let_in[0]
