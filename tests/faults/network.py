"""A network of machines that are not there: a network namespace each, on one bridge, with links that can be cut.

Only root may make them, and only on Linux: see `allowed`. The bridge has the first address, in the namespace that this
process is in: what runs here (the API, Temporal) is reached there. Names hold this process's id, so that a later run
can tell what an earlier one left behind, and removes it.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_MARK = "sf"  # of all names: interfaces have up to 15 characters
_NOWHERE = "02:00:00:00:00:fe"  # no interface has it: what is sent there is lost without a word
_GONE_SECONDS = 10.0


class NetworkError(Exception):
    """The network cannot be made; the message is the kernel's."""


def allowed() -> str:
    """Why no network can be made here; empty: it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "namespaces of the network take root"
    probe = f"{_MARK}{os.getpid()}probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except (NetworkError, FileNotFoundError) as error:
        return str(error)
    return ""


class Network:
    """Hosts on one bridge. Everything that runs in them ends with `close`."""

    def __init__(self, names: Iterable[str]) -> None:
        remove_left_overs()
        self._mark = f"{_MARK}{os.getpid()}"
        taken = set(map(int, re.findall(r"10\.213\.(\d+)\.", _ip("-brief", "-4", "addr"))))
        third = next(number for number in range(1, 255) if number not in taken)
        self.address = f"10.213.{third}.1"  # of this process's own namespace
        self._addresses = {name: f"10.213.{third}.{number}" for number, name in enumerate(names, 11)}
        self._cut: set[tuple[str, str]] = set()
        _ip("link", "add", self._mark, "type", "bridge")
        try:
            _ip("addr", "add", f"{self.address}/24", "dev", self._mark)
            _ip("link", "set", self._mark, "up")
            for number, (name, address) in enumerate(self._addresses.items()):
                self._add(number, name, address)
        except NetworkError:
            self.close()
            raise

    def _add(self, number: int, name: str, address: str) -> None:
        space, port = self.space(name), f"{self._mark}v{number}"
        _ip("netns", "add", space)
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", port, "master", self._mark, "up")
        for words in (("link", "set", "lo", "up"), ("addr", "add", f"{address}/24", "dev", "eth0")):
            _ip("-n", space, *words)
        _ip("-n", space, "link", "set", "eth0", "up")

    def space(self, name: str) -> str:
        """The namespace of a host."""
        return f"{self._mark}-{name}"

    def address_of(self, name: str) -> str:
        """Where the others reach a host."""
        return self._addresses[name]

    def inside(self, name: str) -> list[str]:
        """What to write before a command that is to run on a host. It becomes that command: its pid stays."""
        return ["ip", "netns", "exec", self.space(name)]

    def processes(self, name: str) -> list[psutil.Process]:
        """All that live on a host; zombies do not."""
        found = []
        for pid in map(int, _ip("netns", "pids", self.space(name)).split()):
            try:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self, name: str) -> None:
        """Kills all that lives on a host, and returns when nothing does. Raises TimeoutError."""
        deadline = time.monotonic() + _GONE_SECONDS
        while living := self.processes(name):
            for process in living:
                _kill(process.pid)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} still has {living}")
            time.sleep(0.01)

    def cut(self, one: str, other: str) -> None:
        """From now on what either sends to the other is lost, and neither is told."""
        for here, there in ((one, other), (other, one)):
            to = self._addresses[there]
            _ip("-n", self.space(here), "neigh", "replace", to, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")
            self._cut.add((here, there))

    def isolate(self, name: str) -> None:
        """The host is unplugged: nothing reaches it or comes from it."""
        _ip("link", "set", self._port(name), "down")

    def heal(self) -> None:
        """All links are as they were."""
        for here, there in self._cut:
            _ip("-n", self.space(here), "neigh", "del", self._addresses[there], "dev", "eth0")
        self._cut.clear()
        for name in self._addresses:
            _ip("link", "set", self._port(name), "up")

    def reset(self, one: str, other: str) -> int:
        """Ends all TCP connections between two hosts, with a reset at both ends; how many there were."""
        command = [*self.inside(one), "ss", "--kill", "--tcp", "--no-header", "dst", self._addresses[other]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return len(done.stdout.splitlines())

    def close(self) -> None:
        """Ends all that runs on the hosts, and removes them. May be repeated."""
        for name in self._addresses:
            if Path("/run/netns", self.space(name)).exists():
                self.kill(name)
                _remove(self._port(name))  # else the kernel does it some time later
                _ip("netns", "del", self.space(name))
        _remove(self._mark)

    def _port(self, name: str) -> str:
        return f"{self._mark}v{list(self._addresses).index(name)}"


def remove_left_overs() -> None:
    """Removes what runs that were killed have left: their processes, hosts and bridges."""
    for line in _ip("netns", "list").splitlines():
        space = line.split()[0]
        if _is_left_over(space):
            for pid in map(int, _ip("netns", "pids", space).split()):
                _kill(pid)
            _ip("netns", "del", space)
    for line in _ip("-brief", "link", "show", "type", "bridge").splitlines():
        if _is_left_over(line.split()[0]):
            _ip("link", "del", line.split()[0])


def _remove(interface: str) -> None:
    if Path("/sys/class/net", interface).exists():
        _ip("link", "del", interface)


def _is_left_over(name: str) -> bool:
    match = re.match(rf"{_MARK}(\d+)(-|probe|$)", name)
    return match is not None and not psutil.pid_exists(int(match[1]))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
