"""A ledger that answers what it was told to."""

from collections.abc import Sequence

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable


class FakeLedger:
    """`answers` to `place`, one after the other; an exception is raised."""

    def __init__(self, *answers: Placement | Unplaceable | Exception) -> None:
        self._answers = list(answers)

    def place(self, request: PlacementRequest) -> Placement | Unplaceable:
        """The next answer."""
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(
        self, instance_id: InstanceId, incarnation: int | None = None, unconfirmed: Sequence[WorkerName] = ()
    ) -> tuple[InstanceId, ...]:
        """Wakes nobody."""
        return ()

    def abandon(self, instance_id: InstanceId) -> None:
        """Nothing is held."""

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """None."""
        return ()
