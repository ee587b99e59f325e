"""`/api/v1/routes`: names that clients may use for deployments."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from entrypoints.clock import utc_now
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from tests.api.serving import Api
from tests.api.test_deployments import problem_of
from tests.builders import make_files, make_profile, make_spec

pytestmark = pytest.mark.anyio

PATH = "/api/v1/routes"
CANARY = {
    "targets": [{"deployment": "llama", "weight": 9}, {"deployment": "next", "weight": 1}],
    "fallbacks": [{"deployment": "smol", "statuses": [429, 503]}],
}


def to(*deployments: str, **fields: Any) -> dict[str, Any]:
    return {"targets": [{"deployment": name} for name in deployments], **fields}


@pytest.fixture
async def api(lone_api: Api, database: Database) -> AsyncIterator[Api]:
    """With the deployments llama, next and smol, and no route."""
    with database.write() as session:
        for name in ("llama", "next", "smol"):
            spec = make_spec(name=name, replicas=0)
            projection = DeploymentProjection(spec=spec, generation=1, profile=make_profile(), files=make_files())
            Deployments(session, utc_now()).put(projection)
    yield lone_api
    for route in (await lone_api.admin.get(PATH)).json()["data"]:
        assert (await lone_api.admin.delete(f"{PATH}/{route['name']}")).status_code == 204


async def test_a_route_is_made_replaced_and_removed(api: Api) -> None:
    made = await api.admin.put(f"{PATH}/gpt-4o", json=CANARY)
    assert made.status_code == 201
    body = made.json()
    assert {name: body[name] for name in ("name", "targets", "fallbacks")} == {"name": "gpt-4o", **CANARY}
    got = await api.admin.get(f"{PATH}/gpt-4o")
    assert (got.status_code, got.json(), got.headers["etag"]) == (200, body, made.headers["etag"])
    changed = await api.admin.put(f"{PATH}/gpt-4o", json=to("smol"))
    assert (changed.status_code, changed.json()["fallbacks"]) == (200, [])
    assert changed.json()["targets"] == [{"deployment": "smol", "weight": 1}]
    assert changed.headers["etag"] != made.headers["etag"]
    assert (await api.admin.delete(f"{PATH}/gpt-4o")).status_code == 204
    problem_of(await api.admin.get(f"{PATH}/gpt-4o"), 404, "not_found")
    problem_of(await api.admin.delete(f"{PATH}/gpt-4o"), 404, "not_found")


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "a/b/c", "org/repo:Q4_K_M", "watch", "x@1+2"])
async def test_names_as_other_services_have_them(api: Api, name: str) -> None:
    assert (await api.admin.put(f"{PATH}/{name}", json=to("llama"))).status_code == 201
    encoded = name.replace("/", "%2F").replace(":", "%3A")
    assert (await api.admin.get(f"{PATH}/{encoded}")).json()["name"] == name
    assert [route["name"] for route in (await api.admin.get(PATH)).json()["data"]] == [name]


async def test_clients_see_a_route_at_once(api: Api) -> None:
    await api.admin.put(f"{PATH}/org/name", json=to("llama"))
    listed = (await api.admin.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["llama", "next", "smol", "org/name"]
    created = {model["id"]: model["created"] for model in listed}
    assert created["org/name"] == created["llama"]
    assert (await api.admin.get("/v1/models/org/name")).json()["id"] == "org/name"
    asked = {"model": "org/name", "messages": [{"role": "user", "content": "hi"}]}
    answer = await api.admin.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_stopped")
    await api.admin.delete(f"{PATH}/org/name")
    answer = await api.admin.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_change_only_of_what_was_read(api: Api) -> None:
    path = f"{PATH}/guarded"
    problem_of(await api.admin.put(path, json=to("llama"), headers={"if-match": '"aa"'}), 412, "route_conflict")
    problem_of(await api.admin.put(path, json=to("llama"), headers={"if-match": "*"}), 412, "route_conflict")
    made = await api.admin.put(path, json=to("llama"), headers={"if-none-match": "*"})
    assert made.status_code == 201
    again = await api.admin.put(path, json=to("next"), headers={"if-none-match": "*"})
    assert "is there already" in problem_of(again, 412, "route_conflict").detail
    read = made.headers["etag"]
    assert (await api.admin.put(path, json=to("next"), headers={"if-match": read})).status_code == 200
    late = await api.admin.put(path, json=to("smol"), headers={"if-match": read})
    assert "now has the ETag" in problem_of(late, 412, "route_conflict").detail
    problem_of(await api.admin.delete(path, headers={"if-match": read}), 412, "route_conflict")
    now = (await api.admin.get(path)).headers["etag"]
    assert (await api.admin.delete(path, headers={"if-match": f'"other", W/{now}'})).status_code == 204


@pytest.mark.parametrize(
    ("name", "body", "field", "message"),
    [
        ("r", to("gone"), "targets.0.deployment", "there is no deployment 'gone'"),
        ("r", to("llama", "gone"), "targets.1.deployment", "there is no deployment 'gone'"),
        ("r", to("llama", fallbacks=[{"deployment": "gone"}]), "fallbacks.0.deployment", "there is no deployment"),
        ("smol", to("llama"), "name", "a deployment's own name wins"),
        ("r", {}, "targets", "Field required"),
        ("r", to(), "targets", "at least 1 item"),
        ("r", to("llama", "llama"), "targets", "llama is named twice: give it the sum of the weights once"),
        ("r", {"targets": [{"deployment": "llama", "weight": 0}]}, "targets", "all weights are 0"),
        ("r", {"targets": [{"deployment": "llama", "weight": -1}]}, "targets.0.weight", "greater than or equal to 0"),
        ("r", {"targets": [{"deployment": "Llama"}]}, "targets.0.deployment", "write lower-case letters"),
        ("r", {"targets": [{"deployment": "llama", "share": 1}]}, "targets.0.share", "Extra inputs"),
        (
            "r",
            to("llama", fallbacks=[{"deployment": "smol", "statuses": [400]}]),
            "fallbacks.0.statuses",
            "[400] cannot lead to another model: choose from 404, 429, 500, 502, 503, 504",
        ),
        ("r", to("llama", fallbacks=[{"deployment": "smol", "statuses": []}]), "fallbacks.0.statuses", "at least 1"),
        ("r", to("llama", name="other"), "name", "Extra inputs"),
        ("-r", to("llama"), "name", "write letters, digits and . _ : @ / + -"),
        ("r" * 129, to("llama"), "name", "at most 128"),
    ],
)
async def test_a_wrong_route_names_the_field(
    api: Api, name: str, body: dict[str, Any], field: str, message: str
) -> None:
    problem = problem_of(await api.admin.put(f"{PATH}/{name}", json=body), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]
    assert message in problem.errors[0].message
    assert (await api.admin.get(PATH)).json()["data"] == []


async def test_pages(api: Api) -> None:
    names = ["a", "a/b", "b", "c/d/e"]
    for name in names:
        await api.admin.put(f"{PATH}/{name}", json=to("llama"))
    first = (await api.admin.get(PATH, params={"limit": 3})).json()
    assert ([route["name"] for route in first["data"]], first["has_more"], first["last"]) == (names[:3], True, "b")
    rest = (await api.admin.get(PATH, params={"limit": 3, "after": "a/b"})).json()
    assert ([route["name"] for route in rest["data"]], rest["has_more"]) == (["b", "c/d/e"], False)
    problem_of(await api.admin.get(PATH, params={"after": "\x00"}), 422, "invalid_request")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_administrators_see_and_change_routes(api: Api, method: str) -> None:
    problem_of(await api.anyone.request(method, f"{PATH}/r", json=to("llama")), 401, "unauthorized")
