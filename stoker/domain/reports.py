"""What an agent and the API tell each other: joining, and the report every few seconds."""

from pydantic import Field

from stoker.domain.base import InstanceId, Value
from stoker.domain.statuses import Progress
from stoker.domain.workers import Worker

REPORT_EVERY_SECONDS = 5.0
"""How often an agent reports when nothing changes."""


class JoinAnswer(Value):
    """What a worker gets for its join token: kept by the agent in a file only it can read."""

    credential: str
    engine_secret: str


class WorkerReport(Value):
    """A worker as its agent sees it now, and how far its instances have come."""

    worker: Worker
    progress: dict[InstanceId, Progress] = Field(default_factory=dict)


class HeldIncarnation(Value):
    """An incarnation that holds claims on the worker: its processes are rightly there."""

    instance_id: InstanceId
    incarnation: int


class ReportAnswer(Value):
    """All that may run on the worker. A process of anything else, started before the report was sent, is left over."""

    held: tuple[HeldIncarnation, ...]
