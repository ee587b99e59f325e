"""Which replica a conversation stays with."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from api.openai.affinity import drawn, preferred
from api.openai.router import Replica


def replica(name: str, slots: int = 4) -> Replica:
    return Replica(instance_id=name, host="h", port=80, slots=slots)


PREFIXES = st.integers(1, 2**32 - 1)
NAMES = st.text("abcdefgh", min_size=1, max_size=8)
REPLICAS = st.lists(
    st.builds(replica, NAMES, st.integers(1, 256)), min_size=1, max_size=8, unique_by=lambda r: r.instance_id
)


def test_without_replicas_there_is_none() -> None:
    assert preferred(7, []) is None


def test_the_numbers_are_the_same_in_every_process() -> None:
    """Literals: a change of them would move every conversation at every update."""
    assert [round(drawn(prefix, name), 9) for prefix, name in ((1, "a"), (2, "a"), (1, "b"))] == [
        0.09683768,
        0.820315203,
        0.695648597,
    ]


@given(PREFIXES, REPLICAS)
def test_the_order_of_replicas_does_not_matter(prefix: int, replicas: list[Replica]) -> None:
    assert preferred(prefix, list(reversed(replicas))) == preferred(prefix, replicas)
    assert preferred(prefix, sorted(replicas, key=lambda r: r.instance_id)) == preferred(prefix, replicas)


@given(PREFIXES, REPLICAS, st.data())
def test_removing_a_replica_moves_its_own_conversations_only(
    prefix: int, replicas: list[Replica], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(replicas))
    before = preferred(prefix, replicas)
    after = preferred(prefix, [one for one in replicas if one is not gone])
    assert after == before or before is gone


@given(PREFIXES, REPLICAS, NAMES, st.integers(1, 256))
def test_a_replica_more_takes_conversations_for_itself_only(
    prefix: int, replicas: list[Replica], name: str, slots: int
) -> None:
    more = replica(f"new-{name}", slots)
    assert preferred(prefix, [*replicas, more]) in (preferred(prefix, replicas), more)


@given(PREFIXES, NAMES)
def test_what_is_drawn_lies_between_0_and_1(prefix: int, name: str) -> None:
    assert 0 < drawn(prefix, name) < 1


def test_conversations_spread_evenly_by_slots() -> None:
    """20,000 conversations: a standard deviation of a share of a half is 0.35 %."""
    replicas = [replica("llama-a1b2c", 4), replica("llama-a1b2d", 4), replica("llama-a1b2e", 8)]
    found = Counter[str]()
    for prefix in range(1, 20_001):
        chosen = preferred(prefix, replicas)
        assert chosen is not None
        found[chosen.instance_id] += 1
    shares = [found[one.instance_id] / 20_000 for one in replicas]
    assert all(abs(share - wanted) < 0.015 for share, wanted in zip(shares, (0.25, 0.25, 0.5), strict=True)), shares
