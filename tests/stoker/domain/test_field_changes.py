"""What differs, field by field."""

from typing import Any

import pytest

from stoker.domain.field_changes import FieldChange, deployment_changes, field_changes
from stoker.domain.models import ModelSource
from tests.builders import make_spec


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, [("b", 1, 2), ("a", 1, 2)]),
        ({"gone": 1}, {"new": 2}, [("gone", 1, None), ("new", None, 2)]),
        ({"labels": {"zone": "a", "rack": "1"}}, {"labels": {}}, [("labels", {"zone": "a", "rack": "1"}, {})]),
    ],
)
def test_fields_that_differ_are_told_whole(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, Any, Any]]
) -> None:
    assert [(one.field, one.before, one.after) for one in field_changes(before, after)] == expected


def test_a_deployment_is_compared_as_it_is_written() -> None:
    before = make_spec(name="a", model=ModelSource.parse("file:/a.gguf"))
    options = before.options.model_copy(update={"slots": 8})
    after = make_spec(
        name="a", model=ModelSource.parse("file:/b.gguf"), devices=(("w", "gpu0"),), options=options, tensor_split=(2,)
    )
    assert deployment_changes(before, before) == ()
    assert deployment_changes(before, after) == (
        FieldChange(field="model", before="file:/a.gguf", after="file:/b.gguf"),
        FieldChange(field="devices", before=[], after=["w/gpu0"]),
        FieldChange(field="tensor_split", before=[], after=[2]),
        FieldChange(field="options.slots", before=4, after=8),
    )
