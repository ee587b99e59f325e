"""What a body may write for an integer."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.schemas.deployments import DeploymentCreate
from api.schemas.keys import LimitsWrite


def deployment(**fields: Any) -> DeploymentCreate:
    body = {"name": "smol", "model": "file:/m.gguf", **fields}
    return DeploymentCreate.model_validate(json.loads(json.dumps(body)))


@pytest.mark.parametrize("written", [4, 4.0])
def test_a_number_without_a_fraction_is_one(written: float) -> None:
    assert deployment(queue=written).queue == 4
    assert LimitsWrite(concurrency=written).concurrency == 4  # type: ignore[arg-type]  # as a body may have it


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queue": False}, "must be an integer, not a boolean"),
        ({"replicas": "2"}, "must be an integer, not a text"),
        ({"options": {"slots": True}}, "must be an integer, not a boolean"),
        ({"tensor_split": [True]}, "must be an integer, not a boolean"),
        ({"queue": 1.5}, "fractional part"),
    ],
    ids=["false", "text", "true", "in-a-list", "fraction"],
)
def test_anything_else_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        deployment(**fields)


def test_so_are_limits() -> None:
    with pytest.raises(ValidationError, match="must be an integer, not a boolean"):
        LimitsWrite(requests_per_minute=True)
    assert LimitsWrite(requests_per_minute=None).requests_per_minute is None
