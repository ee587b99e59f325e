"""`stoker audit`."""

import json
from datetime import UTC, datetime

import pytest
import yaml

from api.schemas.audit import AuditEntryRead
from stoker.domain.audit import AuditEntry
from stoker.domain.field_changes import FieldChange
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi

AT = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)


def entry(action: str, status: int, *changes: FieldChange, **values: str) -> AuditEntryRead:
    """One that a key named alice asked for."""
    known = {"key_name": "alice", "object": "deployment/smol"} | values
    made = AuditEntry(at=AT, action=action, method="PATCH", path="/x", status=status, changes=changes, **known)
    return AuditEntryRead.of_entry(made)


@pytest.fixture(autouse=True)
def _entries(api: FakeApi) -> None:
    api.audit = [
        entry("update_deployment", 200, FieldChange(field="replicas", before=1, after=3)),
        entry("create_key", 403, FieldChange(field="name", after="app"), key_name="bob", object="key/1"),
        entry("create_deployment", 0, FieldChange(field="model", after="m" * 100)),
        entry("join_worker", 401, key_name="", object="worker/w1"),
    ]


def lines(text: str) -> list[str]:
    """The table's, without what aligns it."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_who_changed_what(stoker: Stoker) -> None:
    done = stoker("audit")
    assert done.exit_code == 0, done.stderr
    assert lines(done.stdout) == [
        "WHEN (UTC) BY ACTION OBJECT RESULT CHANGES",
        "2026-03-10 12:34:56 alice update deployment deployment/smol done replicas 1 -> 3",
        "2026-03-10 12:34:56 bob create key key/1 403 Forbidden name=app",
        f"2026-03-10 12:34:56 alice create deployment deployment/smol not answered model={'m' * 60}…",
        "2026-03-10 12:34:56 - join worker worker/w1 401 Unauthorized",
    ]


def test_what_is_asked_for(api: FakeApi, stoker: Stoker) -> None:
    asked = ("--by", "alice", "--object", "deployment/smol", "--since", "2026-03-01T12:00:00+01:00", "--refused")
    assert stoker("audit", *asked, "--limit", "2").exit_code == 0
    assert api.requests[-1].query == {
        "by": "alice",
        "object": "deployment/smol",
        "since": "2026-03-01T11:00:00Z",
        "refused": "true",
        "limit": "2",
    }
    assert stoker("audit", "--made").exit_code == 0
    assert api.requests[-1].query == {"refused": "false", "limit": "50"}


def test_as_data(stoker: Stoker) -> None:
    found = json.loads(stoker("audit", "-o", "json").stdout)
    assert yaml.safe_load(stoker("audit", "-o", "yaml").stdout) == found
    assert [one["status"] for one in found] == [200, 403, 0, 401]
    assert found[0]["changes"] == [{"field": "replicas", "before": 1, "after": 3}]


def test_a_moment_that_is_none(stoker: Stoker) -> None:
    refused = stoker("audit", "--since", "soon")
    assert refused.exit_code == 2
    assert "--since 'soon': write how long ago" in refused.stderr
