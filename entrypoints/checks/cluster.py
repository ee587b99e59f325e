"""The cluster behind the API: that it answers us, its clock, its alarms, its workers, and the links between them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from api.schemas.health import Health
from api.schemas.instances import InstanceRead
from api.schemas.workers import WorkerRead
from entrypoints.checks.findings import Finding, ok, warning, wrong
from entrypoints.cli.access import Access
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError
from entrypoints.cli.output import duration
from stoker.domain.deployments import InstanceState
from stoker.domain.workers import WorkerState
from stoker.version import VERSION

ANSWER_WITHIN_SECONDS = 5.0

CLOCK_OFF_SECONDS, CLOCK_WRONG_SECONDS = 5.0, 120.0
"""Certificates of the mesh are valid from the moment at which they are made, by the server's clock."""

SLOW_LINK_SECONDS, NARROW_LINK_BYTES = 0.005, 100_000_000
"""Round trip and bytes a second, from which on a model shared over it answers slowly."""


async def check_api(access: Access, *, named: bool) -> list[Finding]:
    """That the API answers, what it says of its parts, its version and clock. `named`: somebody chose this server."""
    try:
        async with httpx.AsyncClient(
            base_url=access.url, timeout=ANSWER_WITHIN_SECONDS, trust_env=not access.is_local
        ) as client:
            sent = time.time()
            answer = await client.get("/version")
            clock = _clock(answer.headers.get("date"), sent, time.time())
            version = answer.json()["version"]
            checks = (await client.get("/readyz")).json()["checks"]
    except (httpx.HTTPError, OSError) as error:
        advice = "start it with `stoker up`; or set --server or STOKER_SERVER"
        said = f"no answer at {access.url}: {str(error) or type(error).__name__}"
        return [(wrong if named else warning)("API", found=said, advice=advice)]
    except (ValueError, KeyError, TypeError):
        advice = "set --server or STOKER_SERVER to Stoker's own address"
        return [wrong("API", found=f"what answers at {access.url} is no Stoker", advice=advice)]
    findings = [_version(access.url, version)]
    for name, check in checks.items():
        if check["status"] != "ok":
            advice = f"it is needed {check['required']}: see `stoker doctor` on the server, and the server's log"
            findings.append(wrong(f"API's {name}", found=check["status"], advice=advice))
    return [*findings, *clock, *_transport(access)]


def _version(url: str, version: str) -> Finding:
    if version == VERSION:
        return ok("API", found=f"answers at {url}, version {version}")
    advice = "install the same version on all machines"
    return warning("API", found=f"answers at {url}, version {version}; this is {VERSION}", advice=advice)


def _clock(date: str | None, sent: float, received: float) -> list[Finding]:
    """The server's time in whole seconds, against ours when it was asked (Unix seconds)."""
    if date is None:
        return []
    told = parsedate_to_datetime(date).timestamp()
    off = max(0.0, told - received, sent - 1.0 - told)
    if off <= CLOCK_OFF_SECONDS:
        return [ok("clock", found="as the server's")]
    found = f"{duration(off)} {'behind' if told > received else 'ahead of'} the server's"
    advice = "set the time on both by NTP (`timedatectl set-ntp true`)"
    return [(wrong if off > CLOCK_WRONG_SECONDS else warning)("clock", found=found, advice=advice)]


def _transport(access: Access) -> list[Finding]:
    if access.is_local or urlsplit(access.url).scheme == "https":
        return []
    advice = "put HTTPS before the API where you do not trust the network"
    return [warning("API", found="keys and prompts go to it over plain HTTP", advice=advice)]


async def check_fleet(client: StokerClient) -> list[Finding]:
    """Alarms, workers, what runs nowhere, and links. Raises CliError where the key is refused."""
    health = read_as(Health, await client.get(path("health")))
    workers = [read_as(WorkerRead, item) for item in await client.all(path("workers"))]
    instances = [read_as(InstanceRead, item) for item in await client.all(path("instances"))]
    findings = [ok("key", found="an admin's")]
    for alarm in health.alarms:
        advice = "look at the network between the server and them: nothing is moved meanwhile"
        findings.append(wrong("alarm", found=alarm.message, advice=advice))
    return [*findings, *_workers(workers), *_instances(instances), *_links(instances)]


def refused(error: CliError) -> list[Finding]:
    """What it means that the cluster did not tell."""
    return [wrong("key", found=str(error), advice=error.hint or "see the server's log")]


def _workers(workers: Sequence[WorkerRead]) -> list[Finding]:
    if not workers:
        advice = "start one: `stoker worker`; `stoker workers token` makes its join token"
        return [warning("workers", found="there are none: no model can run", advice=advice)]
    findings = []
    for worker in workers:
        check = f"worker {worker.name}"
        seen = duration((datetime.now(UTC) - worker.seen_at).total_seconds())
        if worker.state is WorkerState.UNREACHABLE:
            advice = f"start its agent, or look at its network; if it is gone: `stoker workers remove {worker.name}`"
            findings.append(wrong(check, found=f"silent for {seen}", advice=advice))
        elif worker.agent_version != VERSION:
            advice = f"install {VERSION} there and restart its agent: its engines go on"
            findings.append(warning(check, found=f"its agent is version {worker.agent_version}", advice=advice))
        elif worker.state is not WorkerState.READY:
            advice = f"`stoker workers uncordon {worker.name}` lets it have new instances again"
            findings.append(warning(check, found=f"is {worker.state}: it gets nothing new", advice=advice))
        else:
            engine = f"{worker.engine.kind} {worker.engine.version}" if worker.engine is not None else "no engine"
            findings.append(ok(check, found=f"ready, {engine}, {len(worker.devices)} devices"))
    return findings


def _instances(instances: Sequence[InstanceRead]) -> list[Finding]:
    found = []
    for instance in instances:
        if instance.state is InstanceState.FAILED:
            advice = f"see `stoker logs {instance.id}`, then change or delete the deployment"
            found.append(wrong(f"instance {instance.id}", found=f"failed: {instance.message}", advice=advice))
        elif instance.state is InstanceState.PENDING:
            advice = f"see what would help: `stoker why {instance.deployment}`"
            found.append(warning(f"instance {instance.id}", found=f"waits: {instance.message}", advice=advice))
        elif instance.state is InstanceState.BACKOFF:
            advice = f"see `stoker logs {instance.id}`"
            found.append(
                warning(f"instance {instance.id}", found=f"ended by itself: {instance.message}", advice=advice)
            )
    return found


def _links(instances: Sequence[InstanceRead]) -> list[Finding]:
    """Of each way, as it was last measured."""
    latest = {(link.worker, link.peer): link for each in instances for link in each.links}
    findings = []
    for (worker, peer), link in sorted(latest.items()):
        check = f"link {worker} to {peer}"
        told = f"{link.round_trip_seconds * 1000:.2f} ms, {link.bytes_per_second * 8 / 1e9:.1f} Gbit/s"
        if link.problem:
            advice = f"open the gateway's port of {peer} for {worker}: see `stoker doctor` on {peer}"
            findings.append(wrong(check, found=link.problem, advice=advice))
        elif link.round_trip_seconds > SLOW_LINK_SECONDS or link.bytes_per_second < NARROW_LINK_BYTES:
            advice = "a model shared over it answers slowly: use a wired network, or --no-distributed"
            findings.append(warning(check, found=told, advice=advice))
        else:
            findings.append(ok(check, found=told))
    return findings
