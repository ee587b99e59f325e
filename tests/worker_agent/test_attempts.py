"""Attempts that died with their agent are reported dead by the next one: real Temporal, and an agent that is killed."""

import asyncio
import stat
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import structlog
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from tests.cluster import eventually, temporal
from tests.worker_agent.attempt_agent import Host, agent, control_plane
from worker_agent.attempts import AttemptJournal

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """A real Temporal server's, with a control plane."""
    async with temporal() as environment, control_plane(environment.client):
        yield environment.client


def tokens(folder: Path) -> list[Path]:
    """The attempts that run, or died."""
    return sorted(folder.glob("*"))


async def start(client: Client, activity: str) -> str:
    """A workflow that waits for the activity; its id."""
    handle = await client.start_workflow(Host.run, activity, id=uuid.uuid4().hex, task_queue="control")
    return handle.id


async def test_a_killed_agents_attempt_is_failed_at_once_and_the_next_one_takes_over(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "attempts"
    killed = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.worker_agent.attempt_agent",
        client.service_client.config.target_host,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        workflow_id = await start(client, "stay")
        assert killed.stdout is not None
        async with asyncio.timeout(60):
            assert await killed.stdout.readline() == b"staying\n"
    finally:
        killed.kill()
        await killed.wait()
    (token,) = tokens(folder)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    journal = AttemptJournal(folder)
    await journal.fail_stale(client)
    assert tokens(folder) == []
    async with asyncio.timeout(60), agent(client, folder):
        handle = client.get_workflow_handle(workflow_id)
        assert await handle.result() == 2
    assert tokens(folder) == []


async def test_an_attempt_that_ends_leaves_no_token_however_it_ends(client: Client, tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        async with agent(client, tmp_path):
            broken = client.get_workflow_handle(await start(client, "break_down"))
            with pytest.raises(WorkflowFailureError):
                await broken.result()
            assert tokens(tmp_path) == []
            staying = client.get_workflow_handle(await start(client, "stay"))
            await eventually(lambda: tokens(tmp_path), lambda: "it has not begun")
        assert tokens(tmp_path) == [], "an orderly stop reports by itself"
        await staying.terminate()


async def test_a_token_that_nobody_knows_is_forgotten(client: Client, tmp_path: Path) -> None:
    journal = AttemptJournal(tmp_path)
    for number, content in enumerate((b"", b"garbage")):
        (tmp_path / f"{number}.token").write_bytes(content)
    (tmp_path / "notes").write_text("not ours")
    await journal.fail_stale(client)
    assert [path.name for path in tokens(tmp_path)] == ["notes"]


async def test_an_attempt_whose_workflow_is_over_is_forgotten(client: Client, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    async with asyncio.timeout(60), agent(client, tmp_path / "attempts"):
        staying = client.get_workflow_handle(await start(client, "stay"))
        await eventually(lambda: tokens(tmp_path / "attempts"), lambda: "it has not begun")
        saved.write_bytes(tokens(tmp_path / "attempts")[0].read_bytes())
        await staying.terminate()
    saved.replace(tmp_path / "attempts" / "1.token")
    await AttemptJournal(tmp_path / "attempts").fail_stale(client)
    assert tokens(tmp_path / "attempts") == []


async def test_what_could_not_be_reported_is_kept_for_the_next_start(tmp_path: Path) -> None:
    async def fail(_: BaseException) -> None:
        raise RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")

    handle = SimpleNamespace(fail=fail)
    away = cast(Client, SimpleNamespace(get_async_activity_handle=lambda task_token: handle))
    (tmp_path / "1.token").write_bytes(b"token")
    journal = AttemptJournal(tmp_path)
    with structlog.testing.capture_logs() as logged:
        await journal.fail_stale(away)
    assert [entry["event"] for entry in logged] == ["stale_attempt_not_reported"]
    assert len(tokens(tmp_path)) == 1
