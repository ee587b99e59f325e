"""Which replica is chosen, and for how long a failing one is passed over."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.exchange import Address
from api.openai.router import (
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    PATIENCE,
    Replica,
    Strike,
    Work,
    choose,
    load_of,
    strike,
)


def replica(name: str, slots: int = 4) -> Replica:
    return Replica(instance_id=name, host=name, port=80, slots=slots)


A, B, C = replica("a"), replica("b"), replica("c", slots=8)


@pytest.mark.parametrize(
    ("replicas", "in_flight", "chosen"),
    [
        ([], {}, None),
        ([A], {}, A),
        ([A], {A: 99}, A),
        ([A, B], {}, A),  # the first of equals
        ([A, B], {A: 1}, B),
        ([A, B], {A: 1, B: 2}, A),
        ([A, C], {}, C),  # (0+1)/8 < (0+1)/4
        ([A, C], {C: 1}, C),  # 2/8 = 1/4: the one with more slots
        ([A, C], {C: 2}, A),
        ([A, C], {A: 4, C: 7}, C),  # A has no free slot
        ([A, C], {A: 4, C: 8}, C),  # no slot is free: 9/8 < 5/4
        ([A, C], {A: 5, C: 12}, A),  # 6/4 < 13/8
    ],
)
def test_choose(replicas: list[Replica], in_flight: dict[Replica, int], chosen: Replica | None) -> None:
    work = {replica.address: Work(count) for replica, count in in_flight.items()}
    assert choose(replicas, work) == chosen


KIB = 1024


@pytest.mark.parametrize(
    ("work", "prompt_bytes", "chosen"),
    [
        ({A: Work(1, 64 * KIB), B: Work(2, 1 * KIB)}, 0, B),  # (1+1+4)/4 > (2+1+1/16)/4
        ({A: Work(1, 16 * KIB), B: Work(3, 0)}, 0, A),  # (1+1+1)/4 < (3+1)/4
        ({A: Work(4, 0), B: Work(3, 900 * KIB)}, 0, B),  # a free slot comes first
        ({A: Work(0, 0), C: Work(0, 0)}, 64 * KIB, C),  # a long prompt: its weight is by slots too
    ],
)
def test_long_prompts_weigh_more(work: dict[Replica, Work], prompt_bytes: int, chosen: Replica) -> None:
    counted = {replica.address: each for replica, each in work.items()}
    assert choose(list(work), counted, prompt_bytes=prompt_bytes) == chosen


@pytest.mark.parametrize(
    ("in_flight", "chosen"),
    [
        ({}, B),
        ({B: 3}, B),  # it has a free slot, though A has no work at all
        ({B: 4}, A),  # it has none, and A has
        ({A: 3, B: 9}, A),
        ({A: 4, B: 4}, B),  # none has
        ({A: 4, B: 8}, B),  # (8+1)/4 - (4+1)/4 = 1: so long it waits
        ({A: 4, B: 9}, A),
    ],
)
def test_a_conversation_stays_with_its_own_replica_while_that_is_not_overloaded(
    in_flight: dict[Replica, int], chosen: Replica
) -> None:
    work = {replica.address: Work(count) for replica, count in in_flight.items()}
    assert choose([A, B], work, own=B) == chosen


def test_other_processes_are_taken_to_have_given_as_much() -> None:
    work = {B.address: Work(2)}
    assert choose([A, B], work, own=B) == B
    assert choose([A, B], work, own=B, processes=2) == A, "4 of its 4 slots are taken, about"
    assert load_of(B, Work(2, 16 * KIB), 16 * KIB, processes=3) == (2 * 3 + 1 + 3 + 1) / 4


ADDRESSES = [("h", port) for port in range(8)]
REPLICAS = st.lists(
    st.builds(
        lambda port, slots: Replica(instance_id=str(port), host="h", port=port, slots=slots),
        st.integers(0, 7),
        st.integers(1, 16),
    ),
    unique_by=lambda replica: replica.port,
)
WORK = st.dictionaries(
    st.sampled_from(ADDRESSES), st.builds(Work, st.integers(0, 50), st.integers(0, 1_000_000)), max_size=8
)


@given(REPLICAS, WORK, st.integers(0, 100_000), st.data())
def test_what_choose_never_does(
    replicas: list[Replica], work: dict[Address, Work], prompt_bytes: int, data: st.DataObject
) -> None:
    own = data.draw(st.none() | st.sampled_from(replicas)) if replicas else None
    chosen = choose(replicas, work, own=own, prompt_bytes=prompt_bytes)
    assert (chosen is None) == (not replicas)
    if chosen is None:
        return

    def free(replica: Replica) -> bool:
        return work.get(replica.address, Work()).requests < replica.slots

    def load(replica: Replica) -> float:
        return load_of(replica, work.get(replica.address, Work()), prompt_bytes)

    assert chosen in replicas
    assert free(chosen) or not any(map(free, replicas)), "nobody waits while a slot is free elsewhere"
    if own is None:
        assert load(chosen) == min(load(replica) for replica in replicas if free(replica) == free(chosen))
    elif free(own):
        assert chosen is own
    else:
        assert load(chosen) <= min(map(load, replicas)) + PATIENCE or free(chosen)


def test_the_pause_doubles_up_to_its_limit_and_ends_by_itself() -> None:
    known, now, pauses = None, 100.0, []
    for _ in range(9):
        known = strike(known, now)
        pauses.append(known.retry_at - now)
        assert known.is_out(math.nextafter(known.retry_at, 0), tried=False)
        assert not known.is_out(known.retry_at, tried=False)
        now = known.retry_at
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS) == (0.5, 30)


def test_failures_while_it_is_out_do_not_lengthen_the_pause() -> None:
    first = strike(None, 10.0)
    assert strike(first, 10.4) is first
    assert strike(first, 10.5) == Strike(count=2, retry_at=11.5)


def test_one_request_at_a_time_tries_an_engine_that_failed() -> None:
    known = strike(None, 10.0)
    assert not known.is_out(11.0, tried=False)
    assert known.is_out(11.0, tried=True)


def test_a_pause_stays_finite_however_often_it_failed() -> None:
    assert strike(Strike(count=10**6, retry_at=0.0), 1.0).retry_at == 1.0 + MAX_BACKOFF_SECONDS


def test_the_engines_key_does_not_show() -> None:
    assert "secret" not in repr(Replica(instance_id="i", host="h", port=1, api_key="secret"))
