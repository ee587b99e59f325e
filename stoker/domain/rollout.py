"""What a deployment starts and stops next: a level-triggered decision from what is wanted and what is there."""

from collections.abc import Iterable
from enum import StrEnum

from stoker.domain.base import InstanceId, Value


class ReplicaPhase(StrEnum):
    """An instance as its deployment sees it."""

    STARTING = "starting"
    PENDING = "pending"  # waits for room
    RUNNING = "running"
    FAILED = "failed"  # will not run as it is
    STOPPING = "stopping"


class Replica(Value):
    """One instance of a deployment. A deployment's replicas are kept oldest first."""

    instance_id: InstanceId
    generation: int
    phase: ReplicaPhase = ReplicaPhase.STARTING
    leaving: bool = False  # its worker is to be free of it: another of the same generation takes its place
    failures: int = 0  # ends in a row that nobody asked for
    trouble: str = ""  # for people: why it ended last


class Plan(Value):
    """How many instances of the current generation to start, and which to stop. Empty: nothing to do now."""

    start: int = 0
    stop: tuple[InstanceId, ...] = ()
    makes_room: bool = False  # whether the one that is to stop does so before its successor runs


_LEAST_USEFUL_FIRST = (ReplicaPhase.FAILED, ReplicaPhase.PENDING, ReplicaPhase.STARTING, ReplicaPhase.RUNNING)


def plan(wanted: int, generation: int, replicas: Iterable[Replica]) -> Plan:
    """The next step towards `wanted` instances of `generation`.

    1. More of the current generation than wanted: the least useful go, the youngest first.
    2. Old ones that do not run go at once: they help nobody.
    3. One more than wanted may be there while a roll lasts (surge); while a new one waits for room, none is added.
    4. An old one that runs goes for each new one that runs, so that never fewer run than are wanted …
    5. … except where there is no room for the surge: then one old one makes room, one at a time. An instance is
       `pending` here only where that helps: see `Unplaceable.asks_for_room`.

    One that leaves its worker is replaced as an old one is, whatever its generation, and goes before those that stay.
    """
    replicas = tuple(replicas)
    live = [replica for replica in replicas if replica.phase is not ReplicaPhase.STOPPING]
    new = [replica for replica in live if replica.generation == generation and not replica.leaving]
    old = [replica for replica in live if replica.generation != generation or replica.leaving]
    old_running = [replica for replica in old if replica.phase is ReplicaPhase.RUNNING]
    old_running.sort(key=lambda replica: not replica.leaving)

    stop = _least_useful(new, len(new) - wanted)  # 1
    stop += [replica for replica in old if replica.phase is not ReplicaPhase.RUNNING]  # 2

    blocked = bool(old_running) and any(replica.phase is ReplicaPhase.PENDING for replica in new)
    surge_room = wanted + (1 if old_running else 0) - len(new) - len(old_running)
    start = 0 if blocked else max(0, min(wanted - len(new), surge_room))  # 3

    new_running = sum(replica.phase is ReplicaPhase.RUNNING for replica in new)
    spare = len(old_running) - max(0, wanted - new_running)
    stop += old_running[: max(0, spare)]  # 4

    makes_room = blocked and not stop and len(live) == len(replicas)
    if makes_room:
        stop = [old_running[0]]  # 5
    return Plan(start=start, stop=tuple(replica.instance_id for replica in stop), makes_room=makes_room)


def _least_useful(replicas: list[Replica], count: int) -> list[Replica]:
    if count <= 0:
        return []
    youngest_first = list(reversed(replicas))
    return sorted(youngest_first, key=lambda replica: _LEAST_USEFUL_FIRST.index(replica.phase))[:count]
