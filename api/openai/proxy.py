"""A request's way through the door: who may ask what, whom it goes to, and the accounts of it.

1. The body is read and checked; the key must be allowed to ask the model, and have something left of its limits.
2. The model is a deployment's own name, or a route's: then one of its targets is drawn, by the conversation.
3. No more requests may wait for a deployment than its queue holds. Where demand decides how many replicas there are,
   and there is none, they wait for the first one (`waking`), unless a route names another for that case.
4. One of the deployment's engines answers (`failover`). If none does, a route's fallbacks are asked, each for the
   statuses that it is there for, as long as nothing has gone to the client.
5. Whatever happened, it is settled with the key's limits and recorded.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from api.openai.admission import BYTES_PER_TOKEN, Gate, reserve_for
from api.openai.affinity import drawn
from api.openai.auth import Principal
from api.openai.availability import unavailable
from api.openai.balancer import Balancer
from api.openai.call import Call, ClientGoneError, ClientWatch
from api.openai.directory import Directory
from api.openai.endpoints import Endpoint
from api.openai.errors import APIError, model_not_allowed, model_not_found
from api.openai.exchange import Timeouts
from api.openai.failover import Failover, FellAsleepError
from api.openai.metering import Meter, Metrics, Usage
from api.openai.names import Step, next_step, steps_of, target_gone, told
from api.openai.queueing import Queues
from api.openai.relay import Job
from api.openai.router import ModelRoute, RouteSource, RouteTable
from api.openai.slow_readers import SlowReaders
from api.openai.upstream import Pool
from api.openai.validation import EngineRequest, parse_request
from api.openai.waking import NOBODY_WAKES, Wakes, Waking
from stoker.domain.usage import GONE

_ELSEWHERE = 503
"""The status of a model that cannot answer now, after which a route may name another."""


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What a request may cost. Sizes in bytes, times in seconds."""

    body_size: int = 32 * 1024 * 1024
    body_time: float = 60.0
    held_answer_size: int = 1024 * 1024  # of an answer that is no stream, before any of it is passed on
    total_time: float = 3600.0
    refresh_time: float = 2.0  # to wait for a newer route table
    reader_time: float = 60.0  # that a client may take nothing of the answer that waits for it
    wake_time: float = 120.0  # to wait for the first replica of a model that sleeps
    timeouts: Timeouts = field(default_factory=Timeouts)


class Proxy:
    """Answers requests with engines. For one event loop."""

    def __init__(
        self,
        routes: RouteSource,
        pool: Pool,
        metrics: Metrics,
        limits: ProxyLimits,
        clock: Callable[[], float],
        gate: Gate,
        processes: int = 1,
        wakes: Wakes = NOBODY_WAKES,
    ) -> None:
        """`clock` returns seconds that only grow. `processes`: so many share the engines and their queues."""
        self._metrics, self._limits, self._gate = metrics, limits, gate
        self.balancer = Balancer(clock, processes)
        self.queues = Queues(clock, processes)
        self.slow_readers = SlowReaders(limits.reader_time)
        self.directory = Directory(routes, limits.refresh_time, self._forget_all_but)
        self._waking = Waking(self.directory, wakes, limits.wake_time)
        self._failover = Failover(
            self.directory,
            pool,
            self.balancer,
            timeouts=limits.timeouts,
            total_time=limits.total_time,
            held_answer_size=limits.held_answer_size,
        )
        metrics.watch_queue(self.queues.waiting)

    async def answer(self, call: Call, endpoint: Endpoint, principal: Principal) -> None:
        """Answers a request for `endpoint`. Raises APIError for what reaches no deployment, ClientGoneError."""
        body = await call.body(self._limits.body_size, self._limits.body_time)
        request = parse_request(endpoint, body, call.headers.get(b"content-type", b""))
        if not principal.may_ask(request.model):
            raise model_not_allowed(request.model)
        route, others = await self._find(request)
        admission = self._gate.admit(principal, reserve_for(request))
        meter: Meter | None = None
        try:
            call.added = admission.headers
            meter = self._metrics.begin(
                route.name,
                call.arrived,
                asked=request.model,
                key_id=principal.key_id,
                path=endpoint.path,
                streamed=request.stream,
            )
            await self._answer(call, endpoint, request, meter, route, others)
        finally:
            try:
                admission.settle(_tokens_of(meter))
            finally:
                if meter is not None:
                    meter.end()

    async def _answer(
        self,
        call: Call,
        endpoint: Endpoint,
        request: EngineRequest,
        meter: Meter,
        route: ModelRoute,
        others: list[Step],
    ) -> None:
        """Answers, or refuses. Raises ClientGoneError."""
        watch = ClientWatch(call)
        client = call.client
        if client is not None:
            self.slow_readers.watch(client, call)
        try:
            deadline = asyncio.get_running_loop().time() + self._limits.total_time
            await self._serve(Job(call, endpoint, request, meter, watch, deadline), route, others)
        except APIError as error:
            meter.status = error.status
            await call.refuse(error, anthropic=endpoint.anthropic)
        except ClientGoneError:
            meter.status = GONE
            if meter.usage is None and meter.instance_id:  # it left while its prompt was being read
                meter.usage = Usage(input=request.prompt_size // BYTES_PER_TOKEN)
            raise
        finally:
            watch.close()
            if client is not None:
                self.slow_readers.answered(client, call)

    async def _find(self, request: EngineRequest) -> tuple[ModelRoute, list[Step]]:
        """The deployment to ask, and what is left to ask after it. Raises APIError (404)."""
        asked = request.model
        found = self.directory.table().models.get(asked)
        if found is not None and found.replicas:
            return found, []
        table = await self.directory.has(asked)
        if asked in table.models:
            found = await self.directory.deployment(asked)
            if found is None:
                raise model_not_found(asked)
            return found, []
        number = drawn(request.prefix, asked) if request.prefix else random.random()  # noqa: S311 - no secret
        first, *others = steps_of(table.routes[asked], number)
        step: Step | None = first
        while step is not None:
            found = await self.directory.deployment(step.deployment)
            if found is not None:
                return found, others
            step = next_step(others, (404,))
        raise target_gone(asked, first.deployment)

    async def _serve(self, job: Job, route: ModelRoute, others: list[Step]) -> None:
        """Answers from `route`, or from one of `others`. Raises ClientGoneError, and APIError before it began."""
        errors: list[APIError] = []
        statuses: set[int] = set()
        while True:
            try:
                await self._serve_from(_named_as_asked(job, route), route, others)
                return
            except APIError as error:
                errors.append(error)
                statuses.add(error.status)
            found = None
            while found is None:
                step = next_step(others, statuses)
                if step is None:
                    raise told(errors)
                found = await self.directory.deployment(step.deployment)
                if found is None:
                    statuses.add(404)
            if job.watch.gone:
                raise ClientGoneError
            route = found
            job.meter.goes_to(route.name)

    async def _serve_from(self, job: Job, route: ModelRoute, others: list[Step]) -> None:
        if not route.replicas:
            await self._serve_asleep(job, route, others)
            return
        self.queues.enter(route)
        try:
            await self._failover.serve(job, route)
            return
        except FellAsleepError as error:
            route = error.route
        finally:
            self.queues.leave(route.name)
        await self._serve_asleep(job, route, others)

    async def _serve_asleep(self, job: Job, route: ModelRoute, others: list[Step]) -> None:
        """There is no replica: waits for one where demand starts one, else says why."""
        if not route.is_awaited:
            raise unavailable(route)
        self._waking.wake(route)
        if any(_ELSEWHERE in step.after for step in others):  # who can answer now comes before who will
            raise unavailable(route)
        try:
            self.queues.enter(route)
        except APIError as error:  # as many as may wait for it do
            raise unavailable(route) from error
        try:
            route = await self._waking.awake(route, job.watch, job.deadline)
            self.queues.changed(route)
            await self._failover.serve(job, route)
        except FellAsleepError as error:  # once more would be once too often: its replicas do not stay
            raise unavailable(error.route) from error
        finally:
            self.queues.leave(route.name)

    def _forget_all_but(self, table: RouteTable) -> None:
        self._metrics.keep_only(table.models.keys())
        self.queues.forget_all_but(table.models)
        self.balancer.forget_all_but({r.address for route in table.models.values() for r in route.replicas})


def _named_as_asked(job: Job, route: ModelRoute) -> Job:
    """Engines call the model by its deployment's name, clients by the one that they asked.

    Inside a JSON string quotes are escaped: no generated text is ever taken for this field.
    """
    if job.request.model == route.name:
        return job
    engines, clients = (b'"model":' + json.dumps(name).encode() for name in (route.name, job.request.model))
    return replace(job, renamed=(engines, clients))


def _tokens_of(meter: Meter | None) -> int | None:
    usage = meter.usage if meter is not None else None
    return usage.input + usage.output if usage is not None else None
