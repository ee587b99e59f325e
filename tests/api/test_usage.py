"""`/api/v1/usage`: sums and single requests, and who may see them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.usage.recorder import UsageRecorder
from entrypoints.clock import utc_now
from stoker.domain.keys import Role
from stoker.domain.usage import GONE, UsageRecord
from stoker.storage.engine import Database
from stoker.storage.usage_writing import Batch, write_batches
from tests.api.serving import Api, serving_api
from tests.api.test_deployments import problem_of
from tests.api.usage.records import until

pytestmark = pytest.mark.anyio

PATH, REQUESTS = "/api/v1/usage", "/api/v1/usage/requests"
NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)


def record(ago: timedelta = timedelta(), **values: Any) -> UsageRecord:
    """A stream of the model m that ended so long before NOW: 4 tokens after the first, 0.25 s each."""
    at = (NOW - ago).timestamp()
    usual = UsageRecord(at, "", "m", "alias", "m-1", "/chat/completions", 200, True, 10, 5, 2, 0.25, 1.25)
    return usual._replace(**values)


@pytest.fixture(scope="module")
async def lone_api(database: Database) -> AsyncIterator[Api]:
    """The API at NOW."""
    async with serving_api(database, clock=lambda: NOW) as running:
        yield running


@pytest.fixture(scope="module")
def users(lone_api: Api) -> list[tuple[str, dict[str, str]]]:
    """Two users' keys: the ids, and the headers with which they ask."""
    made = [lone_api.key(Role.USER, name) for name in ("app", "other")]
    return [(key_id, {"authorization": f"Bearer {key}"}) for key_id, key in made]


@pytest.fixture(scope="module", autouse=True)
def written(database: Database, users: list[tuple[str, dict[str, str]]]) -> list[UsageRecord]:
    """What was used: three requests by the first key, two by the second."""
    first, second = (key_id for key_id, _ in users)
    hour, day = timedelta(hours=1), timedelta(days=1)
    records = [
        record(day, key_id=first),
        record(hour, key_id=first, model="n", status=500, input_tokens=1, output_tokens=0, first_token_seconds=0.0),
        record(key_id=first, status=GONE),
        record(day, key_id=second, first_token_seconds=0.75, seconds=2.75),
        record(timedelta(minutes=1), key_id=second, streamed=False, first_token_seconds=0.0),
    ]
    with database.write() as session:
        write_batches(session, "r", [Batch(1, records)], NOW)
    return records


@pytest.fixture(scope="module")
async def keyring(lone_api: Api, users: object) -> None:
    """The API knows the keys."""
    await lone_api.context.keyring.refresh()


async def groups(api: Api, **query: str) -> dict[str, int]:
    """How many requests each group has."""
    response = await api.admin.get(PATH, params=query)
    assert response.status_code == 200, response.text
    body = response.json()
    assert sum(group["requests"] for group in body["data"]) == body["total"]["requests"]
    return {group["group"]: group["requests"] for group in body["data"]}


async def test_sums_by_what_is_asked_for(lone_api: Api, users: list[tuple[str, dict[str, str]]]) -> None:
    first, second = (key_id for key_id, _ in users)
    assert await groups(lone_api) == {"m": 4, "n": 1}
    assert await groups(lone_api, by="key") == {first: 3, second: 2}
    assert await groups(lone_api, by="status") == {"2xx": 3, "5xx": 1, "gone": 1}
    assert await groups(lone_api, by="day") == {"2026-03-09": 2, "2026-03-10": 3}
    assert await groups(lone_api, by="hour") == {
        "2026-03-09T12:00:00Z": 2,
        "2026-03-10T11:00:00Z": 1,
        "2026-03-10T12:00:00Z": 2,
    }


async def test_all_of_a_group(lone_api: Api) -> None:
    body = (await lone_api.admin.get(PATH, params={"model": "m"})).json()
    assert (body["by"], body["since"], body["until"]) == ("model", None, None)
    (group,) = body["data"]
    assert group == {"group": "m"} | body["total"]
    assert body["total"] == {
        "requests": 4,
        "errors": 0,
        "gone": 1,
        "input_tokens": 40,
        "output_tokens": 20,
        "cached_tokens": 8,
        "mean_time_to_first_token": pytest.approx(1.25 / 3),
        "mean_time_per_output_token": pytest.approx(4 / 12),
        "mean_duration": pytest.approx(6.5 / 4),
    }
    nothing = (await lone_api.admin.get(PATH, params={"model": "n"})).json()["total"]
    assert (nothing["errors"], nothing["mean_time_to_first_token"], nothing["mean_time_per_output_token"]) == (
        1,
        None,
        None,
    )


async def test_a_part_of_the_time(lone_api: Api, users: list[tuple[str, dict[str, str]]]) -> None:
    assert await groups(lone_api, since="2026-03-10T00:00:00Z") == {"m": 2, "n": 1}
    assert await groups(lone_api, since="2026-03-10T12:34:00+00:00") == {"m": 1}
    assert await groups(lone_api, since="2026-03-10T14:34:00+02:00") == {"m": 1}
    assert await groups(lone_api, until="2026-03-10T00:00:00Z") == {"m": 2}
    assert await groups(lone_api, since="2026-03-10T12:00:00Z", until="2026-03-10T12:34:56Z", key=users[1][0]) == {
        "m": 1
    }
    assert await groups(lone_api, since="0001-01-01T00:00:00+14:00", until="9999-12-31T23:59:59-14:00") == {
        "m": 4,
        "n": 1,
    }
    assert await groups(lone_api, since="9999-12-31T23:59:59-14:00") == {}


async def test_single_requests_newest_first(lone_api: Api, written: list[UsageRecord]) -> None:
    seen: list[dict[str, Any]] = []
    after = ""
    while True:
        page = (await lone_api.admin.get(REQUESTS, params={"limit": 2, "after": after})).raise_for_status().json()
        seen += page["data"]
        if not page["has_more"]:
            break
        after = page["last"]
    ended = [datetime.fromisoformat(one["ended_at"]).timestamp() for one in seen]
    assert ended == sorted((one.ended_at for one in written), reverse=True)
    assert seen[0] == {
        "ended_at": "2026-03-10T12:34:56Z",
        "key_id": written[2].key_id,
        "model": "m",
        "asked": "alias",
        "instance_id": "m-1",
        "path": "/chat/completions",
        "status": 499,
        "streamed": True,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 2,
        "first_token_seconds": 0.25,
        "seconds_per_token": 0.25,
        "seconds": 1.25,
    }
    assert (seen[1]["first_token_seconds"], seen[1]["seconds_per_token"]) == (None, None)
    only = (await lone_api.admin.get(REQUESTS, params={"model": "n", "since": "2026-03-10T00:00:00Z"})).json()
    assert [one["status"] for one in only["data"]] == [500]


async def test_a_user_sees_its_own_only(lone_api: Api, users: list[tuple[str, dict[str, str]]], keyring: None) -> None:
    (first, headers), (second, _) = users
    for query in ({}, {"key": first}):
        body = (
            (await lone_api.anyone.get(PATH, params={"by": "key", **query}, headers=headers)).raise_for_status().json()
        )
        assert [(group["group"], group["requests"]) for group in body["data"]] == [(first, 3)]
        listed = (await lone_api.anyone.get(REQUESTS, params=query, headers=headers)).raise_for_status().json()
        assert {one["key_id"] for one in listed["data"]} == {first}
    for path in (PATH, REQUESTS):
        refused = await lone_api.anyone.get(path, params={"key": second}, headers=headers)
        assert f"it sees its own usage, {first}, only" in problem_of(refused, 403, "forbidden").detail
        problem_of(await lone_api.anyone.get(path), 401, "unauthorized")
    problem_of(await lone_api.anyone.get("/api/v1/keys", headers=headers), 403, "forbidden")


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (PATH, {"by": "colour"}, "by"),
        (PATH, {"since": "yesterday"}, "since"),
        (PATH, {"since": "2026-03-10T00:00:00"}, "since"),
        (PATH, {"since": "1773100800"}, "since"),
        (PATH, {"since": "2026-03-10T00:00:00Z", "until": "2026-03-10T00:00:00Z"}, "until"),
        (PATH, {"key": "me"}, "key"),
        (PATH, {"model": "a\0b"}, "model"),
        (REQUESTS, {"after": "x"}, "after"),
        (REQUESTS, {"after": "999999999999999999-1"}, "after"),
        (REQUESTS, {"limit": "0"}, "limit"),
    ],
)
async def test_what_is_wrong_is_named(lone_api: Api, path: str, query: dict[str, str], field: str) -> None:
    problem = problem_of(await lone_api.admin.get(path, params=query), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


@pytest.fixture
def recorder(database: Database, tmp_path: Path) -> UsageRecorder:
    """Of an API that runs; it starts and closes it."""
    return UsageRecorder(database, tmp_path / "usage", utc_now)


async def test_the_application_writes_what_its_recorder_was_given(
    database: Database, recorder: UsageRecorder, tmp_path: Path
) -> None:
    async with serving_api(database, recorder=recorder) as api:
        recorder.record(record(model="recorded"))
        metrics = (await api.anyone.get("/metrics")).text
        assert "stoker_usage_records_lost_total 0.0" in metrics
        assert "stoker_usage_records_waiting" in metrics
        until(lambda: not recorder.waiting)
        assert (await groups(api))["recorded"] == 1
        recorder.record(record(model="recorded"))
    assert list((tmp_path / "usage").iterdir()) == []
    async with serving_api(database) as api:
        assert (await groups(api))["recorded"] == 2
