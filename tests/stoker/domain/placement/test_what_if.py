"""What would be, if."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.claims import Claim, Snapshot
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.models import ModelSource
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place
from stoker.domain.placement.reservations import Waiting
from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Unplaceable
from stoker.domain.placement.what_if import Drained, Machine, Occupant, added, drained, file_on, simulate
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind, Engine, EngineKind, Worker, WorkerState
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker

ENGINE = Engine(kind=EngineKind.NATIVE, version="b1", rpc_protocol="4.0.0")


def gpu_bytes() -> int:
    """What the builders' model takes on one GPU."""
    outcome = estimate(make_profile(), make_spec().options, whole(make_profile()))
    assert isinstance(outcome, MemoryEstimate)
    return outcome.devices[0].total


SIZE = gpu_bytes()


def box(name: str, models: int, **overrides: object) -> Worker:
    """A worker with a GPU that holds so many models; its RAM is not counted."""
    return make_worker(name=name, devices=(make_device(total=models * SIZE + GIB),), **overrides)


def fleet_of(*workers: Worker, claims: Sequence[Claim] = ()) -> Fleet:
    return Fleet.of(Snapshot.of(workers, claims))


def held(instance: str, worker: str, size: int = SIZE) -> Claim:
    return Claim(instance_id=instance, incarnation=3, worker=worker, device="gpu0", size=size)


def workers_of(placements: Sequence[Placement]) -> list[str]:
    return [placement.worker for placement in placements]


# --- machines that are thought up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gpus", "ram"),
    [
        ("4x24GiB", [24 * GIB] * 4, None),
        ("1x80GiB", [80 * GIB], None),
        ("2x80GiB+256GiB", [80 * GIB] * 2, 256 * GIB),
        ("1x80GiB+2x24GiB+1TiB", [80 * GIB, 24 * GIB, 24 * GIB], 1024 * GIB),
        (" 2 x 24 GiB + 64 GiB ", [24 * GIB] * 2, 64 * GIB),
        ("2\N{MULTIPLICATION SIGN}24G", [24 * GIB] * 2, None),
    ],
)
def test_machines(text: str, gpus: list[int], ram: int | None) -> None:
    machine = Machine.parse(text)
    assert (list(machine.gpus), machine.ram) == (gpus, ram)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no machine"),
        ("many", "'many' is not a size"),
        ("4x", "'4x' is no machine"),
        ("x24GiB", "'x24GiB' is no machine"),
        ("-1x24GiB", "'-1x24GiB' is no machine"),
        ("4x24Gi", "'24Gi' is not a size"),
        ("256GiB", "has 0 GPUs"),
        ("0x24GiB", "has 0 GPUs"),
        ("65x24GiB", "has 65 GPUs"),
        ("2x0GiB", "no device has 0GiB"),
        ("2x2000TiB", "no device has 2000TiB"),
        ("2x24GiB+1GiB+2GiB", "is no machine"),
        ("256GiB+2x24GiB", "is no machine"),
        ("1x" + "9" * 400, "is no machine"),
        ("2x24GiB+", "is no machine"),
    ],
)
def test_what_is_no_machine(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="write it like 4x24GiB") as caught:
        Machine.parse(text)
    assert words in str(caught.value)


@given(st.text(alphabet="0123456789xGiB+. -", max_size=40))
def test_a_text_is_a_machine_or_says_what_is_right(text: str) -> None:
    try:
        machine = Machine.parse(text)
    except ValueError as error:
        told = str(error)
    else:
        told = "" if machine.gpus and all(machine.gpus) else "it has none"
    assert not told or "write it like 4x24GiB" in told


def test_added_machines_are_like_most_of_the_fleet() -> None:
    bundled = Engine(kind=EngineKind.BUNDLED, version="b2")
    fleet = fleet_of(
        box("a", 1, engine=ENGINE, serves_rpc=True),
        box("b", 1, engine=ENGINE, serves_rpc=True),
        box("plus-1", 1, engine=bundled),
        *(box(f"gone-{n}", 1, engine=bundled, state=WorkerState.UNREACHABLE) for n in range(3)),
    )
    machines = [Machine.parse("2x24GiB"), Machine.parse("1x80GiB+256GiB")]
    more, names = added(fleet, machines, labels={"zone": "lab"}, compute_capability="9.0")
    assert names == ("plus-2", "plus-3"), "a worker of that name is there"
    first, second = (more.hosts[name].worker for name in names)
    assert (first.engine, first.serves_rpc, first.labels) == (ENGINE, True, {"zone": "lab"})
    assert [(d.id, d.kind, d.engine_name, d.compute_capability, d.total) for d in first.devices] == [
        ("gpu0", DeviceKind.CUDA, "CUDA0", "9.0", 24 * GIB),
        ("gpu1", DeviceKind.CUDA, "CUDA1", "9.0", 24 * GIB),
    ]
    assert [(d.id, d.kind, d.total) for d in second.devices] == [
        ("gpu0", DeviceKind.CUDA, 80 * GIB),
        ("cpu", DeviceKind.CPU, 256 * GIB),
    ]
    assert set(fleet.hosts) == set(more.hosts) - set(names), "the fleet itself stays as it is"


def test_a_machine_is_a_fleet_of_its_own() -> None:
    fleet, names = added(fleet_of(), [Machine.parse("1x24GiB")])
    worker = fleet.hosts[names[0]].worker
    assert (worker.state, worker.serves_rpc) == (WorkerState.READY, False)
    found = simulate(fleet, make_request(), 1)
    assert workers_of(found.placements) == ["plus-1"]


# --- where would it go ----------------------------------------------------------------------------------------------


def test_replicas_are_placed_beside_one_another() -> None:
    found = simulate(fleet_of(box("a", 2), box("b", 1)), make_request(), 3)
    assert found.fits
    assert sorted(workers_of(found.placements)) == ["a", "a", "b"]


def test_the_first_that_has_no_place_says_why() -> None:
    found = simulate(fleet_of(box("a", 1), box("b", 1)), make_request(), 5)
    assert not found.fits
    assert len(found.placements) == 2
    assert found.unplaceable is not None
    assert Rule.MEMORY in {rejection.rule for rejection in found.unplaceable.rejections}


def test_nothing_that_is_asked_changes_the_fleet() -> None:
    fleet = fleet_of(box("a", 1))
    assert simulate(fleet, make_request(), 1) == simulate(fleet, make_request(), 1)


def test_what_has_waited_long_comes_first() -> None:
    fleet, holder = fleet_of(box("a", 1)), make_request(instance_id="old-1")
    assert simulate(fleet, make_request(), 1).fits
    assert not simulate(fleet, make_request(), 1, [holder]).fits


def test_a_file_is_put_on_machines_that_are_added() -> None:
    source = ModelSource.parse("file:/models/m.gguf")
    spec = make_spec(model=source)
    request = make_request(spec=spec, files=make_files(source, found_on=("a",)))
    fleet, names = added(fleet_of(box("a", 1)), [Machine.parse("1x24GiB")])
    assert not simulate(fleet, request, 2).fits
    assert simulate(fleet, file_on(request, names), 2).fits
    assert file_on(request, names).files.found_on == ("a", "plus-1")


# --- what a drain moves ---------------------------------------------------------------------------------------------


def occupant(instance: str, *claims: Claim, **overrides: object) -> Occupant:
    request: PlacementRequest = make_request(instance_id=instance)
    return Occupant.model_validate({"request": request, "claims": claims or (held(instance, "a"),)} | overrides)


def outcomes(found: Drained) -> list[tuple[str, str]]:
    """Each instance, and where it would go; empty: nowhere."""
    return [
        (move.instance_id, move.outcome.worker if isinstance(move.outcome, Placement) else "") for move in found.moves
    ]


def test_everything_has_another_place() -> None:
    claims = (held("x", "a"), held("y", "a"))
    fleet = fleet_of(box("a", 9), box("b", 1), box("c", 1), claims=claims)
    found = drained(fleet, "a", [occupant("x"), occupant("y")])
    assert found.fits
    assert sorted(worker for _, worker in outcomes(found)) == ["b", "c"]


def test_priority_then_age_choose_first() -> None:
    claims = tuple(held(name, "a") for name in ("old", "new", "vip"))
    fleet = fleet_of(box("a", 9), box("b", 2), claims=claims)
    found = drained(
        fleet,
        "a",
        [occupant("new", age_seconds=1), occupant("old", age_seconds=9), occupant("vip", priority=1)],
    )
    assert outcomes(found) == [("vip", "b"), ("old", "b"), ("new", "")]
    assert not found.fits
    stuck = found.moves[-1].outcome
    assert isinstance(stuck, Unplaceable)
    assert stuck.summary


def test_others_keep_what_they_hold() -> None:
    claims = (held("x", "a"), held("other", "b"))
    fleet = fleet_of(box("a", 9), box("b", 1), claims=claims)
    assert outcomes(drained(fleet, "a", [occupant("x")])) == [("x", "")]


def test_what_it_holds_elsewhere_is_given_back_first() -> None:
    claims = (held("x", "a"), held("x", "b"))
    fleet = fleet_of(box("a", 9), box("b", 1), claims=claims)
    assert outcomes(drained(fleet, "a", [occupant("x", *claims)])) == [("x", "b")]


def test_one_that_fits_nowhere_keeps_what_it_holds_elsewhere() -> None:
    """Two halves of `big` on a and b: on b alone there is no room for it, and its half there stays taken."""
    profile = make_profile(layers=64)
    big_claims = (held("big", "a"), held("big", "b"))
    big = Occupant(request=make_request(instance_id="big", profile=profile), claims=big_claims, priority=9)
    fleet = fleet_of(box("a", 9), box("b", 1), claims=(*big_claims, held("x", "a")))
    assert outcomes(drained(fleet, "a", [big, occupant("x")])) == [("big", ""), ("x", "")]


def test_what_has_waited_long_reserves_against_those_that_move() -> None:
    fleet = fleet_of(box("a", 9), box("b", 1), claims=(held("x", "a"),))
    waiting = [Waiting(request=make_request(instance_id="old-1"), waited_seconds=700)]
    assert outcomes(drained(fleet, "a", [occupant("x")], waiting)) == [("x", "")]
    assert outcomes(drained(fleet, "a", [occupant("x", priority=1)], waiting)) == [("x", "b")]
    assert outcomes(drained(fleet, "a", [occupant("x")], waiting, hold_seconds=900)) == [("x", "b")]


def test_an_empty_worker_moves_nothing() -> None:
    assert drained(fleet_of(box("a", 1)), "a", []) == Drained(moves=())


@given(st.integers(0, 6), st.integers(0, 4), st.integers(0, 4))
def test_as_many_move_as_there_is_room_for(instances: int, room_b: int, room_c: int) -> None:
    names = [f"i{number}" for number in range(instances)]
    fleet = fleet_of(box("a", 9), box("b", room_b), box("c", room_c), claims=[held(name, "a") for name in names])
    found = drained(fleet, "a", [occupant(name) for name in names])
    moved = [worker for _, worker in outcomes(found) if worker]
    assert len(moved) == min(instances, room_b + room_c)
    assert moved.count("b") <= room_b
    assert "a" not in moved
    after = fleet.without(["a"])
    if found.fits and instances:
        assert isinstance(place(after, make_request()), Placement), "each of them alone fits too"
