"""The first admin key: there is always a way in, and never a second one by accident."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from entrypoints.admin_key import ensure_admin_key
from entrypoints.clock import utc_now
from entrypoints.data_folder import admin_key_file, join_token, server_secret
from stoker.domain.keys import KeyStatus, Role
from stoker.secrets import ServerSecret, key_id_of, new_key
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from stoker.storage.migrate import migrate


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An empty data folder's."""
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The folder's database."""
    opened = Database(settings.database_url)
    migrate(opened)
    yield opened
    opened.close()


def living(database: Database) -> list[KeyStatus]:
    """The keys that open something."""
    with database.read() as session:
        return [status for status, _ in Keys(session, utc_now()).digests().values()]


def opens(settings: Settings, database: Database) -> KeyStatus:
    """What the key in the file opens."""
    key = admin_key_file(settings).read_text().strip()
    with database.read() as session:
        status, digest = Keys(session, utc_now()).digests()[key_id_of(key) or ""]
    assert server_secret(settings).matches(key, digest)
    return status


def revoke(database: Database, key_id: str) -> None:
    """Ends a key."""
    with database.write() as session:
        Keys(session, utc_now()).revoke(key_id)


def test_the_first_start_makes_one_for_its_owner_only(settings: Settings, database: Database) -> None:
    ensure_admin_key(settings, database, server_secret(settings))
    path = admin_key_file(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert opens(settings, database).role is Role.ADMIN
    assert len(living(database)) == 1


def expire(database: Database, key: KeyStatus) -> None:
    """It was good until just now."""
    with database.write() as session:
        assert Keys(session, utc_now()).put(key.model_copy(update={"expires_at": utc_now()}))


def test_the_next_start_changes_nothing(settings: Settings, database: Database) -> None:
    ensure_admin_key(settings, database, server_secret(settings))
    before = admin_key_file(settings).read_text()
    ensure_admin_key(settings, database, server_secret(settings))
    assert admin_key_file(settings).read_text() == before
    assert len(living(database)) == 1


def test_a_key_that_was_taken_from_the_folder_is_not_made_again(settings: Settings, database: Database) -> None:
    ensure_admin_key(settings, database, server_secret(settings))
    admin_key_file(settings).unlink()
    ensure_admin_key(settings, database, server_secret(settings))
    assert not admin_key_file(settings).exists(), "somebody keeps it elsewhere"
    assert len(living(database)) == 1


def test_a_user_key_is_no_way_in(settings: Settings, database: Database) -> None:
    key_id, key = new_key()
    with database.write() as session:
        Keys(session, utc_now()).add(key_id, "app", Role.USER, server_secret(settings).digest(key))
    ensure_admin_key(settings, database, server_secret(settings))
    assert opens(settings, database).role is Role.ADMIN


@pytest.mark.parametrize(
    "how", ["revoked", "revoked and taken", "expired", "expired and taken", "another server secret", "emptied"]
)
def test_when_the_key_opens_nothing_any_more_there_is_a_new_one(
    settings: Settings, database: Database, how: str
) -> None:
    ensure_admin_key(settings, database, server_secret(settings))
    before, path = admin_key_file(settings).read_text(), admin_key_file(settings)
    if how.startswith("revoked"):
        revoke(database, opens(settings, database).id)
    if how.startswith("expired"):
        expire(database, opens(settings, database))
    if how.endswith("and taken"):
        path.unlink()
    if how == "another server secret":
        (settings.data_dir / "server-secret").unlink()
    if how == "emptied":
        path.write_text("")
    ensure_admin_key(settings, database, server_secret(settings))
    assert path.read_text() != before
    assert opens(settings, database).role is Role.ADMIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_that_start_at_once_make_one(settings: Settings, database: Database) -> None:
    secret = server_secret(settings)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ensure_admin_key(settings, database, secret), range(8)))
    assert len(living(database)) == 1
    assert opens(settings, database).role is Role.ADMIN


def test_secrets_of_the_settings_win_over_those_of_the_folder(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, secret="s" * 40, worker={"join_token": "given"})
    assert join_token(given) == "given"
    assert server_secret(given).digest("x") == ServerSecret("s" * 40).digest("x")
    assert list(tmp_path.iterdir()) == [], "nothing was made"
    made = Settings(data_dir=tmp_path)
    assert join_token(made) == join_token(made)
    assert {path.name for path in tmp_path.iterdir()} == {"join-token"}
