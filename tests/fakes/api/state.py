"""What the stand-in knows, and what happens to it."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from api.errors import ProblemError, not_found
from api.openai.errors import APIError
from api.schemas.audit import AuditEntryRead
from api.schemas.deployments import DeploymentCreate, DeploymentRead
from api.schemas.files import StoredModelRead
from api.schemas.instances import InstanceRead
from api.schemas.join_tokens import JoinTokenRead
from api.schemas.keys import KeyRead
from api.schemas.placements import WhatIfRead
from api.schemas.rollouts import RevisionRead, RolloutPlanRead
from api.schemas.routes import RouteRead
from api.schemas.workers import WorkerRead
from api.watch import watch_response
from stoker.domain.absence import Absence
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.placement.types import Unplaceable
from stoker.domain.placement.what_if import Drained
from stoker.domain.rollout import Replica, ReplicaPhase
from stoker.domain.rollout_plan import plan_rollout
from stoker.domain.statuses import DeploymentStatus, InstanceStatus, WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.usage import UsageSums
from stoker.domain.workers import WorkerState
from tests.builders import make_files, make_profile, make_spec
from tests.fakes.api.values import CREATED_AT, Steps, make_instance, usual_life


@dataclass
class Deployed:
    """One deployment and what is still to happen to it."""

    status: DeploymentStatus
    steps: Steps

    @property
    def now(self) -> DeploymentRead | None:
        """As it is at this moment."""
        return None if self.steps[0] is None else DeploymentRead.of_status(self.status, self.steps[0])

    def move_on(self) -> None:
        """To the next moment, if there is one."""
        if len(self.steps) > 1:
            del self.steps[0]


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    key: str


@dataclass
class ApiState:
    """Everything may be changed while it is served."""

    admin_key: str = "sk-stoker-aaaaaaaaaaaa-admin"
    user_key: str = "sk-stoker-bbbbbbbbbbbb-user"
    deployments: dict[str, Deployed] = field(default_factory=dict)
    workers: list[WorkerStatus] = field(default_factory=list)
    what_if: WhatIfRead = field(default_factory=lambda: WhatIfRead.of_drain(Drained(moves=())))  # what would be
    no_room: Unplaceable | None = None  # why the first new instance of a plan would wait
    revisions: list[RevisionRead] = field(default_factory=list)  # of any deployment, the latest first
    absence: Absence = field(default_factory=Absence)  # of workers
    worker_life: list[WorkerStatus] = field(default_factory=list)  # what each look of a worker's watch sees
    keys: list[KeyRead] = field(default_factory=list)
    routes: dict[str, RouteRead] = field(default_factory=dict)
    join_tokens: list[JoinTokenRead] = field(default_factory=list)
    stored: list[StoredModelRead] = field(default_factory=list)  # on the workers' disks, by id
    usage: dict[str, UsageSums] = field(default_factory=dict)  # by whatever is asked for
    audit: list[AuditEntryRead] = field(default_factory=list)  # the newest first
    logs: dict[str, list[str]] = field(default_factory=dict)
    life: Callable[[DeploymentSpec, int], Steps] = usual_life
    refusals: list[ProblemError] = field(default_factory=list)  # each is the answer to one change
    answers: list[Sequence[str] | APIError] = field(default_factory=list)  # of the model; each to one question
    unanswered: set[str] = field(default_factory=set)  # paths that answer nothing until the client goes away
    end_watch_after: list[int] = field(default_factory=list)  # events after which one watch each ends
    checks: dict[str, str] = field(default_factory=lambda: {"database": "ok", "temporal": "ok"})  # of /readyz
    metrics: list[str] = field(default_factory=lambda: [""])  # what each look sees; the last one stays
    page: int = 1000
    requests: list[Asked] = field(default_factory=list)
    url: str = ""

    def add(self, *instances: InstanceStatus, steps: Steps | None = None, **overrides: Any) -> Deployed:
        """A deployment that is there already; `overrides` are fields of its spec or its status."""
        of_spec = {name: value for name, value in overrides.items() if name in DeploymentSpec.model_fields}
        rest = {name: value for name, value in overrides.items() if name not in of_spec}
        deployed = Deployed(_status(make_spec(**of_spec), **rest), steps or [instances])
        self.deployments[deployed.status.spec.name] = deployed
        return deployed

    def bodies(self, method: str, path: str) -> list[Any]:
        """What was sent to a route to be done, oldest first."""
        told = [asked for asked in self.requests if (asked.method, asked.path) == (method, path)]
        return [asked.body for asked in told if "dry_run" not in asked.query]

    def apply(self, wanted: DeploymentCreate) -> tuple[DeploymentRead, bool]:
        """Makes or changes a deployment; whether it was made."""
        if self.refusals:
            raise self.refusals.pop(0)
        old = self.deployments.get(wanted.name)
        if old is not None and old.now is None:  # it was deleted
            old = None
        spec = wanted.spec()
        if old is None or old.status.spec != spec:
            generation = old.status.generation + 1 if old else 1
            rolls = old is None or not old.status.spec.same_instances(spec)
            made_of = generation if rolls or old is None else old.status.instances_generation
            status = _status(spec, generation=generation, instances_generation=made_of)
            self.deployments[spec.name] = Deployed(status, self.life(spec, generation))
        return self.shown(spec.name), old is None

    def planned(self, wanted: DeploymentCreate) -> RolloutPlanRead:
        """What applying it would do, were there room for all of it and `placed` where the first one goes."""
        old = self.deployments.get(wanted.name)
        spec = wanted.spec()
        status = old.status if old is not None else None
        there = (Replica(instance_id="smol-0", generation=1, phase=ReplicaPhase.RUNNING),) if old is not None else ()
        plan = plan_rollout(status.spec if status is not None else None, spec, there)
        placed = make_instance(InstanceState.RUNNING).placement if plan.starts else None
        return RolloutPlanRead.of(
            status, spec, plan, outcome=self.no_room or placed, beside=True, on_gpu_bytes=6 * GIB, on_cpu_bytes=5 * GIB
        )

    def shown(self, name: str) -> DeploymentRead:
        """The deployment now."""
        deployed = self.deployments.get(name)
        if deployed is None or deployed.now is None:
            raise not_found("deployment", name)
        return deployed.now

    def all_shown(self) -> list[DeploymentRead]:
        """All deployments now, by name."""
        return [deployed.now for _, deployed in sorted(self.deployments.items()) if deployed.now is not None]

    def instances(self) -> list[InstanceRead]:
        """All instances now, by id."""
        found = [instance for deployment in self.all_shown() for instance in deployment.instances]
        return sorted(found, key=lambda instance: instance.id)

    def worker(self, name: str) -> WorkerStatus:
        """The worker now."""
        for status in self.workers:
            if status.worker.name == name:
                return status
        raise not_found("worker", name)

    def put_worker(self, status: WorkerStatus) -> WorkerRead:
        """The worker from now on."""
        self.workers = [status if one.worker.name == status.worker.name else one for one in self.workers]
        return WorkerRead.of_status(status)

    def stand(self, name: str, state: WorkerState) -> WorkerRead:
        """The worker in that state from now on."""
        status = self.worker(name)
        worker = status.worker.model_copy(update={"state": state})
        return self.put_worker(status.model_copy(update={"worker": worker}))

    def watched(self, name: str | None = None) -> StreamingResponse:
        """A watch over one deployment, or over all: each look moves them on by a step."""
        first, known = True, self.deployments

        async def read() -> list[tuple[str, BaseModel]]:
            nonlocal first
            chosen = [deployed for key, deployed in sorted(known.items()) if name in (None, key)]
            for deployed in () if first else chosen:
                deployed.move_on()
            first = False
            return [(shown.name, shown) for deployed in chosen if (shown := deployed.now) is not None]

        response = watch_response(Event(), read)
        if self.end_watch_after:
            response.body_iterator = _ending(response.body_iterator, self.end_watch_after.pop(0))
        return response


def _status(spec: DeploymentSpec, **overrides: Any) -> DeploymentStatus:
    values: dict[str, Any] = {
        "spec": spec,
        "generation": 1,
        "profile": make_profile(),
        "files": make_files(spec.model),
        "created_at": CREATED_AT,
        "updated_at": CREATED_AT,
    }
    return DeploymentStatus(**(values | overrides))


async def _ending(events: Any, after: int) -> AsyncIterator[Any]:
    async for event in events:
        if after == 0:
            return
        after -= 1
        yield event
