"""What 1,000 instances on 200 hosts cost, and how soon they run: once asked for, and once 20 hosts are lost.

The whole system runs as `stoker up` does, with a real PostgreSQL and a real Temporal, on this machine. Played are the
hosts (`hosts.py`; two processes play all of them, and one is killed to lose some at once) and the hub that the model is
on. Every instance takes one GPU. All CPU is in cores, each part's own; the hosts' would be spread over as many
machines. Whether claims are right is read from the rows, and from what the hosts say that they run.

`--deployments` divides the instances: 100 of 10 replicas each are the default, `--deployments 1000` makes 1,000 of one.
Ends with one JSON line. Of the last that ran, or did not until it gave up, it says what their workflows waited for.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from temporalio.client import Client

from benchmarks.stage.costs import Costs, cores
from benchmarks.stage.fleet_rows import FleetRows
from benchmarks.stage.hosts import GPU_BYTES
from benchmarks.stage.hosts_program import HostsProcess, HostsSpec
from benchmarks.stage.laggards import laggards
from benchmarks.stage.postgres import postgresql
from stoker.domain.naming import deployment_workflow_id, instance_workflow_id
from stoker.storage.engine import Database
from stoker.temporal import connect, quiet_runtime
from tests.e2e.system import System, running_system
from tests.fakes.hub import FakeHub
from tests.published import MODELS

MODEL = "Llama-3.1-8B-Q4_K_M"
OPTIONS = {"context_length": 65_536, "slots": 1}  # 14 GiB of a GPU of 24: a second one does not fit beside it
POSTS_AT_ONCE = 8
LOOK_EVERY_SECONDS = 0.5
LAGS_AFTER = 0.99  # of all instances run: those that do not yet lag
SETTLE_SECONDS = 15.0  # the last workflows still tell their deployments, and Temporal still writes what it put off


@dataclass(frozen=True)
class Chosen:
    """What was asked for."""

    instances: int
    deployments: int
    hosts: int
    gpus: int
    lose: int
    idle_seconds: float
    within_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints one JSON line at the end."""
    chosen = _chosen(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hub = stack.enter_context(FakeHub(_model_on_hub(folder / "hub")))
        url, server = stack.enter_context(postgresql(folder / "postgresql"))
        environment = {"STOKER_DATABASE__URL": url, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "hub-cache")}
        system = stack.enter_context(running_system(folder / "data", environment=environment))
        database = Database(url)
        stack.callback(database.close)
        result = asyncio.run(measured(system, database, server, chosen))
    print(json.dumps({"benchmark": "fleet", "cores": os.cpu_count(), **result}))
    if "gave_up" in result:
        sys.exit(1)


def _chosen(arguments: Sequence[str] | None) -> Chosen:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--deployments", type=int, default=100, help="that have these instances as their replicas")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=6, help="of each host: so many instances have room on it")
    parser.add_argument("--lose", type=int, default=20, help="hosts that are lost at once; 0: none")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long it is watched when all run")
    parser.add_argument("--within-seconds", type=float, default=600.0, help="it fails when convergence takes longer")
    chosen = Chosen(**vars(parser.parse_args(arguments)))
    if not 0 <= chosen.lose < chosen.hosts:
        parser.error(f"--lose is {chosen.lose}: it must be 0 to {chosen.hosts - 1}, fewer than --hosts")
    if not 1 <= chosen.deployments <= chosen.instances:
        parser.error(f"--deployments is {chosen.deployments}: it must be 1 to {chosen.instances}, as --instances is")
    if (room := (chosen.hosts - chosen.lose) * chosen.gpus) < chosen.instances:
        parser.error(f"--instances is {chosen.instances}: without the lost hosts there is room for {room}")
    if chosen.idle_seconds <= 0 or chosen.within_seconds <= 0:
        parser.error("--idle-seconds and --within-seconds must be above 0")
    return chosen


def _model_on_hub(root: Path) -> Path:
    """A hub's folder with one model, of which the header is there and the weights are a hole."""
    repository = root / "acme" / MODEL
    repository.mkdir(parents=True)
    model = MODELS[MODEL]
    model.sketch().write(repository / f"{MODEL}.gguf", model.type_of)
    return root


# --- the hosts -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def played_hosts(system: System, costs: Costs, chosen: Chosen) -> AsyncIterator[dict[str, HostsProcess]]:
    """All hosts in two processes: `lost`, the first by name (they get instances first), and `kept`."""
    names = [f"host-{number:03}" for number in range(chosen.hosts)]
    parts = {"lost": names[: chosen.lose], "kept": names[chosen.lose :]}
    async with AsyncExitStack() as stack:
        processes = {}
        for part in (part for part, named in parts.items() if named):
            spec = HostsSpec(
                url=system.url,
                temporal=f"127.0.0.1:{system.temporal_port}",
                join_token=(system.folder / "join-token").read_text().strip(),
                folder=str(system.folder / "hosts"),
                names=parts[part],
                gpus=chosen.gpus,
            )
            processes[part] = await stack.enter_async_context(HostsProcess.running(spec))
            costs.add("hosts", psutil.Process(processes[part].pid))
        yield processes


# --- what is measured ------------------------------------------------------------------------------------------------


async def measured(system: System, database: Database, server: psutil.Process, chosen: Chosen) -> dict[str, Any]:
    """All numbers of the JSON line."""
    rows, costs = FleetRows(database, GPU_BYTES), Costs(system, server)
    client = await connect(f"127.0.0.1:{system.temporal_port}", wait_seconds=10, runtime=quiet_runtime())
    with system.api() as api:  # its own agent, which has no GPU: only the played hosts are to have instances
        (own,) = api.get("/workers").raise_for_status().json()["data"]
        api.post(f"/workers/{own['name']}/cordon").raise_for_status()
    result: dict[str, Any] = {name: getattr(chosen, name) for name in ("instances", "deployments", "hosts", "gpus")}
    began = time.monotonic()
    async with played_hosts(system, costs, chosen) as hosts:
        say(f"{chosen.hosts} hosts joined after {time.monotonic() - began:.1f} s")
        bare = await costs.percent_of_core(min(20.0, chosen.idle_seconds))
        result["bare"] = {"cores": cores(bare), "memory_mib": costs.memory_mib()}
        say(f"without instances: {result['bare']}")

        before, began = costs.used(), time.monotonic()
        posted = asyncio.create_task(deploy(system, chosen))
        looks = Looks(rows, client, ())
        try:
            await converged(looks, chosen, "run", watch=posted)
        except TimeoutError as error:
            return {**result, "gave_up": str(error), "cores": cores(costs.percent_since(before)), **await looks.lag()}
        took, used = time.monotonic() - began, cores(costs.percent_since(before))
        say(f"until here, {took:.0f} s: {used}")
        result["converging"] = {"seconds": round(took, 1), **await posted, "cores": used}
        result["converging"] |= await looks.lag()
        say(f"laggards: {result['converging']['laggards']}")
        result["wrong"] = [*rows.wrong(), *rows.unlike(await engines_of(hosts.values()))]
        await asyncio.sleep(SETTLE_SECONDS)
        idle = await costs.percent_of_core(chosen.idle_seconds)
        result["idle"] = {"cores": cores(idle), "memory_mib": costs.memory_mib()}
        say(f"idle: {result['idle']}")
        result["histories"] = await histories(client, rows)
        say(f"histories: {result['histories']}")
        if chosen.lose:
            result["loss"] = await loss(hosts, Looks(rows, client, hosts["lost"].names), costs, chosen)
            if "gave_up" in result["loss"]:
                result["gave_up"] = result["loss"]["gave_up"]
            result["wrong"] += [*rows.wrong(), *rows.unlike(await engines_of(hosts.values()))]
    result["idle_cores_of_temporal_and_control_plane"] = round((idle["temporal"] + idle["control_plane"]) / 100, 2)
    result["wrong_claims"] = len(result["wrong"])
    result["wrong"] = result["wrong"][:5]  # the first of them say enough
    return result


async def deploy(system: System, chosen: Chosen) -> dict[str, float]:
    """Creates the deployments, a few at a time; seconds until the last was accepted, and how many calls were repeated.

    A call that got no answer in time is repeated: it means the same.
    """
    unanswered = 0
    few, began = asyncio.Semaphore(POSTS_AT_ONCE), time.monotonic()
    headers = {"authorization": f"Bearer {system.admin_key}"}
    url = f"{system.url}/api/v1"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=chosen.within_seconds, trust_env=False) as api:

        async def create(number: int) -> None:
            replicas = len(range(number, chosen.instances, chosen.deployments))
            body = {"name": f"model-{number:04}", "model": f"hf:acme/{MODEL}", "replicas": replicas, "options": OPTIONS}
            async with few:
                answer = await api.post("/deployments", json=body)
                while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    nonlocal unanswered
                    unanswered += 1
                    answer = await api.post("/deployments", json=body)
                if answer.is_error:
                    raise RuntimeError(f"{body['name']} was refused with {answer.status_code}: {answer.text}")

        await asyncio.gather(*map(create, range(chosen.deployments)))
    return {"seconds_of_posts": round(time.monotonic() - began, 1), "posts_unanswered": unanswered}


async def loss(hosts: dict[str, HostsProcess], looks: "Looks", costs: Costs, chosen: Chosen) -> dict[str, Any]:
    """Kills the hosts that are to be lost; until all instances run on others."""
    lost = hosts.pop("lost")
    moved = chosen.instances - looks()
    before, began = costs.used(), time.monotonic()
    await lost.kill()
    result: dict[str, Any] = {"hosts": chosen.lose, "moved": moved}
    try:
        await converged(looks, chosen, "run elsewhere")
    except TimeoutError as error:
        result["gave_up"] = str(error)
    took = time.monotonic() - began
    return {
        **result,
        "seconds_to_first": round(looks.rose_after(chosen.instances - moved, began, took), 1),
        "seconds": round(took, 1),
        "cores": cores(costs.percent_since(before)),
        **await looks.lag(),
    }


class Looks:
    """How many instances run, those on some hosts left out, look by look; and which were the last."""

    def __init__(self, rows: FleetRows, client: Client, but_on: Collection[str]) -> None:
        self._rows, self._client, self._but_on = rows, client, but_on
        self._late: dict[str, str] = {}
        self._seen: list[tuple[float, int]] = []

    def __call__(self) -> int:
        """How many run now."""
        running = self._rows.running(but_on=self._but_on)
        self._seen.append((time.monotonic(), running))
        return running

    def note_laggards(self) -> None:
        """Those that do not run now lag; called again, it adds none."""
        self._late = self._late or self._rows.not_running(but_on=self._but_on)

    def rose_after(self, running: int, began: float, never: float) -> float:
        """Seconds from `began` until more than so many ran; `never`: if there never were."""
        return next((at - began for at, found in self._seen if found > running), never)

    async def lag(self) -> dict[str, Any]:
        """For the JSON line: who lagged, or lags still, and what its workflow waited for."""
        still = await asyncio.to_thread(self._rows.not_running, but_on=self._but_on)
        told = await laggards(self._client, still or self._late, until_running=not still)
        if still:
            told = [{**story, "row": still[story["instance"]]} for story in told]
        return {"lag": len(still or self._late), "laggards": told}


async def converged(looks: Looks, chosen: Chosen, what: str, *, watch: Awaitable[object] | None = None) -> None:
    """Waits until all instances count. Raises TimeoutError, and what `watch` raises."""
    began, told = time.monotonic(), 0.0
    while (found := await asyncio.to_thread(looks)) != chosen.instances:
        waited = time.monotonic() - began
        if waited > chosen.within_seconds:
            raise TimeoutError(f"after {waited:.0f} s {found} of {chosen.instances} {what}")
        if isinstance(watch, asyncio.Task) and watch.done():
            watch.result()
        if found >= LAGS_AFTER * chosen.instances:
            await asyncio.to_thread(looks.note_laggards)
        if waited >= told:
            say(f"  {waited:5.0f} s: {found} {what}")
            told += 10.0
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def engines_of(hosts: Iterable[HostsProcess]) -> dict[str, set[tuple[str, int]]]:
    """What runs where, as the living hosts say."""
    found: dict[str, set[tuple[str, int]]] = {}
    for host in hosts:
        found |= await host.engines()
    return found


async def histories(client: Client, rows: FleetRows) -> dict[str, Any]:
    """Events and bytes of the workflows' histories: the middle one's and the largest."""
    few = asyncio.Semaphore(POSTS_AT_ONCE)

    async def size(workflow_id: str) -> tuple[int, int]:
        async with few:
            described = await client.get_workflow_handle(workflow_id).describe()
        return described.history_length, described.raw_description.workflow_execution_info.history_size_bytes

    async def sizes(ids: Iterable[str]) -> dict[str, int]:
        found = sorted(await asyncio.gather(*map(size, ids)), key=lambda one: one[1])
        (events, middle), (most, largest) = found[len(found) // 2], found[-1]
        return {"events": events, "bytes": middle, "most_events": most, "most_bytes": largest}

    return {
        "deployment": await sizes(map(deployment_workflow_id, rows.deployments())),
        "instance": await sizes(map(instance_workflow_id, rows.instances())),
    }


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
