"""Workers and requests whose sizes are multiples of one another, and what the rows say."""

from collections import Counter
from datetime import datetime

from sqlmodel import select

from stoker.domain.claims import Claim
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.fleet import Fleet
from stoker.domain.workers import Device, DeviceKind, Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.tables import ClaimRow, FleetChangeRow
from stoker.storage.workers import Workers
from tests.builders import make_profile, make_spec, make_worker
from tests.stoker.storage.conftest import Clock


def size_of_one() -> int:
    """Bytes that a request of `make_request()` claims on a CPU."""
    needed = estimate(make_profile(), make_spec().options)
    assert isinstance(needed, MemoryEstimate)
    return needed.host.total


def host(name: str = "w1", *, room_for: float = 1, used: float = 0) -> Worker:
    """A host whose CPU holds so many of `make_request()`; `used`: so many of them are in use by others."""
    one = size_of_one()
    cpu = Device(id="cpu", kind=DeviceKind.CPU, total=int(one * room_for), used=int(one * used))
    return make_worker(name=name, devices=(cpu,))


def join(database: Database, clock: Clock, worker: Worker) -> None:
    """The worker joins."""
    with database.write() as session:
        Workers(session, clock()).join(worker, credential_hash="hash", engine_secret="secret")


def report(database: Database, clock: Clock, worker: Worker) -> None:
    """The worker reports."""
    with database.write() as session:
        assert Workers(session, clock()).report(worker)


def claims(database: Database, clock: Clock) -> list[Claim]:
    """All that is claimed of workers that are there."""
    with database.read() as session:
        return [claim for status in Workers(session, clock()).all() for claim in status.claims]


def booked(database: Database) -> dict[tuple[str, str], int]:
    """Bytes claimed by worker and device, as the rows say."""
    sizes: Counter[tuple[str, str]] = Counter()
    with database.read() as session:
        for row in session.exec(select(ClaimRow)):
            sizes[row.worker, row.device] += row.size
    return dict(sizes)


def last_version(database: Database) -> int:
    """The highest version that any worker has."""
    with database.read() as session:
        return max((row.version for row in session.exec(select(FleetChangeRow))), default=0)


def fleet_of(ledger: ClaimLedger) -> Fleet:
    """The fleet as the ledger claims by it; those that only read see the same."""
    with ledger._claiming() as (session, now):
        claiming = ledger._fleet.fleet(session, now, fresh_reports=True)
    assert [(host.worker, host.claimed) for host in ledger.fleet().hosts.values()] == [
        (host.worker, host.claimed) for host in claiming.hosts.values()
    ]
    return claiming


def known_fleet(database: Database, now: datetime) -> dict[str, tuple[Worker, dict[str, int]]]:
    """Every worker with the bytes claimed on its devices, read from the rows alone."""
    with database.read() as session:
        statuses = Workers(session, now).all()
    found = {}
    for status in statuses:
        sizes: Counter[str] = Counter()
        for claim in status.claims:
            sizes[claim.device] += claim.size
        found[status.worker.name] = status.worker, dict(sizes)
    return found
