"""Load and health of engines over time."""

from hypothesis import given
from hypothesis import strategies as st

from api.openai.balancer import Balancer
from api.openai.router import Replica

A, B = (Replica(instance_id=name, host=name, port=80, slots=2) for name in "ab")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_spread_and_are_given_back() -> None:
    balancer = Balancer(Clock())
    taken = [balancer.acquire([A, B]) for _ in range(4)]
    assert taken == [A, B, A, B]
    assert (balancer.in_flight(A.address), balancer.in_flight(B.address)) == (2, 2)
    for replica in (A, A, B, B):
        balancer.release(replica)
    assert (balancer.in_flight(A.address), balancer.in_flight(B.address)) == (0, 0)


def test_a_failed_engine_is_out_at_once_and_tried_by_one_request_after_its_pause() -> None:
    clock = Clock()
    balancer = Balancer(clock)
    balancer.failed(A)
    assert balancer.is_out(A.address)
    assert [balancer.acquire([A, B]) for _ in range(3)] == [B, B, B]
    clock.now += 0.5
    assert [balancer.acquire([A, B]) for _ in range(3)] == [A, B, B]  # A has its one trial
    balancer.succeeded(A)
    assert not balancer.is_out(A.address)
    assert balancer.acquire([A, B]) == A


def test_an_engine_that_fails_its_trial_is_out_for_longer() -> None:
    clock = Clock()
    balancer = Balancer(clock)
    balancer.failed(A)
    clock.now += 0.5
    trial = balancer.acquire([A, B])
    assert trial == A
    balancer.failed(A)
    balancer.release(A)
    clock.now += 0.9
    assert balancer.acquire([A, B]) == B
    clock.now += 0.1
    assert balancer.acquire([A, B]) == A


def test_the_last_engine_is_asked_even_while_it_is_out() -> None:
    balancer = Balancer(Clock())
    balancer.failed(A)
    assert balancer.acquire([A]) == A
    assert balancer.acquire([A, B], excluded={B.address}) == A


def test_nothing_is_counted_when_none_is_left() -> None:
    balancer = Balancer(Clock())
    assert balancer.acquire([A], excluded={A.address}) is None
    assert balancer.in_flight(A.address) == 0


def test_what_is_gone_is_forgotten() -> None:
    balancer = Balancer(Clock())
    balancer.failed(A)
    balancer.failed(B)
    balancer.forget_all_but({B.address})
    assert not balancer.is_out(A.address)
    assert balancer.is_out(B.address)


@given(st.lists(st.booleans(), max_size=60))
def test_the_count_is_what_was_taken_and_not_given_back(steps: list[bool]) -> None:
    balancer, held = Balancer(Clock()), list[Replica]()
    for take in steps:
        if take or not held:
            replica = balancer.acquire([A, B])
            assert replica is not None
            held.append(replica)
        else:
            balancer.release(held.pop())
        for replica in (A, B):
            assert balancer.in_flight(replica.address) == held.count(replica)
        assert abs(held.count(A) - held.count(B)) <= len(steps)
