"""From a deployment to an engine's answer: which engine, what if it fails, and when to give up.

1. The engine with the least work for its size is asked, or the one that holds the conversation's prefix.
2. Until a byte of its answer has gone to the client, another engine is asked instead, when it
   a. could not be reached, or is still loading: every other engine, one after the other;
   b. broke off, or sent no valid answer: one other, for the request itself may be what breaks engines;
   c. answered 500: one other, and only if that one succeeds was it the engine's fault, not the request's.
   Where none could be reached because the model has fallen asleep, the request waits until it is awake.
3. An engine that was at fault is out at once, and tried again after a pause.
4. The client going ends the engine's work at that moment; so does the deadline.
"""

from dataclasses import replace
from functools import partial

import structlog

from api.openai.availability import unavailable
from api.openai.balancer import Balancer
from api.openai.call import ClientGoneError
from api.openai.connection import AbortedError, ConnectError, DeadlineError, MalformedError, UpstreamError
from api.openai.directory import Directory
from api.openai.engine_errors import translate
from api.openai.errors import APIError, Header, engine_failed, engine_timed_out, engine_unreachable
from api.openai.exchange import Address, Exchange, Timeouts
from api.openai.relay import BrokenOffError, Job, relay_stream, relay_whole
from api.openai.router import ModelRoute, ModelState, Replica
from api.openai.upstream import Pool

_log = structlog.get_logger()

_MAX_REACHED = 2  # engines that may have begun to work on one request
_MAX_ERROR_BYTES = 65_536


class FellAsleepError(Exception):
    """Its model fell asleep on the way of a request that no engine has seen: it may be held as any other."""

    def __init__(self, route: ModelRoute) -> None:
        super().__init__(f"{route.name} fell asleep")
        self.route = route


class _FailedError(Exception):
    """An engine gave no answer to pass on, and nothing has gone to the client."""

    def __init__(self, error: APIError, *, reached: bool, at_fault: bool | None) -> None:
        """`reached`: it may have begun to work. `at_fault` None: a second engine's answer will tell."""
        super().__init__(error.message)
        self.error, self.reached, self.at_fault = error, reached, at_fault


class Failover:
    """Has requests answered by one of a deployment's engines. For one event loop."""

    def __init__(
        self,
        directory: Directory,
        pool: Pool,
        balancer: Balancer,
        *,
        timeouts: Timeouts,
        total_time: float,
        held_answer_size: int,
    ) -> None:
        """Of an answer that is no stream, `held_answer_size` bytes are held before any of it is passed on."""
        self._directory, self._pool, self._balancer = directory, pool, balancer
        self._stream_timeouts = timeouts
        self._whole_timeouts = replace(timeouts, first_byte=total_time)  # the first byte is the last
        self._held_answer_size = held_answer_size

    async def serve(self, job: Job, route: ModelRoute) -> None:
        """Answers with one of the engines of `route`.

        Raises ClientGoneError, and before the answer began APIError and, where no engine is there any more,
        FellAsleepError.
        """
        excluded: set[Address] = set()
        doubted: Replica | None = None
        error: APIError | None = None
        reached, refreshed = 0, False
        prefix, size = job.request.prefix, job.request.prompt_size
        while True:
            replica = None
            if reached < _MAX_REACHED:
                replica = self._balancer.acquire(route.replicas, excluded, prefix=prefix, prompt_bytes=size)
            if replica is None:
                if refreshed or reached or not route.replicas:
                    if route.is_awaited and not reached:
                        raise FellAsleepError(route)
                    raise error if error is not None and route.replicas else unavailable(route)
                refreshed = True  # none could be reached: they may have moved
                route = (await self._directory.refreshed()).models.get(route.name) or route
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
                    self._balancer.failed(doubted)
                return
            finally:
                self._balancer.release(replica, size)

    def _note(self, job: Job, route: ModelRoute, replica: Replica, reason: str, *, at_fault: bool) -> None:
        if at_fault:
            self._balancer.failed(replica)
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
            job.request.body,
            timeouts=self._stream_timeouts if job.request.stream else self._whole_timeouts,
            deadline=job.deadline,
        )
        job.watch.guard(exchange)
        job.meter.instance_id = replica.instance_id
        try:
            await exchange.start()
            if exchange.status >= 400:
                raise await self._refusal(job, route, replica, exchange)
            if exchange.status != 200:
                raise MalformedError(f"status {exchange.status}")
            begun = partial(self._balancer.succeeded, replica)
            if job.endpoint.end_marks and exchange.header(b"content-type").startswith(b"text/event-stream"):
                told = await relay_stream(job, exchange, begun)
                if told is not None:  # at no fault: another might have been asked, and would have said so too
                    self._note(job, route, replica, told.message, at_fault=False)
            else:
                await relay_whole(job, exchange, self._held_answer_size, begun)
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
        error = translate(exchange.status, body, model=job.request.model, prompt_field=job.endpoint.required[0])
        if exchange.status == 503:
            loading = unavailable(route.model_copy(update={"state": ModelState.LOADING}))
            return _FailedError(loading, reached=False, at_fault=True)
        if exchange.status in (401, 403):
            return _FailedError(error, reached=False, at_fault=True)
        if error.status == 502:
            return _FailedError(error, reached=True, at_fault=None)
        self._balancer.succeeded(replica)
        return error


def _headers(job: Job, replica: Replica) -> list[Header]:
    headers = [
        (b"content-type", job.request.content_type),
        (b"x-request-id", job.call.request_id),
        *replica.credentials,
    ]
    traceparent = job.call.headers.get(b"traceparent")
    if traceparent is not None:
        headers.append((b"traceparent", traceparent))
    return headers


def _is_total(error: UpstreamError) -> bool:
    return isinstance(error, DeadlineError) and error.phase == "total"
