"""Ranking the candidates of one tier. A strategy is a function from a candidate to a number: the higher, the better."""

from collections.abc import Callable, Sequence

from stoker.domain.base import WorkerName
from stoker.domain.deployments import Strategy
from stoker.domain.placement.candidates import Candidate

Score = Callable[[Candidate], float]


def spread(candidate: Candidate) -> float:
    """The share of the device that stays free, 0 to 1: the emptiest first."""
    return candidate.free_after / candidate.main.total if candidate.main.total else 0.0


def binpack(candidate: Candidate) -> float:
    """The share of the device that is then taken, 0 to 1: the fullest that still fits first."""
    return 1.0 - spread(candidate)


SCORES: dict[Strategy, Score] = {Strategy.SPREAD: spread, Strategy.BINPACK: binpack}


def best(candidates: Sequence[Candidate], strategy: Strategy, avoid: Sequence[WorkerName]) -> Candidate | None:
    """The best candidate, or None of none. Workers to avoid come last; ties go by name, so that the answer is one."""
    score = SCORES[strategy]
    return min(
        candidates,
        key=lambda c: (c.worker.name in avoid, -score(c), c.worker.name, c.main.id),
        default=None,
    )
