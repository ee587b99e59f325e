"""What has waited long is not starved: streams of small instances in virtual time, and what is held for whom."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.domain.claims import Claim, Snapshot
from stoker.domain.deployments import Strategy
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place, wakeable
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS, Waiting, holders
from stoker.domain.placement.types import DeviceName, Placement, PlacementRequest, Rule, Unplaceable
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_device, make_request, make_spec, make_worker
from tests.stoker.domain.placement.fleets import ask, fleet_of, host, sized_profile
from tests.stoker.domain.placement.stream import Arrival, Stream

HOLD = PENDING_HOLD_SECONDS
RUNS = 300.0
LAYER = {size: {count: sized_profile([size * GIB] * count) for count in range(1, 13)} for size in (2, 5, 10, 21)}


def request(name: str, size: int, count: int = 1, **spec: Any) -> PlacementRequest:
    """For `count` layers of so many GiB."""
    return ask(LAYER[size][count], name, **spec)


def claim(worker: str, device: str, size: int) -> Claim:
    return Claim(instance_id="old", incarnation=1, worker=worker, device=device, size=size * GIB)


def small_ones(size: int, every: float, until: float, **spec: Any) -> list[Arrival]:
    """One after another, each of one layer."""
    return [
        Arrival(index * every, request(f"small-{index}", size, **spec), RUNS) for index in range(int(until // every))
    ]


# --- streams ----------------------------------------------------------------------------------------------------------

FLEETS = {
    "one worker": [host("w", *[24 * GIB] * 4)],
    "four workers": [host(f"w{index}", 24 * GIB) for index in range(4)],
    "two workers": [host(f"w{index}", 24 * GIB, 24 * GIB) for index in range(2)],
}


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("size", [5, 10, 21])
def test_a_large_model_is_placed_within_the_hold_and_one_release_of_each_small_one(
    fleet: str, strategy: Strategy, size: int
) -> None:
    """It needs all devices. Small ones always wait, and without the hold they have them for as long as they come."""
    large = Arrival(100.5, request("large", 21, 4, strategy=strategy), RUNS)
    arrivals = [*small_ones(size, every=12.0, until=1400.0, strategy=strategy), large]
    held = Stream(fleet_of(*FLEETS[fleet]))
    held.run(arrivals, "large")
    assert large.at + HOLD < held.placed["large"] <= large.at + HOLD + RUNS
    assert held.woken_in_vain == []
    starved = Stream(fleet_of(*FLEETS[fleet]), hold_seconds=float("inf"))
    starved.run(arrivals, "large")
    assert starved.placed["large"] > 1400.0


@st.composite
def streams(draw: st.DrawFn) -> tuple[Fleet, list[Arrival], Arrival]:
    """Fleets of up to 9 devices, a stream of small ones, and one that fits once the fleet is empty."""
    hosts, devices = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.sampled_from([24, 32, 48]), min_size=devices, max_size=devices))
    ram = draw(st.sampled_from([512, 2]))
    workers = [host(f"w{index}", *[size * GIB for size in sizes], ram=ram * GIB) for index in range(hosts)]
    strategy, lives = draw(st.sampled_from(Strategy)), draw(st.sampled_from([(100.0,), (100.0, 250.0, 400.0)]))
    kinds = draw(st.sampled_from([(21,), (10,), (2, 5, 10)]))
    gaps = draw(st.lists(st.sampled_from([0.7, 2.0, 13.0, 31.0]), min_size=30, max_size=100))
    arrivals, now = [], 0.0
    for index, gap in enumerate(gaps):
        now += gap
        size, runs = kinds[index % len(kinds)], lives[index * 7 % 5 % len(lives)]
        arrivals.append(Arrival(now, request(f"small-{index}", size, strategy=strategy), runs))
    distributed = draw(st.booleans())
    size = draw(st.sampled_from([5, 10, 21]))
    count = draw(st.integers(1, min(12, hosts * devices if distributed else devices)))
    spec = {"strategy": draw(st.sampled_from(Strategy)), "distributed": distributed}
    large = Arrival(draw(st.sampled_from([5.05, 50.05])), request("large", size, count, **spec), 100.0)
    return fleet_of(*workers), arrivals, large


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams())
def test_in_any_stream(case: tuple[Fleet, list[Arrival], Arrival]) -> None:
    """Nobody is later than the hold and the end of what runs then, or had waited longer; nobody is woken in vain."""
    fleet, arrivals, large = case
    hold = 200.0
    if not isinstance(place(fleet, large.request), Placement):
        return
    stream = Stream(fleet, hold_seconds=hold)
    stream.run([*arrivals, large], "large")
    held = large.at + hold
    older = {arrival.request.instance_id for arrival in arrivals if arrival.at < large.at}
    others = {name: at for name, at in stream.placed.items() if name != "large"}
    ends = [stream.ends[name] for name, at in others.items() if at < held or name in older]
    assert stream.placed["large"] <= max([held, *ends])
    assert stream.woken_in_vain == []


@pytest.mark.parametrize("strategy", Strategy)
def test_a_reservation_stays_where_devices_empty_for_it(strategy: Strategy) -> None:
    """Two workers, each with RAM for two small ones. The large one needs both GPUs of one worker."""
    times = (3.0, 4.3, 4.9, 99.6, 101.1, 102.8, 105.7, 107.4, 110.6, 110.7, 114.3, 116.9, 120.6)
    arrivals = [Arrival(at, request(f"small-{index}", 10), 100.0) for index, at in enumerate(times)]
    large = Arrival(5.05, request("large", 10, 4, strategy=strategy, distributed=False), 100.0)
    fleet = fleet_of(*(host(f"w{index}", 24 * GIB, 24 * GIB, ram=2 * GIB) for index in range(2)))
    stream = Stream(fleet, hold_seconds=200.0)
    stream.run([*arrivals, large], "large")
    assert stream.placed["large"] <= large.at + 200.0 + 100.0


# --- who is held off, and who is not ----------------------------------------------------------------------------------

TWO = fleet_of(host("w", 24 * GIB, 24 * GIB), claims=(claim("w", "gpu0", 14),))
LARGE = request("large", 21, 2)
"""It needs both devices of TWO: one is free, and there are 10 GiB on the other."""

SMALL = request("small", 5)


def waiting(one: PlacementRequest, seconds: float, priority: int = 0) -> Waiting:
    return Waiting(request=one, priority=priority, waited_seconds=seconds)


def test_a_reservation_shows_on_both_sides() -> None:
    fits = place(TWO, SMALL)
    assert isinstance(fits, Placement)
    refused = place(TWO, SMALL, (LARGE,))
    assert isinstance(refused, Unplaceable)
    held = [one for one in refused.rejections if one.rule is Rule.RESERVED]
    assert {(one.worker, one.device) for one in held} == {("w", "gpu0"), ("w", "gpu1")}
    assert refused.lacks_room
    waits = place(TWO, LARGE, holds=True)
    assert isinstance(waits, Unplaceable)
    assert set(waits.reserved) == {DeviceName(worker="w", device="gpu0"), DeviceName(worker="w", device="gpu1")}
    younger = place(TWO, LARGE)
    assert isinstance(younger, Unplaceable)
    assert younger.reserved == ()


@pytest.mark.parametrize(
    ("large", "priority", "seconds", "held_off"),
    [
        ((HOLD, 0), 0, HOLD - 1, True),
        ((HOLD - 1, 0), 0, 0.0, False),  # it has not waited long enough
        ((HOLD, 0), 0, HOLD + 1, False),  # the small one is older
        ((HOLD, 0), 1, 0.0, False),  # the small one has the higher priority
        ((HOLD, 1), 0, 0.0, True),
    ],
)
def test_whom_it_holds_off(large: tuple[float, int], priority: int, seconds: float, held_off: bool) -> None:
    waited, of_large = large
    held = holders([waiting(LARGE, waited, of_large)], priority, seconds)
    assert isinstance(place(TWO, SMALL, held), Unplaceable) is held_off
    both = [waiting(LARGE, waited, of_large), waiting(SMALL, seconds, priority)]
    assert (wakeable(TWO, both) == ()) is held_off
    assert wakeable(TWO, both[::-1]) == wakeable(TWO, both)


def test_devices_that_it_could_not_use_stay_free_for_all() -> None:
    """It may not be shared by several workers, and only `a` is large enough."""
    fleet = fleet_of(host("a", 24 * GIB, 24 * GIB), host("b", 24 * GIB), claims=(claim("a", "gpu0", 14),))
    alone = LARGE.model_copy(update={"spec": LARGE.spec.model_copy(update={"distributed": False})})
    outcome = place(fleet, SMALL, (alone,))
    assert isinstance(outcome, Placement)
    assert outcome.worker == "b"


def test_one_that_could_never_fit_holds_nothing() -> None:
    never = request("never", 21, 12)
    assert isinstance(place(TWO, SMALL, (never,)), Placement)
    outcome = place(TWO, never, holds=True)
    assert isinstance(outcome, Unplaceable)
    assert outcome.reserved == ()


def test_those_that_hold_choose_one_after_another() -> None:
    fleet = fleet_of(host("a", 24 * GIB), host("b", 24 * GIB), claims=(claim("a", "gpu0", 10), claim("b", "gpu0", 10)))
    one, two = (request(name, 21) for name in ("one", "two"))
    assert isinstance(place(fleet, SMALL, (one,)), Placement)
    outcome = place(fleet, SMALL, (one, two))
    assert isinstance(outcome, Unplaceable)
    held = [(r.worker, r.device) for r in outcome.rejections if r.rule is Rule.RESERVED]
    assert sorted(held) == [("a", "gpu0"), ("b", "gpu0")]


@pytest.mark.parametrize(
    ("first", "taken"),
    [(waiting(request("one", 10), 700.0), (14, 18)), (waiting(request("one", 10), 5.0, priority=1), (14,))],
)
def test_one_that_is_like_another_before_it_holds_its_own(first: Waiting, taken: tuple[int, ...]) -> None:
    """Both are refused. Of the first, where it has not waited long itself, nothing is held for the second."""
    claims = [claim("w", f"gpu{index}", size) for index, size in enumerate(taken)]
    fleet = fleet_of(host("w", *[24 * GIB] * len(taken)), claims=claims)
    second, last = waiting(request("two", 10), 690.0), waiting(request("last", 2), 100.0)
    held = holders([first, second], 0, 100.0)
    assert isinstance(place(fleet, last.request, held), Unplaceable)
    assert wakeable(fleet, [first, second, last]) == ()


@st.composite
def moments(draw: st.DrawFn) -> tuple[Fleet, list[Waiting]]:
    """Fleets with claims, and instances that wait for room."""
    count = draw(st.integers(1, 3))
    workers = [host(f"w{index}", *[24 * GIB] * draw(st.integers(1, 2))) for index in range(count)]
    claims = [
        claim(worker.name, device.id, draw(st.sampled_from([0, 0, 5, 10, 20])))
        for worker in workers
        for device in worker.devices
    ]
    lines = []
    kinds = draw(
        st.lists(st.sampled_from([(2, 1), (5, 1), (10, 1), (21, 1), (21, 2), (10, 6)]), min_size=1, max_size=3)
    )
    strategy = draw(st.sampled_from(Strategy))
    for index in range(draw(st.integers(1, 6))):
        size, layers = draw(st.sampled_from(kinds))
        one = request(f"i{index}", size, layers, strategy=strategy)
        age = draw(st.sampled_from([100.0, 700.0])) + index
        lines.append(waiting(one, age, draw(st.sampled_from([0, 0, 1]))))
    return fleet_of(*workers, claims=claims), draw(st.permutations(lines))


@settings(max_examples=200, deadline=None)
@given(moments())
def test_those_that_are_woken_fit_and_no_other_does(moment: tuple[Fleet, list[Waiting]]) -> None:
    """Each is placed in its turn, beside what others hold; those that stay asleep would have been refused."""
    fleet, line = moment
    woken = wakeable(fleet, line)
    by_name = {one.request.instance_id: one for one in line}
    left = dict(by_name)
    for name in woken:
        one = left.pop(name)
        held = holders(list(left.values()), one.priority, one.waited_seconds)
        outcome = place(fleet, one.request, held)
        assert isinstance(outcome, Placement), f"{name} was woken in vain"
        fleet = fleet.plus(claims_of(outcome, name, 1))
    for name, one in left.items():
        others = [other for other in left.values() if other is not one]
        held = holders(others, one.priority, one.waited_seconds)
        assert isinstance(place(fleet, one.request, held), Unplaceable), f"{name} would fit"


def test_those_who_can_never_be_placed_hold_nothing_and_keep_nobody_from_holding() -> None:
    """Four wait longest for a device that is not there; the fifth holds the one GPU against a younger one."""
    gpu = make_device(id="gpu0", total=24 * GIB)
    fleet = Fleet.of(Snapshot.of([make_worker(devices=(gpu, make_device(kind=DeviceKind.CPU)))], ()))
    nowhere = make_spec(devices=(("gpu-host-1", "gpu9"),))
    hopeless = [make_request(instance_id=f"hopeless-{number}", spec=nowhere) for number in range(4)]
    elder, young = make_request(instance_id="elder"), make_request(instance_id="young")
    waiting = [Waiting(request=one, waited_seconds=9000.0) for one in hopeless]
    waiting.append(Waiting(request=elder, waited_seconds=7200.0))
    outcome = place(fleet, young, holders(waiting, 0, 0.0))
    assert isinstance(outcome, Unplaceable)
    assert Rule.RESERVED in {one.rule for one in outcome.rejections}
    assert wakeable(fleet, [*waiting, Waiting(request=young)])[0] == "elder"


def test_what_is_given_back_is_not_in_use_any_more() -> None:
    gpu = make_device(id="gpu0", total=24 * GIB, used=17 * GIB)
    worker = make_worker(devices=(gpu, make_device(kind=DeviceKind.CPU)))
    held = Claim(instance_id="a", incarnation=1, worker=worker.name, device="gpu0", size=17 * GIB)
    fleet = Fleet.of(Snapshot.of([worker], [held]))
    assert fleet.hosts[worker.name].gpus[0].free == 7 * GIB
    assert fleet.minus([held]).hosts[worker.name].gpus[0].free == 24 * GIB
