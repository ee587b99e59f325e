"""How many replicas demand asks for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import DeploymentSpec, EngineOptions
from stoker.domain.scaling import (
    SILENT_SECONDS,
    Demand,
    Hearings,
    Outlook,
    Told,
    heard,
    is_autoscaled,
    looked,
    needed,
    reason,
    replica_bounds,
    target,
    wanted_replicas,
)
from tests.builders import make_spec


def spec(**fields: Any) -> DeploymentSpec:
    """Scaled between none and four, ten seconds after less sufficed, two slots each."""
    given = {"min_replicas": 0, "max_replicas": 4, "idle_timeout": 10, "options": EngineOptions(slots=2)} | fields
    return make_spec(**given)


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({"min_replicas": 0}, (0, 1)),
        ({"min_replicas": 0, "replicas": 3}, (0, 3)),
        ({"min_replicas": 2}, (2, 2)),
        ({"min_replicas": 0, "replicas": 0}, (0, 1)),
        ({"max_replicas": 5}, (1, 5)),
        ({"max_replicas": 2, "replicas": 5}, (2, 2)),
        ({"max_replicas": 2, "replicas": 0}, (0, 2)),
        ({"min_replicas": 1, "max_replicas": 3, "replicas": 7}, (1, 3)),
    ],
)
def test_what_is_not_given_follows_the_replicas(fields: dict[str, Any], bounds: tuple[int, int]) -> None:
    found = make_spec(**fields)
    assert is_autoscaled(found)
    assert replica_bounds(found) == bounds


@pytest.mark.parametrize(
    ("fields", "scaled", "wanted"),
    [
        ({"replicas": 3}, 7, 3),  # demand has no say
        ({"replicas": 3, "min_replicas": 0, "max_replicas": 5}, None, 3),
        ({"replicas": 3, "min_replicas": 0, "max_replicas": 5}, 0, 0),
        ({"replicas": 3, "min_replicas": 0, "max_replicas": 5}, 9, 5),
        ({"replicas": 9, "min_replicas": 1, "max_replicas": 5}, None, 5),
        ({"replicas": 0, "min_replicas": 1}, None, 1),
    ],
)
def test_so_many_are_wanted(fields: dict[str, Any], scaled: int | None, wanted: int) -> None:
    assert wanted_replicas(make_spec(**fields), scaled) == wanted


def test_a_least_above_the_most_is_refused() -> None:
    with pytest.raises(ValueError, match="max_replicas: it is 2 and min_replicas is 3: make it 3 or more"):
        make_spec(min_replicas=3, max_replicas=2)


@pytest.mark.parametrize(
    ("demand", "slots", "replicas"),
    [
        (Demand(), 4, 0),
        (Demand(asked=True), 4, 1),
        (Demand(busy=1), 4, 1),
        (Demand(busy=4), 4, 1),
        (Demand(busy=5), 4, 2),
        (Demand(busy=100), 1, 100),
    ],
)
def test_requests_fill_slots(demand: Demand, slots: int, replicas: int) -> None:
    assert needed(demand, slots) == replicas


Look = tuple[float, int, Demand]
"""When, the count found, and what was asked."""

NONE = Demand()
COME_AND_GONE = Demand(asked=True)
STARTING = Demand(starting=True)


def after(looks: list[Look], wanted: DeploymentSpec) -> int:
    """The target after those looks."""
    outlook: Outlook | None = None
    for now, count, demand in looks:
        outlook = looked(outlook, wanted, count, demand, now)
    assert outlook is not None
    return target(outlook, wanted)


@pytest.mark.parametrize(
    ("looks", "replicas"),
    [
        ([(0, 0, NONE)], 0),
        ([(0, 0, Demand(busy=1))], 1),
        ([(0, 0, Demand(busy=7))], 4),
        ([(0, 0, Demand(busy=99))], 4),  # the most
        ([(0, 1, NONE)], 1),  # whoever begins to look lowers nothing
        ([(0, 1, NONE), (9.9, 1, NONE)], 1),
        ([(0, 1, NONE), (10, 1, NONE)], 0),
        ([(0, 1, NONE), (5, 1, COME_AND_GONE), (10, 1, NONE)], 1),
        ([(0, 1, NONE), (5, 1, COME_AND_GONE), (15, 1, NONE)], 0),
        ([(0, 1, NONE), (30, 1, Demand(busy=1))], 1),
        ([(0, 3, NONE), (5, 3, Demand(busy=3)), (10, 3, NONE)], 2),  # two have sufficed
        ([(0, 3, NONE), (5, 3, Demand(busy=3)), (10, 3, NONE), (15, 2, NONE)], 0),  # and for as long, none
        ([(0, 1, NONE), (8, 3, NONE), (12, 3, NONE)], 3),  # somebody else saw what needs three
        ([(0, 3, NONE), (8, 1, NONE)], 1),  # or that one has sufficed
        ([(0, 1, NONE), (12, 1, STARTING)], 1),  # nobody can have used it
        ([(0, 1, NONE), (12, 1, STARTING), (21, 1, NONE)], 1),
        ([(0, 1, NONE), (12, 1, STARTING), (22, 1, NONE)], 0),
        ([(0, 9, NONE)], 4),  # the most was lowered
    ],
)
def test_up_at_once_and_down_when_fewer_have_sufficed(looks: list[Look], replicas: int) -> None:
    assert after(looks, spec()) == replicas


def test_never_fewer_than_the_least() -> None:
    assert after([(0, 3, NONE), (100, 3, NONE)], spec(min_replicas=2)) == 2
    assert after([(0, 0, NONE)], spec(min_replicas=2)) == 2, "also when the least was raised"


DEMANDS = st.builds(Demand, st.integers(0, 12), st.booleans(), st.booleans())
TIMES = st.lists(st.tuples(st.floats(0.1, 8), DEMANDS), min_size=1, max_size=40)


@given(TIMES, st.integers(0, 4))
def test_one_looker_alone_never_takes_what_was_needed_within_the_time(
    steps: list[tuple[float, Demand]], begin: int
) -> None:
    wanted, now, count, outlook = spec(), 0.0, begin, None
    history: list[tuple[float, int]] = []
    for pause, demand in steps:
        now += pause
        outlook = looked(outlook, wanted, count, demand, now)
        history.append((now, needed(demand, 2)))
        found = target(outlook, wanted)
        within = max(need for at, need in history if at > now - 10)
        assert min(within, 4) <= found <= 4
        if found < count:
            assert now - history[0][0] >= 10, "it has looked for long enough"
        assert [peak.replicas for peak in outlook.peaks] == sorted((p.replicas for p in outlook.peaks), reverse=True)
        count = found


@given(TIMES, st.booleans())
def test_two_lookers_that_see_the_same_do_not_pull_against_each_other(
    steps: list[tuple[float, Demand]], late: bool
) -> None:
    """Whatever one decides, the other one does not undo in the same moment."""
    wanted, now, count = spec(), 0.0, 1
    outlooks: list[Outlook | None] = [None, None]
    for number, (pause, demand) in enumerate(steps):
        now += pause
        for looker in range(2):
            if looker == 1 and late and number < len(steps) // 2:
                continue  # it began later
            outlooks[looker] = found = looked(outlooks[looker], wanted, count, demand, now)
            before, count = count, target(found, wanted)
            if looker == 1 and not demand.starting:
                assert count <= max(before, needed(demand, 2)), "a rise comes from what is asked now, not from memory"


def told(process: str = "p", deployment: str = "m", **fields: int) -> Told:
    """What a process tells."""
    return Told(process, deployment, **({"busy": 0, "asked": 0, "beat": 1} | fields))


def test_what_processes_tell_is_added_up() -> None:
    rows = [told(busy=2, asked=5), told("q", busy=3, asked=3), told("q", "other", asked=1), told("r", "quiet")]
    known, demands = heard({}, rows, ["new"], 0.0)
    assert demands == {
        "m": Demand(busy=5, asked=True),
        "other": Demand(busy=0, asked=True),
        "quiet": Demand(),
        "new": Demand(starting=True),
    }
    _, demands = heard(known, [told(busy=2, asked=5), told("q", busy=1, asked=4, beat=2)], [], 2.0)
    assert demands == {"m": Demand(busy=3, asked=True)}, "one more has come and gone"
    _, demands = heard(known, [told(busy=2, asked=5), told("q", busy=3, asked=3)], [], 2.0)
    assert demands == {"m": Demand(busy=5, asked=False)}


def test_what_the_first_look_finds_counts_once_it_is_told_again() -> None:
    rows = [told(busy=2, asked=5), told("q", "idle", asked=3)]
    known, demands = heard(None, rows, ["idle"], 0.0)
    assert demands == {"m": Demand(), "idle": Demand(starting=True)}
    known, demands = heard(known, rows, [], 2.0)
    assert demands == {"m": Demand(), "idle": Demand()}
    known, demands = heard(known, [told(busy=2, asked=5, beat=2), told("q", "idle", asked=4, beat=2)], [], 4.0)
    assert demands == {"m": Demand(busy=2), "idle": Demand(asked=True)}
    _, demands = heard(known, [told("r", asked=1)], [], 6.0)
    assert demands == {"m": Demand(asked=True)}, "who is new since then counts at once"


def test_a_silent_process_has_nothing_in_work() -> None:
    known: Hearings
    known, _ = heard({}, [told(busy=2, asked=2)], [], 0.0)
    _, demands = heard(known, [told(busy=2, asked=2)], [], SILENT_SECONDS - 1)
    assert demands["m"].busy == 2
    _, demands = heard(known, [told(busy=2, asked=2)], [], SILENT_SECONDS)
    assert demands["m"].busy == 0
    _, demands = heard(known, [told(busy=2, asked=2, beat=2)], [], SILENT_SECONDS)
    assert demands["m"].busy == 2, "it was heard again"


@pytest.mark.parametrize(
    ("count", "wanted", "demand", "why"),
    [
        (0, 2, Demand(busy=3), "requests in work and waiting: 3; slots of a replica: 2"),
        (3, 2, NONE, "2 would have sufficed for 10 s"),
        (1, 0, NONE, "nothing was asked for 10 s"),
        (7, 4, NONE, "0 to 4 replicas are allowed"),
        (1, 1, Demand(busy=3), "requests in work and waiting: 3; not one of its replicas is there"),
    ],
)
def test_the_reason_is_said(count: int, wanted: int, demand: Demand, why: str) -> None:
    assert reason(count, wanted, demand, spec()) == why
