"""The audit log's rows: what is asked for is what was written, page by page, until its time is over."""

from datetime import UTC, datetime, timedelta

import pytest

from stoker.domain.audit import AuditEntry
from stoker.domain.field_changes import FieldChange
from stoker.storage import audit
from stoker.storage.audit import AuditFilter, audit_entries, forget_entries, write_entries
from stoker.storage.by_time import Stretch, place_of
from stoker.storage.engine import Database

NOW = datetime(2026, 3, 10, 12, 34, 56, 789012, tzinfo=UTC)
EVERYTHING = AuditFilter()
MINUTE = timedelta(minutes=1)


def entry(ago: timedelta = timedelta(0), **values: object) -> AuditEntry:
    """The key `alice` gave smol three replicas."""
    change = FieldChange(field="replicas", before=1, after=3)
    usual = AuditEntry(
        at=NOW - ago,
        key_id="0" * 12,
        key_name="alice",
        action="update_deployment",
        method="PATCH",
        path="/api/v1/deployments/smol",
        object="deployment/smol",
        changes=(change,),
        status=200,
        request_id="req_1",
    )
    return usual.model_copy(update=values)


def write(database: Database, *entries: AuditEntry) -> None:
    with database.write() as session:
        write_entries(session, entries)


def found(database: Database, asked: AuditFilter = EVERYTHING, limit: int = 100) -> list[AuditEntry]:
    with database.read() as session:
        return [one.entry for one in audit_entries(session, asked, limit=limit)]


def test_an_entry_comes_back_as_it_was(database: Database) -> None:
    odd = entry(MINUTE, changes=(FieldChange(field="a", after=["ü", {"b": None}, 1.5]),), key_name="Zoë 🦊", object="")
    write(database, odd, entry())
    assert found(database) == [entry(), odd]


def test_pages_join_up_also_where_moments_are_equal(database: Database) -> None:
    entries = [entry(MINUTE * (number // 3), request_id=str(number)) for number in range(10)]
    write(database, *reversed(entries))
    pages: list[str] = []
    after: tuple[datetime, int] | None = None
    with database.read() as session:
        while page := audit_entries(session, AuditFilter(), limit=2, after=after):
            pages += [one.entry.request_id for one in page]
            after = place_of(page[-1].cursor)
    assert sorted(pages, key=int) == [str(number) for number in range(10)]
    assert [int(number) // 3 for number in pages] == sorted(number // 3 for number in range(10))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (AuditFilter(), ["new", "bob", "refused", "other", "old"]),
        (AuditFilter(by="bob"), ["bob"]),
        (AuditFilter(by="b" * 12), ["bob"]),
        (AuditFilter(object="deployment/smol"), ["new", "bob", "refused", "old"]),
        (AuditFilter(object="deployment"), ["new", "bob", "refused", "other", "old"]),
        (AuditFilter(object="deployment/sm"), []),
        (AuditFilter(object="depl_yment"), []),
        (AuditFilter(refused=True), ["refused"]),
        (AuditFilter(refused=False), ["new", "bob", "other", "old"]),
        (AuditFilter(Stretch(NOW - 2 * MINUTE, None)), ["new", "bob", "refused"]),
        (AuditFilter(Stretch(None, NOW - 2 * MINUTE)), ["other", "old"]),
        (AuditFilter(Stretch(NOW - 3 * MINUTE, NOW), object="deployment/smol", refused=False), ["bob"]),
    ],
)
def test_filters(database: Database, asked: AuditFilter, expected: list[str]) -> None:
    write(
        database,
        entry(request_id="new"),
        entry(MINUTE, request_id="bob", key_name="bob", key_id="b" * 12),
        entry(2 * MINUTE, request_id="refused", status=409),
        entry(3 * MINUTE, request_id="other", object="deployment/smol2"),
        entry(4 * MINUTE, request_id="old"),
    )
    assert [one.request_id for one in found(database, asked)] == expected


def test_what_is_too_old_goes_in_pieces(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_DELETED_AT_ONCE", 2)
    write(database, *(entry(timedelta(days=days)) for days in (0, 1, 2, 3, 4)))
    counts = []
    for _ in range(3):
        with database.write() as session:
            counts.append(forget_entries(session, NOW - timedelta(days=1)))
    assert counts == [2, 1, 0]
    assert [one.at for one in found(database)] == [NOW, NOW - timedelta(days=1)]
