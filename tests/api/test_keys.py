"""`/api/v1/keys`: made once, shown once, changed in what they may do, revoked for good."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from stoker.domain.keys import KeyLimits, Role
from stoker.secrets import key_id_of
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import Api
from tests.api.test_deployments import problem_of

pytestmark = pytest.mark.anyio

PATH = "/api/v1/keys"


def bearer(key: str) -> dict[str, str]:
    """How a key is shown."""
    return {"authorization": f"Bearer {key}"}


async def make(api: Api, name: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    """A new key."""
    response = await api.admin.post(PATH, json={"name": name, "role": role} | fields)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_key_is_shown_once_and_opens_what_its_role_says(lone_api: Api, database: Database) -> None:
    made = await make(lone_api, "app")
    assert key_id_of(made["key"]) == made["id"]
    assert (made["name"], made["role"], made["revoked_at"]) == ("app", "user", None)
    listed = (await lone_api.admin.get(PATH)).text
    assert made["id"] in listed
    assert made["key"] not in listed
    with database.read() as session:
        status, digest = Keys(session, lone_api.context.clock()).digests()[made["id"]]
    assert (status.name, made["key"] in digest) == ("app", False)
    # at once, without waiting for the next refresh
    assert (await lone_api.anyone.get("/v1/models", headers=bearer(made["key"]))).status_code == 200
    forbidden = await lone_api.anyone.get(PATH, headers=bearer(made["key"]))
    assert "'app' has the role user; this needs admin" in problem_of(forbidden, 403, "forbidden").detail


async def test_an_admin_key_opens_everything(lone_api: Api) -> None:
    key = (await make(lone_api, "second admin", "admin"))["key"]
    for headers in (bearer(key), {"authorization": f"bEaReR  {key}"}, {"x-api-key": key}):
        assert (await lone_api.anyone.get(PATH, headers=headers)).status_code == 200


async def test_a_revoked_key_opens_nothing_and_stays_listed(lone_api: Api) -> None:
    made = await make(lone_api, "short lived", "admin")
    assert (await lone_api.admin.delete(f"{PATH}/{made['id']}")).status_code == 204
    for path in (PATH, "/v1/models"):
        assert (await lone_api.anyone.get(path, headers=bearer(made["key"]))).status_code == 401
    (listed,) = (k for k in (await lone_api.admin.get(PATH)).json()["data"] if k["id"] == made["id"])
    assert listed["revoked_at"] is not None
    assert (await lone_api.admin.delete(f"{PATH}/{made['id']}")).status_code == 204, "again is fine"


async def test_a_key_made_by_another_process_counts_within_a_refresh(lone_api: Api) -> None:
    _, key = lone_api.key(Role.ADMIN)
    await lone_api.context.keyring.refresh()
    assert (await lone_api.anyone.get(PATH, headers=bearer(key))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic YWRtaW46YWRtaW4="},
        {"authorization": "Bearer sk-stoker-000000000000-AAAA"},
        {"authorization": "Bearer nonsense"},
        {"x-api-key": ""},
        {"x-api-key": "é"},
    ],
)
async def test_without_a_living_key_there_is_nothing_to_see(lone_api: Api, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = await lone_api.anyone.get(PATH, headers=encoded)
    problem_of(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_right_id_with_another_secret_opens_nothing(lone_api: Api) -> None:
    key = (await make(lone_api, "real", "admin"))["key"]
    forged = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert (await lone_api.anyone.get(PATH, headers=bearer(forged))).status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "app", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "app", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "app", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "app", "expires_at": 4_070_908_800}, "expires_at"),
        ({"name": "app", "expires_at": "2099-01-01T00:00:00Z", "expires_in_seconds": 5}, "expires_in_seconds"),
        ({"name": "app", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"name": "app", "expires_in_seconds": 10**11}, "expires_in_seconds"),
        ({"name": "app", "models": ["a b"]}, "models"),
        ({"name": "app", "models": "smol"}, "models"),
        ({"name": "app", "models": ["m"] * 101}, "models"),
        ({"name": "app", "limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"name": "app", "limits": {"tokens_per_minute": "many"}}, "limits.tokens_per_minute"),
        ({"name": "app", "limits": {"tokens_per_month": 2**60}}, "limits.tokens_per_month"),
        ({"name": "app", "limits": {"per_second": 1}}, "limits.per_second"),
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "bell\a"}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "app", "role": "root"}, "role"),
        ({"name": "app", "key": "sk-stoker-mine"}, "key"),
    ],
)
async def test_a_wrong_key_names_the_field(lone_api: Api, body: dict[str, Any], field: str) -> None:
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


ALL_LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 10_000, "tokens_per_month": 10**6, "concurrency": 4}
NO_LIMITS = dict.fromkeys(ALL_LIMITS)


async def test_what_a_key_may_do_is_said_when_it_is_made(lone_api: Api) -> None:
    before = lone_api.context.clock()
    made = await make(lone_api, "app", expires_in_seconds=3600, models=["smol", "org/M", "smol"], limits=ALL_LIMITS)
    assert (made["models"], made["limits"]) == (["smol", "org/M"], ALL_LIMITS)
    expires_at = datetime.fromisoformat(made["expires_at"])
    assert before + timedelta(hours=1) <= expires_at <= lone_api.context.clock() + timedelta(hours=1)
    read = (await lone_api.admin.get(f"{PATH}/{made['id']}")).json()
    assert read == {name: value for name, value in made.items() if name != "key"}
    principal = lone_api.context.keyring.principal(made["key"])
    assert principal is not None
    assert (principal.models, principal.expires_at) == (frozenset({"smol", "org/M"}), expires_at.timestamp())
    assert principal.limits == KeyLimits(**ALL_LIMITS)


async def test_a_plain_key_may_do_all_for_ever(lone_api: Api) -> None:
    made = await make(lone_api, "app")
    assert (made["expires_at"], made["models"], made["limits"]) == (None, [], NO_LIMITS)


async def test_a_change_is_of_what_it_names(lone_api: Api) -> None:
    made = await make(lone_api, "app", expires_at="2099-01-01T01:00:00+01:00", models=["smol"], limits=ALL_LIMITS)
    assert made["expires_at"] == "2099-01-01T00:00:00Z"
    key = f"{PATH}/{made['id']}"
    unchanged = {name: value for name, value in made.items() if name != "key"}
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"name": "new"}, {"name": "new"}),
        ({"limits": {"concurrency": None, "requests_per_minute": 1}}, {"limits": ALL_LIMITS | {"concurrency": None}}),
        ({"models": []}, {"models": []}),
        ({"expires_at": None}, {"expires_at": None}),
    ]
    for body, changed in changes:
        unchanged |= changed
        if "limits" in body:
            unchanged["limits"] |= {"requests_per_minute": 1}
        answer = await lone_api.admin.patch(key, json=body)
        assert (answer.status_code, answer.json()) == (200, unchanged)
        assert (await lone_api.admin.get(key)).json() == unchanged
    principal = lone_api.context.keyring.principal(made["key"])
    assert principal is not None, "at once, without waiting for the next refresh"
    assert principal.name == "new"
    assert principal.limits == KeyLimits(**ALL_LIMITS | {"concurrency": None, "requests_per_minute": 1})
    assert (await lone_api.admin.patch(key, json={"expires_in_seconds": 60})).json()["expires_at"] is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": None}, "name"),
        ({"models": None}, "models"),
        ({"limits": None}, "limits"),
        ({"expires_in_seconds": None}, "expires_in_seconds"),
        ({"role": "admin"}, "role"),
        ({"limits": {"concurrency": -1}}, "limits.concurrency"),
    ],
)
async def test_a_wrong_change_names_the_field(lone_api: Api, body: dict[str, Any], field: str) -> None:
    made = await make(lone_api, "app")
    problem = problem_of(await lone_api.admin.patch(f"{PATH}/{made['id']}", json=body), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


async def test_changes_at_once_are_all_kept(lone_api: Api) -> None:
    made = await make(lone_api, "app")
    bodies = [{"limits": {name: value}} for name, value in ALL_LIMITS.items()]
    answers = await asyncio.gather(*(lone_api.admin.patch(f"{PATH}/{made['id']}", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert (await lone_api.admin.get(f"{PATH}/{made['id']}")).json()["limits"] == ALL_LIMITS


async def test_a_revoked_key_is_not_changed(lone_api: Api) -> None:
    made = await make(lone_api, "app")
    await lone_api.admin.delete(f"{PATH}/{made['id']}")
    refused = await lone_api.admin.patch(f"{PATH}/{made['id']}", json={"expires_at": None})
    assert "was revoked, for good" in problem_of(refused, 409, "key_revoked").detail


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_key_that_is_not_there(lone_api: Api, method: str) -> None:
    body = {"name": "x"} if method == "PATCH" else None
    problem_of(await lone_api.admin.request(method, f"{PATH}/000000000000", json=body), 404, "not_found")
    user = (await make(lone_api, "app"))["key"]
    forbidden = await lone_api.anyone.request(method, f"{PATH}/000000000000", json=body, headers=bearer(user))
    problem_of(forbidden, 403, "forbidden")


async def test_an_expired_key_opens_nothing(lone_api: Api) -> None:
    made = await make(lone_api, "short lived", "admin", expires_in_seconds=1)
    async with asyncio.timeout(30):
        while (await lone_api.anyone.get(PATH, headers=bearer(made["key"]))).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    problem = problem_of(await lone_api.anyone.get(PATH, headers=bearer(made["key"])), 401, "unauthorized")
    assert "expired" in problem.detail
    refused = await lone_api.anyone.get("/v1/models", headers=bearer(made["key"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    await lone_api.admin.patch(f"{PATH}/{made['id']}", json={"expires_at": None})
    assert (await lone_api.anyone.get(PATH, headers=bearer(made["key"]))).status_code == 200, "it lives again"


@pytest.mark.parametrize(
    ("key_id", "status", "code"),
    [("000000000000", 404, "not_found"), ("nonsense", 422, "invalid_request"), ("%00", 422, "invalid_request")],
)
async def test_a_key_that_is_not_there_cannot_be_revoked(lone_api: Api, key_id: str, status: int, code: str) -> None:
    problem_of(await lone_api.admin.delete(f"{PATH}/{key_id}"), status, code)


async def test_pages(lone_api: Api) -> None:
    for number in range(3):
        await make(lone_api, f"page {number}")
    whole = [key["id"] for key in (await lone_api.admin.get(PATH)).json()["data"]]
    assert len(whole) >= 4
    assert whole == sorted(whole)
    seen: list[str] = []
    while True:
        page = (await lone_api.admin.get(PATH, params={"limit": 2, "after": seen[-1] if seen else ""})).json()
        seen += [key["id"] for key in page["data"]]
        assert page["last"] == seen[-1]
        if not page["has_more"]:
            break
    assert seen == whole
