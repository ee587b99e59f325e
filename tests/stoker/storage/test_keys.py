"""Keys with what they may do, and the number that tells that one has changed."""

from datetime import timedelta

from sqlalchemy import text

from stoker.domain.keys import KeyLimits, KeyStatus, Role
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.stoker.storage.conftest import Clock

LIMITS = KeyLimits(requests_per_minute=60, tokens_per_month=10**12)


def test_a_key_is_kept_whole(database: Database, clock: Clock) -> None:
    expires_at = clock() + timedelta(days=30)
    with database.write() as session:
        added = Keys(session, clock()).add(
            "k1", "one", Role.USER, "digest", expires_at=expires_at, models=("b", "org/A"), limits=LIMITS
        )
    assert added == KeyStatus(
        id="k1",
        name="one",
        role=Role.USER,
        created_at=clock(),
        expires_at=expires_at,
        models=("b", "org/A"),
        limits=LIMITS,
    )
    with database.read() as session:
        keys = Keys(session, clock())
        assert keys.get("k1") == added
        assert keys.all() == (added,)
        assert keys.digests() == {"k1": (added, "digest")}
        assert keys.get("k2") is None


def test_a_key_is_changed_until_it_is_revoked(database: Database, clock: Clock) -> None:
    with database.write() as session:
        keys = Keys(session, clock())
        added = keys.add("k1", "one", Role.ADMIN, "digest", limits=LIMITS)
        wanted = added.model_copy(
            update={"name": "two", "models": ("m",), "limits": KeyLimits(), "expires_at": clock() + timedelta(1)}
        )
        assert keys.put(wanted)
        assert not keys.put(wanted.model_copy(update={"id": "k2"}))
    with database.write() as session:
        keys = Keys(session, clock())
        assert keys.get("k1", to_change=True) == wanted
        assert keys.revoke("k1")
        assert not keys.put(added)
        assert keys.all() == (wanted.model_copy(update={"revoked_at": clock()}),)


def test_living_keys_are_neither_revoked_nor_expired_nor_unreadable(database: Database, clock: Clock) -> None:
    with database.write() as session:
        keys = Keys(session, clock())
        for name, days in (("plain", None), ("later", 1), ("now", 0), ("past", -1), ("revoked", 1), ("strange", None)):
            expires_at = clock() + timedelta(days=days) if days is not None else None
            keys.add(name, name, Role.USER, f"digest of {name}", expires_at=expires_at)
        keys.revoke("revoked")
        session.execute(text("UPDATE api_key SET role = 'king' WHERE id = 'strange'"))
    with database.read() as session:
        living = Keys(session, clock()).living()
        assert sorted(living.known) == ["later", "plain"]
        assert living.unreadable == ("strange",)


def test_every_change_is_told_by_the_version(database: Database, clock: Clock) -> None:
    def version() -> int:
        with database.read() as session:
            return Keys(session, clock()).version()

    seen = [version()]
    with database.write() as session:
        added = Keys(session, clock()).add("k1", "one", Role.USER, "digest")
    seen.append(version())
    with database.write() as session:
        Keys(session, clock()).put(added.model_copy(update={"name": "two"}))
    seen.append(version())
    with database.write() as session:
        Keys(session, clock()).revoke("k1")
    seen.append(version())
    assert len(set(seen)) == 4
    with database.write() as session:
        keys = Keys(session, clock())
        keys.revoke("nix")
        keys.put(added)
        keys.all()
    assert version() == seen[-1], "where nothing changed, nothing is read"
