"""From a request to an engine's answer: which engine, what if it fails, and when to give up.

1. The body is read and checked, the model looked up; what is wrong with it is answered here.
2. The engine with the least work for its size is asked.
3. Until a byte of its answer has gone to the client, another engine is asked instead, when it
   a. could not be reached, or is still loading: every other engine, one after the other;
   b. broke off, or sent no valid answer: one other, for the request itself may be what breaks engines;
   c. answered 500: one other, and only if that one succeeds was it the engine's fault, not the request's.
4. An engine that was at fault is out at once, and tried again after a pause.
5. The client going ends the engine's work at that moment; so does the deadline.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from api.openai.availability import unavailable
from api.openai.balancer import Balancer
from api.openai.call import Call, ClientGoneError, ClientWatch
from api.openai.connection import AbortedError, ConnectError, DeadlineError, MalformedError, UpstreamError
from api.openai.endpoints import Endpoint
from api.openai.engine_errors import translate
from api.openai.errors import APIError, Header, engine_failed, engine_timed_out, engine_unreachable, model_not_found
from api.openai.exchange import Exchange, Timeouts
from api.openai.metering import CLIENT_GONE, Metrics, status_class
from api.openai.relay import BrokenOffError, Job, relay_stream, relay_whole
from api.openai.router import ModelRoute, ModelState, Replica, RouteSource, RouteTable
from api.openai.upstream import Pool
from api.openai.validation import parse_request

_log = structlog.get_logger()

_MAX_REACHED = 2  # engines that may have begun to work on one request
_MAX_ERROR_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What a request may cost. Sizes in bytes, times in seconds."""

    body_size: int = 32 * 1024 * 1024
    body_time: float = 60.0
    held_answer_size: int = 1024 * 1024  # of an answer that is no stream, before any of it is passed on
    total_time: float = 3600.0
    refresh_time: float = 2.0  # to wait for a newer route table
    timeouts: Timeouts = field(default_factory=Timeouts)


class _FailedError(Exception):
    """An engine gave no answer to pass on, and nothing has gone to the client."""

    def __init__(self, error: APIError, *, reached: bool, at_fault: bool | None) -> None:
        """`reached`: it may have begun to work. `at_fault` None: a second engine's answer will tell."""
        super().__init__(error.message)
        self.error, self.reached, self.at_fault = error, reached, at_fault


class Proxy:
    """Answers requests with engines. For one event loop."""

    def __init__(
        self, routes: RouteSource, pool: Pool, metrics: Metrics, limits: ProxyLimits, clock: Callable[[], float]
    ) -> None:
        """`clock` returns seconds that only grow."""
        self._routes, self._pool, self._metrics, self._limits = routes, pool, metrics, limits
        self._stream_timeouts = limits.timeouts
        self._whole_timeouts = replace(limits.timeouts, first_byte=limits.total_time)  # the first byte is the last
        self.balancer = Balancer(clock)
        self._known = RouteTable()

    async def answer(self, call: Call, endpoint: Endpoint) -> None:
        """Answers a request for `endpoint`. Raises APIError for what belongs to no known model, ClientGoneError."""
        body = await call.body(self._limits.body_size, self._limits.body_time)
        request = parse_request(endpoint, body)
        route = await self.find(request.model)
        meter = self._metrics.begin(route.name, call.arrived)
        watch = ClientWatch(call)
        deadline = asyncio.get_running_loop().time() + self._limits.total_time
        try:
            await self._serve(Job(call, endpoint, request, body, meter, watch, deadline), route)
        except APIError as error:
            meter.outcome = status_class(error.status)
            await call.refuse(error, anthropic=endpoint.anthropic)
        except ClientGoneError:
            meter.outcome = CLIENT_GONE
            raise
        finally:
            watch.close()
            meter.end()

    async def find(self, model: str) -> ModelRoute:
        """The model's route, from a newer table if it is unknown or has no engine. Raises APIError (404)."""
        route = self.table().models.get(model)
        if route is None or not route.replicas:
            route = (await self._refreshed()).models.get(model)
        if route is None:
            raise model_not_found(model)
        return route

    def table(self) -> RouteTable:
        """The route table as it is known now; what is gone from it is forgotten everywhere."""
        table = self._routes.current()
        if table is not self._known:
            self._known = table
            self._metrics.keep_only(table.models.keys())
            self.balancer.forget_all_but({r.address for route in table.models.values() for r in route.replicas})
        return table

    async def _refreshed(self) -> RouteTable:
        try:
            async with asyncio.timeout(self._limits.refresh_time):
                await self._routes.refresh()
        except TimeoutError:
            _log.warning("route_refresh_timed_out", seconds=self._limits.refresh_time)
        return self.table()

    async def _serve(self, job: Job, route: ModelRoute) -> None:
        excluded: set[tuple[str, int]] = set()
        doubted: Replica | None = None
        error: APIError | None = None
        reached, refreshed = 0, False
        while True:
            replica = self.balancer.acquire(route.replicas, excluded) if reached < _MAX_REACHED else None
            if replica is None:
                if refreshed or reached or not route.replicas:
                    raise error if error is not None and route.replicas else unavailable(route)
                refreshed = True  # none could be reached: they may have moved
                route = (await self._refreshed()).models.get(route.name) or route
                continue
            try:
                await self._attempt(job, route, replica)
            except _FailedError as failure:
                error = failure.error if failure.reached or error is None else error
                excluded.add(replica.address)
                reached += failure.reached
                if failure.at_fault is None:
                    doubted = replica
                self._note(job, route, replica, str(failure.__cause__ or failure), at_fault=bool(failure.at_fault))
            else:
                if doubted is not None:
                    self.balancer.failed(doubted)
                return
            finally:
                self.balancer.release(replica)

    def _note(self, job: Job, route: ModelRoute, replica: Replica, reason: str, *, at_fault: bool) -> None:
        if at_fault:
            self.balancer.failed(replica)
        _log.warning(
            "engine_failed",
            request_id=job.call.request_id.decode(),
            deployment=route.name,
            instance=replica.instance_id,
            route=job.endpoint.path,
            at_fault=at_fault,
            reason=reason,
        )

    async def _attempt(self, job: Job, route: ModelRoute, replica: Replica) -> None:
        """Asks one engine and passes its answer on. Raises _FailedError while another may be asked, else APIError."""
        exchange = self._pool.exchange(
            replica.address,
            "POST",
            job.endpoint.engine_path,
            _headers(job, replica),
            job.body,
            timeouts=self._stream_timeouts if job.request.stream else self._whole_timeouts,
            deadline=job.deadline,
        )
        job.watch.guard(exchange)
        try:
            await exchange.start()
            if exchange.status >= 400:
                raise await self._refusal(job, route, replica, exchange)
            if exchange.status != 200:
                raise MalformedError(f"status {exchange.status}")
            begun = partial(self.balancer.succeeded, replica)
            if job.endpoint.end_marks and exchange.header(b"content-type").startswith(b"text/event-stream"):
                await relay_stream(job, exchange, begun)
            else:
                await relay_whole(job, exchange, self._limits.held_answer_size, begun)
        except BrokenOffError as error:
            self._note(job, route, replica, str(error), at_fault=not _is_total(error.cause))
        except AbortedError as error:
            raise ClientGoneError from error
        except DeadlineError as error:  # there is no time left to ask another
            self._note(job, route, replica, str(error), at_fault=not _is_total(error))
            raise engine_timed_out(f"The engine gave no answer in time: {error}.") from error
        except ConnectError as error:
            raise _FailedError(engine_unreachable(route.name), reached=False, at_fault=True) from error
        except UpstreamError as error:
            failure = engine_failed(f"No answer: {error}.", should_retry=True)
            raise _FailedError(failure, reached=True, at_fault=True) from error
        finally:
            exchange.abort()

    async def _refusal(self, job: Job, route: ModelRoute, replica: Replica, exchange: Exchange) -> Exception:
        body = await exchange.read_all(_MAX_ERROR_BYTES)
        error = translate(exchange.status, body, model=route.name, prompt_field=job.endpoint.required[0])
        if exchange.status == 503:
            loading = unavailable(route.model_copy(update={"state": ModelState.LOADING}))
            return _FailedError(loading, reached=False, at_fault=True)
        if exchange.status in (401, 403):
            return _FailedError(error, reached=False, at_fault=True)
        if error.status == 502:
            return _FailedError(error, reached=True, at_fault=None)
        self.balancer.succeeded(replica)
        return error


def _headers(job: Job, replica: Replica) -> list[Header]:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", job.call.request_id)]
    if replica.api_key:
        headers.append((b"authorization", b"Bearer " + replica.api_key.encode()))
    traceparent = job.call.headers.get(b"traceparent")
    if traceparent is not None:
        headers.append((b"traceparent", traceparent))
    return headers


def _is_total(error: UpstreamError) -> bool:
    return isinstance(error, DeadlineError) and error.phase == "total"
