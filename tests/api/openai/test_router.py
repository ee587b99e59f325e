"""Which replica is chosen, and for how long a failing one is passed over."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.exchange import Address
from api.openai.router import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, Replica, Strike, choose, strike


def replica(name: str, slots: int = 4) -> Replica:
    return Replica(instance_id=name, host=name, port=80, slots=slots)


A, B, C = replica("a"), replica("b"), replica("c", slots=8)


@pytest.mark.parametrize(
    ("replicas", "in_flight", "excluded", "unhealthy", "chosen"),
    [
        ([], {}, [], [], None),
        ([A], {}, [], [], A),
        ([A, B], {}, [], [], A),  # the first of equals
        ([A, B], {A: 1}, [], [], B),
        ([A, B], {A: 1, B: 2}, [], [], A),
        ([A, C], {}, [], [], C),  # (0+1)/8 < (0+1)/4
        ([A, C], {C: 1}, [], [], C),  # 2/8 = 1/4: the one with more slots
        ([A, C], {C: 2}, [], [], A),
        ([A, B], {}, [A], [], B),
        ([A, B], {B: 9}, [A], [], B),
        ([A, B], {}, [A, B], [], None),
        ([A, B], {}, [], [A], B),
        ([A, B], {B: 9}, [], [A], B),
        ([A, B], {}, [], [A, B], A),  # no other is left
        ([A, B], {}, [B], [A], A),
    ],
)
def test_choose(
    replicas: list[Replica],
    in_flight: dict[Replica, int],
    excluded: list[Replica],
    unhealthy: list[Replica],
    chosen: Replica | None,
) -> None:
    counts = {replica.address: count for replica, count in in_flight.items()}
    assert choose(replicas, counts, [r.address for r in excluded], [r.address for r in unhealthy]) == chosen


ADDRESSES = [("h", port) for port in range(8)]
REPLICAS = st.lists(
    st.builds(
        lambda port, slots: Replica(instance_id=str(port), host="h", port=port, slots=slots),
        st.integers(0, 7),
        st.integers(1, 16),
    ),
    unique_by=lambda replica: replica.port,
)
SOME = st.sets(st.sampled_from(ADDRESSES))


@given(REPLICAS, st.dictionaries(st.sampled_from(ADDRESSES), st.integers(0, 50)), SOME, SOME)
def test_what_choose_never_does(
    replicas: list[Replica], in_flight: dict[Address, int], excluded: set[Address], unhealthy: set[Address]
) -> None:
    chosen = choose(replicas, in_flight, excluded, unhealthy)
    allowed = [replica for replica in replicas if replica.address not in excluded]
    assert (chosen is None) == (not allowed)
    if chosen is None:
        return
    assert chosen in allowed
    healthy = [replica for replica in allowed if replica.address not in unhealthy]
    assert chosen in healthy or not healthy

    def load(replica: Replica) -> float:
        return (in_flight.get(replica.address, 0) + 1) / replica.slots

    assert load(chosen) == min(map(load, healthy or allowed))


def test_the_pause_doubles_up_to_its_limit_and_ends_by_itself() -> None:
    known, now, pauses = None, 100.0, []
    for _ in range(9):
        known = strike(known, now)
        pauses.append(known.retry_at - now)
        assert known.is_out(math.nextafter(known.retry_at, 0), in_flight=0)
        assert not known.is_out(known.retry_at, in_flight=0)
        now = known.retry_at
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS) == (0.5, 30)


def test_failures_while_it_is_out_do_not_lengthen_the_pause() -> None:
    first = strike(None, 10.0)
    assert strike(first, 10.4) is first
    assert strike(first, 10.5) == Strike(count=2, retry_at=11.5)


def test_one_request_at_a_time_tries_an_engine_that_failed() -> None:
    known = strike(None, 10.0)
    assert not known.is_out(11.0, in_flight=0)
    assert known.is_out(11.0, in_flight=1)


def test_a_pause_stays_finite_however_often_it_failed() -> None:
    assert strike(Strike(count=10**6, retry_at=0.0), 1.0).retry_at == 1.0 + MAX_BACKOFF_SECONDS


def test_the_engines_key_does_not_show() -> None:
    assert "secret" not in repr(Replica(instance_id="i", host="h", port=1, api_key="secret"))
