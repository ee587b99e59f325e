"""Several real control planes at once on one database: no byte is claimed twice, and each knows what the others did."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete

from stoker.domain.deployments import EngineOptions
from stoker.domain.placement.place import claims_of
from stoker.domain.placement.types import Placement, PlacementRequest
from stoker.domain.units import GIB
from stoker.domain.workers import Device, Worker
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.tables import ClaimRow, FleetChangeRow, InstanceRow, WorkerRow
from tests.builders import make_device, make_request, make_spec, make_worker
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import booked, join, known_fleet, last_version
from tests.stoker.storage.planes import Order, Plane, place, planes, release, report

PLANES = 3
SIZES = (14, 9, 20)  # GiB of each of a worker's GPUs: the smallest holds no model of ours alone
CONTEXTS = (2048, 16_384, 40_960)  # of requests: about 6, 13 and 27 GiB


def worker(name: str, used: int = 0) -> Worker:
    """A worker that can share a model with others; `used`: GiB of each GPU that others use."""
    gpus = tuple(
        make_device(id=f"gpu{number}", engine_name=f"CUDA{number}", total=size * GIB, used=used * GIB)
        for number, size in enumerate(SIZES)
    )
    return make_worker(name=name, devices=gpus, serves_rpc=True)


WORKERS = ("w1", "w2", "w3")


def device(name: str, id: str) -> Device:
    """One of `worker`'s."""
    found = worker(name).device(id)
    assert found is not None
    return found


def request(instance_id: str, context: int) -> PlacementRequest:
    """An instance of its own deployment."""
    return make_request(
        instance_id=instance_id, spec=make_spec(name=instance_id, options=EngineOptions(context_length=context))
    )


class ControlPlanes(RuleBasedStateMachine):
    """What the planes did, as they answered; each works on instances of its own, all at the same time."""

    def __init__(self, database: Database, running: list[Plane]) -> None:
        super().__init__()
        self.database, self.planes, self.clock = database, running, Clock()
        self.held: dict[str, Placement] = {}
        self.version = 0

    @initialize()
    def empty(self) -> None:
        with self.database.write() as session:
            for table in (ClaimRow, InstanceRow, WorkerRow, FleetChangeRow):
                session.execute(delete(table))
        for name in WORKERS:
            join(self.database, self.clock, worker(name))
        for plane in self.planes:
            plane.do(Order("new"))
        self.version = last_version(self.database)

    def together(self, orders: Callable[[int], list[Order]]) -> list[tuple[Order, Any]]:
        """All planes at once; what each order came to."""
        given = [orders(number) for number in range(len(self.planes))]
        for plane, some in zip(self.planes, given, strict=True):
            plane.begin(some)
        return [
            pair
            for plane, some in zip(self.planes, given, strict=True)
            for pair in zip(some, plane.answers(), strict=True)
        ]

    @rule(contexts=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(CONTEXTS)), min_size=1, max_size=4))
    def all_place(self, contexts: list[tuple[int, int]]) -> None:
        answers = self.together(lambda plane: [place(request(f"p{plane}-{n}", size)) for n, size in contexts])
        for order, outcome in answers:
            name = order.arguments[0].instance_id
            if isinstance(outcome, Placement):
                assert self.held.setdefault(name, outcome) == outcome, "whoever holds a place gets the same answer"
            else:
                assert name not in self.held

    @rule(numbers=st.sets(st.integers(0, 4), min_size=1, max_size=3), again=st.sampled_from(CONTEXTS))
    def all_release_and_place(self, numbers: set[int], again: int) -> None:
        """Of each pair, one place comes free while the others look for one."""

        def orders(plane: int) -> list[Order]:
            return [
                order
                for n in sorted(numbers)
                for order in (release(f"p{plane}-{n}"), place(request(f"p{plane}-{n}", again)))
            ]

        for order, outcome in self.together(orders):
            if order.verb == "release":
                self.held.pop(order.arguments[0], None)
            elif isinstance(outcome, Placement):
                self.held[order.arguments[0].instance_id] = outcome

    @rule(number=st.integers(0, 4))
    def all_release(self, number: int) -> None:
        self.together(lambda plane: [release(f"p{plane}-{number}")])
        for plane in range(len(self.planes)):
            self.held.pop(f"p{plane}-{number}", None)

    @rule(
        verb=st.sampled_from(["cordon", "uncordon", "drain"]),
        name=st.sampled_from(WORKERS),
        context=st.sampled_from(CONTEXTS),
    )
    def one_changes_a_standing_while_others_place(self, verb: Any, name: str, context: int) -> None:
        def orders(plane: int) -> list[Order]:
            return [Order(verb, (name,))] if plane == 0 else [place(request(f"p{plane}-9", context))]

        for order, outcome in self.together(orders):
            if order.verb == "place" and isinstance(outcome, Placement):
                self.held.setdefault(order.arguments[0].instance_id, outcome)

    @rule(name=st.sampled_from(WORKERS), used=st.integers(0, 12), context=st.sampled_from(CONTEXTS))
    def one_reports_while_others_place(self, name: str, used: int, context: int) -> None:
        def orders(plane: int) -> list[Order]:
            return [report(worker(name, used))] if plane == 0 else [place(request(f"p{plane}-8", context))]

        for order, outcome in self.together(orders):
            if order.verb == "place" and isinstance(outcome, Placement):
                self.held.setdefault(order.arguments[0].instance_id, outcome)

    @invariant()
    def no_device_is_booked_twice(self) -> None:
        for (name, id), size in booked(self.database).items():
            assert size <= device(name, id).total

    @invariant()
    def claims_are_those_of_the_places_held(self) -> None:
        expected: dict[tuple[str, str], int] = {}
        for name, placement in self.held.items():
            for claim in claims_of(placement, name, 1):
                expected[claim.worker, claim.device] = expected.get((claim.worker, claim.device), 0) + claim.size
        assert booked(self.database) == expected

    @invariant()
    def versions_only_grow(self) -> None:
        before, self.version = self.version, last_version(self.database)
        assert self.version >= before

    @invariant()
    def every_plane_knows_what_the_rows_say(self) -> None:
        expected = known_fleet(self.database, self.clock())
        for plane in self.planes:
            (known,) = plane.do(Order("fleet"))
            assert known == expected


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_byte_is_claimed_twice_by_several_processes(database_url: str) -> None:
    database = Database(database_url)
    migrate(database)
    with planes(database_url, PLANES) as running:
        run_state_machine_as_test(
            lambda: ControlPlanes(database, running),  # type: ignore[arg-type]  # it is called, whatever it is
            settings=settings(
                max_examples=8,
                stateful_step_count=10,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    database.close()
