"""The description of `/v1`: valid, whole, and of one mind with what checks requests."""

import json
from typing import Any

import jsonschema_rs
import pytest

from api.openai.endpoints import ENDPOINTS, Endpoint
from api.openai.errors import APIError
from api.openai.field_values import MOST, RANGES
from api.openai.fields import ENGINE_SWITCHES
from api.openai.openapi import document, document_bytes
from api.openai.shapes import request_schema
from api.openai.validation import parse_request
from tests.api.openai.serving import KEY, model, open_door

JSON_ENDPOINTS = [endpoint for endpoint in ENDPOINTS.values() if not endpoint.takes_form]
REQUIRED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "a"}],
    "prompt": "a",
    "input": "a",
    "query": "a",
    "documents": ["a"],
}


def body_for(endpoint: Endpoint, **fields: Any) -> dict[str, Any]:
    """A valid body, with `fields` in it."""
    return {"model": "m", **{name: REQUIRED[name] for name in endpoint.required}, **fields}


def door_takes(endpoint: Endpoint, body: dict[str, Any]) -> bool:
    """Whether the door lets it through."""
    try:
        parse_request(endpoint, json.dumps(body).encode())
    except APIError as error:
        return error.status != 400
    return True


def references(node: Any) -> set[str]:
    """All that a document refers to."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_route_is_in_it_and_every_reference_leads_somewhere() -> None:
    found = document()
    assert found["paths"].keys() == {f"/v1{path}" for path in ENDPOINTS} | {"/v1/models", "/v1/models/{model}"}
    operations = [operation for item in found["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for reference in references(found):
        place: Any = found
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for operation in operations:
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                jsonschema_rs.meta.validate(content.get("schema", {}))


def test_examples_of_errors_are_errors() -> None:
    found = document()
    check = jsonschema_rs.validator_for(found["components"]["schemas"]["Error"])
    seen = set()
    for name, response in found["components"]["responses"].items():
        for code, example in response["content"]["application/json"].get("examples", {}).items():
            check.validate(example["value"])
            assert example["value"]["error"]["code"] == code
            seen.add(int(name.removeprefix("Error")))
    assert seen >= {400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504}


@pytest.mark.parametrize("endpoint", JSON_ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_it_says_of_each_field_what_the_door_takes(endpoint: Endpoint) -> None:
    schema = request_schema(endpoint)
    check = jsonschema_rs.validator_for(schema)
    assert set(schema["properties"]) == endpoint.fields | {"model"}
    cases = [body_for(endpoint), *(body_for(endpoint, **{name: 1}) for name in (*ENGINE_SWITCHES, "no_such_field"))]
    for name in ("model", *endpoint.required):
        cases.append({key: value for key, value in body_for(endpoint).items() if key != name})
        cases.append(body_for(endpoint, **{name: None}))
    for name in endpoint.fields & RANGES.keys():
        low, high, _ = RANGES[name]
        cases += [body_for(endpoint, **{name: value}) for value in (low, high, low - 1, high * 2 + 1, "1", True, None)]
    for name in endpoint.fields & MOST.keys():
        inside = {"dry_sequence_breakers": "a", "documents": "a", "samplers": "a", "stop": "a", "stop_sequences": "a"}
        item = inside.get(name, REQUIRED["messages"][0] | {"input_schema": {}})
        cases += [body_for(endpoint, **{name: [item] * count}) for count in (MOST[name], MOST[name] + 1)]
    for name, (values, _) in endpoint.harmless.items():
        cases += [body_for(endpoint, **{name: value}) for value in (*values, None, "something else", [1])]
    agree = {json.dumps(case)[:300]: (check.is_valid(case), door_takes(endpoint, case)) for case in cases}
    assert {case: both for case, both in agree.items() if both[0] != both[1]} == {}
    assert {True, False} <= {both[0] for both in agree.values()}


@pytest.mark.anyio
async def test_it_is_served_without_a_key() -> None:
    async with open_door([model()]) as door:
        found = await door.client.get("/v1/openapi.json", headers={"authorization": "Bearer wrong"})
        assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
        assert found.content == document_bytes()
        assert KEY not in found.text
        refused = await door.client.post("/v1/openapi.json")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
