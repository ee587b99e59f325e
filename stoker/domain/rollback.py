"""When a new generation is given up, so that what ran before it is wanted again."""

from collections.abc import Iterable

from stoker.domain.rollout import Replica, ReplicaPhase

MOST_FAILURES = 3
"""Ends in a row of one new instance: with the pauses between them, some seconds. What only stumbled runs by then."""

ROLLOUT_TIMEOUT_SECONDS = 1800.0
"""How long a new generation may take until its first instance runs. Waiting for room is not counted."""

MOST_WAITING_SECONDS = 300.0
"""How long a new generation may wait for room once an old instance has made some, and none is left that answers."""


def why_give_up(generation: int, replicas: Iterable[Replica], seconds: float, waited: float = 0.0) -> str:
    """Why `generation`, of which no instance ran yet, is given up; empty: it is not.

    `seconds`: of its time that have passed; see `time_passes`. `waited`: seconds; see `waits_in_vain`.
    """
    new = _new(generation, replicas)
    for replica in new:
        if replica.phase is ReplicaPhase.FAILED:
            return f"{replica.instance_id}: {replica.trouble or 'it cannot run'}"
    for replica in new:
        if replica.failures >= MOST_FAILURES:
            times = f"ended {replica.failures} times in a row"
            return f"{replica.instance_id} {times}, the last time: {replica.trouble or 'nobody knows why'}"
    if time_left(seconds) <= 0:
        return f"none of its instances ran within {ROLLOUT_TIMEOUT_SECONDS / 60:g} minutes"
    if waiting_left(waited) <= 0:
        return f"it found no room within {MOST_WAITING_SECONDS / 60:g} minutes, though an old instance made some"
    return ""


def time_passes(generation: int, replicas: Iterable[Replica]) -> bool:
    """Whether the time of `generation` passes: it has an instance, and one that does not wait for room."""
    return any(replica.phase is not ReplicaPhase.PENDING for replica in _new(generation, replicas))


def waits_in_vain(generation: int, replicas: Iterable[Replica]) -> bool:
    """Whether `generation` waits for room, though no other instance is there, answers or is about to."""
    replicas = tuple(replicas)
    gone = not any(one.phase in (ReplicaPhase.RUNNING, ReplicaPhase.STOPPING) for one in replicas)
    return gone and bool(_new(generation, replicas)) and not time_passes(generation, replicas)


def waiting_left(waited: float) -> float:
    """Seconds that a new generation may still wait for room in vain."""
    return MOST_WAITING_SECONDS - waited


def time_left(seconds: float) -> float:
    """Seconds that a new generation still has for its first instance to run."""
    return ROLLOUT_TIMEOUT_SECONDS - seconds


def _new(generation: int, replicas: Iterable[Replica]) -> list[Replica]:
    return [one for one in replicas if one.generation == generation and one.phase is not ReplicaPhase.STOPPING]
