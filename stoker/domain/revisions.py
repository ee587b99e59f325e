"""What a deployment was made to be, change by change: one revision for each generation."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from stoker.domain.base import DeploymentName, Value
from stoker.domain.deployments import DeploymentSpec

KEPT_REVISIONS = 50
"""So many revisions of a deployment are remembered, the latest."""


class RevisionState(StrEnum):
    """What became of a revision."""

    CURRENT = "current"  # it is what is wanted
    SUPERSEDED = "superseded"  # another is wanted now
    ROLLED_BACK = "rolled_back"  # none of its instances ever ran, and the one before it was wanted again


class RolledBack(Value):
    """A generation that was given up, and why."""

    generation: int
    reason: str


class OnTrial(Value):
    """What is wanted again should no instance of the newest generation ever run."""

    previous: DeploymentSpec
    instances_generation: int  # that its instances are of


class Revision(Value):
    """What was wanted from one change to the next."""

    deployment: DeploymentName
    generation: int
    instances_generation: int  # the generation that its instances are of: an older one where they need not differ
    spec: DeploymentSpec
    state: RevisionState
    ran: bool  # whether an instance that answers it ever ran
    by: str = ""  # the name of the key that asked for it; empty: Stoker itself, or nobody knows
    reason: str = ""  # for people: why it came to be or, of one that was rolled back, why it was given up
    created_at: datetime


def undone_by(revisions: Iterable[Revision]) -> Revision | None:
    """The revision that an undo makes wanted again: the last before the current one that ran and asks for another spec.

    None: there is none, and nothing can be undone.
    """
    latest_first = sorted(revisions, key=lambda one: -one.generation)
    if not latest_first:
        return None
    current, earlier = latest_first[0], latest_first[1:]
    return next((one for one in earlier if one.ran and one.spec != current.spec), None)
