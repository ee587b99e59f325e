"""`/api/v1/join-tokens`, joining with one, and `/api/v1/authority`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog

from stoker.certificates import fingerprint_of
from stoker.domain.reports import AuthorityAnswer, JoinAnswer
from stoker.secrets import new_one_time_token, one_time_token
from stoker.storage.engine import Database
from tests.api.serving import Api, serving_api
from tests.api.test_deployments import problem_of
from tests.api.test_workers import shown
from tests.builders import make_worker
from tests.stoker.storage.conftest import Clock

pytestmark = pytest.mark.anyio

PATH = "/api/v1/join-tokens"


async def make(api: Api, **body: Any) -> dict[str, Any]:
    """A new token."""
    response = await api.admin.post(PATH, json=body)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def listed(api: Api, token_id: str) -> dict[str, Any]:
    """The token as it is listed."""
    (found,) = (item for item in (await api.admin.get(PATH)).json()["data"] if item["id"] == token_id)
    assert isinstance(found, dict)
    return found


@pytest.fixture
async def timed(database: Database) -> AsyncIterator[tuple[Api, Clock]]:
    """An API with a clock that is moved."""
    clock = Clock()
    async with serving_api(database, clock=clock) as api:
        yield api, clock


async def test_a_token_is_shown_once_and_names_the_authority(lone_api: Api) -> None:
    with structlog.testing.capture_logs() as logged:
        made = await make(lone_api, labels={"zone": "lab"})
    parts = one_time_token(made["token"])
    assert parts is not None
    assert (parts.id, parts.fingerprint) == (made["id"], made["authority_fingerprint"])
    assert made["authority_fingerprint"] == lone_api.context.authority.fingerprint
    found = await listed(lone_api, made["id"])
    assert found == {k: v for k, v in made.items() if k not in ("token", "authority_fingerprint")}
    assert (found["labels"], found["used_at"], found["used_by"]) == ({"zone": "lab"}, None, "")
    valid = datetime.fromisoformat(found["expires_at"]) - datetime.fromisoformat(found["created_at"])
    assert valid == timedelta(hours=1)
    assert made["token"] not in str(logged)


@pytest.mark.parametrize("seconds", [1, 30 * 24 * 3600])
async def test_how_long_a_token_can_be_used_is_chosen(lone_api: Api, seconds: int) -> None:
    made = await make(lone_api, ttl_seconds=seconds)
    valid = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert valid == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": 30 * 24 * 3600 + 1}, "ttl_seconds"),
        ({"ttl_seconds": "soon"}, "ttl_seconds"),
        ({"labels": {"": "x"}}, "labels..[key]"),
        ({"labels": {"zone": ""}}, "labels.zone"),
        ({"labels": {"zone": "a\nb"}}, "labels.zone"),
        ({"labels": {str(n): "x" for n in range(65)}}, "labels"),
        ({"token": "st-join-mine"}, "token"),
    ],
)
async def test_a_wrong_token_names_the_field(lone_api: Api, body: dict[str, Any], field: str) -> None:
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


async def test_one_worker_joins_with_it_and_gets_its_labels(lone_api: Api) -> None:
    made = await make(lone_api, labels={"zone": "lab", "team": "a"})
    worker = make_worker(name="token-1", labels={"zone": "kitchen", "disk": "ssd"})
    answer = JoinAnswer.model_validate_json((await lone_api.join(worker, made["token"])).content)
    assert answer.labels == {"zone": "lab", "team": "a"}
    assert (await shown(lone_api, "token-1"))["labels"] == {"zone": "lab", "team": "a", "disk": "ssd"}
    assert (await listed(lone_api, made["id"]))["used_by"] == "token-1"

    problem = problem_of(await lone_api.join(make_worker(name="token-2"), made["token"]), 401, "join_token_used")
    assert "was used by worker 'token-1' at " in problem.detail
    assert "`stoker workers token` makes another" in problem.detail
    problem_of(await lone_api.admin.get("/api/v1/workers/token-2"), 404, "not_found")


async def test_an_agent_that_lost_its_answer_uses_it_again_and_after_its_report_nobody_does(lone_api: Api) -> None:
    made, worker = await make(lone_api), make_worker(name="token-lost")
    lost = JoinAnswer.model_validate_json((await lone_api.join(worker, made["token"])).content)
    again = JoinAnswer.model_validate_json((await lone_api.join(worker, made["token"])).content)
    assert again.credential != lost.credential
    problem_of(await lone_api.report(worker, credential=lost.credential), 401, "worker_replaced")
    assert (await lone_api.report(worker)).status_code == 200
    problem_of(await lone_api.join(worker, made["token"]), 401, "join_token_used")
    assert (await lone_api.report(worker)).status_code == 200, "its credential is as good as before"


async def test_it_adds_a_machine_and_takes_nobodys_place(lone_api: Api) -> None:
    made, worker = await make(lone_api), make_worker(name="token-there")
    await lone_api.join(worker)
    credential = lone_api.credentials["token-there"]
    problem = problem_of(await lone_api.join(worker, made["token"]), 409, "worker_name_taken")
    assert "choose another --name, or remove that one first (`stoker workers remove token-there`)" in problem.detail
    assert (await lone_api.report(worker, credential=credential)).status_code == 200
    assert (await listed(lone_api, made["id"]))["used_at"] is None, "it may still be used under another name"
    assert (await lone_api.join(make_worker(name="token-new"), made["token"])).status_code == 200


async def test_of_many_that_join_with_it_at_once_one_gets_in(lone_api: Api) -> None:
    made = await make(lone_api)
    names = [f"token-race-{number}" for number in range(8)]
    answers: list[httpx.Response] = await asyncio.gather(
        *(lone_api.join(make_worker(name=name), made["token"]) for name in names)
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    there = {worker["name"] for worker in (await lone_api.admin.get("/api/v1/workers")).json()["data"]}
    assert len(there & set(names)) == 1


async def test_an_expired_token_says_when_it_did(timed: tuple[Api, Clock]) -> None:
    api, clock = timed
    made = await make(api, ttl_seconds=60)
    clock.advance(seconds=60)
    problem = problem_of(await api.join(make_worker(name="token-late"), made["token"]), 401, "join_token_expired")
    assert problem.detail.startswith("this join token expired at 2026-01-01 00:01:00 UTC: ")


async def test_a_token_that_was_taken_back(lone_api: Api) -> None:
    made = await make(lone_api)
    assert (await lone_api.admin.delete(f"{PATH}/{made['id']}")).status_code == 204
    problem = problem_of(await lone_api.join(make_worker(name="token-no"), made["token"]), 401, "join_token_unknown")
    assert "it was removed, or expired long ago" in problem.detail
    problem_of(await lone_api.admin.delete(f"{PATH}/{made['id']}"), 404, "not_found")
    problem_of(await lone_api.admin.delete(f"{PATH}/nonsense"), 422, "invalid_request")


async def test_a_token_of_another_cluster_names_both(lone_api: Api) -> None:
    _, token = new_one_time_token("ab" * 32)
    problem = problem_of(await lone_api.join(make_worker(name="token-no"), token), 401, "join_token_unknown")
    assert "ab" * 32 in problem.detail
    assert lone_api.context.authority.fingerprint in problem.detail


async def test_the_right_id_with_another_secret_opens_nothing(lone_api: Api) -> None:
    token = (await make(lone_api))["token"]
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    problem_of(await lone_api.join(make_worker(name="token-no"), forged), 401, "join_token_unknown")


async def test_a_report_of_another_name_uses_nothing_up(lone_api: Api) -> None:
    made = await make(lone_api)
    response = await lone_api.anyone.post(
        "/api/v1/workers/token-a/join",
        json={"worker": {"name": "token-b"}},
        headers={"authorization": f"Bearer {made['token']}"},
    )
    problem_of(response, 422, "invalid_request")
    assert (await listed(lone_api, made["id"]))["used_at"] is None


async def test_pages(lone_api: Api) -> None:
    for _ in range(3):
        await make(lone_api)
    whole = [token["id"] for token in (await lone_api.admin.get(PATH)).json()["data"]]
    assert whole == sorted(whole)
    first = (await lone_api.admin.get(PATH, params={"limit": 2})).json()
    rest = (await lone_api.admin.get(PATH, params={"after": first["last"]})).json()
    assert [token["id"] for page in (first, rest) for token in page["data"]] == whole


async def test_everybody_may_know_the_authority(lone_api: Api) -> None:
    answer = AuthorityAnswer.model_validate_json((await lone_api.anyone.get("/api/v1/authority")).content)
    assert answer.fingerprint == fingerprint_of(answer.certificate) == lone_api.context.authority.fingerprint
    assert "PRIVATE" not in answer.certificate
