"""`stoker server`: holds the API's port, and keeps the processes alive that answer on it.

The listener stays open while a process is replaced: who connects then waits a moment instead of being refused. SIGHUP
replaces every process, one after the other: the new one answers before the old one is told to stop, and what the old
one was answering goes on up to `api.drain_timeout`. Processes are started from the program file, so that an upgrade of
Stoker needs no more than that. Behind systemd the listener may come from a socket unit (LISTEN_FDS): then a restart of
the whole service refuses nobody either.
"""

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from entrypoints.concurrency import first_of
from entrypoints.data_folder import metrics_folder
from entrypoints.served import Served, StartError
from stoker.settings import Settings

log = structlog.get_logger()

BACKLOG = 2048
PORT_FREE_WITHIN_SECONDS = 3.0
"""How long a port may still be held by the processes of a parent that was killed."""

_FIRST_SYSTEMD_DESCRIPTOR = 3


class PortTakenError(Exception):
    """The address cannot be listened on; the message names the setting."""


async def run_server(settings: Settings, command: Sequence[str]) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. `command` starts one process, but for the descriptors it is given.

    Raises PortTakenError. When the very first process does not come up, its exit code is ours: it has said why.
    """
    stop, renew = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, renew)):
        loop.add_signal_handler(number, event.set)
    listener = _inherited() or await _listen(settings.api.host, settings.api.port)
    _made_anew(metrics_folder(settings))
    slots = [Served(number, command, listener, settings.api.drain_timeout) for number in range(settings.api.processes)]
    try:
        try:
            if not await first_of(stop.wait(), slots[0].start()):  # the first one alone: it may make the first key
                for slot in slots[1:]:
                    slot.fill()
                log.info("api_listening", url=settings.api_url, processes=len(slots))
                await first_of(stop.wait(), _renew(slots, renew), *(slot.keep() for slot in slots))
        except StartError as error:
            return error.exit_code
    finally:
        listener.close()
        await asyncio.gather(*(slot.end() for slot in slots))
    return 0


async def _renew(slots: Sequence[Served], renew: asyncio.Event) -> None:
    while True:
        await renew.wait()
        renew.clear()
        for slot in slots:
            await slot.renew()


def _made_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _inherited() -> socket.socket | None:
    """The listener that systemd made for us; None where there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_SYSTEMD_DESCRIPTOR)


async def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with suppress(TimeoutError):
        async with asyncio.timeout(PORT_FREE_WITHIN_SECONDS):
            while True:
                if _bound(listener, host, port):
                    listener.listen(BACKLOG)  # before anybody is told that it listens
                    return listener
                await asyncio.sleep(0.05)
    listener.close()
    raise _taken(host, port, os.strerror(errno.EADDRINUSE))


def _bound(listener: socket.socket, host: str, port: int) -> bool:
    """False while another process has the port. Raises PortTakenError where waiting cannot help."""
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        listener.close()
        raise _taken(host, port, error.strerror or str(error)) from error
    return True


def _taken(host: str, port: int, reason: str) -> PortTakenError:
    return PortTakenError(f"cannot listen on {host}:{port}: {reason}. Choose another: --port, STOKER_API__PORT")


def server_command(arguments: Sequence[str]) -> list[str]:
    """What starts one process like this one: `arguments` are those of this one, without the program."""
    return [sys.executable, "-P", "-m", "entrypoints.cli.main", *arguments]
