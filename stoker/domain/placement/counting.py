"""Which workers hold the most layers together, if only how many each device holds at most counted.

An upper bound for every team of so many workers and devices, found by dynamic programming over the workers. Where
layers are alike, as in most models, it is what they really hold: the team that it names is then the smallest there is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.members import Member

MOST_COUNTED = 128
"""Workers that are counted: those that hold the most, together and on one device."""


class _Part(NamedTuple):
    """What was chosen so far: the last member, whether as the main server's, and what was chosen before it."""

    layers: int
    member: Member | None = None
    is_main: bool = False
    before: "_Part | None" = None


def teams_by_count(
    mains: Sequence[Member], peers: Sequence[Member], size: int, layers: int, *, main_lends: bool
) -> Iterator[tuple[Member, tuple[Member, ...]]]:
    """A main and its peers, `size` together, that may hold so many `layers`: with ever more devices, fewest first."""
    in_role = {main.host.name: main for main in mains}
    best: dict[tuple[int, int, bool], _Part] = {(0, 0, False): _Part(0)}  # by workers, devices, and with a main
    alike: Counter[object] = Counter()
    for peer in _counted(mains, peers):
        main = in_role.get(peer.host.name)
        kind = _layers(peer), _layers(main) if main is not None else None
        alike[kind] += 1
        if alike[kind] > size:  # in any team one of those before it can take its place
            continue
        steps = [(count, held, False) for count, held in _held(peer)]
        if main is not None:
            steps += [(count, held, True) for count, held in (*_held(main), *(((0, 0),) if not main_lends else ()))]
        for (workers, devices, has_main), part in list(best.items()):
            if workers == size:
                continue
            for count, held, as_main in steps:
                if devices + count > MAX_DEVICES or (as_main and has_main):
                    continue
                key = workers + 1, devices + count, has_main or as_main
                if (known := best.get(key)) is None or known.layers < part.layers + held:
                    member = main if as_main else peer
                    best[key] = _Part(part.layers + held, member, as_main, part)
    for devices in range(1, MAX_DEVICES + 1):
        found = best.get((size, devices, True))
        if found is not None and found.layers >= layers:
            yield _members(found)


def _counted(mains: Sequence[Member], peers: Sequence[Member]) -> list[Member]:
    """Each worker once, as a peer where it can be one."""
    known = {member.host.name: member for member in (*mains, *peers)}
    members = list(known.values())
    if len(members) <= MOST_COUNTED:
        return members
    by_sum = sorted(members, key=lambda one: -one.most)[: MOST_COUNTED // 2]
    by_device = sorted(members, key=lambda one: tuple(-layers for layers, _ in one.sized))[: MOST_COUNTED // 4]
    able = sorted(mains, key=lambda one: -one.most)[: MOST_COUNTED // 4]
    return list({one.host.name: known[one.host.name] for one in (*by_sum, *by_device, *able)}.values())


def _layers(member: Member) -> tuple[int, ...]:
    """How many each of its devices holds at most."""
    return tuple([layers for layers, _ in member.sized])


def _held(member: Member) -> list[tuple[int, int]]:
    """How many layers so many of its devices hold at most, for each number of devices."""
    return list(enumerate(accumulate(layers for layers, _ in member.sized), 1))


def _members(part: _Part) -> tuple[Member, tuple[Member, ...]]:
    chosen: list[Member] = []
    main: Member | None = None
    step: _Part | None = part
    while step is not None and step.member is not None:
        if step.is_main:
            main = step.member
        else:
            chosen.append(step.member)
        step = step.before
    assert main is not None  # noqa: S101  only parts with a main are asked for
    return main, tuple(chosen)
