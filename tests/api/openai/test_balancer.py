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


def test_a_conversation_keeps_its_engine_and_goes_to_one_other_while_that_is_out() -> None:
    clock = Clock()
    balancer = Balancer(clock)
    more = [A, B, *(Replica(instance_id=name, host=name, port=80, slots=2) for name in "cdefgh")]
    first = balancer.acquire(more, prefix=12345)
    assert first is not None
    balancer.release(first)
    assert [balancer.acquire(more, prefix=12345) for _ in range(2)] == [first, first]
    assert balancer.acquire(more, prefix=12345) != first, "all its slots are taken, and others are free"
    balancer.release(first)
    balancer.failed(first)
    second = balancer.acquire(more, prefix=12345)
    assert second is not None
    assert second == balancer.acquire([one for one in more if one != first], prefix=12345), "the next in its order"


def test_prompts_count_while_they_are_in_flight() -> None:
    balancer = Balancer(Clock())
    assert balancer.acquire([A, B], prompt_bytes=100_000) == A
    assert [balancer.acquire([A, B]) for _ in range(3)] == [B, B, A], "B has no free slot after its second"
    balancer.release(A, 100_000)
    balancer.release(A)
    assert balancer.acquire([A, B]) == A


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


def test_what_is_gone_is_counted_until_its_last_request_is_over() -> None:
    balancer = Balancer(Clock())
    taken = balancer.acquire([A])
    assert taken == A
    balancer.forget_all_but(())
    assert balancer.in_flight(A.address) == 1
    balancer.release(A)
    balancer.forget_all_but(())
    assert balancer.in_flight(A.address) == 0


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


def test_a_failed_engine_is_tried_again_though_others_of_its_requests_go_on() -> None:
    """Streams last for minutes: to wait for their end would keep an engine out that failed once."""
    clock = Clock()
    balancer = Balancer(clock)
    assert balancer.acquire([A]) == A  # the stream
    assert balancer.acquire([A]) == A
    balancer.failed(A)
    balancer.release(A)
    assert balancer.acquire([A, B]) == B
    clock.now += 0.5
    asked = [balancer.acquire([A, B]) for _ in range(2)]
    assert asked == [A, B], "one tries it"
    balancer.release(A)  # its client has gone: nothing is known
    assert not balancer.is_out(A.address)
