"""Rows follow a workflow's wishes, on real Temporal: the latest counts, and no write overtakes another."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from stoker.temporal import workflow_runner
from tests.cluster import temporal
from tests.workflows.writing import Writing

pytestmark = pytest.mark.anyio


class Table:
    """Where rows are written, one slow write after the other."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.writing = 0
        self.overlaps = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    @activity.defn
    async def write_row(self, row: str) -> None:
        """Takes as long as the test wants."""
        self.writing += 1
        self.overlaps += self.writing > 1
        self.begun.set()
        await self.may_end.wait()
        self.rows.append(row)
        self.writing -= 1


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """A real Temporal server's."""
    async with temporal() as environment:
        yield environment.client


@pytest.mark.parametrize(
    ("first", "during", "written"),
    [
        (["a"], [], ["a"]),
        (["a", "b", "c"], [], ["c"]),
        (["a"], ["b", "c"], ["a", "c"]),
        (["a"], ["b", "a"], ["a"]),  # by the end the row is as it is wished
        ([], [], []),
    ],
)
async def test_only_the_latest_wish_is_written(
    client: Client, first: list[str], during: list[str], written: list[str]
) -> None:
    table, queue = Table(), uuid.uuid4().hex
    async with (
        asyncio.timeout(60),
        Worker(
            client,
            task_queue=queue,
            workflows=[Writing],
            activities=[table.write_row],
            workflow_runner=workflow_runner(),
        ),
    ):
        handle = await client.start_workflow(Writing.run, id=uuid.uuid4().hex, task_queue=queue)
        await handle.signal(Writing.want, first)
        if first:
            await table.begun.wait()
        await handle.signal(Writing.want, during)
        await handle.signal(Writing.end)
        table.may_end.set()
        await handle.result()
    assert table.rows == written
    assert table.overlaps == 0
