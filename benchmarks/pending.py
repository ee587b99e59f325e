"""What 1,000 waiting instances cost, and how soon the ten that fit run when room for ten appears.

The whole system runs as `stoker up` does, with a real PostgreSQL. Only the hosts with GPUs are played, by this process:
each joins and reports through the API as agents do, and takes the work of its queue with the agents' own activities,
over engines that are ready at once. Every GPU is in use by others, until one report says that those of one host are
free. Who was woken and who asked for a place again is read from all the workflows' histories.

CPU while nothing happens is given beyond what it was before the first instance; the heartbeats of the ten engines are
in it, and other load on this machine makes it noisy. The control plane's look once a minute is in every window; each
instance looks by itself once, some eleven minutes after it began to wait (`idle_rechecks` says how many did). Ends with
one JSON line.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import col, func, select
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from benchmarks.stage.costs import Costs, rounded
from benchmarks.stage.hosts import GPU_BYTES, PlayedHost, gpus
from benchmarks.stage.postgres import postgresql
from stoker.domain.deployments import InstanceState
from stoker.domain.naming import CAPACITY_SIGNAL, instance_workflow_id
from stoker.domain.workers import Device
from stoker.logging import configure_logging
from stoker.storage.engine import Database
from stoker.storage.tables import ClaimRow, InstanceRow
from stoker.temporal import connect, quiet_runtime
from tests.cluster import eventually, eventually_async
from tests.e2e.system import System, running_system

DEPLOYMENTS = 50
FULL_HOSTS, GPUS_OF_FULL_HOST = 10, 8
OPTIONS = {"context_length": 2048, "slots": 1}
WITHIN_SECONDS = 600.0
BASELINE_SECONDS = 60.0


@dataclass(frozen=True)
class Chosen:
    """What was asked for."""

    pending: int
    capacity: int
    idle_seconds: float
    database: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pending", type=int, default=1000, help="instances that wait")
    parser.add_argument("--capacity", type=int, default=10, help="how many of them the new room is for")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long the others are watched afterwards")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    chosen = Chosen(**vars(parser.parse_args(arguments)))
    configure_logging("benchmark", "warning")  # what the agents' parts say of each host would be too much
    if not 1 <= chosen.capacity <= chosen.pending:
        parser.error(f"--capacity is {chosen.capacity}: it must be 1 to {chosen.pending}, as --pending is")
    if chosen.idle_seconds <= 0:
        parser.error(f"--idle-seconds is {chosen.idle_seconds}: it must be above 0")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, server = f"sqlite:///{folder / 'stoker.db'}", None
        if chosen.database == "postgresql":
            url, server = stack.enter_context(postgresql(folder / "postgresql"))
        system = stack.enter_context(running_system(folder / "data", environment={"STOKER_DATABASE__URL": url}))
        database = Database(url)
        stack.callback(database.close)
        result = asyncio.run(measured(system, database, Costs(system, server), chosen))
    print(json.dumps({"benchmark": "pending", "database": chosen.database, "cores": os.cpu_count(), **result}))


class Host:
    """A played host whose GPUs are in use by others, until they are set free."""

    def __init__(self, system: System, name: str, count: int) -> None:
        token = (system.folder / "join-token").read_text().strip()
        self._count, self._is_free = count, False
        self._played = PlayedHost(system.url, token, name, system.folder / "hosts", self._devices)

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator["Host"]:
        """Its life."""
        async with self._played.running(client):
            yield self

    async def set_free(self) -> None:
        """Reports that nobody uses its GPUs any more. Returns when the report was answered."""
        self._is_free = True
        await self._played.report()

    def _devices(self) -> list[Device]:
        return gpus(self._count, used=0 if self._is_free else GPU_BYTES)


# --- what is measured ------------------------------------------------------------------------------------------------


async def measured(system: System, database: Database, costs: Costs, chosen: Chosen) -> dict[str, Any]:
    """All numbers of the JSON line."""
    client = await connect(f"127.0.0.1:{system.temporal_port}", wait_seconds=10, runtime=quiet_runtime())
    async with AsyncExitStack() as stack:
        for number in range(FULL_HOSTS):
            await stack.enter_async_context(Host(system, f"full-{number}", GPUS_OF_FULL_HOST).running(client))
        spare = await stack.enter_async_context(Host(system, "spare", chosen.capacity).running(client))
        baseline = await costs.percent_of_core(min(BASELINE_SECONDS, chosen.idle_seconds))
        memory_before = costs.memory_mib()
        say(f"idle without instances: {rounded(baseline)} % of a core; {memory_before} MiB")

        began = time.monotonic()
        await deploy(system, chosen.pending)
        await all_pending(database, client, chosen.pending)
        say(f"{chosen.pending} pending after {time.monotonic() - began:.0f} s")

        freed = datetime.now(UTC)
        await spare.set_free()
        answered = datetime.now(UTC)
        await eventually(
            lambda: count(database, InstanceState.RUNNING) == chosen.capacity,
            lambda: f"{count(database, InstanceState.RUNNING)} run\n{system.logs()}",
        )
        running = last_running(database)
        say(f"the last of {chosen.capacity} runs {seconds(freed, running)} s after the report")

        idle = await costs.percent_of_core(chosen.idle_seconds)
        memory = costs.memory_mib()
        say(f"idle with {chosen.pending - chosen.capacity} pending: {rounded(idle)} % of a core; {memory} MiB")
        stories = await all_stories(database, client, freed)
    woken = sum(one.woken for one in stories)
    placed = [one.placed_at for one in stories if one.placed_at is not None]
    calls = sum(one.place_calls for one in stories)
    # A look of the control plane, once a minute, may tell the same ten again.
    if min(woken, calls) < chosen.capacity or not len(placed) == devices_taken(database) == chosen.capacity:
        raise RuntimeError(f"{woken} woken, {calls} calls of place, {len(placed)} placed: not {chosen.capacity} each")
    extra = {name: idle[name] - baseline[name] for name in idle if name != "others"}
    return {
        "pending": chosen.pending,
        "capacity": chosen.capacity,
        "woken": woken,
        "place_calls": calls,
        "seconds_to_answer": seconds(freed, answered),
        "seconds_to_last_placed": seconds(freed, max(placed)),
        "seconds_to_last": seconds(freed, running),
        "idle_seconds": chosen.idle_seconds,
        "idle_rechecks": sum(one.rechecks for one in stories),
        "idle_percent_of_core": round(sum(extra.values()), 2),
        "idle_percent_by_part": rounded(extra),
        "baseline_percent_by_part": rounded(baseline),
        "memory_mib": memory,
        "memory_mib_before": memory_before,
    }


async def deploy(system: System, instances: int) -> None:
    """Creates deployments with so many instances in all, a few at a time."""
    few = asyncio.Semaphore(4)
    names = [f"model-{number:02}" for number in range(min(DEPLOYMENTS, instances))]
    headers = {"authorization": f"Bearer {system.admin_key}"}
    async with httpx.AsyncClient(
        base_url=f"{system.url}/api/v1", headers=headers, timeout=60.0, trust_env=False
    ) as api:

        async def create(number: int, name: str) -> None:
            replicas = len(range(number, instances, len(names)))
            async with few:
                model = f"file:/models/{name}.gguf"
                body = {"name": name, "model": model, "replicas": replicas, "options": OPTIONS}
                (await api.post("/deployments", json=body)).raise_for_status()

        await asyncio.gather(*(create(number, name) for number, name in enumerate(names)))


async def all_pending(database: Database, client: Client, instances: int) -> None:
    """Waits until so many wait: by their rows, and by what their workflows show when they have begun to."""
    await eventually(
        lambda: count(database, InstanceState.PENDING) == instances,
        lambda: f"{count(database, InstanceState.PENDING)} are pending",
        seconds=WITHIN_SECONDS,
    )

    async def shown() -> bool:
        return (await client.count_workflows(f"StokerPhase = '{InstanceState.PENDING}'")).count == instances

    await eventually_async(shown, "all shown as pending")


@dataclass(frozen=True)
class Story:
    """What became of one instance since the room appeared, by its workflow's history."""

    woken: int  # signals that it may fit
    place_calls: int  # that followed them
    rechecks: int  # calls of `place` because it had waited long
    placed_at: datetime | None  # when its last call of `place` was answered, if a signal led to it


async def all_stories(database: Database, client: Client, since: datetime) -> list[Story]:
    """Those of all instances."""
    with database.read() as session:
        ids = session.exec(select(InstanceRow.id)).all()
    return [await story(client, instance_id, since) for instance_id in ids]


async def story(client: Client, instance_id: str, since: datetime) -> Story:
    """One instance's."""
    woken, by_signal, rechecks = 0, set[int](), 0
    timer_fired, placed_at = False, None
    async for event in client.get_workflow_handle(instance_workflow_id(instance_id)).fetch_history_events():
        at = event.event_time.ToDatetime(UTC)
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                is_capacity = event.workflow_execution_signaled_event_attributes.signal_name == CAPACITY_SIGNAL
                woken, timer_fired = woken + (is_capacity and at >= since), False
            case EventType.EVENT_TYPE_TIMER_FIRED:
                timer_fired = True
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED if at >= since:
                if event.activity_task_scheduled_event_attributes.activity_type.name == "place":
                    rechecks += timer_fired
                    by_signal |= set() if timer_fired else {event.event_id}
            case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                if event.activity_task_completed_event_attributes.scheduled_event_id in by_signal:
                    placed_at = at
    return Story(woken=woken, place_calls=len(by_signal), rechecks=rechecks, placed_at=placed_at)


def count(database: Database, state: InstanceState) -> int:
    """Instances in that state, by their rows."""
    with database.read() as session:
        return session.exec(select(func.count()).where(col(InstanceRow.state) == state.value)).one()


def last_running(database: Database) -> datetime:
    """When the last of those that run began to, by its row."""
    with database.read() as session:
        rows = select(InstanceRow.state_since).where(col(InstanceRow.state) == InstanceState.RUNNING.value)
        return max(session.exec(rows))


def devices_taken(database: Database) -> int:
    """GPUs that are claimed."""
    with database.read() as session:
        claims = select(ClaimRow.worker, ClaimRow.device).where(ClaimRow.device != "cpu").distinct()
        return len(session.exec(claims).all())


def seconds(begin: datetime, end: datetime) -> float:
    """From one moment to the other."""
    return round((end - begin).total_seconds(), 3)


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
