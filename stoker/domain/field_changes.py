"""What differs between two deployments, or two of anything, field by field."""

from collections.abc import Mapping
from typing import Any

from stoker.domain.base import Value
from stoker.domain.deployments import DeploymentSpec


class FieldChange(Value):
    """One field before and after, as JSON says them; None where the field was not there. `options.slots` is nested."""

    field: str
    before: Any = None
    after: Any = None


def field_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """The fields that differ, values whole, in `before`'s order, then those that are new. Both hold JSON."""
    fields = dict.fromkeys((*before, *after))
    return tuple(
        FieldChange(field=field, before=before.get(field), after=after.get(field))
        for field in fields
        if before.get(field) != after.get(field)
    )


def deployment_changes(before: DeploymentSpec, after: DeploymentSpec) -> tuple[FieldChange, ...]:
    """What differs between two of the same name, as it is written: model and devices as texts, `options` one by one."""
    return field_changes(_written(before), _written(after))


def _written(spec: DeploymentSpec) -> dict[str, Any]:
    written = spec.model_dump(mode="json", exclude={"name", "options"})
    written |= {"model": str(spec.model), "devices": ["/".join(pair) for pair in spec.devices]}
    return written | {f"options.{field}": value for field, value in spec.options.model_dump(mode="json").items()}
