"""The agent's listener: logs, for whoever shows the key."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from activities.ports import ProcessKey, ProcessPhase
from tests.api.serving import listening
from tests.worker_agent.conftest import KEY, OpenSupervisor, make_server, reached
from worker_agent.log_server import MAX_LINES, log_app
from worker_agent.logs import EngineLogs

pytestmark = pytest.mark.anyio

HEADERS = {"authorization": "Bearer the-key"}


@pytest.fixture
def logs(tmp_path: Path) -> EngineLogs:
    """The host's logs, with two incarnations of one instance."""
    made = EngineLogs(tmp_path / "logs")
    for incarnation, lines in ((1, ["old"]), (2, ["one", "two", "☃"])):
        key = ProcessKey(instance_id="llama-0", incarnation=incarnation)
        made.path(key).write_text("".join(f"{line}\n" for line in lines))
    return made


@pytest.fixture
async def client(logs: EngineLogs, open_fake: OpenSupervisor) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the listener of a host that runs nothing now."""
    async with (
        open_fake() as supervisor,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(log_app(supervisor, lambda: "the-key")),
            base_url="http://agent",
            headers=HEADERS,
        ) as made,
    ):
        yield made


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "one\ntwo\n☃\n"),
        ("?tail=2", "two\n☃\n"),
        ("?tail=0", ""),
        ("?tail=999999999999999999999", "one\ntwo\n☃\n"),
        ("?follow=false", "one\ntwo\n☃\n"),
        ("?follow=true", "one\ntwo\n☃\n"),  # its process has ended, so following it ends too
        ("?follow=1&tail=1", "☃\n"),
    ],
)
async def test_the_newest_incarnations_last_lines(client: httpx.AsyncClient, query: str, text: str) -> None:
    answer = await client.get(f"/logs/llama-0{query}")
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_no_more_than_a_limit(client: httpx.AsyncClient, logs: EngineLogs) -> None:
    key = ProcessKey(instance_id="llama-0", incarnation=3)
    logs.path(key).write_text("line\n" * (MAX_LINES + 5))
    assert (await client.get(f"/logs/llama-0?tail={MAX_LINES + 5}")).text.count("\n") == MAX_LINES


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer the-kez", "Bearer the-key2", "Basic the-key", "é"]
)
async def test_without_the_key_there_is_nothing(client: httpx.AsyncClient, authorization: str | None) -> None:
    del client.headers["authorization"]
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    for path in ("llama-0", "nobody", "llama-0?tail=x"):
        answer = await client.get(f"/logs/{path}", headers=headers)
        assert (answer.status_code, answer.text) == (401, "wrong key\n")


@pytest.mark.parametrize("path", ["nobody", "llama-0.1.main", "..%2F..%2Fetc%2Fpasswd", "*", "%00"])
async def test_what_is_not_there(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(f"/logs/{path}")).status_code == 404


@pytest.mark.parametrize("tail", ["-1", "all", "1.5", "", "²", "1e3"])
async def test_a_tail_that_is_no_number(client: httpx.AsyncClient, tail: str) -> None:
    answer = await client.get("/logs/llama-0", params={"tail": tail})
    assert answer.status_code == 400
    assert answer.text == f"tail={tail!r} is no number of lines: write it like 200\n"


@pytest.mark.parametrize(("method", "path"), [("POST", "/logs/llama-0"), ("GET", "/"), ("GET", "/metrics")])
async def test_it_answers_nothing_else(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, path)).status_code in (404, 405)


async def test_following_a_process_until_it_ends(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    (stage / "ready").touch()
    async with open_fake() as supervisor, listening(log_app(supervisor, lambda: "the-key")) as port:
        await supervisor.ensure_started(make_server(tmp_path / "model.gguf"))
        await reached(supervisor, ProcessPhase.READY)
        log = EngineLogs(tmp_path / "logs").path(KEY)
        with log.open("a") as file:
            file.write("first\n")
        async with (
            asyncio.timeout(30),
            httpx.AsyncClient(headers=HEADERS, trust_env=False) as client,
            client.stream("GET", f"http://127.0.0.1:{port}/logs/{KEY.instance_id}?follow=true") as response,
        ):
            lines = response.aiter_lines()
            await anext(line async for line in lines if line == "first")
            with log.open("a") as file:
                file.write("second\n")
            await anext(line async for line in lines if line == "second")
            await supervisor.kill(KEY)
            assert [line async for line in lines if line in ("first", "second")] == []
