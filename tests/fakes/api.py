"""A stand-in for Stoker's API: the real schemas, errors and watch streams over a state that a test scripts.

    with FakeApi().running() as api: …  # api.url, api.admin_key

Deployments live through `steps`, a list of their instances at successive moments: each look of a watch sees the next
one, and the last one stays. What was asked for is in `requests`.
"""

import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from api import errors
from api.errors import ProblemError, not_found
from api.openai.errors import APIError, invalid_api_key, model_not_found
from api.schemas.deployments import DeploymentCreate, DeploymentRead, DeploymentUpdate
from api.schemas.estimates import EstimateCreate, MemoryEstimateRead
from api.schemas.instances import InstanceRead
from api.schemas.keys import KeyCreate, KeyCreated, KeyRead
from api.schemas.pages import Page, page_of
from api.schemas.workers import WorkerRead
from api.watch import watch_response
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.estimation.assessment import Assessment, assess
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.keys import Role
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import DeviceShare, Placement, Rejection, Rule, Unplaceable
from stoker.domain.statuses import DeploymentStatus, InstanceStatus, Progress, WorkerStatus
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_files, make_profile, make_spec

Steps = list[tuple[InstanceStatus, ...] | None]
"""None: the deployment is gone."""

CREATED_AT = datetime.now(UTC) - timedelta(days=3, hours=1)


def make_placement(worker: str = "box-1", layers: int = 33, claim: int = 6 * GIB) -> Placement:
    """All layers of a model on the worker's first GPU."""
    share = DeviceShare(device="gpu0", kind=DeviceKind.CUDA, engine_name="CUDA0", layers=layers, claim=claim)
    estimate = MemoryEstimate(
        context_length=8192,
        slots=4,
        devices=(DeviceMemory(layers=layers, weights=4 * GIB, cache=1 * GIB, compute=300 * MIB, overhead=724 * MIB),),
        host=HostMemory(weights=282 * MIB, compute=40 * MIB, output=2 * MIB, overhead=700 * MIB),
    )
    return Placement(worker=worker, shares=(share,), estimate=estimate, reason="the emptiest GPU that holds it whole")


def make_measured(**overrides: Any) -> MeasuredMemory:
    """What an instance of make_placement took: 3 MiB less to compute, and a driver's context of 500 MiB."""
    values: dict[str, Any] = {
        "buffers": (
            ("CPU_Mapped", Buffers(weights=282 * MIB)),
            ("CUDA0", Buffers(weights=4 * GIB, cache=1 * GIB, compute=297 * MIB)),
            ("CUDA_Host", Buffers(compute=40 * MIB, output=2 * MIB)),
        ),
        "process_resident": 900 * MIB,
        "devices_used": {"gpu0": 5 * GIB + 797 * MIB},
    }
    return MeasuredMemory(**(values | overrides))


def make_unplaceable() -> Unplaceable:
    """6 GiB are needed where 2 GiB are free."""
    short = Rejection(
        rule=Rule.MEMORY,
        worker="box-1",
        device="gpu0",
        message="not enough memory for the whole model",
        needed=6 * GIB,
        available=2 * GIB,
    )
    return Unplaceable(
        rejections=(short, Rejection(rule=Rule.CORDONED, worker="box-2", message="takes no new instances")),
        summary="Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        suggestions=("set slots to 1", "set cache_type to q4_0"),
    )


def make_instance(state: InstanceState = InstanceState.RUNNING, **overrides: Any) -> InstanceStatus:
    """The first instance of `llama`, as it is in `state`."""
    placed = state not in (InstanceState.PLACING, InstanceState.PENDING)
    values: dict[str, Any] = {
        "instance_id": "llama-a1b2c",
        "deployment": "llama",
        "generation": 1,
        "incarnation": 1,
        "state": state,
        "message": {InstanceState.RUNNING: "answers on box-1", InstanceState.PENDING: make_unplaceable().summary}.get(
            state, ""
        ),
        "port": 4711 if state is InstanceState.RUNNING else 0,
        "pid": 1234 if state is InstanceState.RUNNING else 0,
        "memory": make_measured() if state is InstanceState.RUNNING else None,
        "placement": make_placement() if placed else None,
        "unplaceable": make_unplaceable() if state is InstanceState.PENDING else None,
        "progress": None,
        "created_at": CREATED_AT,
        "updated_at": CREATED_AT,
        "state_since": CREATED_AT,
    }
    return InstanceStatus(**(values | overrides))


def usual_life(spec: DeploymentSpec, generation: int) -> Steps:
    """Placed, downloaded, loaded, running: all replicas at once."""
    moments: list[dict[str, Any]] = [
        {"state": InstanceState.PLACING},
        {"state": InstanceState.DOWNLOADING, "progress": Progress(done=GIB, total=4 * GIB, rate=35.0 * MIB)},
        {"state": InstanceState.STARTING, "progress": Progress(done=500, total=1000)},
        {"state": InstanceState.RUNNING},
    ]
    steps: Steps = []
    for moment in moments:
        names = [f"{spec.name}-{number}" for number in range(spec.replicas)]
        given = moment | {"deployment": spec.name, "generation": generation}
        steps.append(tuple(make_instance(instance_id=name, **given) for name in names))
    return steps


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
class FakeApi:
    """The state, and what is done with requests. Everything may be changed while it runs."""

    admin_key: str = "sk-stoker-aaaaaaaaaaaa-admin"
    inference_key: str = "sk-stoker-bbbbbbbbbbbb-inference"
    deployments: dict[str, Deployed] = field(default_factory=dict)
    workers: list[WorkerStatus] = field(default_factory=list)
    keys: list[KeyRead] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    life: Callable[[DeploymentSpec, int], Steps] = usual_life
    refusals: list[ProblemError] = field(default_factory=list)  # each is the answer to one change
    answers: list[Sequence[str] | APIError] = field(default_factory=list)  # of the model; each to one question
    end_watch_after: list[int] = field(default_factory=list)  # events after which one watch each ends
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
        """What was sent to a route, oldest first."""
        return [asked.body for asked in self.requests if (asked.method, asked.path) == (method, path)]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serves on a free port of the loopback while the block lasts."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            config = uvicorn.Config(
                _app(self), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join()

    def reset(self) -> None:
        """Forgets everything but where it listens. Watches that are still open go on seeing what they saw."""
        fresh = FakeApi(url=self.url)
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

    # --- what routes ask of it ----------------------------------------------------------------------------------------

    def apply(self, wanted: DeploymentCreate) -> tuple[DeploymentRead, bool]:
        """Makes or changes a deployment; whether it was made."""
        if self.refusals:
            raise self.refusals.pop(0)
        old = self.deployments.get(wanted.name)
        spec = wanted.spec()
        if old is None or old.status.spec != spec:
            generation = old.status.generation + 1 if old else 1
            rolls = old is None or not old.status.spec.same_instances(spec)
            made_of = generation if rolls or old is None else old.status.instances_generation
            status = _status(spec, generation=generation, instances_generation=made_of)
            self.deployments[spec.name] = Deployed(status, self.life(spec, generation))
        return self.shown(spec.name), old is None

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

        response = watch_response(read)
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


def _app(fake: FakeApi) -> FastAPI:
    async def note(request: Request) -> None:
        text = await request.body()
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = json.loads(text) if text else None
        fake.requests.append(Asked(request.method, request.url.path, dict(request.query_params), body, key))
        if request.url.path.startswith("/api/") and not request.url.path.endswith("/join"):
            _check_admin(fake, key)

    app = FastAPI(dependencies=[Depends(note)])
    errors.install(app)
    for add in (_add_deployments, _add_estimates, _add_instances, _add_workers, _add_keys, _add_openai):
        add(app, fake)
    return app


def _check_admin(fake: FakeApi, key: str) -> None:
    if not key:
        raise ProblemError("unauthorized", "no API key: send `Authorization: Bearer sk-stoker-…`")
    if key == fake.inference_key:
        raise ProblemError("forbidden", "the key 'app' has the role inference; this needs admin")
    if key != fake.admin_key:
        raise ProblemError("unauthorized", "this API key is not known, or was revoked")


def _add_deployments(app: FastAPI, fake: FakeApi) -> None:
    @app.post("/api/v1/deployments", status_code=201)
    async def create(body: DeploymentCreate, response: Response) -> DeploymentRead:
        shown, created = fake.apply(body)
        response.status_code = 201 if created else 200
        return shown

    @app.get("/api/v1/deployments", response_model=Page[DeploymentRead])
    async def listing(limit: int = 100, after: str = "", watch: bool = False) -> Any:
        if watch:
            return fake.watched()
        items = [item for item in fake.all_shown() if item.name > after]
        return page_of(items, [item.name for item in items], min(limit, fake.page))

    @app.get("/api/v1/deployments/{name}", response_model=DeploymentRead)
    async def get(name: str, watch: bool = False) -> Any:
        shown = fake.shown(name)
        return fake.watched(name) if watch else shown

    @app.patch("/api/v1/deployments/{name}")
    async def change(name: str, body: DeploymentUpdate) -> DeploymentRead:
        fake.shown(name)
        return fake.apply(body.merged(fake.deployments[name].status.spec))[0]

    @app.delete("/api/v1/deployments/{name}", status_code=202)
    async def delete(name: str) -> DeploymentRead:
        fake.shown(name)
        deployed = fake.deployments[name]
        deployed.status = deployed.status.model_copy(update={"deleting": True})
        if deployed.steps[-1] is not None:
            deployed.steps = [deployed.steps[0], None]
        return fake.shown(name)


def _add_estimates(app: FastAPI, fake: FakeApi) -> None:
    @app.post("/api/v1/estimates")
    async def create(body: EstimateCreate) -> MemoryEstimateRead:
        if fake.refusals:
            raise fake.refusals.pop(0)
        options = body.engine_options()
        found = assess(make_profile(), options, devices=body.devices, split=body.split or ())
        assert isinstance(found, Assessment)
        return MemoryEstimateRead.of(body.model, make_files(body.source()), make_profile(), options, found)


def _add_instances(app: FastAPI, fake: FakeApi) -> None:
    @app.get("/api/v1/instances")
    async def listing(limit: int = 100, after: str = "") -> Page[InstanceRead]:
        items = [item for item in fake.instances() if item.id > after]
        return page_of(items, [item.id for item in items], min(limit, fake.page))

    @app.get("/api/v1/instances/{instance_id}/logs")
    async def logs(instance_id: str, tail: int = 200, follow: bool = False) -> Response:
        if instance_id not in fake.logs:
            raise not_found("instance", instance_id)
        text = "".join(f"{line}\n" for line in fake.logs[instance_id][-tail:])
        return Response(text + ("and more\n" if follow else ""), media_type="text/plain")


def _add_workers(app: FastAPI, fake: FakeApi) -> None:
    @app.get("/api/v1/workers", response_model=Page[WorkerRead])
    async def listing(limit: int = 100, after: str = "", watch: bool = False) -> Any:
        shown = [(status.worker.name, WorkerRead.of_status(status)) for status in fake.workers]
        if watch:

            async def read() -> list[tuple[str, BaseModel]]:
                return list(shown)

            return watch_response(read)
        items = [item for name, item in shown if name > after]
        return page_of(items, [item.name for item in items], min(limit, fake.page))

    @app.get("/api/v1/workers/{name}")
    async def get(name: str) -> WorkerRead:
        for status in fake.workers:
            if status.worker.name == name:
                return WorkerRead.of_status(status)
        raise not_found("worker", name)

    @app.post("/api/v1/workers/{name}/join")
    async def join(name: str) -> None:
        raise ProblemError("unauthorized", "wrong join token: it is in the file `join-token` of the data folder")


def _add_keys(app: FastAPI, fake: FakeApi) -> None:
    @app.get("/api/v1/keys")
    async def listing(limit: int = 100, after: str = "") -> Page[KeyRead]:
        items = [key for key in fake.keys if key.id > after]
        return page_of(items, [item.id for item in items], min(limit, fake.page))

    @app.post("/api/v1/keys", status_code=201)
    async def create(body: KeyCreate) -> KeyCreated:
        key_id = f"{len(fake.keys):012x}"
        made = KeyRead(id=key_id, name=body.name, role=Role(body.role), created_at=CREATED_AT, revoked_at=None)
        fake.keys.append(made)
        return KeyCreated(**made.model_dump(), key=f"sk-stoker-{key_id}-secret")

    @app.delete("/api/v1/keys/{key_id}", status_code=204)
    async def revoke(key_id: str) -> None:
        for number, key in enumerate(fake.keys):
            if key.id == key_id:
                fake.keys[number] = key.model_copy(update={"revoked_at": datetime.now(UTC)})
                return
        raise not_found("key", key_id)


def _add_openai(app: FastAPI, fake: FakeApi) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = await request.json()
        refusal: APIError | None = None
        if key not in (fake.admin_key, fake.inference_key):
            refusal = invalid_api_key(given=bool(key))
        elif not fake.answers:
            refusal = model_not_found(body["model"])
        answer = [] if refusal else fake.answers.pop(0)
        if isinstance(answer, APIError):
            refusal = answer
        if refusal is not None:
            headers = {name.decode(): value.decode() for name, value in refusal.headers}
            return JSONResponse(json.loads(refusal.body()), status_code=refusal.status, headers=headers)
        assert not isinstance(answer, APIError)
        return StreamingResponse((f"data: {event}\n\n" for event in answer), media_type="text/event-stream")


def chat_answer(text: str, *, done: bool = True, **last: Any) -> list[str]:
    """The events of a streamed answer: a chunk a word, then usage, then the end."""
    shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "llama"}
    words = re.findall(r"\s*\S+|\s+", text)

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {**shape, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}

    chunks = [chunk({"role": "assistant"}), *(chunk({"content": word}) for word in words), chunk({}, "stop")]
    usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
    chunks.append({**shape, "choices": [], "usage": usage, **last})
    return [json.dumps(part, ensure_ascii=False) for part in chunks] + (["[DONE]"] if done else [])
