"""The cluster's authority: one, whoever makes it, and unreadable without the server's secret."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlmodel import select

from stoker.certificates import Authority, check_issued, new_key_and_request
from stoker.secrets import ServerSecret
from stoker.storage.authority import AuthoritySealedError, cluster_authority
from stoker.storage.engine import Database
from stoker.storage.tables import AuthorityRow
from tests.stoker.storage.conftest import Clock

SECRET = ServerSecret("a secret that only the tests know")


def row_of(database: Database) -> AuthorityRow:
    """The only one."""
    with database.read() as session:
        return session.exec(select(AuthorityRow)).one()


def test_it_is_made_once_and_signs(database: Database, clock: Clock) -> None:
    made = cluster_authority(database, SECRET, clock)
    clock.advance(days=30)
    again = cluster_authority(database, ServerSecret("a secret that only the tests know"), clock)
    assert again == made
    key, request = new_key_and_request("worker/w1")
    issued = again.issue(request, "worker/w1", clock())
    assert check_issued(issued.certificate, authority_pem=made.certificate, key_pem=key, holder="worker/w1")


def test_the_private_key_is_not_in_the_database(database: Database, clock: Clock) -> None:
    made = cluster_authority(database, SECRET, clock)
    row = row_of(database)
    body = made.private_key.splitlines()[1]
    assert "PRIVATE" not in row.private_key
    assert body not in row.private_key
    assert row.certificate == made.certificate


def test_another_secret_cannot_read_it_and_the_error_says_what_to_do(database: Database, clock: Clock) -> None:
    cluster_authority(database, SECRET, clock)
    with pytest.raises(AuthoritySealedError, match="sealed under another secret") as refused:
        cluster_authority(database, ServerSecret("another secret, which is as long as it"), clock)
    assert "STOKER_SECRET, or the file server-secret" in str(refused.value)
    assert "delete the row of the table `authority`" in str(refused.value)


def test_a_certificate_that_was_put_in_its_place_is_noticed(database: Database, clock: Clock) -> None:
    cluster_authority(database, SECRET, clock)
    with database.write() as session:
        row = session.exec(select(AuthorityRow)).one()
        row.certificate = Authority.new(clock()).certificate
        session.add(row)
    with pytest.raises(AuthoritySealedError):
        cluster_authority(database, SECRET, clock)


@pytest.fixture
def processes(database_url: str, database: Database) -> Iterator[list[Database]]:
    """The same database as several processes have it."""
    with ExitStack() as stack:
        opened = [Database(database_url) for _ in range(4)]
        for one in opened:
            stack.callback(one.close)
        yield opened


def test_of_several_that_make_it_at_once_all_have_the_same_one(processes: list[Database], clock: Clock) -> None:
    start = threading.Barrier(len(processes))
    found: list[Authority] = []

    def make(database: Database) -> None:
        start.wait(30)
        found.append(cluster_authority(database, SECRET, clock))

    threads = [threading.Thread(target=make, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(processes)
    assert {one.fingerprint for one in found} == {found[0].fingerprint}
    assert {one.private_key for one in found} == {found[0].private_key}
