"""What must hold whenever nothing is under way: what runs is what is held, and what is claimed is what runs."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.faults.spread_system import SpreadSystem

_RECORD = re.compile(r"^(?P<instance>[a-z0-9-]+)\.(?P<incarnation>[0-9]+)\.(?P<role>main|rpc|link)\.json$")


class Process(NamedTuple):
    """A process of an instance, as the kernel shows it, and whose it is, as its agent's record says."""

    worker: str
    pid: int
    role: str
    instance: str = ""  # empty: no record knows it
    incarnation: int = 0

    def __str__(self) -> str:
        whose = f"{self.instance}.{self.incarnation}" if self.instance else "of nobody"
        return f"{self.worker}: {self.role} {whose} (pid {self.pid})"


@dataclass(frozen=True)
class Findings:
    """What is wrong, in words."""

    orphans: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # what should run and does not

    @property
    def clean(self) -> bool:
        """Whether nothing is."""
        return not (self.orphans or self.claims or self.missing)


def audit(system: SpreadSystem) -> Findings:
    """Compares processes, claims and instances now. Raises what the database raises while it is away."""
    claims = system.rows("SELECT instance_id, incarnation, worker, device, size, ending FROM claim")
    instances = {row["id"]: row for row in system.rows("SELECT id, incarnation, state, placement FROM instance")}
    processes = [found for worker in system.fleet.workers for found in processes_of(system, worker)]
    wanted = _wanted(instances)
    have = {(one.worker, one.role, one.instance, one.incarnation) for one in processes}
    orphans = [str(one) for one in processes if (one.worker, one.role, one.instance, one.incarnation) not in wanted]
    orphans += [f"{worker}: {count} gateways" for worker, count in _gateways(system).items() if count > 1]
    doubled = Counter((one.worker, one.role, one.instance, one.incarnation) for one in processes)
    orphans += [f"{count} of {key}" for key, count in doubled.items() if count > 1 and key in wanted]
    missing = [f"{worker}: no {role} of {name}.{number}" for worker, role, name, number in sorted(wanted - have)]
    return Findings(tuple(orphans), tuple(_wrong(claims, instances)), tuple(missing))


def _wanted(instances: dict[str, dict[str, Any]]) -> set[tuple[str, str, str, int]]:
    """What runs when all is well: of each running instance its main server, its RPC servers, and a link."""
    wanted = set()
    for name, row in instances.items():
        if row["state"] != "running" or not row["placement"]:
            continue
        main, number = row["placement"]["worker"], row["incarnation"]
        peers = {share["worker"] for share in row["placement"]["shares"] if share.get("worker")} - {main}
        wanted.add((main, "main", name, number))
        wanted |= {(peer, "rpc", name, number) for peer in peers}
        if peers:
            wanted.add((main, "link", name, number))
    return wanted


def _wrong(claims: list[dict[str, Any]], instances: dict[str, dict[str, Any]]) -> list[str]:
    wrong = []
    held: dict[tuple[str, int], dict[tuple[str, str], int]] = {}
    for claim in claims:
        name, number = claim["instance_id"], claim["incarnation"]
        told = f"{name}.{number} on {claim['worker']}/{claim['device']}: {claim['size'] >> 20} MiB"
        held.setdefault((name, number), {})[claim["worker"], claim["device"]] = claim["size"]
        if claim["ending"]:
            wrong.append(f"{told} is still ending")
        elif name not in instances:
            wrong.append(f"{told}, and there is no such instance")
        elif number != instances[name]["incarnation"]:
            wrong.append(f"{told}, and it is at incarnation {instances[name]['incarnation']}")
    for name, row in instances.items():
        if row["state"] != "running" or not row["placement"]:
            continue
        placement = row["placement"]
        should = {
            (share.get("worker") or placement["worker"], share["device"]): share["claim"]
            for share in placement["shares"]
            if share["claim"]
        }
        if (is_held := held.get((name, row["incarnation"]), {})) != should:
            wrong.append(f"{name}.{row['incarnation']} holds {is_held}, and was given {should}")
    return wrong


def processes_of(system: SpreadSystem, worker: str) -> list[Process]:
    """The processes of instances on a host, whatever they are parts of."""
    known = _recorded(system, worker)
    found = []
    for process in system.network.processes(worker):
        role = role_of(process)
        if role in ("main", "rpc", "link"):
            name, number, told = known.get(process.pid, ("", 0, role))
            found.append(Process(worker, process.pid, role, name if told == role else "", number))
    return found


def process_of(system: SpreadSystem, worker: str, role: str) -> psutil.Process:
    """The one process of a role on a host. Raises LookupError."""
    found = [one for one in system.network.processes(worker) if role_of(one) == role]
    if len(found) != 1:
        raise LookupError(f"{worker} has {len(found)} processes that are {role}: {found}")
    return found[0]


def role_of(process: psutil.Process) -> str:
    """What a process is by its command: main, rpc, link, gateway, agent, or its first words."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return "gone"
    words = " ".join(command)
    named = {"llama-server": "main", "ggml-rpc-server": "rpc"}.get(Path(command[0]).name if command else "", "")
    for mark, role in (("worker_agent.mesh.link", "link"), ("worker_agent.mesh.gateway", "gateway")):
        named = named or (role if mark in command else "")
    return named or ("agent" if "entrypoints.cli.main worker" in words else words[:80])


def _gateways(system: SpreadSystem) -> dict[str, int]:
    return {
        worker: sum(role_of(process) == "gateway" for process in system.network.processes(worker))
        for worker in system.fleet.workers
    }


def _recorded(system: SpreadSystem, worker: str) -> dict[int, tuple[str, int, str]]:
    """Whose each pid is, by the records of the host's agent."""
    known = {}
    for path in (system.data(worker) / "worker" / worker).rglob("*.json"):
        match = _RECORD.match(path.name)
        if match is None:
            continue
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if pid := record.get("pid"):
            known[pid] = (match["instance"], int(match["incarnation"]), match["role"])
    return known
