"""The description of the management API: whole, and true to what the API does."""

from typing import Any

import pytest

from tests.api.serving import Api

pytestmark = pytest.mark.anyio

METHODS = ("get", "post", "put", "patch", "delete")
OPEN = {"/livez", "/readyz", "/version", "/metrics", "/api/v1/authority"}
"""What needs no key."""


@pytest.fixture(scope="module")
async def document(lone_api: Api) -> dict[str, Any]:
    """/openapi.json."""
    found: dict[str, Any] = (await lone_api.anyone.get("/openapi.json")).raise_for_status().json()
    return found


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of each."""
    return [(path, m, item[m]) for path, item in document["paths"].items() for m in METHODS if m in item]


async def test_what_there_is(operations: list[tuple[str, str, dict[str, Any]]]) -> None:
    assert {(method, path) for path, method, _ in operations} == {
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/version"),
        ("get", "/metrics"),
        *((method, "/api/v1/deployments") for method in ("get", "post")),
        ("post", "/api/v1/estimates"),
        ("post", "/api/v1/placements"),
        *((method, "/api/v1/deployments/{name}") for method in ("get", "patch", "delete")),
        ("get", "/api/v1/deployments/{name}/revisions"),
        ("post", "/api/v1/deployments/{name}/undo"),
        ("get", "/api/v1/instances"),
        ("get", "/api/v1/instances/{instance_id}"),
        ("get", "/api/v1/instances/{instance_id}/logs"),
        ("get", "/api/v1/health"),
        ("get", "/api/v1/workers"),
        *((method, "/api/v1/workers/{name}") for method in ("get", "delete")),
        *(("post", f"/api/v1/workers/{{name}}/{what}") for what in ("cordon", "uncordon", "drain", "join")),
        *(("post", f"/api/v1/workers/{{name}}/{what}") for what in ("report", "certificate")),
        ("get", "/api/v1/files"),
        ("delete", "/api/v1/files/{worker}/{model}"),
        ("get", "/api/v1/usage"),
        ("get", "/api/v1/usage/requests"),
        ("get", "/api/v1/authority"),
        *((method, "/api/v1/join-tokens") for method in ("get", "post")),
        ("delete", "/api/v1/join-tokens/{token_id}"),
        *((method, "/api/v1/keys") for method in ("get", "post")),
        *((method, "/api/v1/keys/{key_id}") for method in ("get", "patch", "delete")),
        ("get", "/api/v1/routes"),
        *((method, "/api/v1/routes/{name}") for method in ("get", "put", "delete")),
    }


async def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(
    operations: list[tuple[str, str, dict[str, Any]]],
) -> None:
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names), "generated clients call their methods so"
    for path, method, operation in operations:
        assert operation["description"].endswith((".", ".)")), f"{method} {path}"
        assert operation["tags"], f"{method} {path}"


async def test_every_operation_says_how_it_refuses(
    document: dict[str, Any], operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    for path, method, operation in operations:
        where, responses = f"{method} {path}", operation["responses"]
        if path in OPEN:
            continue
        assert {"401", "422", "503"} <= set(responses), where
        for status, response in responses.items():
            if status >= "400":
                (content,) = response["content"].values()
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, f"{where}: {status}"
                assert response["description"], f"{where}: {status}"
    assert "HTTPValidationError" not in document["components"]["schemas"], "FastAPI's own form is never sent"


async def test_refusals_are_problems_by_their_media_type(
    operations: list[tuple[str, str, dict[str, Any]]],
) -> None:
    for path, method, operation in operations:
        for status, response in operation["responses"].items():
            if path not in OPEN and status >= "400":
                assert list(response["content"]) == ["application/problem+json"], f"{method} {path}: {status}"


async def test_the_document_says_how_to_show_a_key(
    document: dict[str, Any], operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme["scheme"]) for scheme in schemes.values()} == {("http", "bearer")}
    for path, method, operation in operations:
        assert bool(operation.get("security")) is (path not in OPEN), f"{method} {path}"


async def test_every_operation_that_needs_a_key_refuses_without_one(
    lone_api: Api, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    for path, method, _ in operations:
        names = {"name": "some", "worker": "some", "model": "hf:some", "instance_id": "some-1"}
        url = path.format(**names, key_id="0" * 12, token_id="0" * 12)
        body = {"worker": {"name": "some"}} if url.endswith(("join", "report")) else {}
        response = await lone_api.anyone.request(method, url, json=body if method in ("post", "patch") else None)
        expected = 200 if path in OPEN else 401
        assert response.status_code == expected, f"{method} {path}: {response.text}"


async def test_every_field_of_what_is_written_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in (
        "DeploymentCreate",
        "DeploymentUpdate",
        "EstimateCreate",
        "JoinTokenCreate",
        "KeyCreate",
        "OptionsWrite",
        "PlacementsCreate",
    ):
        assert schemas[name]["additionalProperties"] is False, name
        assert schemas[name]["description"], name
