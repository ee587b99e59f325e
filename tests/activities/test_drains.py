"""What a drain is told of the worker that it empties."""

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.drains import DrainActivities
from activities.types import LookAtWorkerInput, LookAtWorkerResult, StopDrainingInput
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import InstanceStatus
from stoker.domain.workers import WorkerState
from tests.fakes.api import make_placement

pytestmark = pytest.mark.anyio

BEGAN = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


def instance(name: str, *, worker: str, age: int, message: str = "") -> InstanceStatus:
    """A running one, `age` seconds old; `worker`: where it is."""
    return InstanceStatus(
        instance_id=name,
        deployment=name.partition("-")[0],
        generation=1,
        incarnation=1,
        state=InstanceState.RUNNING,
        message=message,
        placement=make_placement(worker) if worker else None,
        created_at=BEGAN - timedelta(seconds=age),
        updated_at=BEGAN,
        state_since=BEGAN,
    )


class Rows:
    """As the port says, of one list of instances."""

    def __init__(self, *instances: InstanceStatus, state: WorkerState | None = WorkerState.DRAINING) -> None:
        self._instances, self._state = instances, state

    def worker_state(self, worker: str) -> WorkerState | None:
        """As the port says."""
        assert worker == "w1"
        return self._state

    def on_worker(self, worker: str) -> tuple[InstanceStatus, ...]:
        """As the port says."""
        return tuple(one for one in self._instances if one.placement is not None and one.placement.worker == worker)

    def of_deployment(self, deployment: str) -> tuple[InstanceStatus, ...]:
        """As the port says."""
        return tuple(one for one in self._instances if one.deployment == deployment)

    def stop_draining(self, worker: str) -> None:
        """As the port says."""
        assert worker == "w1"
        self._state = WorkerState.CORDONED


async def look(rows: Rows, deployment: str = "") -> LookAtWorkerResult:
    return await ActivityEnvironment().run(
        DrainActivities(rows).look_at_worker, LookAtWorkerInput(worker="w1", deployment=deployment)
    )


@pytest.mark.parametrize(
    ("state", "draining"),
    [
        (WorkerState.DRAINING, True),
        (WorkerState.UNREACHABLE, True),  # its agent is gone, and what it had is to go too
        (None, True),
        (WorkerState.CORDONED, False),
        (WorkerState.READY, False),
    ],
)
async def test_whether_it_is_still_to_be_emptied(state: WorkerState | None, draining: bool) -> None:
    assert (await look(Rows(state=state))).draining is draining


async def test_what_is_there_and_the_youngest_elsewhere() -> None:
    rows = Rows(
        instance("b-1", worker="w1", age=50),
        instance("a-1", worker="w1", age=40, message="x" * 1000),
        instance("a-2", worker="w2", age=30),
        instance("a-3", worker="", age=20),
        instance("a-4", worker="w1", age=10),
        instance("b-2", worker="w2", age=1),
    )
    result = await look(rows, "a")
    assert [one.instance_id for one in result.there] == ["a-1", "a-4", "b-1"]
    assert (len(result.there[0].message), result.there[0].workers) == (300, ("w1",))
    assert result.youngest is not None
    assert (result.youngest.instance_id, result.youngest.workers) == ("a-3", ())
    assert (await look(rows)).youngest is None
    assert (await look(Rows(instance("a-1", worker="w1", age=1)), "a")).youngest is None


async def test_it_is_emptied_no_more() -> None:
    rows = Rows(state=WorkerState.DRAINING)
    await ActivityEnvironment().run(DrainActivities(rows).stop_draining, StopDrainingInput(worker="w1"))
    assert not (await look(rows)).draining
