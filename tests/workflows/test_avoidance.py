"""Which workers the next incarnation keeps away from."""

import pytest

from activities.types import ProcessEnd
from stoker.domain.placement.types import Placement
from tests.builders import make_files, make_profile, make_spec
from tests.workflows.group_hosts import placed_on
from workflows import options
from workflows.avoidance import avoided_after, avoided_now
from workflows.types import InstanceInput

NOW = 1000.0
WHILE = options.AVOID_FAILED.total_seconds()
GROUP = placed_on("w1", "w2", "w3")


def make_input(avoid: tuple[str, ...] = (), until: dict[str, float] | None = None) -> InstanceInput:
    return InstanceInput(
        instance_id="big-0",
        generation=1,
        spec=make_spec(),
        profile=make_profile(),
        files=make_files(),
        avoid=avoid,
        avoid_until=until or {},
    )


@pytest.mark.parametrize(
    ("avoid", "until", "now"),
    [
        ((), {}, ()),
        (("w1",), {}, ("w1",)),  # of a single host: for one incarnation, however long it takes
        (("w1", "w2"), {"w2": NOW + 1}, ("w1", "w2")),
        (("w1", "w2"), {"w2": NOW}, ("w1",)),
    ],
)
def test_who_is_avoided_still(avoid: tuple[str, ...], until: dict[str, float], now: tuple[str, ...]) -> None:
    assert avoided_now(make_input(avoid, until), NOW) == now


@pytest.mark.parametrize(
    ("until", "placement", "guilty", "avoid", "then"),
    [
        ({}, None, "", (), {}),
        ({}, placed_on("w1"), "", ("w1",), {}),
        ({}, GROUP, "", (), {}),  # nobody's fault that is known
        ({}, GROUP, "w2", ("w2",), {"w2": NOW + WHILE}),
        ({"w2": NOW + 9}, GROUP, "w3", ("w2", "w3"), {"w2": NOW + 9, "w3": NOW + WHILE}),
        ({"w2": NOW + 9}, GROUP, "w2", ("w2",), {"w2": NOW + WHILE}),
        ({"w2": NOW - 9}, GROUP, "w3", ("w3",), {"w3": NOW + WHILE}),
        ({"w2": NOW + 9}, placed_on("w1"), "w1", ("w1", "w2"), {"w2": NOW + 9}),
    ],
)
def test_who_is_avoided_next(
    until: dict[str, float], placement: Placement | None, guilty: str, avoid: tuple[str, ...], then: dict[str, float]
) -> None:
    after = avoided_after(make_input(tuple(until), until), placement, ProcessEnd(cause="x", worker=guilty), NOW)
    assert after == {"avoid": avoid, "avoid_until": then}
