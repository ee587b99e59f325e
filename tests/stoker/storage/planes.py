"""Control planes as processes of their own: each has a ledger, and does what it is told over a pipe."""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from stoker.domain.placement.types import PlacementRequest
from stoker.domain.workers import Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.workers import Workers
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import fleet_of

ANSWERS_WITHIN_SECONDS = 120.0


class Order(NamedTuple):
    """One thing to do: a method of the ledger with its arguments, or a worker's report; `new` forgets everything."""

    verb: Literal["place", "release", "wakeable", "cordon", "uncordon", "drain", "fleet", "report", "new"]
    arguments: tuple[Any, ...] = ()


class Plane:
    """One process. What it is told while it works waits in the pipe."""

    def __init__(self, process: multiprocessing.process.BaseProcess, pipe: Connection) -> None:
        self._process, self._pipe = process, pipe

    def begin(self, orders: Sequence[Order]) -> None:
        """Starts on `orders` and comes back at once."""
        self._pipe.send(list(orders))

    def answers(self) -> list[Any]:
        """What came of the orders, one by one. Raises RuntimeError when the process ended."""
        if not self._pipe.poll(ANSWERS_WITHIN_SECONDS):
            raise RuntimeError(f"no answer within {ANSWERS_WITHIN_SECONDS} seconds; exit code {self._process.exitcode}")
        found: list[Any] = self._pipe.recv()  # EOFError when it ended
        return found

    def do(self, *orders: Order) -> list[Any]:
        """Both."""
        self.begin(orders)
        return self.answers()


@contextmanager
def planes(url: str, count: int) -> Iterator[list[Plane]]:
    """So many processes on one database."""
    context = multiprocessing.get_context("spawn")
    running = []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_obey, args=(url, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    try:
        yield [Plane(process, pipe) for process, pipe in running]
    finally:
        for process, pipe in running:
            pipe.close()
            process.join()


def _obey(url: str, pipe: Connection) -> None:
    database = Database(url)
    ledger = ClaimLedger(database, Clock())
    while True:
        try:
            orders: list[Order] = pipe.recv()
        except EOFError:
            break
        answers: list[Any] = []
        for order in orders:
            if order.verb == "new":
                ledger = ClaimLedger(database, Clock())
                answers.append(None)
            elif order.verb == "report":
                with database.write() as session:
                    answers.append(Workers(session, Clock()()).report(*order.arguments))
            elif order.verb == "fleet":
                answers.append({name: (h.worker, dict(h.claimed)) for name, h in fleet_of(ledger).hosts.items()})
            else:
                answers.append(getattr(ledger, order.verb)(*order.arguments))
        pipe.send(answers)
    database.close()


def place(request: PlacementRequest) -> Order:
    """An order to place it."""
    return Order("place", (request,))


def release(instance_id: str, incarnation: int | None = None) -> Order:
    """An order to give its claims back."""
    return Order("release", (instance_id, incarnation))


def report(worker: Worker) -> Order:
    """An order to take the worker's report."""
    return Order("report", (worker,))
