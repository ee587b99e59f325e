"""The way to Temporal, against a real server that knows nothing of us yet."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from temporalio import workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from entrypoints.temporal_server import temporal_program
from stoker.domain.base import Value
from stoker.domain.naming import CAPACITY_SIGNAL, SEARCH_ATTRIBUTES, instance_workflow_id
from stoker.temporal import (
    TemporalInstanceCalls,
    TemporalUnreachableError,
    connect,
    has_pollers,
    quiet_runtime,
    register_search_attributes,
)
from tests.cluster import eventually_async

pytestmark = pytest.mark.anyio

NOBODY = "127.0.0.1:1"


class Word(Value):
    """A value of ours."""

    text: str


@workflow.defn
class Waiting:
    """Ends when it was told that there is room."""

    def __init__(self) -> None:
        self.told = 0

    @workflow.signal(name=CAPACITY_SIGNAL)
    def capacity(self) -> None:
        """There is room."""
        self.told += 1

    @workflow.run
    async def run(self, word: Word) -> Word:
        """Gives back what it was given."""
        await workflow.wait_condition(lambda: self.told > 0)
        return word


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """Connected to a server that was not there yet when we began to wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    waiting = asyncio.create_task(connect(f"127.0.0.1:{port}", identity="test", wait_seconds=60))
    environment = await WorkflowEnvironment.start_local(
        port=port, dev_server_existing_path=temporal_program(), dev_server_extra_args=["--log-level", "error"]
    )
    try:
        yield await waiting
    finally:
        await environment.shutdown()
        await asyncio.sleep(0.1)  # lets the SDK's threads end: see tests.cluster


async def test_a_client_that_waited_works_and_says_who_it_is(client: Client) -> None:
    assert client.identity == "test"
    assert await client.service_client.check_health()


@pytest.mark.parametrize("wait_seconds", [0.0, 0.3])
async def test_without_a_server_the_error_says_where_it_was_looked_for(wait_seconds: float) -> None:
    with pytest.raises(TemporalUnreachableError, match=rf"does not answer at {NOBODY}: .*Connection refused"):
        await connect(NOBODY, wait_seconds=wait_seconds)


async def test_who_waits_says_so_once() -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(TemporalUnreachableError):
        await connect(NOBODY, wait_seconds=0.6)
    assert [(entry["event"], entry["address"]) for entry in logged] == [("waiting_for_temporal", NOBODY)]


@pytest.mark.parametrize("address", ["not an address", "host:port"])
async def test_what_is_no_address_is_not_waited_for(address: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(TemporalUnreachableError, match=r"is no address of Temporal: write it like 127.0.0.1:7233"):
            await connect(address, wait_seconds=float("inf"))


async def test_the_address_comes_from_temporals_own_variables_and_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "temporal.toml"
    profiles.write_text('[profile.default]\naddress = "127.0.0.1:2"\nnamespace = "ours"\n')
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(profiles))
    with pytest.raises(TemporalUnreachableError, match=r"at 127.0.0.1:2:"):
        await connect()
    assert (await connect(lazy=True)).namespace == "ours"
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:3")
    with pytest.raises(TemporalUnreachableError, match=r"at 127.0.0.1:3:"):
        await connect()
    with pytest.raises(TemporalUnreachableError, match=rf"at {NOBODY}:"):
        await connect(NOBODY)  # what is given wins


async def test_a_lazy_client_needs_no_server_until_it_is_used() -> None:
    lazy = await connect(NOBODY, lazy=True, runtime=quiet_runtime())
    with pytest.raises(RuntimeError, match="Connection refused"):
        await has_pollers(lazy, "control")


async def test_search_attributes_are_registered_once_whoever_else_does_it(client: Client) -> None:
    async def registered() -> dict[str, int]:
        request = ListSearchAttributesRequest(namespace=client.namespace)
        found = (await client.operator_service.list_search_attributes(request)).custom_attributes
        return {name: kind for name, kind in found.items() if name.startswith("Stoker")}

    assert await registered() == {}
    await asyncio.gather(*(register_search_attributes(client) for _ in range(3)))
    await register_search_attributes(client)
    assert await registered() == dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)

    pairs = [SearchAttributePair(SearchAttributeKey.for_keyword(name), "x") for name in SEARCH_ATTRIBUTES]
    handle = await client.start_workflow(
        Waiting.run, Word(text="hi"), id="labelled", task_queue="q", search_attributes=TypedSearchAttributes(pairs)
    )
    await handle.terminate()


async def test_a_queue_has_pollers_when_somebody_takes_its_work(client: Client) -> None:
    assert not await has_pollers(client, "polled")
    async with Worker(client, task_queue="polled", workflows=[Waiting], workflow_runner=UnsandboxedWorkflowRunner()):

        async def seen() -> bool:
            return await has_pollers(client, "polled")

        await eventually_async(seen, "a poller")


async def test_instances_are_woken_and_their_end_is_seen(client: Client) -> None:
    calls = TemporalInstanceCalls(client)
    async with Worker(client, task_queue="waiting", workflows=[Waiting], workflow_runner=UnsandboxedWorkflowRunner()):
        first, second, third = [
            await client.start_workflow(
                Waiting.run, Word(text=name), id=instance_workflow_id(name), task_queue="waiting"
            )
            for name in ("a", "b", "c")
        ]
        await third.terminate()
        assert await calls.ended(["a", "b", "c", "never"]) == ("c", "never")
        await calls.wake(["a", "c", "never"])
        assert await first.result() == Word(text="a")
        assert await calls.ended(["a", "b"]) == ("a",)
        await second.terminate()
        with pytest.raises(WorkflowFailureError):
            await second.result()


async def test_an_instance_that_cannot_be_reached_is_an_error_to_try_again_after() -> None:
    calls = TemporalInstanceCalls(await connect(NOBODY, lazy=True))
    for call in (calls.wake, calls.ended):
        with pytest.raises((RPCError, RuntimeError)):
            await call(["a"])
    await calls.wake([])
