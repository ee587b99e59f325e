"""Knocks at every port of every worker, as a stranger and as a worker that was not asked, and throws workers out.

    python -m tests.strangers_run [--workers 4] [--folder FOLDER]

The system and the network are those of `tests.faults_run`. While SmolLM2 runs over several workers:

    strangers   a host that is no worker connects to every port on every address of every worker, says nothing, garbage,
                HTTP, the RPC protocol, TLS without a certificate and with one that signs itself: no byte may come back,
                but TLS's own
    listeners   of each worker, one port may be open to others
    workers     those of no group, and peers of it, ask its gateways for what only others may have
    flood       a stranger opens hundreds of connections and says nothing: requests must go on
    removed     `stoker workers remove`: seconds until the worker's connections end, and new ones are refused; of one
                that holds nothing, and of a member of the group whose agent does not help (it is stopped)

The last line is JSON; the exit code is 1 where anything was found.
"""

import argparse
import base64
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from entrypoints.demo.model import fetch_demo_model
from tests.faults import network
from tests.faults.audit import role_of
from tests.faults.doors import Listener, doors_of, knock, knocking, listeners, tells_something, told_by
from tests.faults.load import MAX_TOKENS, PROMPT, Load
from tests.faults.single_host import answer, single_host
from tests.faults.spread_system import MODEL, Fleet, SpreadSystem
from tests.faults.trial import steady
from tests.live.long_run import add_folder_option, engine_folder, run_folder

STRANGER = "stranger"
OUT_SECONDS = 10.0
FLOOD = 400  # connections to each gateway


class Run:
    """What was found so far."""

    def __init__(self, system: SpreadSystem) -> None:
        self._system = system
        self.findings: list[str] = []
        self.numbers: dict[str, Any] = {}

    def _find(self, words: str) -> None:
        self.findings.append(words)
        print(f"FOUND {words}", flush=True)

    def open_ports(self) -> dict[str, list[Listener]]:
        """Of each worker those that others can reach. More than one is a finding."""
        found = {}
        for worker in self._system.fleet.workers:
            all_of_it = listeners(self._system, worker)
            found[worker] = [one for one in all_of_it if not one.is_loopback]
            if len(found[worker]) != 1:
                self._find(f"{worker} opens {len(found[worker])} ports to others: {found[worker]}")
            print(f"{worker}: {len(all_of_it)} listeners, open: {found[worker]}", flush=True)
        return found

    def strangers(self) -> None:
        """Knocks at every port of every worker."""
        doors = [door for worker in self._system.fleet.workers for door in doors_of(self._system, worker)]
        answers = knock(self._system, STRANGER, "knock", doors=doors)
        for one in answers:
            begin = base64.b64decode(one.get("begin", ""))
            if tells_something(one, begin):
                self._find(f"a stranger got {one['bytes']} bytes from {one['door']} for {one['way']}: {begin[:80]!r}")
        ends: dict[str, int] = {}
        for one in answers:
            ends[f"{one['way']}: {one['end']}"] = ends.get(f"{one['way']}: {one['end']}", 0) + 1
        self.numbers["strangers"] = {"doors": len(doors), "tries": len(answers), "ends": ends}
        print(json.dumps(self.numbers["strangers"], indent=1), flush=True)

    def workers(self, gateways: dict[str, tuple[str, int]]) -> None:
        """Workers with right certificates ask for what they may not have."""
        instance = self._system.running() or {}
        main, *peers = instance["placement"]["workers"]
        own = f"{instance['id']}.{instance['incarnation']}"
        others = [name for name in self._system.fleet.workers if name not in (main, *peers)]
        lines = [
            f"open rpc/{own}",
            f"hold rpc/{own}",
            f"open main/{own}",
            "open agent",
            "open files/../agent",
            "take all",
        ]
        for asking in [*others, *peers]:
            doors = [gateways[name] for name in (main, *peers) if name != asking]
            for one in knock(self._system, asking, "ask", doors=doors, lines=lines, identity=self._identity(asking)):
                begin = base64.b64decode(one.get("begin", ""))
                if begin.startswith(b"+"):
                    self._find(f"{asking} was let in at {one['door']} for {one['line']!r}")
        allowed = knock(
            self._system, main, "ask", doors=[gateways[peers[0]]], lines=["probe -"], identity=self._identity(main)
        )
        if not base64.b64decode(allowed[0].get("begin", "")).startswith(b"+"):
            self._find(f"the trial itself is wrong: even {main} may not probe {peers[0]}: {allowed}")

    def ended_group(self, asking: str, gateways: dict[str, tuple[str, int]], group: str) -> None:
        """Who had the main server of a group that is no more asks for its RPC servers."""
        doors = [door for name, door in gateways.items() if name != asking]
        lines = [f"hold rpc/{group}", f"open rpc/{group}"]
        for one in knock(self._system, asking, "ask", doors=doors, lines=lines, identity=self._identity(asking)):
            if base64.b64decode(one.get("begin", "")).startswith(b"+"):
                self._find(f"{asking} was let in at {one['door']} for {one['line']!r}, though the group has ended")

    def flood(self, gateways: dict[str, tuple[str, int]], load: Load) -> None:
        """Silent connections of a stranger, while requests go on."""
        log = self._system.folder / "logs" / "flood.log"
        began = time.monotonic()
        with knocking(self._system, STRANGER, "flood", log, doors=list(gateways.values()), count=FLOOD):
            time.sleep(15)
        asked = load.asked(began)
        lost = [one for one in asked if one.lost]
        self.numbers["flood"] = {"connections": FLOOD * len(gateways), "asked": len(asked), "lost": len(lost)}
        print(json.dumps(self.numbers["flood"]), flush=True)
        if lost:
            self._find(f"{len(lost)} of {len(asked)} requests were lost while a stranger kept connections open: {lost}")

    def removed(self, worker: str, gateway: tuple[str, int], *, helps: bool) -> None:
        """A worker is removed while it holds a connection to another's gateway, and comes again and again."""
        kept = self._system.folder / f"identity-of-{worker}"
        kept.mkdir(mode=0o700)
        for name in ("key.pem", "certificate.pem"):
            shutil.copy(Path(self._identity(worker), name), kept)
        log = self._system.folder / "logs" / f"removed-{worker}.log"
        told = {"doors": [gateway], "line": "open files", "identity": str(kept), "seconds": 60.0}
        own = {process.pid for process in self._system.network.processes(worker) if role_of(process) in ("main", "rpc")}
        if not helps:
            agent = psutil.Process(self._system.agents[worker].pid)
            agent.send_signal(signal.SIGSTOP)
        with knocking(self._system, worker, "stay", log, **told):
            self._system.eventually(lambda: told_by(log), f"{worker} is let in at {gateway}", seconds=10)
            began = time.time()
            said = self._system.cli("workers", "remove", worker, "--yes", "--force")
            print(said, flush=True)
            limit = began + 4 * OUT_SECONDS
            while time.time() < limit and not self._is_out(log):
                time.sleep(0.2)
            time.sleep(3)  # is it let in again?
            history = told_by(log)
        print(json.dumps(history), flush=True)
        outs = [one["at"] - began for one in history if one["how"].startswith(("ended", "not let in"))]
        back = [one for one in history if one["how"] == "let in" and one["at"] - began > OUT_SECONDS]
        seconds = round(outs[0], 2) if outs else None
        self.numbers[f"removed {worker}{'' if helps else ', its agent frozen'}"] = seconds
        if seconds is None or seconds > OUT_SECONDS or back:
            self._find(f"{worker} was removed and stayed connected: {history}")
        left = [process.pid for process in self._system.network.processes(worker) if process.pid in own]
        if helps and left:
            self._find(f"{worker} was removed and still runs {left}")

    @staticmethod
    def _is_out(log: Path) -> bool:
        history = told_by(log)
        return bool(history) and history[-1]["how"] != "let in"

    def _identity(self, worker: str) -> str:
        return str(self._system.data(worker) / "worker" / worker / "mesh")


def knock_at_all(system: SpreadSystem) -> Run:
    """All of it, in an order in which each leaves the next what it needs."""
    run = Run(system)
    log = system.folder / "logs" / "single-host.log"
    with single_host(system.engine, system.model, log, context_length=system.fleet.context_length) as alone:
        expected = "".join(answer(alone, MODEL, PROMPT, MAX_TOKENS, headers={}))
    opened = run.open_ports()
    gateways = {
        name: (system.network.address_of(name), ports[0].port) for name, ports in opened.items() if len(ports) == 1
    }
    with Load(system.url, system.admin_key, MODEL, expected) as load:
        steady(system, load)
        run.strangers()
        instance = system.running() or {}
        main, *peers = instance["placement"]["workers"]
        if len(gateways) < len(system.fleet.workers) or not peers:
            run.findings.append(f"not tried: workers, flood, removed: gateways {gateways}, peers {peers}")
            return run
        run.workers(gateways)
        run.flood(gateways, load)
        steady(system, load)
        idle = [name for name in system.fleet.workers if name not in (main, *peers)]
        for name in idle[:1]:
            run.removed(name, gateways[main], helps=True)
        run.removed(peers[0], gateways[peers[-1]], helps=False)
        left = {name: gateways[name] for name in (main, *peers[1:])}
        run.ended_group(main, left, f"{instance['id']}.{instance['incarnation']}")
    return run


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--offer", default=Fleet.offer, help="of each worker's CPU")
    add_folder_option(parser)
    args = parser.parse_args()
    if problem := network.allowed():
        print(f"this machine allows no network namespaces: {problem}", file=sys.stderr)
        return 2
    fleet = Fleet(workers=tuple(f"w{number}" for number in range(1, args.workers + 1)), offer=args.offer)
    began = time.monotonic()
    try:
        with (
            run_folder("strangers", args.folder) as folder,
            SpreadSystem(folder, engine_folder(), fetch_demo_model(), fleet) as system,
        ):
            system.deploy()
            run = knock_at_all(system)
    except subprocess.CalledProcessError as error:
        print(f"{error}\n{error.stdout}{error.stderr}", file=sys.stderr)
        raise
    summary = {"run": "strangers", "seconds": round(time.monotonic() - began, 1)} | run.numbers
    print(json.dumps(summary | {"findings": run.findings}))
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
