"""The OpenAPI document: FastAPI's, made true where it does not know what we do."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from api.errors import PROBLEM_JSON


def truthful(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What is to be `app.openapi`: the same document, in which refusals have the media type that they are sent with."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    _as_problem(response.get("content", {}))
        return document

    return openapi


def _as_problem(content: dict[str, Any]) -> None:
    for media_type, described in tuple(content.items()):
        if described.get("schema") == {"$ref": "#/components/schemas/Problem"}:
            content[PROBLEM_JSON] = content.pop(media_type)
