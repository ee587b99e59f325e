"""What `stoker top` shows, once or again and again."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live

from api.schemas.deployments import DeploymentRead
from api.schemas.workers import WorkerRead
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import cell, console, print_data, show
from entrypoints.cli.rates import Look, Rate, rates, read_counts
from entrypoints.cli.refusals import RefusedError
from entrypoints.cli.views.overview import overview


class Screen(NamedTuple):
    """The cluster at one moment, as the server sent it."""

    workers: list[Any]
    deployments: list[Any]
    rates: dict[str, Rate]

    def view(self) -> RenderableType:
        """For people."""
        workers = [read_as(WorkerRead, item) for item in self.workers]
        return overview(workers, [read_as(DeploymentRead, item) for item in self.deployments], self.rates)


async def show_once(client: StokerClient, interval: float, output: OutputFormat) -> None:
    """Prints the cluster as it is, with the rates of the interval before."""
    before = await _counts(client)
    await asyncio.sleep(interval)
    screen = await _screen(client, before, await _counts(client))
    if output == "table":
        show(screen.view())
    else:
        told = {model: asdict(rate) for model, rate in screen.rates.items()}
        print_data({"workers": screen.workers, "deployments": screen.deployments, "rates": told}, output)


async def show_until_told(client: StokerClient, interval: float) -> None:
    """Keeps a whole terminal current until q is typed. A server that does not answer for a while is waited for."""
    before = now = await _counts(client)
    screen = await _screen(client, before, now)
    with Live(screen.view(), console=console(), screen=True, auto_refresh=False) as live, _key_q() as told:
        while not told.is_set():
            try:
                async with asyncio.timeout(interval):
                    await told.wait()
            except TimeoutError:
                pass
            try:
                before, now = now, await _counts(client)
                screen = await _screen(client, before, now)
                live.update(screen.view(), refresh=True)
            except CliError as error:
                live.update(Group(cell(f"as of before: {error}", "red"), screen.view()), refresh=True)


async def _screen(client: StokerClient, before: Look, now: Look) -> Screen:
    workers, deployments = await asyncio.gather(client.all(path("workers")), client.all(path("deployments")))
    return Screen(workers, deployments, rates(before, now))


async def _counts(client: StokerClient) -> Look:
    """Nothing where the server tells no metrics: it may keep them from us."""
    at = asyncio.get_running_loop().time()
    try:
        return read_counts("\n".join([line async for line in client.text("/metrics")]) + "\n", at)
    except (RefusedError, ValueError):
        return Look(at)


@contextmanager
def _key_q() -> Iterator[asyncio.Event]:
    """Set when q is typed. The terminal tells of each key at once, and shows none, while the block lasts."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    if not sys.stdin.isatty():
        yield told
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def read() -> None:
        typed = os.read(keyboard, 64)
        if not typed or b"q" in typed.lower():  # nothing: the terminal is gone
            told.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, read)
    try:
        yield told
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
