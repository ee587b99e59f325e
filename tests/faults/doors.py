"""Every port that a worker's processes listen on, by the kernel, and what strangers and other workers get there."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.kept_system import ROOT
from tests.faults.spread_system import SpreadSystem

KNOCK = [sys.executable, "-P", "-m", "tests.faults.knock"]
_ALERT = (b"\x15\x03", 24)  # the begin of TLS's own word for "no", and the most bytes that it takes twice
_OWNER = re.compile(r'\(\("([^"]+)",pid=(\d+)')


class Listener(NamedTuple):
    """One listening socket."""

    worker: str
    kind: str  # tcp or udp
    address: str
    port: int
    owner: str  # the program's name, and its pid

    @property
    def is_loopback(self) -> bool:
        """Whether only the host itself can reach it."""
        return self.address.startswith("127.") or self.address in ("::1", "[::1]")


def listeners(system: SpreadSystem, worker: str) -> list[Listener]:
    """All of a host's, now."""
    found = []
    for kind, flag in (("tcp", "--tcp"), ("udp", "--udp")):
        command = [*system.network.inside(worker), "ss", "--listening", "--no-header", "--numeric", "--processes", flag]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            local = line.split()[3]
            address, _, port = local.rpartition(":")
            owner = _OWNER.search(line)
            told = f"{owner[1]} {owner[2]}" if owner else "nobody"
            found.append(Listener(worker, kind, address, int(port), told))
    return found


def doors_of(system: SpreadSystem, worker: str) -> list[tuple[str, int]]:
    """Every address of a host with every port that anything listens on there, whatever it is bound to."""
    addresses = [system.network.address_of(worker), f"{_link_local(system, worker)}%eth0"]
    ports = sorted({one.port for one in listeners(system, worker) if one.kind == "tcp"})
    return [(address, port) for address in addresses for port in ports]


def _link_local(system: SpreadSystem, worker: str) -> str:
    command = ["ip", "-json", "-n", system.network.space(worker), "-6", "addr", "show", "dev", "eth0"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return next((entry["local"] for entry in shown[0]["addr_info"]), "fe80::1")


def knock(system: SpreadSystem, host: str, what: str, **told: Any) -> list[dict[str, Any]]:
    """What `knock.py` found, run on a host."""
    command = [*system.network.inside(host), *KNOCK, what]
    done = subprocess.run(
        command, input=json.dumps(told) + "\n", capture_output=True, text=True, check=True, cwd=ROOT, env=_environment()
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@contextmanager
def knocking(system: SpreadSystem, host: str, what: str, log: Path, **told: Any) -> Iterator[subprocess.Popen[str]]:
    """`knock.py` at work inside the block; what it prints is in the file `log`."""
    command = [*system.network.inside(host), *KNOCK, what]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True, cwd=ROOT, env=_environment()
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()


def told_by(log: Path) -> list[dict[str, Any]]:
    """What one that is `knocking` has printed so far."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def tells_something(found: dict[str, Any], begin: bytes) -> bool:
    """Whether more than TLS's own refusal came back."""
    start, most = _ALERT
    return found.get("bytes", 0) > 0 and not (begin.startswith(start) and found["bytes"] <= most)


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
