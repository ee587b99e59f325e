"""`/api/v1/audit`: every change that was asked for, by whom, and what came of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.audit import note
from api.audit.recording import audited
from api.deps import ContextDep
from api.routes.workers import cordon_worker
from stoker.domain.audit import AuditEntry
from stoker.domain.deployments import InstanceState
from stoker.domain.keys import KeyStatus, Role
from stoker.domain.models import ModelSource
from tests.api.serving import JOIN_TOKEN, Api, add_key
from tests.api.test_deployments import create, problem_of, removed
from tests.builders import make_worker
from tests.cluster import Cluster, eventually_async

pytestmark = pytest.mark.anyio

PATH = "/api/v1/audit"
KEYS = "/api/v1/keys"


async def entries(
    api: Api, request: httpx.Response | None = None, count: int = 1, **query: Any
) -> list[dict[str, Any]]:
    """The first `count` entries, as soon as there are so many; with `request`, those of that one alone."""
    wanted = request.headers["x-request-id"] if request is not None else None

    async def look() -> list[dict[str, Any]] | None:
        answer = await api.admin.get(PATH, params=query)
        assert answer.status_code == 200, answer.text
        found = [one for one in answer.json()["data"] if wanted in (None, one["request_id"])]
        return found if len(found) >= count else None

    return await eventually_async(look, f"{count} entries")


async def entry_of(api: Api, response: httpx.Response) -> dict[str, Any]:
    """The one entry of a request."""
    (entry,) = await entries(api, response)
    return entry


async def test_a_key_that_is_typed_as_an_id_is_not_kept(lone_api: Api) -> None:
    key_id, key = add_key(lone_api.context.database, Role.USER, "typed")
    refused = await lone_api.admin.delete(f"{KEYS}/{key}")
    assert refused.status_code == 422
    entry = await entry_of(lone_api, refused)
    assert entry["path"] == f"{KEYS}/sk-stoker-{key_id}-[redacted]"
    assert entry["object"] == f"key/sk-stoker-{key_id}-[redacted]"


async def test_a_change_says_who_what_when_and_what_came_of_it(lone_api: Api) -> None:
    before = datetime.now(UTC)
    made = await lone_api.admin.post(KEYS, json={"name": "app", "role": "admin", "limits": {"concurrency": 3}})
    key_id, key = made.json()["id"], made.json()["key"]
    entry = await entry_of(lone_api, made)
    admin = next(one for one in (await lone_api.admin.get(KEYS)).json()["data"] if one["name"] == "of the tests")
    assert before <= datetime.fromisoformat(entry.pop("at")) <= datetime.now(UTC)
    assert entry == {
        "key_id": admin["id"],
        "key_name": "of the tests",
        "action": "create_key",
        "method": "POST",
        "path": KEYS,
        "object": f"key/{key_id}",
        "changes": [
            {"field": "name", "before": None, "after": "app"},
            {"field": "role", "before": None, "after": "admin"},
            {"field": "limits.concurrency", "before": None, "after": 3},
        ],
        "status": 201,
        "request_id": made.headers["x-request-id"],
    }
    assert key not in (await lone_api.admin.get(PATH)).text
    changed = await lone_api.admin.patch(
        f"{KEYS}/{key_id}", json={"name": "other app", "limits": {"concurrency": None}}
    )
    entry = await entry_of(lone_api, changed)
    assert (entry["action"], entry["object"]) == ("change_key", f"key/{key_id}")
    assert entry["changes"] == [
        {"field": "name", "before": "app", "after": "other app"},
        {"field": "limits.concurrency", "before": 3, "after": None},
    ]
    revoked = await entry_of(lone_api, await lone_api.admin.delete(f"{KEYS}/{key_id}"))
    assert (revoked["action"], revoked["status"], revoked["changes"]) == ("revoke_key", 204, [])


async def test_what_was_refused_is_there_too(lone_api: Api) -> None:
    _, user = lone_api.key(Role.USER, "app")
    bearer = {"authorization": f"Bearer {user}"}
    await lone_api.context.keyring.refresh()
    forbidden = await entry_of(lone_api, await lone_api.anyone.delete(f"{KEYS}/{'0' * 12}", headers=bearer))
    assert (forbidden["status"], forbidden["key_name"], forbidden["object"]) == (403, "app", f"key/{'0' * 12}")
    unknown = await entry_of(lone_api, await lone_api.anyone.post(KEYS, json={"name": "mine"}))
    assert (unknown["status"], unknown["key_id"], unknown["key_name"]) == (401, "", "")
    invalid = await entry_of(lone_api, await lone_api.admin.post(KEYS, json={"nmae": "x"}))
    assert (invalid["status"], invalid["key_name"]) == (422, "of the tests")
    gone = await entry_of(lone_api, await lone_api.admin.post("/api/v1/workers/nobody/cordon"))
    assert (gone["status"], gone["object"]) == (404, "worker/nobody")
    odd = await entry_of(lone_api, await lone_api.admin.delete("/api/v1/workers/a%00%1B%5B2J"))
    assert (odd["status"], odd["object"]) == (422, "worker/a��[2J")
    away = await entry_of(
        lone_api, await lone_api.admin.post("/api/v1/deployments", json={"name": "a", "model": "hf:a/b"})
    )
    assert (away["status"], away["object"]) == (503, "deployment/a")


async def test_workers_and_their_tokens(lone_api: Api) -> None:
    worker = make_worker(name="audited")
    joined = await entry_of(lone_api, await lone_api.join(worker, JOIN_TOKEN))
    assert (joined["action"], joined["object"], joined["key_id"]) == ("join_worker", "worker/audited", "")
    assert joined["key_name"] == "the cluster's join token"
    refused = await entry_of(lone_api, await lone_api.join(worker, "st-join-of-nobody"))
    assert (refused["status"], refused["key_name"]) == (401, "")
    made = await lone_api.admin.post("/api/v1/join-tokens", json={})
    token_id = made.json()["id"]
    assert (await entry_of(lone_api, made))["object"] == f"join-token/{token_id}"
    by_token = await entry_of(lone_api, await lone_api.join(make_worker(name="second"), made.json()["token"]))
    assert by_token["key_name"] == f"the join token {token_id}"
    cordoned = await entry_of(lone_api, await lone_api.admin.post("/api/v1/workers/audited/cordon"))
    assert (cordoned["action"], cordoned["object"]) == ("cordon_worker", "worker/audited")
    assert made.json()["token"] not in (await lone_api.admin.get(PATH)).text


async def test_what_changes_nothing_is_not_in_it(lone_api: Api) -> None:
    worker = make_worker(name="quiet")
    await lone_api.join(worker)
    asked = [
        await lone_api.report(worker),
        await lone_api.admin.post("/api/v1/placements", json={"drain": "quiet"}),
        await lone_api.admin.post("/api/v1/workers/quiet/drain", params={"dry_run": "true"}),
        await lone_api.admin.post("/api/v1/estimates", json={}),
        await lone_api.admin.post("/api/v1/nothing"),
        await lone_api.admin.patch(KEYS),
        await lone_api.admin.get(KEYS),
    ]
    assert [response.status_code for response in asked[:3]] == [200, 200, 200]
    await entry_of(lone_api, await lone_api.admin.post("/api/v1/workers/quiet/cordon"))  # behind all of those
    known = {one["request_id"] for one in await entries(lone_api, limit=1000)}
    assert not known & {response.headers["x-request-id"] for response in asked}


async def test_pages_and_filters(lone_api: Api) -> None:
    for number in range(3):
        await lone_api.admin.post("/api/v1/workers/paged/uncordon", headers={"x-request-id": f"page-{number}"})
    await entries(lone_api, count=3, object="worker/paged")
    found, after = [], ""
    while True:
        query = {"object": "worker/paged", "limit": 1, "after": after}
        page = (await lone_api.admin.get(PATH, params=query)).json()
        found += [one["request_id"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = page["last"]
    assert found == ["page-2", "page-1", "page-0"]
    only = {"object": "worker/paged", "by": "of the tests", "refused": True}
    assert len(await entries(lone_api, count=3, **only)) == 3
    for none in ({"by": "nobody"}, {"refused": False}, {"until": "2000-01-01T00:00:00Z"}, {"object": "worker/page"}):
        assert (await lone_api.admin.get(PATH, params=only | none)).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"after": "soon"}, "after"),
        ({"after": f"{'9' * 18}-1"}, "after"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"}, "until"),
        ({"object": "Deployment"}, "object"),
        ({"by": "a\x00"}, "by"),
        ({"refused": "perhaps"}, "refused"),
        ({"limit": 1001}, "limit"),
    ],
)
async def test_what_cannot_be_asked(lone_api: Api, query: dict[str, Any], field: str) -> None:
    problem = problem_of(await lone_api.admin.get(PATH, params=query), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


async def test_only_administrators_read_it(lone_api: Api) -> None:
    _, user = lone_api.key(Role.USER)
    await lone_api.context.keyring.refresh()
    problem_of(await lone_api.anyone.get(PATH, headers={"authorization": f"Bearer {user}"}), 403, "forbidden")


async def test_what_waits_and_what_was_lost_is_counted(lone_api: Api) -> None:
    metrics = (await lone_api.anyone.get("/metrics")).text
    assert 'stoker_audit_entries_lost_total{reason="full"} 0.0' in metrics
    assert "stoker_audit_entries_waiting " in metrics


async def test_moments_beyond_all_time(lone_api: Api) -> None:
    query = {"since": "0001-01-01T00:00:00+14:00", "until": "9999-12-31T23:59:59-14:00"}
    assert (await lone_api.admin.get(PATH, params=query)).status_code == 200


async def test_a_deployments_life(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    made = await entry_of(api, await create(api, tiny_model, "told"))
    assert (made["action"], made["object"], made["status"]) == ("create_deployment", "deployment/told", 201)
    assert {"field": "model", "before": None, "after": str(tiny_model)} in made["changes"]
    path = "/api/v1/deployments/told"
    body = {"replicas": 1, "options": {"slots": 2}}
    changed = await entry_of(api, await api.admin.patch(path, json=body))
    assert changed["changes"] == [
        {"field": "replicas", "before": 0, "after": 1},
        {"field": "options.slots", "before": 4, "after": 2},
    ]
    stale = await entry_of(api, await api.admin.patch(path, json={"replicas": 2}, headers={"if-match": '"1"'}))
    assert stale["status"] == 412
    assert stale["changes"] == [{"field": "replicas", "before": 1, "after": 2}], "what was asked for"
    again = await create(api, tiny_model, "told", replicas=1, options={"slots": 2})
    assert (again.status_code, (await entry_of(api, again))["changes"]) == (200, [])
    await cluster.instances_in("told", [InstanceState.RUNNING])
    await removed(api, cluster, "told")
    (deleted, *_) = await entries(api, count=5, object="deployment/told")
    assert (deleted["action"], deleted["status"]) == ("delete_deployment", 202)


async def test_what_the_web_page_changes_is_an_entry_too() -> None:
    """It only says what it concerns, or uses the calls that say so; other forms (a sign-in) are none."""

    class _Route:
        name = "drain_from_page"

    async def page(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = _Route()
        if scope["path"] != "/sign-in":
            note.asked_by("k", "alice")
            note.concerns("worker", "w1")
        if scope["path"] != "/cut":
            await send({"type": "http.response.start", "status": 303, "headers": []})

    told: list[AuditEntry] = []
    now = datetime(2026, 1, 1, tzinfo=UTC)
    app = audited(page, told.append, lambda: now)

    async def sent(message: Any) -> None:
        pass

    for path in ("/workers/w1/drain", "/sign-in", "/cut"):
        await app({"type": "http", "method": "POST", "path": path}, None, sent)  # type: ignore[arg-type]
    assert [(one.path, one.action, one.object, one.key_name, one.status) for one in told] == [
        ("/workers/w1/drain", "drain_from_page", "worker/w1", "alice", 303),
        ("/cut", "drain_from_page", "worker/w1", "alice", 0),
    ]
    assert told[0].at - now == timedelta(0)


async def test_the_web_page_calls_what_the_api_calls(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="paged-worker"))
    told: list[AuditEntry] = []
    page = FastAPI()
    page.state.context = lone_api.context
    page.add_api_route("/workers/{worker}/take-out", _take_out, methods=["POST"])
    transport = httpx.ASGITransport(audited(page, told.append, lone_api.context.clock))
    async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
        assert (await client.post("/workers/paged-worker/take-out")).status_code == 200
    assert [(one.action, one.object, one.status) for one in told] == [("_take_out", "worker/paged-worker", 200)]


async def _take_out(worker: str, context: ContextDep) -> None:
    nobody = KeyStatus(id="0" * 12, name="a visitor", role=Role.ADMIN, created_at=context.clock())
    await cordon_worker(worker, context, nobody)


async def test_outside_a_request_nothing_is_noted() -> None:
    note.asked_by("k", "alice")
    note.concerns("worker", "w1")
    note.changed(None, make_worker())
    note.changes_nothing()
    assert note.current_note.get() is None
