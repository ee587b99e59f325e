"""What an entry says of a change: the fields that differ, each once, and never too much."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.audit import LONGEST_VALUE, MOST_CHANGES, AuditEntry, bounded_changes
from stoker.domain.field_changes import FieldChange

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
NAMES = st.text("abc", min_size=1, max_size=2)
OBJECTS = st.dictionaries(NAMES, SCALARS | st.dictionaries(NAMES, SCALARS, max_size=3), max_size=4)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"replicas": 1}, {"replicas": 1}, ()),
        ({"replicas": 1}, {"replicas": 3}, (("replicas", 1, 3),)),
        ({}, {"name": "smol", "options": {"slots": 2}}, (("name", None, "smol"), ("options.slots", None, 2))),
        ({"options": {"slots": 4, "batch": 8}}, {"options": {"slots": 2, "batch": 8}}, (("options.slots", 4, 2),)),
        ({"selector": {"zone": "a"}}, {"selector": {}}, (("selector.zone", "a", None),)),
        ({"devices": ["a"]}, {"devices": ["a", "b"]}, (("devices", ["a"], ["a", "b"]),)),
        ({"a": 1, "b": 1, "z": 1}, {"b": 2, "a": 2}, (("b", 1, 2), ("a", 1, 2), ("z", 1, None))),
    ],
)
def test_fields_that_differ(
    before: dict[str, Any], after: dict[str, Any], expected: tuple[tuple[str, Any, Any], ...]
) -> None:
    found = bounded_changes(before, after)
    assert found == tuple(FieldChange(field=name, before=old, after=new) for name, old, new in expected)


def test_a_long_value_is_its_beginning() -> None:
    (change,) = bounded_changes({"text": "short"}, {"text": "x" * 5000})
    assert change.before == "short"
    assert change.after == '"' + "x" * (LONGEST_VALUE - 1) + "…"


def test_no_more_than_so_many() -> None:
    assert len(bounded_changes({}, {str(number): number for number in range(5 * MOST_CHANGES)})) == MOST_CHANGES


@given(OBJECTS)
def test_nothing_differs_from_itself(values: dict[str, Any]) -> None:
    assert bounded_changes(values, values) == ()


@given(OBJECTS, OBJECTS)
def test_a_change_is_told_once_and_can_be_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = bounded_changes(before, after)
    names = [change.field for change in found]
    assert len(names) == len(set(names))
    entry = AuditEntry(at=NOW, action="update_deployment", method="PATCH", path="/", status=200, changes=found)
    assert AuditEntry.model_validate_json(json.dumps(entry.model_dump(mode="json"))) == entry


@pytest.mark.parametrize(("status", "refused"), [(200, False), (202, False), (0, False), (403, True), (500, True)])
def test_what_is_refused(status: int, refused: bool) -> None:
    assert AuditEntry(at=NOW, action="a", method="POST", path="/", status=status).refused is refused
