"""Names that are no deployment's own."""

from typing import Any

import pytest
from pydantic import ValidationError

from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget


def spec(name: str = "gpt-4o", **fields: object) -> RouteSpec:
    return RouteSpec.model_validate({"name": name, "targets": [{"deployment": "a"}], **fields})


@pytest.mark.parametrize(
    "name", ["a", "gpt-4o", "meta-llama/Llama-3.1-8B", "org/repo:Q4_K_M", "a" * 128, "ft:gpt@2024+x_y"]
)
def test_names(name: str) -> None:
    assert spec(name).name == name


@pytest.mark.parametrize("name", ["", "/a", "a/", "-a", "a b", "é", "a\n", "a" * 129, "a?b", "a#b", "a%2Fb"])
def test_no_names(name: str) -> None:
    with pytest.raises(ValidationError):
        spec(name)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"targets": []}, "at least 1 item"),
        ({"targets": [{"deployment": "a"}] * 17}, "at most 16 items"),
        ({"targets": [{"deployment": "a"}, {"deployment": "a", "weight": 3}]}, "a is named twice"),
        ({"targets": [{"deployment": "a", "weight": 0}]}, "all weights are 0"),
        ({"targets": [{"deployment": "a", "weight": -1}]}, "greater than or equal to 0"),
        ({"targets": [{"deployment": "A"}]}, "String should match pattern"),
        ({"fallbacks": [{"deployment": "b", "statuses": []}]}, "none cannot lead to another model"),
        ({"fallbacks": [{"deployment": "b", "statuses": [503, 400]}]}, "choose from 404, 429, 500, 502, 503, 504"),
        ({"fallbacks": [{"deployment": "b"}] * 9}, "at most 8 items"),
    ],
)
def test_what_cannot_be_followed(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        spec(**fields)


def test_what_is_left_out() -> None:
    assert RouteTarget(deployment="a").weight == 1
    assert Fallback(deployment="a").statuses == (404, 429, 502, 503, 504)
    assert spec().fallbacks == ()
