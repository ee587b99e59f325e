"""Snapshots: what is claimed, and what that leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.claims import Claim, Snapshot
from tests.builders import make_device, make_worker


def claim(size: int, *, worker: str = "w1", device: str = "gpu0", instance_id: str = "a") -> Claim:
    return Claim(instance_id=instance_id, incarnation=1, worker=worker, device=device, size=size)


@pytest.mark.parametrize(
    ("total", "reserve", "used", "claimed", "left"),
    [
        (100, 0, 0, 0, 100),
        (100, 10, 0, 0, 90),
        (100, 10, 0, 40, 50),  # claimed and not in use yet
        (100, 10, 60, 40, 30),  # somebody else is there too
        (100, 10, 95, 0, 0),  # never below nothing
        (100, 0, 0, 120, 0),
    ],
)
def test_allocatable(total: int, reserve: int, used: int, claimed: int, left: int) -> None:
    device = make_device(id="gpu0", total=total, reserve=reserve, used=used)
    worker = make_worker(name="w1", devices=(device,))
    assert Snapshot.of([worker], [claim(claimed)]).allocatable(worker, device) == left


def test_claims_are_summed_by_device_and_worker() -> None:
    worker = make_worker(name="w1", devices=(make_device(id="gpu0"), make_device(id="gpu1")))
    claims = [claim(1), claim(2, instance_id="b"), claim(4, device="gpu1"), claim(8, worker="w2")]
    snapshot = Snapshot.of([worker], claims)
    assert [snapshot.claimed_on(worker, device) for device in worker.devices] == [3, 4]


@given(st.lists(st.tuples(st.sampled_from(["gpu0", "gpu1"]), st.integers(0, 1000)), max_size=20))
def test_adding_later_is_the_same_as_at_once(sizes: list[tuple[str, int]]) -> None:
    worker = make_worker(name="w1", devices=(make_device(id="gpu0"), make_device(id="gpu1")))
    claims = [claim(size, device=device) for device, size in sizes]
    later = Snapshot.of([worker], []).plus(claims)
    at_once = Snapshot.of([worker], claims)
    for device in worker.devices:
        assert later.claimed_on(worker, device) == at_once.claimed_on(worker, device)
