"""`/api/v1/keys`: made once, shown once, revoked for good."""

from typing import Any

import pytest

from stoker.domain.keys import Role
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


async def make(api: Api, name: str, role: str = "inference") -> dict[str, Any]:
    """A new key."""
    response = await api.admin.post(PATH, json={"name": name, "role": role})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_key_is_shown_once_and_opens_what_its_role_says(lone_api: Api, database: Database) -> None:
    made = await make(lone_api, "app")
    assert key_id_of(made["key"]) == made["id"]
    assert (made["name"], made["role"], made["revoked_at"]) == ("app", "inference", None)
    listed = (await lone_api.admin.get(PATH)).text
    assert made["id"] in listed
    assert made["key"] not in listed
    with database.read() as session:
        status, digest = Keys(session, lone_api.context.clock()).digests()[made["id"]]
    assert (status.name, made["key"] in digest) == ("app", False)
    # at once, without waiting for the next refresh
    assert (await lone_api.anyone.get("/v1/models", headers=bearer(made["key"]))).status_code == 200
    forbidden = await lone_api.anyone.get(PATH, headers=bearer(made["key"]))
    assert "'app' has the role inference; this needs admin" in problem_of(forbidden, 403, "forbidden").detail


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
async def test_a_wrong_key_names_the_field(lone_api: Api, body: dict[str, str], field: str) -> None:
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


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
