"""The API's document in words."""

from typing import Any

import pytest

from api.web.api_view import operations_of, shapes_of, type_in_words

SHAPE = {"$ref": "#/components/schemas/Thing"}


@pytest.mark.parametrize(
    ("schema", "text", "shapes"),
    [
        ({}, "", []),
        ({"type": "string", "maxLength": 3}, "string, characters, at most 3", []),
        ({"type": "string", "format": "date-time"}, "date-time", []),
        (SHAPE, "Thing", ["Thing"]),
        ({"anyOf": [{"type": "array", "items": SHAPE}, {"type": "null"}]}, "list of Thing or null", ["Thing"]),
        ({"type": "array"}, "list of anything", []),
        (
            {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            "object of integer, at least 0",
            [],
        ),
        ({"type": "object", "additionalProperties": True}, "object", []),
        ({"enum": ["a", "b"], "type": "string"}, "a | b", []),
    ],
)
def test_types_in_words(schema: dict[str, Any], text: str, shapes: list[str]) -> None:
    words = type_in_words(schema)
    assert "".join(word.text for word in words) == text
    assert [word.shape for word in words if word.shape] == shapes


def test_operations_and_shapes() -> None:
    path = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    both = {"application/json": {"schema": SHAPE}, "text/event-stream": {"schema": SHAPE}}
    responses = {"200": {"description": "OK", "content": both}, "404": {"description": "Not Found"}}
    operation = {"operationId": "get_thing", "tags": ["things"], "parameters": [path], "responses": responses}
    field = {"type": "integer", "default": 3, "description": "How many."}
    document = {
        "paths": {"/things/{name}": {"get": operation}},
        "components": {"schemas": {"Thing": {"properties": {"count": field}, "required": ["count"]}}},
    }
    (one,) = operations_of(document)["things"]
    assert (one.method, one.needs_key, one.fields[0].place, one.body) == ("GET", False, "path", ())
    assert [(answer.status, len(answer.type)) for answer in one.answers] == [("200", 1), ("404", 0)]
    (shape,) = shapes_of(document)
    assert (shape.name, shape.fields[0].required, shape.fields[0].description) == (
        "Thing",
        True,
        "How many. Default: 3",
    )
